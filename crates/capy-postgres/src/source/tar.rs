//! Tar files as a source: one file, standard input, or a directory of tars.
//!
//! Compressed tars are refused: their bytes do not deduplicate, and decompressing is a pipe away.
//! Empty input is refused too: it is what a failed producer leaves.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::buffer::BufferPool;
use super::directory::{TarDirectory, read_directory};
use super::reader::{Input, Reader};
use super::wal_tar::{BaseEnd, WalEntries};
use super::{ArchiveKind, ArchiveStart, STDIN, SourceEvent, SourceFacts};
use crate::PostgresError;

/// Tar files, a directory of them, or tar on standard input.
///
/// Of a directory, tablespaces come first, then the base archive, then the manifest. WAL that
/// `pg_basebackup` put into a `pg_wal.tar` appears inside the base archive.
#[derive(Debug)]
pub struct TarSource {
    waiting: VecDeque<Part>,
    reading: Option<Reading>,
    pool: BufferPool,
    total_bytes: Option<u64>,
    facts: SourceFacts,
}

/// An archive still to come.
#[derive(Debug)]
struct Part {
    kind: ArchiveKind,
    input: PartInput,
    /// `pg_wal.tar`, to be put into the base archive.
    wal: Option<PathBuf>,
}

enum PartInput {
    Path(PathBuf),
    Open { input: Input, what: String },
}

impl std::fmt::Debug for PartInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what())
    }
}

impl PartInput {
    fn what(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Open { what, .. } => what.clone(),
        }
    }

    fn start(self, pool: &BufferPool) -> Result<Reader, PostgresError> {
        let what = self.what();
        let input = match self {
            Self::Path(path) => File::open(path).map(Input::File),
            Self::Open { input, .. } => Ok(input),
        };
        input.and_then(|input| Reader::start(input, pool.clone())).map_err(|e| PostgresError::read(&what, e))
    }
}

/// The archive being read.
#[derive(Debug)]
struct Reading {
    reader: Reader,
    what: String,
    /// Before its first byte.
    fresh: bool,
    is_tar: bool,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Every byte passes.
    Plain,
    /// The base archive of a directory that has a `pg_wal.tar`.
    BeforeWal { end: Box<BaseEnd>, wal: PathBuf },
    /// `pg_wal.tar` itself.
    Wal(Box<WalEntries>),
    /// Everything was delivered but the end.
    Done,
}

impl TarSource {
    /// Reads a tar file, or a directory as `pg_basebackup -Ft -D <directory>` writes it.
    /// # Errors
    /// [`PostgresError::Read`], and for a directory [`PostgresError::NotATarDirectory`] and
    /// [`PostgresError::Compressed`].
    pub fn open(path: &Path) -> Result<Self, PostgresError> {
        let failed = |e| PostgresError::read(&path.display().to_string(), e);
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Self::of_directory(read_directory(path)?));
        }
        let input = Input::File(File::open(path).map_err(failed)?);
        Ok(Self::single(input, path.display().to_string()))
    }

    /// Reads a tar from standard input; nothing else may read it meanwhile.
    /// # Errors
    /// [`PostgresError::Read`] when it is closed.
    pub fn from_stdin() -> Result<Self, PostgresError> {
        let input = Input::stdin().map_err(|e| PostgresError::read(STDIN, e))?;
        Ok(Self::single(input, STDIN.to_owned()))
    }

    /// Reads a tar from anything that reads, in a thread of its own; `what` names it in errors.
    /// A read that blocks for ever keeps that thread alive after the source was dropped.
    pub fn from_reader(reader: impl Read + Send + 'static, what: impl Into<String>) -> Self {
        Self::single(Input::Reader(Box::new(reader)), what.into())
    }

    fn single(input: Input, what: String) -> Self {
        let total_bytes = input.size_bytes();
        let part = Part { kind: ArchiveKind::Base, input: PartInput::Open { input, what }, wal: None };
        Self {
            waiting: [part].into(),
            reading: None,
            pool: BufferPool::default(),
            total_bytes,
            facts: SourceFacts::default(),
        }
    }

    fn of_directory(directory: TarDirectory) -> Self {
        let part = |kind, path| Part { kind, input: PartInput::Path(path), wal: None };
        let mut waiting = VecDeque::new();
        for (facts, path) in &directory.tablespaces {
            let kind = ArchiveKind::Tablespace { oid: facts.oid, location: facts.location.clone() };
            waiting.push_back(part(kind, path.clone()));
        }
        waiting.push_back(Part { wal: directory.wal, ..part(ArchiveKind::Base, directory.base) });
        waiting.extend(directory.manifest.map(|path| part(ArchiveKind::BackupManifest, path)));
        let tablespaces = directory.tablespaces.into_iter().map(|(facts, _)| facts).collect();
        Self {
            waiting,
            reading: None,
            pool: BufferPool::default(),
            total_bytes: Some(directory.total_bytes),
            facts: SourceFacts { tablespaces, ..SourceFacts::default() },
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        let outcome = self.step().await;
        if outcome.is_err() {
            // Nothing follows an error.
            self.reading = None;
            self.waiting.clear();
        }
        outcome
    }

    async fn step(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        let Some(reading) = &mut self.reading else {
            let Some(part) = self.waiting.pop_front() else { return Ok(None) };
            let (kind, reading) = Reading::start(part, &self.pool)?;
            self.reading = Some(reading);
            return Ok(Some(SourceEvent::Archive(ArchiveStart { kind })));
        };
        match reading.next(&self.pool).await? {
            Some(bytes) => Ok(Some(SourceEvent::Data(bytes))),
            None => {
                self.reading = None;
                Ok(Some(SourceEvent::EndArchive))
            }
        }
    }

    pub(super) const fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    pub(super) fn facts(&self) -> SourceFacts {
        self.facts.clone()
    }
}

impl Reading {
    fn start(part: Part, pool: &BufferPool) -> Result<(ArchiveKind, Self), PostgresError> {
        let what = part.input.what();
        let reader = part.input.start(pool)?;
        let step = match part.wal {
            Some(wal) => Step::BeforeWal { end: Box::default(), wal },
            None => Step::Plain,
        };
        let is_tar = part.kind != ArchiveKind::BackupManifest;
        Ok((part.kind, Self { reader, what, fresh: true, is_tar, step }))
    }

    /// The next bytes of the archive, never empty.
    async fn next(&mut self, pool: &BufferPool) -> Result<Option<Bytes>, PostgresError> {
        loop {
            if matches!(self.step, Step::Done) {
                return Ok(None);
            }
            let bytes = self.reader.next().await.map_err(|e| PostgresError::read(&self.what, e))?;
            let passed = match bytes {
                Some(bytes) => self.pass(bytes)?,
                None => self.end_of_input(pool)?,
            };
            if !passed.is_empty() {
                return Ok(Some(passed));
            }
        }
    }

    fn pass(&mut self, bytes: Bytes) -> Result<Bytes, PostgresError> {
        if std::mem::take(&mut self.fresh) && self.is_tar {
            refuse_compressed(&bytes, &self.what)?;
        }
        match &mut self.step {
            Step::Plain | Step::Done => Ok(bytes),
            Step::BeforeWal { end, .. } => end.pass(&bytes).map_err(|e| PostgresError::tar(&self.what, e)),
            Step::Wal(entries) => entries.rewrite(&bytes).map_err(|e| e.of(&self.what)),
        }
    }

    /// What follows the last byte of the present input: nothing, or `pg_wal.tar`.
    fn end_of_input(&mut self, pool: &BufferPool) -> Result<Bytes, PostgresError> {
        if self.fresh {
            return Err(PostgresError::Empty { what: self.what.clone(), producer: "pg_basebackup" });
        }
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Plain | Step::Done => Ok(Bytes::new()),
            Step::BeforeWal { end, wal } => {
                end.finish().map_err(|e| PostgresError::tar(&self.what, e))?;
                let input = PartInput::Path(wal);
                self.what = input.what();
                self.reader = input.start(pool)?;
                (self.fresh, self.step) = (true, Step::Wal(Box::default()));
                Ok(Bytes::new())
            }
            Step::Wal(entries) => entries.finish().map_err(|e| e.of(&self.what)),
        }
    }
}

/// How the compressions that `pg_basebackup` and shells use begin, and what undoes them.
const COMPRESSIONS: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
];

fn refuse_compressed(start: &[u8], what: &str) -> Result<(), PostgresError> {
    match COMPRESSIONS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        // A tar whose first name happens to begin with these bytes has `ustar` in its place.
        Some((_, format, advice)) if start.get(257..262) != Some(b"ustar") => {
            Err(PostgresError::Compressed { what: what.to_owned(), format, advice })
        }
        _ => Ok(()),
    }
}
