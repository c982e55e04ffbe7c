//! Ingest: a stream of entries becomes chunks, packs, an index and a manifest, and at last one
//! commit.
//!
//! Shape: the caller feeds entries and bytes; bytes are cut into chunks inside pooled batches of
//! 4 MiB; whole batches cross to worker threads, which hash, look up, compress and seal into a
//! pack of their own; finished packs are stored by a bounded number of uploads. Results come back
//! in any order and are put in order for the manifest. Nothing holds a whole file.
//!
//! Changed chunks of a file that the previous backup has are stored as deltas to its chunks: the
//! `parent` says which, `base` fetches them.
//!
//! Memory: 4 MiB × (jobs + 2) of batches, one pack in the making per job and one for the manifest,
//! the packs being uploaded, and the index; `budget` makes the packs as small as it takes.
//!
//! Invariant: nothing is visible before [`Ingest::commit`], and that happens only when every
//! pack, index and the record are durable.

mod base;
mod batch;
mod budget;
mod dedup;
mod manifest;
mod parent;
mod session;
mod upload;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use capy_codec::Cutter;
use capy_format::{
    ArchiveHeader, BackupEntry, BackupKind, BackupRecord, BackupState, Content, Entry, Meta, ObjectKind,
    Root, Stats, names,
};
use capy_objects::StoreErrorKind;
use capy_types::{BackupKey, Ctx, Nonce, Problem, SessionId};

use crate::index::{ChunkIndex, SharedIndex};
use crate::repository::entry_of;
use crate::{ReadOptions, Reader, RepoError, Repository, sealed};
use base::Bases;
use batch::{Batch, FileCut};
use manifest::ManifestAssembler;
use parent::{FileParent, Parent};
use worker::{BatchResult, Job, Shared};

pub use base::DeltaPolicy;
pub(crate) use batch::check_policy;

/// Sees every chunk of a file that was begun with a tag, on worker threads, in any order.
/// Implementations must be quick and must not block.
pub trait Inspector: Send + Sync {
    /// `chunk` is the plaintext at `offset` of the file with `tag`.
    fn inspect(&self, tag: u64, offset: u64, chunk: &[u8]);
}

/// How a file is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// By content, for bytes that can shift.
    Cdc,
    /// At fixed multiples from the start, for bytes that never shift. A repository that forces
    /// content-defined chunking treats it as [`Strategy::Cdc`].
    Grid,
}

/// How an ingest runs.
#[derive(Clone)]
pub struct IngestOptions {
    /// The key of the backup to be.
    pub key: BackupKey,
    /// Worker threads, 1 to 64.
    pub jobs: usize,
    /// zstd level; the repository's own when `None`.
    pub compression_level: Option<i32>,
    /// Sees the chunks of tagged files.
    pub inspector: Option<Arc<dyn Inspector>>,
    /// Packs stored at once.
    pub uploads: usize,
    /// Memory in bytes that all of it may take. Packs are smaller than 32 MiB where they would not
    /// fit otherwise.
    pub memory_bytes: usize,
    /// Where the index spills when it outgrows its memory.
    pub spill_dir: PathBuf,
    /// The newest complete backup of the cluster that is of this kind is the parent, against whose
    /// chunks changed ones are stored; `None` asks for none.
    pub parent: Option<BackupKind>,
    /// When they are.
    pub delta: DeltaPolicy,
}

impl std::fmt::Debug for IngestOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IngestOptions")
            .field("key", &self.key)
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl IngestOptions {
    /// The defaults: one worker per core up to 16, two uploads at once.
    #[must_use]
    pub fn new(key: BackupKey) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            key,
            jobs: cores.min(16),
            compression_level: None,
            inspector: None,
            uploads: 2,
            memory_bytes: MEMORY_BYTES,
            spill_dir: PathBuf::from("/var/tmp"),
            parent: None,
            delta: DeltaPolicy::default(),
        }
    }
}

/// Memory an ingest takes by default in bytes.
const MEMORY_BYTES: usize = 256 << 20;

/// What an ingest has stored, before it is committed.
#[derive(Debug, Clone)]
pub struct Flushed {
    /// The manifest.
    pub manifest: Content,
    /// Counts and sizes. `stored_bytes` are those of the objects this ingest wrote.
    pub stats: Stats,
    /// Where the time went: stage and the time spent in it, summed over threads.
    pub stages: Vec<(&'static str, Duration)>,
}

/// A running ingest. See the module's words.
pub struct Ingest {
    repo: Repository,
    ctx: Ctx,
    options: IngestOptions,
    session: SessionId,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    to_workers: Option<async_channel::Sender<Job>>,
    free: async_channel::Receiver<Batch>,
    results: async_channel::Receiver<BatchResult>,
    batch: Option<Batch>,
    sent: u64,
    received: u64,
    file: Option<FileCut>,
    parent: Option<Parent>,
    file_parent: Option<FileParent>,
    cutter: Cutter,
    assembler: ManifestAssembler,
    own_indexes: Vec<capy_types::IndexId>,
    indexed_packs: usize,
    waited_for_workers: Duration,
    cutting: Duration,
    flushed: Option<Flushed>,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("key", &self.options.key).finish_non_exhaustive()
    }
}

impl Ingest {
    pub(crate) async fn begin(repo: Repository, ctx: Ctx, options: IngestOptions) -> Result<Self, RepoError> {
        if !(1..=64).contains(&options.jobs) || options.uploads == 0 {
            return Err(RepoError::Invalid {
                what: format!(
                    "{} jobs and {} uploads: 1 to 64 jobs, at least 1 upload",
                    options.jobs, options.uploads
                ),
            });
        }
        let without_deltas = budget::pack_bytes(&options, false)?;
        let (session, root) = session::register(&repo, &options.key).await?;
        let mut index = ChunkIndex::new(options.spill_dir.clone());
        let loaded = crate::index::load_indexes(&repo, &root, &mut index).await?;
        for problem in &loaded.problems {
            ctx.progress.problem(Problem {
                subject: names::index(&problem.index),
                message: format!("not used: {}", problem.error),
            });
        }
        for (pack, size) in &loaded.lost_packs {
            ctx.progress.problem(Problem {
                subject: names::pack(pack),
                message: size.map_or_else(
                    || "missing from the store: its chunks are stored anew as they are met".to_owned(),
                    |size| {
                        format!("is {size} bytes, not its size: its chunks are stored anew as they are met")
                    },
                ),
            });
        }
        let level = options.compression_level.unwrap_or(repo.config().compression_level);
        let index = SharedIndex::new(index);
        let read = ReadOptions { spill_dir: options.spill_dir.clone(), ..ReadOptions::default() };
        let reader = Reader::over(repo.clone(), index.clone(), read);
        let parent = open_parent(&reader, &ctx, &options, &root).await?;
        let pack_bytes = match &parent {
            Some(_) => budget::pack_bytes(&options, true)?,
            None => without_deltas,
        };
        let shared = Arc::new(Shared::new(&repo, &options, index, level, pack_bytes));
        if parent.is_some() {
            shared.use_bases(Bases::new(&reader, &ctx, options.delta, options.jobs));
        }
        let batches = base::batches(options.jobs, parent.is_some());
        let (to_workers, from_feeder) = async_channel::bounded(batches);
        let (to_free, free) = async_channel::bounded(batches);
        for _ in 0..batches {
            to_free.try_send(Batch::default()).expect("as many places as batches");
        }
        let (to_results, results) = async_channel::unbounded();
        let workers = (0..options.jobs)
            .map(|n| {
                let worker = worker::Worker::new(
                    shared.clone(),
                    from_feeder.clone(),
                    to_free.clone(),
                    to_results.clone(),
                )?;
                std::thread::Builder::new()
                    .name(format!("ingest-{n}"))
                    .spawn(move || worker.run())
                    .map_err(|source| RepoError::Local { what: "start a worker thread", source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let policy = &repo.config().chunking;
        check_policy(policy)?;
        let sizes = batch::data_sizes(policy)?;
        let cutter = Cutter::new(repo.keys().gear(), sizes);
        let assembler = ManifestAssembler::new(&repo, level)?;
        Ok(Self {
            repo,
            ctx,
            options,
            session,
            shared,
            workers,
            to_workers: Some(to_workers),
            free,
            results,
            batch: None,
            sent: 0,
            received: 0,
            file: None,
            parent,
            file_parent: None,
            cutter,
            assembler,
            own_indexes: Vec::new(),
            indexed_packs: 0,
            waited_for_workers: Duration::ZERO,
            cutting: Duration::ZERO,
            flushed: None,
        })
    }

    /// Begins an archive; entries until [`end_archive`](Self::end_archive) belong to it.
    ///
    /// # Errors
    /// Invalid when a file is open.
    pub fn begin_archive(&mut self, header: ArchiveHeader) -> Result<(), RepoError> {
        if let Some(parent) = &mut self.parent {
            parent.begin_archive(&header.kind);
        }
        self.plain_entry(Entry::Archive(header))
    }

    /// Ends the archive; `trailing_zeros` is how many zero bytes its stream ended with.
    ///
    /// # Errors
    /// Invalid when a file is open.
    pub fn end_archive(&mut self, trailing_zeros: u32) -> Result<(), RepoError> {
        self.plain_entry(Entry::EndArchive { trailing_zeros })
    }

    /// A directory.
    ///
    /// # Errors
    /// Invalid when a file is open.
    pub fn directory(&mut self, meta: Meta) -> Result<(), RepoError> {
        self.plain_entry(Entry::Directory(meta))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// Invalid when a file is open.
    pub fn symlink(&mut self, meta: Meta, target: Vec<u8>) -> Result<(), RepoError> {
        self.plain_entry(Entry::Symlink { meta, target })
    }

    fn plain_entry(&mut self, entry: Entry) -> Result<(), RepoError> {
        if self.file.is_some() {
            return Err(RepoError::Invalid { what: "an entry began inside an open file".to_owned() });
        }
        self.assembler.entry(entry);
        Ok(())
    }

    /// Begins a file. Chunks of a file with a `tag` are shown to the inspector.
    ///
    /// # Errors
    /// Invalid when a file is open; the first failure of a worker or upload.
    pub async fn begin_file(
        &mut self,
        meta: Meta,
        strategy: Strategy,
        tag: Option<u64>,
    ) -> Result<(), RepoError> {
        if self.file.is_some() {
            return Err(RepoError::Invalid { what: "a file began inside an open file".to_owned() });
        }
        let policy = &self.repo.config().chunking;
        let grid = strategy == Strategy::Grid && !policy.force_cdc;
        self.file = Some(FileCut::new(grid.then_some(policy.grid_bytes as usize), tag));
        self.file_parent = None;
        if let Some(parent) = &mut self.parent {
            match parent.file(&meta.path).await {
                Ok(found) => self.file_parent = found,
                Err(error) => self.leave_parent(&error)?,
            }
        }
        self.assembler.begin_file(meta, if grid { batch::CHUNKING_GRID } else { batch::CHUNKING_CDC });
        Ok(())
    }

    /// Bytes of the open file.
    ///
    /// # Errors
    /// Invalid without an open file; Cancelled; the first failure of a worker or upload.
    ///
    /// # Cancellation
    /// Dropping loses the ingest, nothing else.
    pub async fn write(&mut self, mut data: &[u8]) -> Result<(), RepoError> {
        while !data.is_empty() {
            let mut batch = self.take_batch().await?;
            let file = self
                .file
                .as_mut()
                .ok_or_else(|| RepoError::Invalid { what: "bytes arrived outside of a file".to_owned() })?;
            let taken = file.append(&mut batch, data);
            let (started, from) = (Instant::now(), batch.pieces.len());
            let closed = file.cut(&mut batch, &self.cutter, false);
            self.cutting += started.elapsed();
            self.ask_parent(&mut batch, from).await?;
            self.assembler.pieces(closed);
            data = data.get(taken..).expect("append takes at most what it is given");
            self.put_batch(batch).await?;
        }
        Ok(())
    }

    /// Ends the open file.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn end_file(&mut self) -> Result<(), RepoError> {
        let mut batch = self.take_batch().await?;
        let mut file = self
            .file
            .take()
            .ok_or_else(|| RepoError::Invalid { what: "a file ended that had not begun".to_owned() })?;
        let from = batch.pieces.len();
        let closed = file.cut(&mut batch, &self.cutter, true);
        self.ask_parent(&mut batch, from).await?;
        self.assembler.pieces(closed);
        self.assembler.end_file();
        self.put_batch(batch).await
    }

    /// Notes the parent's chunks of the regions of the pieces from `from` on.
    async fn ask_parent(&mut self, batch: &mut Batch, from: usize) -> Result<(), RepoError> {
        let pieces = batch.pieces.get_mut(from..).unwrap_or_default();
        let (Some(file), Some(last)) = (&mut self.file_parent, pieces.last()) else { return Ok(()) };
        let end = last.offset + last.len as u64;
        if let Err(error) = file.load_until(&self.ctx, end).await {
            return self.leave_parent(&error);
        }
        for piece in pieces {
            piece.parent = file.chunk_at(piece.offset, piece.offset + piece.len as u64);
        }
        Ok(())
    }

    /// The parent cannot be read: the rest is stored without.
    fn leave_parent(&mut self, error: &RepoError) -> Result<(), RepoError> {
        (self.parent, self.file_parent) = (None, None);
        note_parent(&self.ctx, "the previous backup", error)
    }

    async fn take_batch(&mut self) -> Result<Batch, RepoError> {
        if let Some(batch) = self.batch.take() {
            return Ok(batch);
        }
        self.ctx.check()?;
        let started = Instant::now();
        let batch = tokio::select! {
            batch = self.free.recv() => batch,
            () = self.ctx.cancel.cancelled() => return Err(RepoError::Cancelled),
        };
        self.waited_for_workers += started.elapsed();
        self.shared.check()?;
        batch.map_err(|_| RepoError::Internal { what: "all workers are gone".to_owned() })
    }

    /// Keeps a batch that has room, or sends it on and starts a new one with the bytes of the
    /// open file that are not cut yet.
    async fn put_batch(&mut self, mut batch: Batch) -> Result<(), RepoError> {
        let needs = self.file.as_ref().map_or(0, FileCut::room_needed);
        if batch.has_room(needs) {
            self.batch = Some(batch);
            return Ok(());
        }
        let tail = self.file.as_mut().map(|file| file.detach_tail(&mut batch)).unwrap_or_default();
        self.send(batch).await?;
        if !tail.is_empty() {
            let mut next = self.take_batch().await?;
            if let Some(file) = &mut self.file {
                file.attach_tail(&mut next, &tail);
            }
            self.batch = Some(next);
        }
        Ok(())
    }

    async fn send(&mut self, mut batch: Batch) -> Result<(), RepoError> {
        batch.sequence = self.sent;
        self.sent += 1;
        self.ctx.check()?;
        self.shared.check()?;
        if let Some(channel) = &self.to_workers {
            // As many places as batches: this never waits.
            channel
                .send(Job::Fresh(batch, channel.clone()))
                .await
                .map_err(|_| RepoError::Internal { what: "all workers are gone".to_owned() })?;
        }
        while let Ok(result) = self.results.try_recv() {
            self.take_result(result)?;
        }
        self.store_full_meta_packs().await?;
        self.index_if_due().await
    }

    fn take_result(&mut self, result: BatchResult) -> Result<(), RepoError> {
        self.received += 1;
        self.assembler.results(result, &self.shared)
    }

    async fn store_full_meta_packs(&mut self) -> Result<(), RepoError> {
        for pack in self.assembler.take_full_packs() {
            self.shared.uploads.submit(&self.shared, pack).await?;
        }
        Ok(())
    }

    /// Writes an index object once enough packs are stored but not indexed, so that an
    /// interrupted backup's packs are found by the next one. The number due grows with what is
    /// indexed already: the number of index objects stays logarithmic in the backup's size.
    async fn index_if_due(&mut self) -> Result<(), RepoError> {
        let due = (self.indexed_packs / 8).clamp(8, 256);
        if self.shared.uploads.unindexed() >= due { self.write_index().await } else { Ok(()) }
    }

    async fn write_index(&mut self) -> Result<(), RepoError> {
        if let Some((index, packs)) = upload::write_index(&self.repo, &self.shared).await? {
            self.own_indexes.push(index);
            self.indexed_packs += packs;
        }
        Ok(())
    }

    /// Waits until every chunk, the manifest and the index are durable. Nothing is visible yet.
    ///
    /// # Errors
    /// The first failure of a worker or upload; Cancelled; Invalid when a file is open.
    ///
    /// # Cancellation
    /// Dropping loses the ingest; packs stored and indexed are reused by the next backup.
    pub async fn flush(&mut self) -> Result<Flushed, RepoError> {
        if let Some(flushed) = &self.flushed {
            return Ok(flushed.clone());
        }
        if self.file.is_some() {
            return Err(RepoError::Invalid { what: "the ingest ends inside an open file".to_owned() });
        }
        if let Some(batch) = self.batch.take() {
            self.send(batch).await?;
        }
        self.to_workers = None;
        while self.received < self.sent {
            let result = tokio::select! {
                result = self.results.recv() => result,
                () = self.ctx.cancel.cancelled() => return Err(RepoError::Cancelled),
            };
            self.shared.check()?;
            let result = result
                .map_err(|_| RepoError::Internal { what: "a worker left without a result".to_owned() })?;
            self.take_result(result)?;
            self.store_full_meta_packs().await?;
            self.index_if_due().await?;
        }
        self.join_workers().await?;
        let manifest = self.assembler.finish(&self.shared)?;
        self.store_full_meta_packs().await?;
        self.shared.uploads.drain(&self.shared).await?;
        self.write_index().await?;
        let mut stats = self.shared.stats();
        self.assembler.add_counts(&mut stats);
        let mut stages = self.shared.stages();
        stages.insert(0, ("cut", self.cutting));
        stages.push(("wait for workers", self.waited_for_workers));
        let flushed = Flushed { manifest, stats, stages };
        self.flushed = Some(flushed.clone());
        Ok(flushed)
    }

    /// Workers end by themselves once their channel is closed and their last pack handed on.
    async fn join_workers(&mut self) -> Result<(), RepoError> {
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            workers.into_iter().filter_map(|worker| worker.join().err()).count()
        })
        .await;
        self.shared.check()?;
        match joined {
            Ok(0) => Ok(()),
            _ => Err(RepoError::Internal { what: "a worker thread panicked".to_owned() }),
        }
    }

    /// A reader over what was stored, for checks before the commit.
    ///
    /// # Errors
    /// Invalid before [`flush`](Self::flush).
    pub fn reader(&self, options: ReadOptions) -> Result<Reader, RepoError> {
        if self.flushed.is_none() {
            return Err(RepoError::Invalid { what: "nothing is readable before flush".to_owned() });
        }
        Ok(Reader::over(self.repo.clone(), self.shared.index().clone(), options))
    }

    /// Makes the backup visible: stores its record and commits it to the root.
    ///
    /// # Errors
    /// `Fenced` when the session was ended; `PackRemoved` when a pack it builds on is gone;
    /// `BackupExists`; commit errors. After an error nothing is visible.
    ///
    /// # Cancellation
    /// Either committed or not.
    pub async fn commit(
        mut self,
        record: BackupRecord,
        state: BackupState,
    ) -> Result<BackupEntry, RepoError> {
        if self.flushed.is_none() {
            return Err(RepoError::Invalid {
                what: "an ingest is flushed before it is committed".to_owned(),
            });
        }
        self.ctx.check()?;
        let nonce = Nonce::random(&*self.repo.env().entropy);
        let name = names::backup(&record.key);
        record.check().map_err(|problem| RepoError::Invalid { what: format!("backup record: {problem}") })?;
        let json = serde_json::to_vec(&record).expect("a record is plain data");
        let object = sealed::seal(self.repo.keys(), self.repo.id(), ObjectKind::Backup, &name, nonce, &json)?;
        match self.repo.store().put_new(&name, object).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {
                return Err(RepoError::BackupExists { key: record.key });
            }
            Err(error) => return Err(error.into()),
        }
        let entry = entry_of(&record, state, nonce);
        let used = self.shared.used_packs();
        let own_indexes = std::mem::take(&mut self.own_indexes);
        session::commit(&self.repo, self.session, entry, &own_indexes, &used).await
    }

    /// Gives the ingest up and removes its session. What was stored and indexed stays for the
    /// next backup.
    ///
    /// # Errors
    /// Commit errors of removing the session; the ingest is over in any case.
    pub async fn abandon(mut self) -> Result<(), RepoError> {
        self.to_workers = None;
        self.shared.fail(RepoError::Cancelled);
        session::remove(&self.repo, self.session).await
    }
}

/// Opens the parent, if there is one to be had.
async fn open_parent(
    reader: &Reader,
    ctx: &Ctx,
    options: &IngestOptions,
    root: &Root,
) -> Result<Option<Parent>, RepoError> {
    let kind = options.parent.filter(|_| options.delta.depth_max > 0);
    let Some(entry) = kind.and_then(|kind| parent::choose(root, &options.key, kind)) else {
        return Ok(None);
    };
    if let Err(error) = budget::pack_bytes(options, true) {
        return note_parent(ctx, &entry.key.to_string(), &error).map(|()| None);
    }
    match Parent::open(reader.clone(), ctx, entry, &*reader.repo().env().entropy).await {
        Ok(parent) => Ok(Some(parent)),
        Err(error) => note_parent(ctx, &entry.key.to_string(), &error).map(|()| None),
    }
}

/// A parent that cannot be read is told of; only the caller's own wish to stop is an error.
fn note_parent(ctx: &Ctx, subject: &str, error: &RepoError) -> Result<(), RepoError> {
    ctx.check()?;
    let message = format!("not used as parent, so that changed chunks are stored whole: {error}");
    ctx.progress.problem(Problem { subject: subject.to_owned(), message });
    Ok(())
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Workers that still hold batches stop at the next one; finished uploads stay.
        self.to_workers = None;
        self.shared.fail(RepoError::Cancelled);
    }
}
