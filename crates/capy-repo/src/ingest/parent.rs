//! The parent: the previous backup of the same cluster, asked for the chunks of the file that is
//! being cut.
//!
//! Contained by: the feeder, and through it the choice of bases for deltas. Memory: 16 bytes for
//! each file of the parent, 48 for each 16 KiB of its manifest, a window of that, and the references
//! of 2 GiB of one file. Invariant: what a parent says is a hint; a parent that is damaged or gone
//! costs room in the repository, never the backup.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use capy_format::{
    ArchiveKind, BackupEntry, BackupKind, BackupState, ChunkRef, Content, Entry, FileEntry, Root,
    decode_entry,
};
use capy_types::{BackupKey, ChunkId, Ctx, Entropy};

use super::batch::CHUNKING_CDC;
use super::predict::Predicted;
use crate::read::RefCursor;
use crate::{Reader, RepoError};

/// Manifest chunks read at once while files come in the parent's order: about 1 MiB.
const AHEAD: usize = 64;
/// Manifest chunks read for a file out of order.
const ASIDE: usize = 4;
/// Files that may come out of the parent's order before looking each of them up costs more than a
/// parent is worth.
const DISORDER_MAX: u64 = 4096;

/// The newest complete backup of the same cluster and kind.
pub(super) fn choose<'a>(root: &'a Root, key: &BackupKey, kind: BackupKind) -> Option<&'a BackupEntry> {
    let alike = root.backups.iter().filter(|entry| {
        entry.key.cluster == key.cluster && entry.kind == kind && entry.state == BackupState::Complete
    });
    alike.max_by_key(|entry| entry.order())
}

/// A previous backup, open for questions.
pub(super) struct Parent {
    reader: Reader,
    ctx: Ctx,
    seed: u64,
    /// The archive the next files belong to.
    archive: u64,
    /// Keyed hash of archive and path, and where the file's entry is in the manifest; ascending.
    files: Vec<(u64, u64)>,
    /// The chunks of the manifest and where each starts.
    leaves: Vec<(u64, ChunkRef)>,
    window: Window,
    disorder: u64,
    disorder_max: u64,
}

/// A piece of the manifest in memory.
#[derive(Default)]
struct Window {
    /// Where it starts in the manifest.
    start: u64,
    bytes: Vec<u8>,
    /// The first leaf after it.
    next: usize,
}

/// A number for an archive, the same in every backup.
fn archive_number(kind: &ArchiveKind) -> u64 {
    match kind {
        ArchiveKind::Base => 0,
        ArchiveKind::BackupManifest => 1,
        ArchiveKind::Stream => 2,
        ArchiveKind::Tablespace { oid, .. } => 1 << 32 | u64::from(*oid),
    }
}

impl Parent {
    /// Reads the manifest of a backup once, and keeps where its files are.
    pub(super) async fn open(
        reader: Reader,
        ctx: &Ctx,
        entry: &BackupEntry,
        entropy: &dyn Entropy,
    ) -> Result<Self, RepoError> {
        let manifest = reader.repo().record(entry).await?.manifest;
        let mut seed = [0; 8];
        entropy.fill(&mut seed);
        let mut parent = Self {
            ctx: ctx.clone(),
            seed: u64::from_le_bytes(seed),
            archive: 0,
            files: Vec::new(),
            leaves: Vec::new(),
            window: Window::default(),
            disorder: 0,
            disorder_max: DISORDER_MAX,
            reader,
        };
        parent.list_files(&manifest).await?;
        parent.leaves = RefCursor::new(parent.reader.clone(), &manifest).placed(ctx).await?;
        Ok(parent)
    }

    /// The parent is needed: its files are found in whatever order they are asked for.
    pub(super) fn needed(self) -> Self {
        Self { disorder_max: u64::MAX, ..self }
    }

    /// What reads it.
    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    async fn list_files(&mut self, manifest: &Content) -> Result<(), RepoError> {
        let mut entries = self.reader.manifest(manifest);
        loop {
            self.ctx.check()?;
            let position = entries.position();
            match entries.next().await? {
                Some(Entry::Archive(header)) => self.begin_archive(&header.kind),
                Some(Entry::File(file)) => self.files.push((self.key(&file.meta.path), position)),
                Some(_) => {}
                None => break,
            }
        }
        self.files.sort_unstable();
        self.files.shrink_to_fit();
        Ok(())
    }

    fn key(&self, path: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, self.archive, path).hash(&mut hasher);
        hasher.finish()
    }

    /// The files asked for next are of this archive.
    pub(super) fn begin_archive(&mut self, kind: &ArchiveKind) {
        self.archive = archive_number(kind);
    }

    /// The chunks of the file with this path, if the parent has it.
    ///
    /// # Errors
    /// When the parent cannot be read, or its order is not that of the files asked for.
    pub(super) async fn file(&mut self, path: &[u8]) -> Result<Option<FileParent>, RepoError> {
        let file = self.entry(path).await?;
        Ok(file.map(|file| FileParent::new(&self.reader, &file)))
    }

    /// The entry of the file with this path, if the parent has it.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub(super) async fn entry(&mut self, path: &[u8]) -> Result<Option<FileEntry>, RepoError> {
        let key = self.key(path);
        let from = self.files.partition_point(|(other, _)| *other < key);
        let positions: Vec<u64> = self
            .files
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(|(other, _)| *other == key)
            .map(|(_, position)| *position)
            .collect();
        for position in positions {
            let file = self.entry_at(position).await?;
            if let Some(file) = file.filter(|file| file.meta.path == path) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    async fn entry_at(&mut self, position: u64) -> Result<Option<FileEntry>, RepoError> {
        let end = self.window.start + self.window.bytes.len() as u64;
        if !(self.window.start..end).contains(&position) {
            let leaf = self.leaves.partition_point(|(start, _)| *start <= position).saturating_sub(1);
            let in_order = leaf == self.window.next || leaf == self.window.next + 1;
            self.disorder += u64::from(!in_order);
            if self.disorder > self.disorder_max {
                return Err(RepoError::Invalid {
                    what: "its files are in another order than those of this backup".to_owned(),
                });
            }
            self.window.start = self.leaves.get(leaf).map_or(0, |(start, _)| *start);
            self.window.bytes.clear();
            self.window.next = leaf;
            self.extend(if in_order { AHEAD } else { ASIDE }).await?;
        }
        loop {
            let from = usize::try_from(position - self.window.start).unwrap_or(usize::MAX);
            let rest = self.window.bytes.get(from..).unwrap_or_default();
            match decode_entry("manifest", rest)? {
                Some((Entry::File(file), _)) => return Ok(Some(file)),
                Some(_) => return Ok(None),
                None if self.window.next >= self.leaves.len() => return Ok(None),
                None => self.extend(1).await?,
            }
        }
    }

    /// Adds the next `count` chunks of the manifest to the window.
    async fn extend(&mut self, count: usize) -> Result<(), RepoError> {
        let to = (self.window.next + count).min(self.leaves.len());
        let leaves = self.leaves.get(self.window.next..to).unwrap_or_default();
        for piece in self.reader.fetch_all(&self.ctx, leaves.iter().map(|(_, leaf)| leaf)).await? {
            self.window.bytes.extend_from_slice(&piece);
        }
        self.window.next = to;
        Ok(())
    }
}

/// The chunks of one file of the parent, met as the file of the same name is cut.
pub(super) struct FileParent {
    cursor: RefCursor,
    /// Chunks from the present place on, and where each starts.
    refs: VecDeque<(u64, ChunkRef)>,
    loaded: u64,
    whole: bool,
    /// The same chunks once more where they were cut by content: met in their order, not by place.
    predicted: Option<Predicted>,
}

impl FileParent {
    fn new(reader: &Reader, file: &FileEntry) -> Self {
        let cursor = || RefCursor::new(reader.clone(), &file.content);
        let predicted = (file.chunking == CHUNKING_CDC).then(|| Predicted::new(cursor()));
        Self { cursor: cursor(), refs: VecDeque::new(), loaded: 0, whole: false, predicted }
    }

    /// What the next chunks may be, for a file that was cut by content.
    pub(super) fn predicted(&mut self) -> Option<&mut Predicted> {
        self.predicted.as_mut()
    }

    /// Of a file whose chunks are all at hand.
    pub(super) fn of(reader: &Reader, refs: &[(u64, ChunkRef)]) -> Self {
        let end = refs.last().map_or(0, |(start, chunk)| start + chunk.len);
        let cursor = RefCursor::new(reader.clone(), &Content::default());
        Self { cursor, refs: refs.iter().copied().collect(), loaded: end, whole: true, predicted: None }
    }

    /// Makes sure that the chunks up to `end` of the file are known.
    ///
    /// # Errors
    /// When the parent cannot be read.
    pub(super) async fn load_until(&mut self, ctx: &Ctx, end: u64) -> Result<(), RepoError> {
        while !self.whole && self.loaded <= end {
            let refs = self.cursor.next(ctx).await?;
            self.whole = refs.is_empty();
            for chunk in refs {
                self.refs.push_back((self.loaded, chunk));
                self.loaded += chunk.len;
            }
        }
        Ok(())
    }

    /// The chunk that held the bytes from `start` to `end`: of several the one in whose range the
    /// middle lies, or the last. `start` never goes back.
    pub(super) fn chunk_at(&mut self, start: u64, end: u64) -> Option<ChunkId> {
        let ends = |(at, chunk): &(u64, ChunkRef)| at + chunk.len;
        while self.refs.front().is_some_and(|first| ends(first) <= start) {
            self.refs.pop_front();
        }
        let middle = start + (end - start) / 2;
        let last = self.refs.iter().take_while(|(at, _)| *at < end).count().checked_sub(1)?;
        let over = self.refs.iter().position(|chunk| middle < ends(chunk)).unwrap_or(last);
        self.refs.get(over.min(last)).map(|(_, chunk)| chunk.id)
    }
}
