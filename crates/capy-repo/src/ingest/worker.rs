//! Workers: a batch is hashed, looked up, compressed and sealed on one thread, to completion unless it
//! has changed chunks: then its bases are fetched ([`super::base`]) and it comes back.
//!
//! Invariants: a chunk claimed by this worker is in its open pack before the batch is given back;
//! after the first failure anywhere, workers only return batches, so that nobody waits for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use capy_codec::{ChunkNamer, Compressor, DeltaEncoder, RepositoryKeys};
use capy_format::{ChunkClass, Stats};
use capy_types::limits::MIB;
use capy_types::{ChunkId, Entropy, PackId, RepositoryId};

use super::base::{Base, Bases, Candidate};
use super::batch::{Batch, Piece};
use super::budget::PackBudget;
use super::dedup::Dedup;
use super::last::LastPacks;
use super::session::UsedPacks;
use super::upload::Uploads;
use super::{IngestOptions, Inspector};
use crate::index::SharedIndex;
use crate::pack::PackBuilder;
use crate::{RepoError, Repository};

/// One chunk of a finished batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkResult {
    pub(super) id: ChunkId,
    pub(super) size: u32,
    pub(super) crc32c: u32,
}

/// What a worker has to do.
pub(super) enum Job {
    /// A batch from the feeder. The channel is where it comes back to when it has to wait.
    Fresh(Batch, async_channel::Sender<Job>),
    /// A batch with the bases of its changed chunks.
    Based(Box<Based>),
}

/// A batch that was hashed and looked up.
pub(super) struct Based {
    batch: Batch,
    chunks: Vec<ChunkResult>,
    /// Which of its chunks are new.
    new: Vec<bool>,
    bases: Vec<Option<Base>>,
}

/// The chunks of a finished batch, in order.
#[derive(Debug)]
pub(super) struct BatchResult {
    pub(super) sequence: u64,
    pub(super) chunks: Vec<ChunkResult>,
}

#[derive(Default)]
struct Counters {
    chunks: AtomicU64,
    bytes: AtomicU64,
    new_chunks: AtomicU64,
    new_bytes: AtomicU64,
    hash_nanos: AtomicU64,
    compress_nanos: AtomicU64,
    upload_wait_nanos: AtomicU64,
    idle_nanos: AtomicU64,
}

/// The size of a worker's first pack in bytes; each is twice as large as the one before, up to the size
/// packs have. So the store is at work soon after the processor is, for two packs more of each worker.
const FIRST_PACK_BYTES: usize = 8 * MIB;

/// What the feeder, the workers and the uploads share.
pub(super) struct Shared {
    pub(super) keys: RepositoryKeys,
    pub(super) repository: RepositoryId,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) uploads: Uploads,
    pub(super) last_packs: LastPacks,
    inspector: Option<Arc<dyn Inspector>>,
    level: i32,
    pack_bytes: usize,
    dedup: Mutex<Dedup>,
    index: SharedIndex,
    bases: OnceLock<Arc<Bases>>,
    failure: OnceLock<Arc<RepoError>>,
    counters: Counters,
}

impl Shared {
    pub(super) fn new(
        repo: &Repository,
        options: &IngestOptions,
        index: SharedIndex,
        level: i32,
        packs: PackBudget,
    ) -> Self {
        Self {
            keys: repo.keys().clone(),
            repository: repo.id(),
            entropy: repo.env().entropy.clone(),
            uploads: Uploads::new(repo.store().clone(), repo.cache().cloned(), packs.upload_bytes),
            last_packs: LastPacks::default(),
            inspector: options.inspector.clone(),
            level,
            pack_bytes: packs.pack_bytes,
            dedup: Mutex::new(Dedup::new(index.clone())),
            index,
            bases: OnceLock::new(),
            failure: OnceLock::new(),
            counters: Counters::default(),
        }
    }

    pub(super) fn dedup(&self) -> MutexGuard<'_, Dedup> {
        self.dedup.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Records the first failure; later ones are consequences.
    pub(super) fn fail(&self, error: RepoError) {
        let _ = self.failure.set(Arc::new(error));
    }

    /// The first failure, if there was one.
    pub(super) fn check(&self) -> Result<(), RepoError> {
        self.failure.get().map_or(Ok(()), |error| Err(RepoError::Worker(error.clone())))
    }

    pub(super) fn new_pack(&self) -> PackBuilder {
        self.new_pack_of(self.pack_bytes)
    }

    fn new_pack_of(&self, full_bytes: usize) -> PackBuilder {
        PackBuilder::new(PackId::random(&*self.entropy), &self.keys, self.repository, full_bytes)
    }

    /// The size packs are aimed at in bytes.
    pub(super) fn pack_bytes(&self) -> usize {
        self.pack_bytes
    }

    /// Whether a last pack is stored as it is.
    pub(super) fn stands_alone(&self, pack: &PackBuilder) -> bool {
        pack.len() >= LastPacks::small_bytes(self.pack_bytes)
    }

    /// From now on changed chunks are stored against the parent's.
    pub(super) fn use_bases(&self, bases: Bases) {
        let _ = self.bases.set(Arc::new(bases));
    }

    /// The index of everything stored, this session's packs included.
    pub(super) fn index(&self) -> &SharedIndex {
        &self.index
    }

    pub(super) fn used_packs(&self) -> UsedPacks {
        let dedup = self.dedup();
        UsedPacks { packs: dedup.used_packs(), deltas: dedup.has_deltas() }
    }

    /// Shows a chunk of a file with this tag to the inspector.
    pub(super) fn inspect(&self, tag: u64, offset: u64, plain: &[u8]) {
        if let Some(inspector) = &self.inspector {
            inspector.inspect(tag, offset, plain);
        }
    }

    /// Chunks of an earlier backup were taken over.
    pub(super) fn count_known(&self, chunks: u64, bytes: u64) {
        self.counters.chunks.fetch_add(chunks, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (size, new) = (get(&self.counters.bytes), get(&self.counters.new_bytes));
        Stats {
            size_bytes: size,
            new_bytes: new,
            deduplicated_bytes: size - new,
            stored_bytes: self.uploads.stored_bytes(),
            chunks: get(&self.counters.chunks),
            new_chunks: get(&self.counters.new_chunks),
            ..Stats::default()
        }
    }

    /// For how long the workers had nothing to do or nowhere to put it, summed over them.
    pub(super) fn workers_waited(&self) -> Duration {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Duration::from_nanos(get(&self.counters.idle_nanos) + get(&self.counters.upload_wait_nanos))
    }

    pub(super) fn stages(&self) -> Vec<(&'static str, Duration)> {
        let get = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        vec![
            ("hash", get(&self.counters.hash_nanos)),
            ("compress and seal", get(&self.counters.compress_nanos)),
            ("wait for uploads", get(&self.counters.upload_wait_nanos)),
        ]
    }
}

fn add_elapsed(counter: &AtomicU64, since: Instant) {
    counter.fetch_add(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// One worker thread's state.
pub(super) struct Worker {
    shared: Arc<Shared>,
    jobs: async_channel::Receiver<Job>,
    free: async_channel::Sender<Batch>,
    results: async_channel::Sender<BatchResult>,
    runtime: tokio::runtime::Handle,
    namer: ChunkNamer,
    compressor: Compressor,
    encoder: DeltaEncoder,
    pack: Option<PackBuilder>,
    /// The size its next pack is aimed at in bytes.
    next_pack_bytes: usize,
    new: Vec<bool>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        jobs: async_channel::Receiver<Job>,
        free: async_channel::Sender<Batch>,
        results: async_channel::Sender<BatchResult>,
    ) -> Result<Self, RepoError> {
        let namer = shared.keys.chunk_namer();
        let (compressor, encoder) = (Compressor::new(shared.level)?, DeltaEncoder::new(shared.level)?);
        let runtime = tokio::runtime::Handle::current();
        let (pack, new) = (None, Vec::new());
        let next_pack_bytes = FIRST_PACK_BYTES.min(shared.pack_bytes);
        Ok(Self {
            shared,
            jobs,
            free,
            results,
            runtime,
            namer,
            compressor,
            encoder,
            pack,
            next_pack_bytes,
            new,
        })
    }

    /// Works until the feeder has closed its channel and no batch waits, then hands on the last pack.
    pub(super) fn run(mut self) {
        while let Some(job) = self.next() {
            let failed = self.shared.check().is_err();
            match job {
                Job::Fresh(batch, _) if failed => self.give_back(batch, Vec::new()),
                Job::Based(based) if failed => self.give_back(based.batch, Vec::new()),
                Job::Fresh(batch, back) => self.fresh(batch, back),
                Job::Based(based) => self.finish(*based),
            }
        }
        let Some(pack) = self.pack.take().filter(|_| self.shared.check().is_ok()) else { return };
        if !self.shared.stands_alone(&pack) {
            self.shared.last_packs.leave(pack);
        } else if let Err(error) = self.hand_on(pack) {
            self.shared.fail(error);
        }
    }

    fn next(&self) -> Option<Job> {
        let started = Instant::now();
        let job = self.jobs.recv_blocking().ok();
        add_elapsed(&self.shared.counters.idle_nanos, started);
        job
    }

    fn give_back(&self, mut batch: Batch, chunks: Vec<ChunkResult>) {
        let result = BatchResult { sequence: batch.sequence, chunks };
        batch.clear();
        // Both ends are held by the ingest; when it is gone nobody needs the answers.
        let _ = self.results.send_blocking(result);
        let _ = self.free.send_blocking(batch);
    }

    /// Hashes and looks up; stores what is new, at once or when its bases are there.
    fn fresh(&mut self, mut batch: Batch, back: async_channel::Sender<Job>) {
        let chunks = self.name(&batch);
        let claimed = self.shared.dedup().claim(chunks.iter().map(|chunk| &chunk.id), &mut self.new);
        let candidates = claimed.and_then(|()| self.candidates(&batch));
        let new = std::mem::take(&mut self.new);
        match (candidates, self.shared.bases.get()) {
            (Err(error), _) => {
                self.shared.fail(error);
                self.give_back(batch, Vec::new());
            }
            (Ok(candidates), Some(bases)) if candidates.iter().any(Option::is_some) => {
                let (bases, at_hand) = (bases.clone(), std::mem::take(&mut batch.at_hand));
                self.runtime.spawn(async move {
                    let bases = bases.fetch(candidates, at_hand).await;
                    // There are as many places as batches; without a worker nobody waits for it.
                    let _ = back.send(Job::Based(Box::new(Based { batch, chunks, new, bases }))).await;
                });
            }
            (Ok(_), _) => self.finish(Based { batch, chunks, new, bases: Vec::new() }),
        }
    }

    /// For each chunk of the batch, its length and what it may be stored against.
    fn candidates(&self, batch: &Batch) -> Result<Vec<Option<(usize, Candidate)>>, RepoError> {
        let Some(bases) = self.shared.bases.get() else { return Ok(Vec::new()) };
        let dedup = self.shared.dedup();
        let candidate = |(piece, new): (&Piece, &bool)| match (piece.parent, bases.depth_max(piece.len)) {
            (Some(parent), Some(depth)) if *new => {
                Ok(dedup.base(&parent, depth)?.map(|candidate| (piece.len, candidate)))
            }
            _ => Ok(None),
        };
        batch.pieces.iter().zip(&self.new).map(candidate).collect()
    }

    /// Stores the new chunks of a batch and gives it back.
    fn finish(&mut self, based: Based) {
        let Based { batch, chunks, new, bases } = based;
        let stored = self.store(&batch, &chunks, &new, &bases);
        self.new = new;
        match stored {
            Ok(()) => self.give_back(batch, chunks),
            Err(error) => {
                self.shared.fail(error);
                self.give_back(batch, Vec::new());
            }
        }
    }

    fn store(
        &mut self,
        batch: &Batch,
        chunks: &[ChunkResult],
        new: &[bool],
        bases: &[Option<Base>],
    ) -> Result<(), RepoError> {
        for (at, (piece, chunk)) in batch.pieces.iter().zip(chunks).enumerate() {
            if !new.get(at).is_some_and(|new| *new) {
                continue;
            }
            let started = Instant::now();
            let plain = &batch.data[piece.start..piece.start + piece.len];
            let base = bases.get(at).and_then(Option::as_ref);
            let full = self.append(&chunk.id, plain, base)?;
            add_elapsed(&self.shared.counters.compress_nanos, started);
            self.shared.counters.new_chunks.fetch_add(1, Ordering::Relaxed);
            self.shared.counters.new_bytes.fetch_add(piece.len as u64, Ordering::Relaxed);
            if full && let Some(pack) = self.pack.take() {
                self.hand_on(pack)?;
            }
        }
        Ok(())
    }

    /// Appends a chunk to the open pack, against its base where that is worth it; returns whether the
    /// pack is full.
    fn append(&mut self, chunk: &ChunkId, plain: &[u8], base: Option<&Base>) -> Result<bool, RepoError> {
        let pack = self.pack.get_or_insert_with(|| {
            let full_bytes = self.next_pack_bytes;
            self.next_pack_bytes = (full_bytes * 2).min(self.shared.pack_bytes);
            self.shared.new_pack_of(full_bytes)
        });
        if let Some(base) = base {
            let against = (&base.chunk, &*base.plain);
            if pack.append_delta(*chunk, plain, against, base.limit, &mut self.encoder)?.is_some() {
                self.shared.dedup().build_on(&base.packs);
                return Ok(pack.is_full());
            }
        }
        pack.append(*chunk, ChunkClass::Data, plain, &mut self.compressor)?;
        Ok(pack.is_full())
    }

    fn name(&self, batch: &Batch) -> Vec<ChunkResult> {
        let started = Instant::now();
        let mut bytes = 0;
        let mut chunks = Vec::with_capacity(batch.pieces.len());
        for piece in &batch.pieces {
            let plain = &batch.data[piece.start..piece.start + piece.len];
            if let Some(tag) = piece.tag {
                self.shared.inspect(tag, piece.offset, plain);
            }
            bytes += piece.len as u64;
            chunks.push(ChunkResult {
                id: piece.id.unwrap_or_else(|| self.namer.name(plain)),
                size: u32::try_from(piece.len).expect("a chunk fits a batch"),
                crc32c: crc32c::crc32c(plain),
            });
        }
        add_elapsed(&self.shared.counters.hash_nanos, started);
        self.shared.counters.chunks.fetch_add(chunks.len() as u64, Ordering::Relaxed);
        self.shared.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        chunks
    }

    fn hand_on(&self, pack: PackBuilder) -> Result<(), RepoError> {
        let started = Instant::now();
        let sealed = pack.finish(&self.shared.keys)?;
        add_elapsed(&self.shared.counters.compress_nanos, started);
        let started = Instant::now();
        self.runtime.block_on(self.shared.uploads.submit(&self.shared, sealed))?;
        add_elapsed(&self.shared.counters.upload_wait_nanos, started);
        Ok(())
    }
}
