//! The order of a local backup, from top to bottom.
//!
//! Tablespaces; the data directory; when all of that is read, `pg_control`; then the end of the
//! backup, whose `backup_label` and `tablespace_map` follow, and the WAL between beginning and end;
//! last the manifest. The server's own stream has the label first, because there it is known
//! before: nobody who reads a backup relies on it.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;
use capy_types::{Ctx, Lsn, SegmentName, SegmentSize, SystemId, TimelineId};
use tokio::sync::mpsc;

use super::ahead::{IN_LINE_MAX, Piece, Read, ReadAhead};
use super::piece::{Part, ReadRules};
use super::walk::{self, Found, FoundFile, Walk, WalkPlan};
use super::{Message, blocking, sum, tell};
use crate::backup_manifest::{ManifestDraft, WalRange};
use crate::control;
use crate::label::{BackupLabel, TablespaceMap};
use crate::server::{BackupSession, Stopped};
use crate::source::buffer::BufferPool;
use crate::source::{ArchiveStart, SourceEvent, SourceFacts, TablespaceFacts};
use crate::tar::{END_BYTES, TarEntry, TarWriteError, TarWriter};
use crate::{ArchiveKind, PostgresError};

/// Why delivering ends early.
enum Stop {
    Failed(PostgresError),
    NobodyListens,
}

impl From<PostgresError> for Stop {
    fn from(error: PostgresError) -> Self {
        Self::Failed(error)
    }
}

type Step = Result<(), Stop>;

/// Reads everything and hands it on.
pub(super) struct Delivery {
    ctx: Ctx,
    session: BackupSession,
    facts: SourceFacts,
    rules: ReadRules,
    pool: BufferPool,
    to: mpsc::Sender<Message>,
    manifest: ManifestDraft,
    /// Where the paths of the open archive are below the data directory.
    prefix: String,
    tar: TarWriter,
    /// The file whose bytes are coming.
    open: Option<OpenEntry>,
}

struct OpenEntry {
    entry: TarEntry,
    /// The checksum of the bytes that have come; `None` before the first.
    crc32c: Option<u32>,
}

impl Delivery {
    pub(super) fn new(
        ctx: Ctx,
        session: BackupSession,
        facts: SourceFacts,
        rules: ReadRules,
        to: mpsc::Sender<Message>,
    ) -> Self {
        // Those in line, one being filled by each thread, and those handed on.
        let pool = BufferPool::keeping(IN_LINE_MAX + rules.threads + super::EVENTS_MAX + 1);
        Self {
            ctx,
            session,
            facts,
            rules,
            pool,
            to,
            manifest: ManifestDraft::new(),
            prefix: String::new(),
            tar: TarWriter::new(),
            open: None,
        }
    }

    pub(super) async fn run(mut self, base: WalkPlan, spaces: Vec<(TablespaceFacts, WalkPlan)>) {
        let last = match self.deliver(base, spaces).await {
            Ok(()) => Message::End,
            Err(Stop::Failed(error)) => Message::Failed(error),
            Err(Stop::NobodyListens) => return,
        };
        // If nobody listens, nobody needs to know.
        let _ = self.to.send(last).await;
    }

    async fn deliver(&mut self, base: WalkPlan, spaces: Vec<(TablespaceFacts, WalkPlan)>) -> Step {
        let root = base.root.clone();
        let mut sent = BTreeSet::new();
        for (space, plan) in spaces {
            sent.insert(space.oid);
            self.begin_archive(plan.archive.clone()).await?;
            self.files(Walk::new(plan)).await?;
            self.end_archive().await?;
        }
        self.begin_archive(ArchiveKind::Base).await?;
        self.files(Walk::new(base)).await?;
        let control = self.control(&root).await?;
        let stopped = self.session.stop().await?;
        let label = self.label(&stopped, &control).await?;
        let range = self.wal_range(&label, stopped.lsn).await?;
        if self.facts.wal_included == Some(true) {
            self.wal(&root, range).await?;
        }
        self.end_archive().await?;
        self.dropped_tablespaces(&stopped, &sent).await?;
        self.send(Message::Stopped(stopped.lsn)).await?;
        self.manifest(range).await
    }

    async fn send(&self, message: Message) -> Step {
        self.to.send(message).await.map_err(|_| Stop::NobodyListens)
    }

    async fn event(&self, event: SourceEvent) -> Step {
        self.send(Message::Event(event)).await
    }

    async fn data(&self, bytes: Bytes) -> Step {
        if bytes.is_empty() { Ok(()) } else { self.event(SourceEvent::Data(bytes)).await }
    }

    async fn begin_archive(&mut self, kind: ArchiveKind) -> Step {
        self.prefix = kind.place();
        self.event(SourceEvent::Archive(ArchiveStart { kind })).await
    }

    async fn end_archive(&mut self) -> Step {
        let mut out = Vec::new();
        let tar = std::mem::take(&mut self.tar);
        tar.finish(END_BYTES as u32, &mut out).map_err(|e| self.no_tar(e))?;
        self.data(out.into()).await?;
        self.event(SourceEvent::EndArchive).await
    }

    /// Reads what `found` names into the open archive.
    async fn files(
        &mut self,
        found: impl Iterator<Item = Result<Found, PostgresError>> + Send + 'static,
    ) -> Step {
        let started = ReadAhead::start(found, &self.rules, &self.pool);
        let mut ahead = started.map_err(|e| PostgresError::read("the data directory", e))?;
        while let Some(read) = ahead.next().await? {
            self.session.check()?;
            match read {
                Read::Directory(entry) => self.begin_entry(&entry).await?,
                Read::Passed { path, what } => {
                    tell(&self.ctx, path.display().to_string(), format!("{what}: left out of the backup"));
                }
                Read::Piece(piece) => self.piece(piece).await?,
            }
        }
        Ok(())
    }

    async fn begin_entry(&mut self, entry: &TarEntry) -> Step {
        let mut header = Vec::with_capacity(crate::tar::BLOCK_BYTES);
        self.tar.begin(entry, &mut header).map_err(|e| self.no_tar(e))?;
        self.data(header.into()).await
    }

    async fn piece(&mut self, piece: Piece) -> Step {
        if let Some(entry) = piece.begins {
            self.begin_entry(&entry).await?;
            self.open = Some(OpenEntry { entry, crc32c: None });
        }
        for Part { event, length, crc32c } in piece.parts {
            self.tar.passed(length).map_err(|e| self.no_tar(e))?;
            if let Some(open) = &mut self.open {
                // Most files are one part, for which there is nothing to join.
                open.crc32c = Some(open.crc32c.map_or(crc32c, |before| sum::join(before, crc32c, length)));
            }
            self.event(event).await?;
        }
        if piece.ends { self.end_file().await } else { Ok(()) }
    }

    async fn end_file(&mut self) -> Step {
        if let Some(OpenEntry { entry, crc32c }) = self.open.take()
            // The segments are in the manifest's ranges instead, as the server has it.
            && !is_segment(&entry.path)
        {
            let path = [self.prefix.as_bytes(), &entry.path].concat();
            self.manifest.add(&path, entry.size, entry.mtime, crc32c.unwrap_or_default());
        }
        let mut padding = Vec::new();
        self.tar.end(&mut padding).map_err(|e| self.no_tar(e))?;
        self.data(padding.into()).await
    }

    /// A file that is held whole.
    async fn small_file(&mut self, path: &str, content: Vec<u8>, like: &Metadata) -> Step {
        let entry = TarEntry { size: content.len() as u64, ..walk::file(path.into(), like) };
        let (length, crc32c) = (entry.size, crc32c::crc32c(&content));
        let part = Part { event: SourceEvent::Data(content.into()), length, crc32c };
        let parts = if length > 0 { vec![part] } else { Vec::new() };
        self.piece(Piece { begins: Some(entry), parts, ends: true }).await
    }

    /// The control file, after everything else: on a standby it says how far the files must be
    /// recovered, which moves on while they are read.
    async fn control(&mut self, root: &Path) -> Result<Metadata, Stop> {
        let path = root.join("global/pg_control");
        let directory = root.to_owned();
        let (content, metadata) = blocking(move || {
            let (content, _) = control::read(&directory)?;
            Ok((content, std::fs::symlink_metadata(&path).map_err(|e| walk::failed(&path, e))?))
        })
        .await?;
        self.small_file("global/pg_control", content, &metadata).await?;
        Ok(metadata)
    }

    /// The files that only the backup has. They are as old as the control file, whose checkpoint
    /// they begin with.
    async fn label(&mut self, stopped: &Stopped, control: &Metadata) -> Result<BackupLabel, Stop> {
        for (name, content) in [("backup_label", &stopped.label), ("tablespace_map", &stopped.tablespace_map)]
        {
            self.small_file(name, content.clone().into_bytes(), control).await?;
        }
        let what = "the server".to_owned();
        let label = BackupLabel::parse(stopped.label.as_bytes());
        Ok(label.map_err(|source| PostgresError::Label { what, source })?)
    }

    async fn wal_range(&self, label: &BackupLabel, end_lsn: Lsn) -> Result<WalRange, Stop> {
        let timeline = label.start_timeline.unwrap_or(TimelineId::from_u32(1));
        if self.facts.from_standby == Some(true) {
            let now = self.session.minimum_recovery_timeline().await?;
            if now != timeline {
                return Err(PostgresError::TimelineChanged { timeline: now.as_u32() }.into());
            }
        }
        Ok(WalRange { timeline, start_lsn: label.start_lsn, end_lsn })
    }

    /// Segments and timeline histories, each marked as archived: the copy need not do it again.
    async fn wal(&mut self, root: &Path, range: WalRange) -> Step {
        let size = self.facts.segment_size.unwrap_or(SegmentSize::DEFAULT);
        let directory = root.join("pg_wal");
        let found = blocking(move || wal_files(&directory, range, size)).await?;
        let with_marks = found.into_iter().flat_map(|file| {
            let done = archived_mark(&file);
            [Ok(Found::File(file)), Ok(Found::Empty(done))]
        });
        self.files(with_marks).await.map_err(removed)
    }

    /// Tablespaces that were there at the beginning and were gone when their links were read: the
    /// WAL that drops them finds them empty.
    async fn dropped_tablespaces(&mut self, stopped: &Stopped, sent: &BTreeSet<u32>) -> Step {
        let what = "the server".to_owned();
        let map = TablespaceMap::parse(stopped.tablespace_map.as_bytes());
        let map = map.map_err(|source| PostgresError::Label { what, source })?;
        for (oid, location) in map.locations {
            if !sent.contains(&oid) {
                self.begin_archive(ArchiveKind::Tablespace { oid, location }).await?;
                self.end_archive().await?;
            }
        }
        Ok(())
    }

    async fn manifest(&mut self, range: WalRange) -> Step {
        self.event(SourceEvent::Archive(ArchiveStart { kind: ArchiveKind::BackupManifest })).await?;
        let version_num = self.facts.version_num.unwrap_or_default();
        let system_id = self.facts.system_id.unwrap_or(SystemId::from_u64(0));
        for piece in std::mem::take(&mut self.manifest).finish(version_num, system_id, vec![range]) {
            self.data(piece.into()).await?;
        }
        self.event(SourceEvent::EndArchive).await
    }

    fn no_tar(&self, source: TarWriteError) -> Stop {
        Stop::Failed(PostgresError::WalTar { what: "the data directory".to_owned(), source })
    }
}

fn is_segment(path: &[u8]) -> bool {
    path.strip_prefix(b"pg_wal/").is_some_and(|name| name.len() == 24 && !name.contains(&b'/'))
}

/// What says that a file of `pg_wal` is archived.
fn archived_mark(file: &FoundFile) -> TarEntry {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    TarEntry { size: 0, path: format!("pg_wal/archive_status/{name}.done").into(), ..file.entry.clone() }
}

/// What the reading of a segment means that is not there any more.
fn removed(stop: Stop) -> Stop {
    match stop {
        Stop::Failed(PostgresError::Read { what, source }) if source.kind() == ErrorKind::NotFound => {
            let segment = what.rsplit('/').next().unwrap_or_default().to_owned();
            Stop::Failed(PostgresError::WalRemoved { segment })
        }
        other => other,
    }
}

/// The segments of a range and all timeline histories; blocks.
fn wal_files(directory: &Path, range: WalRange, size: SegmentSize) -> Result<Vec<FoundFile>, PostgresError> {
    let found = |name: String| -> Result<FoundFile, std::io::Error> {
        let path = directory.join(&name);
        let entry = walk::file(format!("pg_wal/{name}").into(), &std::fs::metadata(&path)?);
        Ok(FoundFile { entry, path, first_block: None, required: true })
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|e| walk::failed(directory, e))? {
        let name = entry.map_err(|e| walk::failed(directory, e))?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".history") {
            files.push(found(name).map_err(|e| walk::failed(directory, e))?);
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let last = Lsn::from_u64(range.end_lsn.as_u64().saturating_sub(1));
    let last = SegmentName::containing(range.timeline, last, size);
    let mut segment = SegmentName::containing(range.timeline, range.start_lsn, size);
    while segment <= last {
        let name = segment.to_string();
        match found(name.clone()) {
            Ok(file) if file.entry.size == size.bytes() => files.push(file),
            Ok(file) => {
                let problem = format!("{} bytes instead of {}", file.entry.size, size.bytes());
                let source = std::io::Error::new(ErrorKind::UnexpectedEof, problem);
                return Err(walk::failed(&file.path, source));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(PostgresError::WalRemoved { segment: name });
            }
            Err(e) => return Err(walk::failed(&directory.join(&name), e)),
        }
        segment = segment.next();
    }
    Ok(files)
}
