//! What an ingest is told and what it tells: its options, what looks at its chunks, and its figures.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use capy_format::{BackupKind, Content, Stats};
use capy_types::BackupKey;

use super::base::DeltaPolicy;

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
    /// Packs of the size aimed at that can be on their way to the store at once, at least. It is more
    /// where `memory_bytes` leaves room, and more where they are small.
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
    /// The backup that files are patched from ([`Ingest::begin_patched`](super::Ingest::begin_patched)).
    /// It is the parent then, and must be there.
    pub patch_from: Option<BackupKey>,
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
            patch_from: None,
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
    /// For how long the feeder was kept waiting by the store: by packs on their way to it, and by the
    /// chunks that deltas are taken against. What else it waited is the processor's.
    pub waited_for_store: Duration,
}
