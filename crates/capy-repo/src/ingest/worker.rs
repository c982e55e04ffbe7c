//! Workers: a batch is hashed, looked up, compressed and sealed to completion on one thread.
//!
//! Invariants: a chunk claimed by this worker is in its open pack before the batch is given back;
//! after the first failure anywhere, workers only return batches, so that nobody waits for ever.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use capy_codec::{ChunkNamer, Compressor, RepositoryKeys};
use capy_format::{ChunkClass, Stats};
use capy_types::{ChunkId, Entropy, PackId, RepositoryId};

use super::batch::Batch;
use super::dedup::Dedup;
use super::upload::Uploads;
use super::{IngestOptions, Inspector};
use crate::index::{ChunkIndex, KnownPack};
use crate::pack::PackBuilder;
use crate::{RepoError, Repository};

/// One chunk of a finished batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkResult {
    pub(super) id: ChunkId,
    pub(super) size: u32,
    pub(super) crc32c: u32,
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
}

/// What the feeder, the workers and the uploads share.
pub(super) struct Shared {
    pub(super) keys: RepositoryKeys,
    pub(super) repository: RepositoryId,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) uploads: Uploads,
    inspector: Option<Arc<dyn Inspector>>,
    level: i32,
    pack_bytes: usize,
    dedup: Mutex<Dedup>,
    frozen: OnceLock<Arc<ChunkIndex>>,
    used: OnceLock<Vec<KnownPack>>,
    failure: OnceLock<Arc<RepoError>>,
    counters: Counters,
}

impl Shared {
    pub(super) fn new(
        repo: &Repository,
        options: &IngestOptions,
        dedup: Dedup,
        level: i32,
        pack_bytes: usize,
    ) -> Self {
        Self {
            keys: repo.keys().clone(),
            repository: repo.id(),
            entropy: repo.env().entropy.clone(),
            uploads: Uploads::new(repo.store().clone(), options.uploads),
            inspector: options.inspector.clone(),
            level,
            pack_bytes,
            dedup: Mutex::new(dedup),
            frozen: OnceLock::new(),
            used: OnceLock::new(),
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
        PackBuilder::new(PackId::random(&*self.entropy), &self.keys, self.repository, self.pack_bytes)
    }

    /// The index of everything stored; the session stores nothing afterwards.
    pub(super) fn freeze_index(&self) -> Arc<ChunkIndex> {
        self.frozen
            .get_or_init(|| {
                let mut dedup = self.dedup();
                let _ = self.used.set(dedup.used_packs());
                Arc::new(dedup.take_index())
            })
            .clone()
    }

    pub(super) fn used_packs(&self) -> Vec<KnownPack> {
        self.freeze_index();
        self.used.get().cloned().unwrap_or_default()
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
    batches: async_channel::Receiver<Batch>,
    free: async_channel::Sender<Batch>,
    results: async_channel::Sender<BatchResult>,
    runtime: tokio::runtime::Handle,
    namer: ChunkNamer,
    compressor: Compressor,
    pack: Option<PackBuilder>,
    new: Vec<bool>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        batches: async_channel::Receiver<Batch>,
        free: async_channel::Sender<Batch>,
        results: async_channel::Sender<BatchResult>,
    ) -> Result<Self, RepoError> {
        let namer = shared.keys.chunk_namer();
        let compressor = Compressor::new(shared.level)?;
        let runtime = tokio::runtime::Handle::current();
        Ok(Self { shared, batches, free, results, runtime, namer, compressor, pack: None, new: Vec::new() })
    }

    /// Works until the feeder closes its channel, then hands on the last pack.
    pub(super) fn run(mut self) {
        while let Ok(mut batch) = self.batches.recv_blocking() {
            let chunks = if self.shared.check().is_ok() {
                self.batch(&batch).unwrap_or_else(|error| {
                    self.shared.fail(error);
                    Vec::new()
                })
            } else {
                Vec::new()
            };
            let result = BatchResult { sequence: batch.sequence, chunks };
            batch.clear();
            // Both ends are held by the ingest; when it is gone nobody needs the answers.
            let _ = self.results.send_blocking(result);
            let _ = self.free.send_blocking(batch);
        }
        if let Some(pack) = self.pack.take()
            && self.shared.check().is_ok()
            && let Err(error) = self.hand_on(pack)
        {
            self.shared.fail(error);
        }
    }

    fn batch(&mut self, batch: &Batch) -> Result<Vec<ChunkResult>, RepoError> {
        let chunks = self.name(batch);
        self.shared.dedup().claim(chunks.iter().map(|chunk| &chunk.id), &mut self.new)?;
        let new = std::mem::take(&mut self.new);
        for ((piece, chunk), _) in batch.pieces.iter().zip(&chunks).zip(&new).filter(|(_, new)| **new) {
            let started = Instant::now();
            let plain = &batch.data[piece.start..piece.start + piece.len];
            let pack = self.pack.get_or_insert_with(|| self.shared.new_pack());
            pack.append(chunk.id, ChunkClass::Data, plain, &mut self.compressor)?;
            let full = pack.is_full();
            add_elapsed(&self.shared.counters.compress_nanos, started);
            self.shared.counters.new_chunks.fetch_add(1, Ordering::Relaxed);
            self.shared.counters.new_bytes.fetch_add(piece.len as u64, Ordering::Relaxed);
            if full && let Some(pack) = self.pack.take() {
                self.hand_on(pack)?;
            }
        }
        self.new = new;
        Ok(chunks)
    }

    fn name(&self, batch: &Batch) -> Vec<ChunkResult> {
        let started = Instant::now();
        let mut bytes = 0;
        let mut chunks = Vec::with_capacity(batch.pieces.len());
        for piece in &batch.pieces {
            let plain = &batch.data[piece.start..piece.start + piece.len];
            if let (Some(tag), Some(inspector)) = (piece.tag, &self.shared.inspector) {
                inspector.inspect(tag, piece.offset, plain);
            }
            bytes += piece.len as u64;
            chunks.push(ChunkResult {
                id: self.namer.name(plain),
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
