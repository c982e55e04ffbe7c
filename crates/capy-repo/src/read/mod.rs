//! Reading: from chunk names to proven bytes.
//!
//! Contained by: restore, verify, and the checks before a commit. Invariant: whatever leaves this
//! module was opened, decompressed and matched against its chunk id.

mod blocks;
mod bulk;
mod content;
mod cursor;
mod fetch;
mod gather;
mod manifest;
mod plan;
mod rebuild;
mod sequence;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use capy_format::{ChunkRef, Content, names};
use capy_objects::ReadCache;
use capy_types::limits::{KIB, MIB};
use capy_types::{ChunkId, Ctx, PackId, Problem};
use tokio::sync::Semaphore;

pub(crate) use blocks::BLOCK_BYTES;
use blocks::Blocks;
pub use bulk::{BulkRead, BulkReport, FileSink};
pub use content::ContentReader;
pub(crate) use cursor::RefCursor;
pub(crate) use fetch::Want;
pub(crate) use gather::{Places, ReadFault};
pub use manifest::ManifestReader;
pub use sequence::{Piece, SequenceReader};

use crate::index::{ChunkIndex, Location, SharedIndex, list_indexes, load_indexes};
use crate::{RepoError, Repository};

/// How reading runs.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Range requests in flight for one fetch, each up to 4 MiB of memory plus what it decodes to one at a
    /// time. All fetches of a reader share 64 MiB of memory for what they have asked for.
    pub requests: usize,
    /// Bytes kept, as they are stored, of small packs and of manifests, to be asked for once.
    pub kept_bytes: usize,
    /// Whether the repository's local cache, if it has one, may answer for packs and index objects. Not
    /// where a read shall prove what the store has.
    pub cached: bool,
    /// Where the index spills when it outgrows its memory.
    pub spill_dir: PathBuf,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { requests: 8, kept_bytes: 32 * MIB, cached: false, spill_dir: PathBuf::from("/var/tmp") }
    }
}

/// What is wrong with a stored thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DefectKind {
    /// It is not there.
    Missing,
    /// It is shorter than it must be.
    Truncated,
    /// Its bytes are not what they must be.
    Corrupt,
}

impl DefectKind {
    /// The word used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
        }
    }
}

/// One thing that could not be read as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The object, or the chunk when no object is known to hold it.
    pub object: String,
    /// Where in the object, in bytes.
    pub offset: Option<u64>,
    /// The chunk that cannot be read.
    pub chunk: Option<ChunkId>,
    /// The pack it should be in.
    pub pack: Option<PackId>,
    /// What is wrong.
    pub kind: DefectKind,
    /// One fact, lower case.
    pub problem: String,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if let Some(offset) = self.offset {
            write!(f, " at offset {offset}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl Defect {
    /// A defect of a whole object.
    #[must_use]
    pub fn of_object(object: String, kind: DefectKind, problem: String) -> Self {
        Self { object, offset: None, chunk: None, pack: None, kind, problem }
    }

    pub(crate) fn unknown_chunk(chunk: ChunkId) -> Self {
        Self {
            object: format!("chunk {chunk}"),
            offset: None,
            chunk: Some(chunk),
            pack: None,
            kind: DefectKind::Missing,
            problem: "in no index: its pack or index object is lost".to_owned(),
        }
    }
}

impl From<Defect> for RepoError {
    fn from(defect: Defect) -> Self {
        Self::Defect(Box::new(defect))
    }
}

struct Inner {
    repo: Repository,
    index: SharedIndex,
    options: ReadOptions,
    blocks: Arc<Blocks>,
    /// Threads that open frames at once: more than there are cores only take turns.
    decoders: Arc<Semaphore>,
    /// One for each KiB of sealed bytes that may be asked for and not opened yet.
    room: Arc<Semaphore>,
}

/// Sealed bytes asked for and not opened yet, of all fetches of a reader: enough for 16 ranges of full
/// length, or for many that are short, which is what a store far away needs.
pub(crate) const IN_FLIGHT_BYTES: usize = 64 * MIB;

/// Reads chunks, contents and manifests of one repository. Cheap to clone.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("repo", &self.0.repo).finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) async fn open(repo: Repository, ctx: &Ctx, options: ReadOptions) -> Result<Self, RepoError> {
        ctx.check()?;
        // A backup that is committed in between may be known without its index being listed: the root
        // names it then.
        let (root, listed) = futures::try_join!(repo.root(), list_indexes(&**repo.store()))?;
        let mut index = ChunkIndex::new(options.spill_dir.clone());
        let loaded = load_indexes(&repo, &root, listed, &mut index, options.cached).await?;
        for problem in loaded.problems {
            ctx.progress.problem(Problem {
                subject: names::index(&problem.index),
                message: format!("not used: {}", problem.error),
            });
        }
        Ok(Self::over(repo, SharedIndex::new(index), options))
    }

    pub(crate) fn over(repo: Repository, index: SharedIndex, options: ReadOptions) -> Self {
        let blocks = Arc::new(Blocks::new(options.kept_bytes));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let decoders = Arc::new(Semaphore::new(cores));
        let room = Arc::new(Semaphore::new(IN_FLIGHT_BYTES / KIB));
        Self(Arc::new(Inner { repo, index, options, blocks, decoders, room }))
    }

    /// The entries of a manifest, in order.
    #[must_use]
    pub fn manifest(&self, content: &Content) -> ManifestReader {
        ManifestReader::new(self.content(content))
    }

    /// The bytes of a content, in order, a few MiB ahead of the caller.
    #[must_use]
    pub fn content(&self, content: &Content) -> ContentReader {
        ContentReader::new(self.clone(), content)
    }

    /// The entries of a manifest and the bytes of its files, in order, tens of MiB ahead of the caller.
    #[must_use]
    pub fn sequence(&self, manifest: &Content) -> SequenceReader {
        SequenceReader::new(self.clone(), manifest)
    }

    /// The names of the chunks of a content, in order.
    #[must_use]
    pub fn chunks(&self, content: &Content) -> ChunkNames {
        ChunkNames(RefCursor::new(self.clone(), content))
    }

    /// Reads many files at once, in the order in which packs hold them.
    #[must_use]
    pub fn bulk(&self, ctx: &Ctx, sink: Arc<dyn FileSink>) -> BulkRead {
        BulkRead::new(self.clone(), ctx.clone(), sink)
    }

    /// Where a chunk is stored: pack object, offset and stored length in bytes.
    ///
    /// # Errors
    /// Local errors of a spilled index.
    pub fn locate(&self, chunk: &ChunkId) -> Result<Option<ChunkPlace>, RepoError> {
        Ok(self.location(chunk)?.map(|(location, pack)| ChunkPlace {
            pack,
            offset: location.offset,
            stored_len: location.stored_len,
            delta: location.is_delta(),
        }))
    }

    pub(crate) fn location(&self, chunk: &ChunkId) -> Result<Option<(Location, PackId)>, RepoError> {
        let index = self.0.index.read();
        let location = index.get(chunk)?;
        Ok(location.and_then(|at| index.pack(at.pack).map(|pack| (at, pack.id))))
    }

    /// The same reader, run otherwise.
    pub(crate) fn with_options(&self, options: ReadOptions) -> Self {
        let Inner { repo, index, blocks, decoders, room, .. } = &*self.0;
        let (repo, index, blocks) = (repo.clone(), index.clone(), blocks.clone());
        let (decoders, room) = (decoders.clone(), room.clone());
        Self(Arc::new(Inner { repo, index, options, blocks, decoders, room }))
    }

    pub(crate) fn index(&self) -> &SharedIndex {
        &self.0.index
    }

    pub(crate) fn repo(&self) -> &Repository {
        &self.0.repo
    }

    fn blocks(&self) -> &Blocks {
        &self.0.blocks
    }

    fn cache(&self) -> Option<&ReadCache> {
        self.repo().cache().filter(|_| self.0.options.cached).map(|cache| &**cache)
    }

    fn room(&self) -> &Semaphore {
        &self.0.room
    }

    fn decoders(&self) -> &Semaphore {
        &self.0.decoders
    }

    pub(crate) fn options(&self) -> &ReadOptions {
        &self.0.options
    }
}

/// Names the chunks of one content, in order.
#[derive(Debug)]
pub struct ChunkNames(RefCursor);

impl ChunkNames {
    /// The next chunks: some, or none at the end.
    ///
    /// # Errors
    /// Corrupt when a node of the content cannot be read as written; Cancelled; store errors.
    ///
    /// # Cancellation
    /// The list cannot go on after a dropped call.
    pub async fn next(&mut self, ctx: &Ctx) -> Result<Vec<ChunkRef>, RepoError> {
        Ok(self.0.next(ctx).await?)
    }
}

/// Where a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// The pack.
    pub pack: PackId,
    /// Offset of its frame in the pack in bytes.
    pub offset: u32,
    /// Stored length of its frame in bytes.
    pub stored_len: u32,
    /// Whether it is stored as a difference to another chunk.
    pub delta: bool,
}
