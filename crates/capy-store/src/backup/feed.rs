//! The feeder: a source's archives, taken apart into entries, into the repository.
//!
//! Contained by: the backup. One pass, nothing held but the small files that say what the backup
//! is, and 16 bytes per file to notice a path that comes twice.
//! Files of changed blocks are put together with an earlier backup's on the way ([`super::changed`]).
//! Invariants: an entry is ended only when all its bytes have come; a source that ends early is an
//! error of the tar it broke off in, with entry and offset.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capy_format::{ArchiveHeader, ArchiveKind, Meta};
use capy_postgres::ArchiveKind as SourceKind;
use capy_postgres::incremental::segment_path;
use capy_postgres::label::without_incremental_lines;
use capy_postgres::relation::{ChunkingHint, PathClass, classify};
use capy_postgres::tar::{EntryKind, TarEntry, TarEvent, TarParser, clean_path};
use capy_postgres::{PostgresError, Source, SourceEvent};
use capy_repo::{Ingest, Strategy};
use capy_types::{Ctx, ErrorKind};

use super::changed::{Changed, Rewriting, Together};
use super::pages::{PageChecker, PageTag};
use super::required::{Kept, Which};
use crate::rate::Pace;
use crate::{Error, Result};

/// Mode given to what has none of its own: streams and manifests that came without a tar header.
const PLAIN_MODE: u32 = 0o600;

/// SQLSTATE with which a server ends a base backup in which it met damaged pages (`basebackup.c`).
const DATA_CORRUPTED: &str = "XX001";

/// What a whole source held.
#[derive(Debug, Default)]
pub(super) struct Fed {
    /// Bytes read, with all framing.
    pub(super) read_bytes: u64,
    /// For how long there was nothing to do until the source, or a limit on it, gave more.
    pub(super) waited: Duration,
    /// It is a base backup, not a stream.
    pub(super) is_base: bool,
    pub(super) kept: Kept,
    /// What the server itself found wrong with its pages.
    pub(super) server_verdict: Option<String>,
    /// Oid and location (empty when unknown) of the tablespaces inside.
    pub(super) tablespaces: BTreeMap<u32, String>,
    /// What became of files of changed blocks, when the source sends such.
    pub(super) together: Option<Together>,
}

/// Feeds one source into one ingest.
pub(super) struct Feeder<'a> {
    ctx: &'a Ctx,
    ingest: &'a mut Ingest,
    pages: Option<Arc<PageChecker>>,
    pace: Option<Pace>,
    seen: HashSet<(u64, u64)>,
    /// Files begun so far: the number of the next one.
    files: u64,
    archive: Option<Archive>,
    version_num: u32,
    fed: Fed,
}

/// The archive being read.
struct Archive {
    kind: SourceKind,
    /// Takes tars apart; plain bytes have none.
    parser: Option<TarParser>,
    /// The file whose bytes are coming, when it is one to keep.
    keeping: Option<(Which, Vec<u8>)>,
    in_file: bool,
    /// The changed blocks that are coming, and how the manifest lists their file.
    changed: Option<(Changed, Vec<u8>)>,
    /// The file that is begun only when all of it is there.
    deferred: Option<Meta>,
    /// The server's manifest, when another is stored in its place.
    rewriting: Option<Rewriting>,
}

impl<'a> Feeder<'a> {
    pub(super) fn new(
        ctx: &'a Ctx,
        ingest: &'a mut Ingest,
        pages: Option<Arc<PageChecker>>,
        pace: Option<Pace>,
    ) -> Self {
        let (seen, fed) = (HashSet::new(), Fed::default());
        Self { ctx, ingest, pages, pace, seen, files: 0, archive: None, version_num: 0, fed }
    }

    /// Feeds everything.
    pub(super) async fn run(mut self, source: &mut Source) -> Result<Fed> {
        if let (Some(pages), Some(start)) = (&self.pages, source.facts().start_lsn) {
            pages.start_lsn_is(start);
        }
        self.fed.together = source.facts().incremental.then(Together::default);
        self.version_num = source.facts().version_num.unwrap_or_default();
        while let Some(event) = self.next(source).await? {
            match event {
                SourceEvent::Archive(start) => self.begin_archive(start.kind).await?,
                SourceEvent::Data(bytes) => {
                    self.pace(bytes.len() as u64).await;
                    self.data(&bytes, false).await?;
                }
                SourceEvent::SoundPages(bytes) => {
                    self.pace(bytes.len() as u64).await;
                    self.data(&bytes, true).await?;
                }
                SourceEvent::Cells { cells, bytes, sound } => {
                    self.pace(cells.length()).await;
                    self.pass(cells.length())?;
                    self.ingest.write_named(&cells.cells, &bytes, !sound).await?;
                }
                SourceEvent::KnownCells(cells) => {
                    self.pace(cells.length()).await;
                    self.pass(cells.length())?;
                    self.ingest.write_known(&cells.cells, cells.crc32c).await?;
                }
                SourceEvent::EndArchive => self.end_archive().await?,
                SourceEvent::Progress(_) => {}
            }
        }
        if self.archive.is_some() {
            return Err(Error::new(ErrorKind::Internal, "the source ended inside an archive"));
        }
        if self.fed.is_base {
            self.fed.kept.require_all()?;
        }
        Ok(self.fed)
    }

    /// The next event. The server's verdict that pages are damaged comes after the last byte, as an
    /// error: the backup is whole all the same, and worth keeping.
    async fn next(&mut self, source: &mut Source) -> Result<Option<SourceEvent>> {
        let since = Instant::now();
        let next = source.next().await;
        self.fed.waited += since.elapsed();
        match next {
            Err(PostgresError::Server(verdict))
                if verdict.code == DATA_CORRUPTED && self.archive.is_none() && self.fed.is_base =>
            {
                self.fed.server_verdict = Some(verdict.message);
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    /// Counts bytes that have come, and keeps to the rate.
    async fn pace(&mut self, bytes: u64) {
        self.fed.read_bytes += bytes;
        self.ctx.progress.advance(bytes);
        if let Some(pace) = &self.pace {
            let since = Instant::now();
            pace.pass(bytes).await;
            self.fed.waited += since.elapsed();
        }
    }

    async fn begin_archive(&mut self, kind: SourceKind) -> Result<()> {
        self.fed.is_base |= !matches!(kind, SourceKind::Stream { .. });
        self.ingest.begin_archive(ArchiveHeader { kind: stored_kind(&kind) })?;
        if let SourceKind::Tablespace { oid, location } = &kind {
            self.fed.tablespaces.insert(*oid, location.clone());
        }
        let plain_name = match &kind {
            SourceKind::Base | SourceKind::Tablespace { .. } => None,
            SourceKind::BackupManifest => Some("backup_manifest".to_owned()),
            SourceKind::Stream { name } => Some(name.clone()),
        };
        let parser = plain_name.is_none().then(TarParser::new);
        let rewriting = match (&kind, &mut self.fed.together) {
            (SourceKind::BackupManifest, Some(together)) => Some(together.rewriting()),
            _ => None,
        };
        let (keeping, changed, deferred) = (None, None, None);
        self.archive = Some(Archive { kind, parser, keeping, in_file: false, changed, deferred, rewriting });
        match plain_name {
            Some(name) => self.begin_plain(name).await,
            None => Ok(()),
        }
    }

    /// Begins the one file of an archive that is no tar.
    async fn begin_plain(&mut self, name: String) -> Result<()> {
        if !matches!(clean_path(name.as_bytes()), Ok(clean) if *clean == *name.as_bytes()) {
            return Err(Error::invalid(format!("not a plain relative path: {name:?}")));
        }
        let meta = Meta { path: name.into_bytes(), mode: PLAIN_MODE, ..Meta::default() };
        self.files += 1;
        Ok(self.ingest.begin_file(meta, Strategy::Cdc, None).await?)
    }

    /// `sound`: pages that were checked while they were read.
    async fn data(&mut self, bytes: &[u8], sound: bool) -> Result<()> {
        let Some(archive) = &mut self.archive else {
            return Err(Error::new(ErrorKind::Internal, "bytes came outside of an archive"));
        };
        if let (Some(rewriting), Some(together)) = (&mut archive.rewriting, &mut self.fed.together) {
            return rewriting.feed(together, bytes);
        }
        let Some(mut parser) = archive.parser.take() else {
            return Ok(self.ingest.write(bytes).await?);
        };
        let mut rest = bytes;
        loop {
            let (taken, event) = parser.feed(rest).map_err(in_tar)?;
            rest = rest.get(taken..).unwrap_or_default();
            match event {
                TarEvent::Entry(entry) => self.entry(entry).await?,
                TarEvent::Data(data) => self.file_data(data, sound).await?,
                TarEvent::EndEntry => self.end_entry().await?,
                TarEvent::NeedMore => break,
            }
        }
        if let Some(archive) = &mut self.archive {
            archive.parser = Some(parser);
        }
        Ok(())
    }

    /// Goes on in the archive behind bytes of the open file that take a way of their own.
    fn pass(&mut self, bytes: u64) -> Result<()> {
        let archive = self.archive.as_mut().filter(|archive| {
            archive.keeping.is_none() && archive.changed.is_none() && archive.deferred.is_none()
        });
        match archive.and_then(|archive| archive.parser.as_mut()).is_some_and(|parser| parser.pass(bytes)) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Internal, "cells came outside of a relation's file")),
        }
    }

    async fn entry(&mut self, entry: TarEntry) -> Result<()> {
        let mut path =
            clean_path(&entry.path).map_err(|error| Error::wrap(ErrorKind::Invalid, error))?.into_owned();
        let Some(archive) = &mut self.archive else { return Ok(()) };
        archive.keeping = None;
        archive.in_file = entry.kind == EntryKind::File;
        let mut meta = Meta {
            path: entry.path,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            owner: entry.owner,
            group: entry.group,
        };
        match entry.kind {
            EntryKind::Directory => return Ok(self.ingest.directory(meta)?),
            EntryKind::Symlink => return Ok(self.ingest.symlink(meta, entry.link_target)?),
            EntryKind::File => {}
        }
        let class = classify(&archive.kind, &path);
        let segment = segment_path(&path)
            .filter(|_| self.fed.together.is_some() && matches!(class, PathClass::Incremental(_)));
        let listed = segment.is_some().then(|| [archive.kind.place().as_bytes(), &path].concat());
        if let Some(segment) = segment {
            meta.path.clone_from(&segment);
            path = segment;
        }
        if !self.seen.insert(fingerprint(&archive.kind, &path)) {
            let shown = String::from_utf8_lossy(&path);
            return Err(Error::invalid(format!("the archive holds {shown} twice")));
        }
        archive.keeping = Which::of(&class, entry.size).map(|which| (which, Vec::new()));
        if let PathClass::WalSegment(name) = &class {
            self.fed.kept.wal_segments.insert(name.clone());
        }
        let strategy = match class.chunking() {
            ChunkingHint::PageGrid => Strategy::Grid,
            ChunkingHint::ContentDefined => Strategy::Cdc,
        };
        let tag = match (&self.pages, &class) {
            (Some(_), PathClass::Relation(relation) | PathClass::Incremental(relation)) => {
                PageTag::new(self.files, relation.segment)
            }
            _ => None,
        };
        self.files += 1;
        if let Some(listed) = listed {
            archive.changed = Some((Changed::new(meta, tag.map(PageTag::as_u64), entry.size), listed));
            return Ok(());
        }
        if self.fed.together.is_some() && class == PathClass::BackupLabel {
            archive.deferred = Some(meta);
            return Ok(());
        }
        Ok(self.ingest.begin_file(meta, strategy, tag.map(PageTag::as_u64)).await?)
    }

    async fn file_data(&mut self, data: &[u8], sound: bool) -> Result<()> {
        if let Some(Archive { keeping: Some((_, kept)), .. }) = &mut self.archive {
            kept.extend_from_slice(data);
        }
        match &mut self.archive {
            Some(Archive { changed: Some((changed, _)), .. }) => {
                return changed.feed(self.ingest, data).await;
            }
            Some(Archive { deferred: Some(_), .. }) => return Ok(()),
            _ => {}
        }
        match sound {
            true => Ok(self.ingest.write_inspected(data).await?),
            false => Ok(self.ingest.write(data).await?),
        }
    }

    async fn end_entry(&mut self) -> Result<()> {
        let Some(archive) = &mut self.archive else { return Ok(()) };
        if !std::mem::take(&mut archive.in_file) {
            return Ok(());
        }
        if let (Some((changed, listed)), Some(together)) = (archive.changed.take(), &mut self.fed.together) {
            return together.end(changed, &listed, self.ingest).await;
        }
        let (keeping, deferred) = (archive.keeping.take(), archive.deferred.take());
        if let Some((which, mut content)) = keeping {
            if let Some(meta) = deferred {
                content = self.whole_label(meta, &content).await?;
            }
            if which == Which::BackupLabel {
                self.note_start(&content);
            }
            self.fed.kept.keep(which, content);
        }
        Ok(self.ingest.end_file().await?)
    }

    /// Stores the label of an incremental backup as that of the whole one it becomes: recovery would
    /// refuse it otherwise.
    async fn whole_label(&mut self, meta: Meta, sent: &[u8]) -> Result<Vec<u8>> {
        let whole = without_incremental_lines(sent);
        let sum = |content: &[u8]| (content.len() as u64, crc32c::crc32c(content));
        if let Some(together) = &mut self.fed.together {
            together.note(&meta.path, sum(sent), sum(&whole));
        }
        self.ingest.begin_file(meta, Strategy::Cdc, None).await?;
        self.ingest.write(&whole).await?;
        Ok(whole)
    }

    /// Pages newer than the start may be torn: the sooner it is known, the less is remembered.
    fn note_start(&self, backup_label: &[u8]) {
        let label = capy_postgres::label::BackupLabel::parse(backup_label);
        if let (Some(pages), Ok(label)) = (&self.pages, label) {
            pages.start_lsn_is(label.start_lsn);
        }
    }

    async fn end_archive(&mut self) -> Result<()> {
        let Some(archive) = self.archive.take() else { return Ok(()) };
        if let Some(rewriting) = archive.rewriting {
            for piece in rewriting.finish(self.version_num)? {
                self.ingest.write(&piece).await?;
            }
        }
        let trailing_zeros = match archive.parser {
            Some(parser) => parser.finish().map_err(in_tar)?.trailing_zero_bytes,
            None => {
                self.ingest.end_file().await?;
                0
            }
        };
        let trailing_zeros = u32::try_from(trailing_zeros)
            .map_err(|_| Error::new(ErrorKind::Internal, "the parser bounds trailing zeros"))?;
        Ok(self.ingest.end_archive(trailing_zeros)?)
    }
}

fn in_tar(error: capy_postgres::tar::TarError) -> Error {
    Error::wrap(error.kind(), error)
}

/// The archive's kind as it is stored.
fn stored_kind(kind: &SourceKind) -> ArchiveKind {
    match kind {
        SourceKind::Base => ArchiveKind::Base,
        SourceKind::Tablespace { oid, location } => {
            ArchiveKind::Tablespace { oid: *oid, location: location.clone() }
        }
        SourceKind::BackupManifest => ArchiveKind::BackupManifest,
        SourceKind::Stream { .. } => ArchiveKind::Stream,
    }
}

/// 128 bits of an archive and path: two of a million paths agree with a chance of 2^-88.
fn fingerprint(kind: &SourceKind, path: &[u8]) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        if let SourceKind::Tablespace { oid, .. } = kind {
            oid.hash(&mut hasher);
        }
        path.hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}
