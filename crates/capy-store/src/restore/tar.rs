//! A backup as the stream it came from.
//!
//! Contained by: the restore. One archive goes into any writer, byte for byte as it was read; a
//! backup of several archives goes into a directory, as `pg_basebackup -Ft -D` writes it:
//! `base.tar`, one `<oid>.tar` per tablespace, `backup_manifest`.
//! Invariant: every chunk is proven before its bytes are written; in a directory a file has its
//! name only when it is whole (`*.partial` before).

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use capy_format::{ArchiveKind, Entry, Meta};
use capy_postgres::tar::{EntryKind, TarEntry, TarWriteError, TarWriter};
use capy_repo::{Piece, ReadOptions, Reader, SequenceReader};
use capy_types::{ErrorKind, Phase};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::Restoring;
use super::target::check_empty;
use crate::{Error, Result};

/// Where the stream goes.
pub struct TarTarget(Target);

enum Target {
    Writer(Box<dyn AsyncWrite + Send + Unpin>),
    Directory(PathBuf),
}

impl TarTarget {
    /// The one archive of a backup, into a writer.
    pub fn writer(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Target::Writer(Box::new(writer)))
    }

    /// All archives, into an empty directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self(Target::Directory(path.into()))
    }
}

impl fmt::Debug for TarTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Writer(_) => f.write_str("TarTarget::Writer"),
            Target::Directory(path) => write!(f, "TarTarget::Directory({})", path.display()),
        }
    }
}

pub(super) async fn restore(restoring: &mut Restoring<'_>, target: TarTarget) -> Result<()> {
    let since = Instant::now();
    let reader = restoring.repository.repo.reader(restoring.ctx, ReadOptions::default()).await?;
    match target.0 {
        Target::Writer(writer) => to_writer(restoring, &reader, writer).await?,
        Target::Directory(directory) => to_directory(restoring, &reader, directory).await?,
    }
    restoring.stage("writing", since);
    Ok(())
}

async fn to_writer(
    restoring: &mut Restoring<'_>,
    reader: &Reader,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
) -> Result<()> {
    let archives = count_archives(restoring, reader).await?;
    if archives != 1 {
        let what = format!("the backup has {archives} archives, which do not fit one stream");
        return Err(Error::invalid(what).with_hint("restore them into a directory with --tar DIR"));
    }
    restoring.ctx.progress.phase(Phase::Restore, Some(restoring.record.stats.size_bytes));
    let mut pieces = reader.sequence(&restoring.record.manifest);
    let mut out = Out::new("the stream".to_owned(), writer);
    if let Some(Piece::Entry(Entry::Archive(header))) = pieces.next().await? {
        archive(restoring, &mut pieces, &header.kind, &mut out).await?;
    }
    out.finish().await.map(|_| ())
}

/// How many streams the backup consists of. Costs one pass over the manifest, which is small.
async fn count_archives(restoring: &Restoring<'_>, reader: &Reader) -> Result<u64> {
    let mut manifest = reader.manifest(&restoring.record.manifest);
    let mut archives = 0;
    while let Some(entry) = manifest.next().await? {
        archives += u64::from(matches!(entry, Entry::Archive(_)));
    }
    Ok(archives)
}

async fn to_directory(restoring: &mut Restoring<'_>, reader: &Reader, directory: PathBuf) -> Result<()> {
    check_empty(&directory, "the target directory")?;
    let making = |error| Error::io(format!("make {}", directory.display()), error);
    tokio::fs::create_dir_all(&directory).await.map_err(making)?;
    restoring.ctx.progress.phase(Phase::Restore, Some(restoring.record.stats.size_bytes));
    let mut pieces = reader.sequence(&restoring.record.manifest);
    while let Some(piece) = pieces.next().await? {
        let Piece::Entry(Entry::Archive(header)) = piece else {
            return Err(Error::new(ErrorKind::Corrupt, "the manifest has an entry outside of an archive"));
        };
        let path = directory.join(file_name(&header.kind));
        let partial = path.with_added_extension("partial");
        let writing = |error| Error::io(format!("write {}", path.display()), error);
        let file = tokio::fs::File::create_new(&partial).await.map_err(writing)?;
        let mut out = Out::new(path.display().to_string(), Box::new(file));
        archive(restoring, &mut pieces, &header.kind, &mut out).await?;
        drop(out.finish().await?);
        let file = tokio::fs::File::open(&partial).await.map_err(writing)?;
        file.sync_all().await.map_err(writing)?;
        tokio::fs::rename(&partial, &path).await.map_err(writing)?;
    }
    let synced = std::fs::File::open(&directory).and_then(|handle| handle.sync_all());
    synced.map_err(|error| Error::io(format!("flush {}", directory.display()), error))?;
    restoring.report.target = Some(directory);
    Ok(())
}

fn file_name(kind: &ArchiveKind) -> String {
    match kind {
        ArchiveKind::Base => "base.tar".to_owned(),
        ArchiveKind::Tablespace { oid, .. } => format!("{oid}.tar"),
        ArchiveKind::BackupManifest => "backup_manifest".to_owned(),
        ArchiveKind::Stream => "stream".to_owned(),
    }
}

/// Writes one archive, up to its end entry.
async fn archive(
    restoring: &mut Restoring<'_>,
    pieces: &mut SequenceReader,
    kind: &ArchiveKind,
    out: &mut Out,
) -> Result<()> {
    let framed = matches!(kind, ArchiveKind::Base | ArchiveKind::Tablespace { .. });
    let mut tar = TarWriter::new();
    while let Some(piece) = pieces.next().await? {
        let Piece::Entry(entry) = piece else { return Err(unordered()) };
        match entry {
            Entry::EndArchive { trailing_zeros } => {
                if framed {
                    tar.finish(trailing_zeros, &mut out.buffer).map_err(broken)?;
                }
                return Ok(());
            }
            Entry::File(file) => {
                let entry = tar_entry(file.meta.clone(), EntryKind::File, file.content.length, Vec::new());
                write_file(restoring, pieces, framed.then_some((&mut tar, &entry)), out).await?;
            }
            Entry::Directory(meta) => {
                plain_entry(&mut tar, tar_entry(meta, EntryKind::Directory, 0, Vec::new()), out)?;
                restoring.report.directories += 1;
            }
            Entry::Symlink { meta, target } => {
                plain_entry(&mut tar, tar_entry(meta, EntryKind::Symlink, 0, target), out)?;
                restoring.report.directories += 1;
            }
            Entry::Archive(_) => {
                return Err(Error::new(ErrorKind::Corrupt, "the manifest has an archive inside an archive"));
            }
        }
    }
    Err(Error::new(ErrorKind::Corrupt, "the manifest ends inside an archive"))
}

fn tar_entry(meta: Meta, kind: EntryKind, size: u64, link_target: Vec<u8>) -> TarEntry {
    TarEntry {
        path: meta.path,
        kind,
        size,
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        owner: meta.owner,
        group: meta.group,
        link_target,
    }
}

fn plain_entry(tar: &mut TarWriter, entry: TarEntry, out: &mut Out) -> Result<()> {
    tar.begin(&entry, &mut out.buffer).map_err(broken)?;
    tar.end(&mut out.buffer).map_err(broken)
}

async fn write_file(
    restoring: &mut Restoring<'_>,
    pieces: &mut SequenceReader,
    mut framing: Option<(&mut TarWriter, &TarEntry)>,
    out: &mut Out,
) -> Result<()> {
    if let Some((tar, entry)) = &mut framing {
        tar.begin(entry, &mut out.buffer).map_err(broken)?;
    }
    loop {
        let bytes = match pieces.next().await? {
            Some(Piece::Bytes(bytes)) => bytes,
            Some(Piece::EndFile) => break,
            Some(Piece::Entry(_)) | None => return Err(unordered()),
        };
        out.write(&bytes).await?;
        if let Some((tar, _)) = &mut framing {
            tar.passed(bytes.len() as u64).map_err(broken)?;
        }
        restoring.ctx.progress.advance(bytes.len() as u64);
        restoring.report.restored_bytes += bytes.len() as u64;
    }
    if let Some((tar, _)) = &mut framing {
        tar.end(&mut out.buffer).map_err(broken)?;
    }
    restoring.report.files += 1;
    Ok(())
}

/// A sequence gives a file's entry, its bytes and its end in this order.
fn unordered() -> Error {
    Error::new(ErrorKind::Internal, "the backup's entries and bytes came out of order")
}

fn broken(error: TarWriteError) -> Error {
    Error::wrap(ErrorKind::Corrupt, error)
}

/// A writer with a buffer for the small pieces between files.
struct Out {
    name: String,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    buffer: Vec<u8>,
}

/// Written in pieces of this many bytes: a pipe takes 64 KiB at once, a disk likes more.
const BUFFER_BYTES: usize = 256 * 1024;
/// Pieces from this length on are written as they are, without being copied first.
const DIRECT_BYTES: usize = 64 * 1024;

impl Out {
    fn new(name: String, writer: Box<dyn AsyncWrite + Send + Unpin>) -> Self {
        Self { name, writer, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() >= DIRECT_BYTES {
            self.flush().await?;
            let written = self.writer.write_all(bytes).await;
            return written.map_err(|error| Error::io(format!("write {}", self.name), error));
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.writer.write_all(&self.buffer).await;
        self.buffer.clear();
        written.map_err(|error| Error::io(format!("write {}", self.name), error))
    }

    async fn finish(mut self) -> Result<Box<dyn AsyncWrite + Send + Unpin>> {
        self.flush().await?;
        let flushed = self.writer.flush().await;
        flushed.map_err(|error| Error::io(format!("write {}", self.name), error))?;
        Ok(self.writer)
    }
}
