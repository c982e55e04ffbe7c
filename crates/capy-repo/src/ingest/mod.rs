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
mod begin;
mod budget;
mod dedup;
mod finish;
mod flow;
mod last;
mod manifest;
mod options;
mod parent;
mod patch;
mod predict;
mod recognize;
mod session;
mod upload;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use capy_codec::{ChunkNamer, Cutter};
use capy_format::{ArchiveHeader, Entry, Meta};
use capy_types::{ChunkId, Ctx, PackId, SessionId};

use crate::{RepoError, Repository};
use batch::{Batch, CutBy, FileCut};
use begin::note_parent;
use manifest::ManifestAssembler;
use parent::{FileParent, Parent};
use patch::Patching;
use recognize::Gathering;
use worker::{BatchResult, Job, Shared};

pub use base::DeltaPolicy;
pub(crate) use batch::check_policy;
pub use options::{Flushed, IngestOptions, Inspector, Strategy};
pub use patch::{Patch, Patched};
pub use recognize::Recognizer;

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
    gathering: Gathering,
    patched: Option<Box<Patching>>,
    lost_parent: Option<String>,
    damaged_packs: Vec<PackId>,
    waited_for_parent: Duration,
    cutter: Cutter,
    namer: ChunkNamer,
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
        let grid = self.grid(strategy);
        self.file = Some(FileCut::new(grid, tag));
        self.file_parent = None;
        if let Some(parent) = &mut self.parent {
            match parent.file(&meta.path).await {
                Ok(found) => self.file_parent = found,
                Err(error) => self.leave_parent(error)?,
            }
        }
        self.assembler.begin_file(meta, batch::chunking(grid));
        Ok(())
    }

    /// The length in bytes of the chunks of a file on the grid; `None` for one cut by content.
    fn grid(&self, strategy: Strategy) -> Option<usize> {
        let policy = &self.repo.config().chunking;
        (strategy == Strategy::Grid && !policy.force_cdc).then_some(policy.grid_bytes as usize)
    }

    /// Bytes of the open file.
    ///
    /// # Errors
    /// Invalid without an open file; Cancelled; the first failure of a worker or upload.
    ///
    /// # Cancellation
    /// Dropping loses the ingest, nothing else.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), RepoError> {
        self.plain(data, true).await
    }

    /// As [`write`](Self::write), of bytes that the inspector need not see: a chunk of nothing else is not
    /// shown to it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    ///
    /// # Cancellation
    /// As [`write`](Self::write).
    pub async fn write_inspected(&mut self, data: &[u8]) -> Result<(), RepoError> {
        self.plain(data, false).await
    }

    async fn plain(&mut self, data: &[u8], inspect: bool) -> Result<(), RepoError> {
        if self.patched.is_some() {
            return Err(RepoError::Invalid { what: "plain bytes came for a patched file".to_owned() });
        }
        self.append_cells(data, inspect).await
    }

    /// Adds bytes to the open file. `base`: the parent's chunk that they are a change of, and its bytes.
    async fn append(
        &mut self,
        mut data: &[u8],
        inspect: bool,
        mut base: Option<(ChunkId, Bytes)>,
    ) -> Result<(), RepoError> {
        while !data.is_empty() {
            let mut batch = self.take_batch().await?;
            self.look_ahead().await?;
            let file = self
                .file
                .as_mut()
                .ok_or_else(|| RepoError::Invalid { what: "bytes arrived outside of a file".to_owned() })?;
            if file.is_off_grid() {
                return Err(RepoError::Invalid {
                    what: "bytes came behind the last cell of a file".to_owned(),
                });
            }
            let taken = file.append(&mut batch, data, inspect);
            let (started, from) = (Instant::now(), batch.pieces.len());
            let predicted = self.file_parent.as_mut().and_then(FileParent::predicted);
            let mut by = CutBy { cutter: &self.cutter, namer: &self.namer, predicted };
            let closed = file.cut(&mut batch, &mut by, false);
            self.cutting += started.elapsed();
            self.ask_parent(&mut batch, from).await?;
            if let Some((chunk, bytes)) = base.take_if(|_| closed > 0) {
                batch.at_hand.push((from, chunk, bytes));
            }
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
        if self.patched.is_some() {
            return Err(RepoError::Invalid { what: "a patched file ends otherwise".to_owned() });
        }
        self.gathered_cell().await?;
        self.close_file(None).await
    }

    /// Ends the open file, whose checksum is this where not all its bytes were seen.
    async fn close_file(&mut self, crc32c: Option<u32>) -> Result<(), RepoError> {
        let mut batch = self.take_batch().await?;
        self.look_ahead().await?;
        let mut file = self
            .file
            .take()
            .ok_or_else(|| RepoError::Invalid { what: "a file ended that had not begun".to_owned() })?;
        let from = batch.pieces.len();
        let predicted = self.file_parent.as_mut().and_then(FileParent::predicted);
        let mut by = CutBy { cutter: &self.cutter, namer: &self.namer, predicted };
        let closed = file.cut(&mut batch, &mut by, true);
        self.ask_parent(&mut batch, from).await?;
        self.assembler.pieces(closed);
        self.assembler.end_file(crc32c);
        self.put_batch(batch).await
    }

    /// Makes sure that what the parent predicts of the open file is at hand.
    async fn look_ahead(&mut self) -> Result<(), RepoError> {
        let Some(predicted) = self.file_parent.as_mut().and_then(FileParent::predicted) else {
            return Ok(());
        };
        match predicted.load(&self.ctx).await {
            Ok(()) => Ok(()),
            Err(error) => self.leave_parent(error),
        }
    }

    /// Notes the parent's chunks of the regions of the pieces from `from` on.
    async fn ask_parent(&mut self, batch: &mut Batch, from: usize) -> Result<(), RepoError> {
        let pieces = batch.pieces.get_mut(from..).unwrap_or_default();
        let (Some(file), Some(last)) = (&mut self.file_parent, pieces.last()) else { return Ok(()) };
        let end = last.offset + last.len as u64;
        if let Err(error) = file.load_until(&self.ctx, end).await {
            return self.leave_parent(error);
        }
        for piece in pieces {
            piece.parent = file.chunk_at(piece.offset, piece.offset + piece.len as u64);
        }
        Ok(())
    }

    /// The parent cannot be read: the rest is stored without, unless files are made from it.
    fn leave_parent(&mut self, error: RepoError) -> Result<(), RepoError> {
        if self.options.patch_from.is_some() {
            return Err(self.parent_failed("its manifest", error));
        }
        (self.parent, self.file_parent) = (None, None);
        note_parent(&self.ctx, "the previous backup", &error)
    }
}
