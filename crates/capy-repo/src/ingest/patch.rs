//! A file made of the parent's and of what changed in it since.
//!
//! Contained by: the ingest. The file is cut into cells, the chunks of the grid. A cell that did not
//! change is taken over by name: nothing of it is read. One that did is read from the parent, every
//! byte proven by the reader, gets its changes, and goes the way of all bytes. A file that lies in the
//! parent otherwise than on this grid is read whole.
//!
//! Invariants: what comes out is what [`Patch`] says of the parent's bytes and the given ones, whatever
//! was taken over; chunks are taken over only where new backups may build on them; the file's CRC-32C
//! is that of its bytes though not all of them were seen, because a CRC is linear ([`Checksum`]).

mod checksum;
mod old;
mod plan;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use capy_format::{ChunkRef, Meta};
use capy_types::PackId;
use capy_types::limits::MIB;

use super::batch::{FileCut, chunking};
use super::parent::FileParent;
use super::worker::ChunkResult;
use super::{Ingest, Strategy};
use crate::RepoError;
use crate::read::RefCursor;
use checksum::Checksum;
use old::OldCells;
use plan::{is_on_grid, prefix_checksum, touched_cells};

/// Memory in bytes that patching takes beside everything else: two groups of old cells, what is read
/// for one, and the lists of one file.
pub(super) const MEMORY_BYTES: usize = 16 * MIB;
/// Longest file: its list of chunks is held, 56 bytes for each 256 KiB.
const LENGTH_MAX_BYTES: u64 = 64 << 30;

/// What becomes of the parent's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Bytes from the start of the parent's file that stay unless they change; where it has fewer,
    /// zeros take their place. At most `length`.
    pub kept: u64,
    /// What the parent has of the kept bytes counts in whole blocks of so many bytes; a last part of
    /// one does not stay.
    pub block: u64,
    /// Length of the new file in bytes.
    pub length: u64,
    /// Where its bytes are given: rising, not empty, none over another, within `length`.
    pub changed: Vec<Range<u64>>,
}

impl Patch {
    fn check(&self) -> Result<(), String> {
        let rising = self.changed.windows(2).all(|pair| matches!(pair, [a, b] if a.end <= b.start));
        let within = self.changed.iter().all(|range| range.start < range.end && range.end <= self.length);
        match (rising && within, self.kept <= self.length && self.block > 0) {
            (true, true) if self.length <= LENGTH_MAX_BYTES => Ok(()),
            (true, true) => Err(format!("a patched file of {} bytes", self.length)),
            (false, _) => Err("changed ranges that do not rise or leave the file".to_owned()),
            (_, false) => Err("more is kept than the file is long".to_owned()),
        }
    }
}

/// A patched file as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patched {
    /// Its length in bytes.
    pub length: u64,
    /// The CRC-32C of its bytes.
    pub crc32c: u32,
    /// Bytes taken over from the parent without being read.
    pub known_bytes: u64,
}

/// The open file's state.
pub(super) struct Patching {
    patch: Patch,
    /// Bytes of the parent that stay, in whole blocks.
    kept: u64,
    cell_bytes: u64,
    refs: Arc<Vec<(u64, ChunkRef)>>,
    /// For each cell of the new file, whether its bytes must be at hand.
    touched: Vec<bool>,
    old: OldCells,
    checksum: Checksum,
    /// The cell that comes next.
    next: u64,
    /// A cell whose changes are coming.
    open: Option<OpenCell>,
    /// Which range the next given byte belongs to, and where it stands.
    range: usize,
    position: u64,
    known_bytes: u64,
}

struct OpenCell {
    number: u64,
    old: Option<Bytes>,
    data: Vec<u8>,
}

impl Patching {
    fn span(&self, cell: u64) -> Range<u64> {
        let start = cell * self.cell_bytes;
        start..(start + self.cell_bytes).min(self.patch.length)
    }

    fn cells(&self) -> u64 {
        self.patch.length.div_ceil(self.cell_bytes)
    }

    /// Where the next given byte stands; `None` when all have come.
    fn wanted(&self) -> Option<u64> {
        self.patch.changed.get(self.range).map(|range| range.start.max(self.position))
    }

    /// Puts given bytes into the open cell; returns how many.
    fn put(&mut self, data: &[u8]) -> usize {
        let (Some(from), Some(range)) = (self.wanted(), self.patch.changed.get(self.range)) else { return 0 };
        let Some(open) = &mut self.open else { return 0 };
        let start = open.number * self.cell_bytes;
        let end = range.end.min(start + open.data.len() as u64);
        let taken = data.len().min((end - from) as usize);
        let at = (from - start) as usize;
        open.data[at..at + taken].copy_from_slice(&data[..taken]);
        self.position = from + taken as u64;
        self.range += usize::from(self.position == range.end);
        taken
    }
}

impl Ingest {
    /// Begins a file that is the parent's `meta.path` with changes: [`patch`](Self::patch) takes the
    /// bytes of the changed ranges, one after the other, [`end_patched`](Self::end_patched) ends it.
    /// Its chunks at hand are shown to the inspector, with `tag`: those not taken over by name.
    ///
    /// # Errors
    /// Invalid when a file is open, the ingest patches from no backup, or the patch makes no sense;
    /// Corrupt when the parent does not have the file or cannot be read, and then
    /// [`lost_parent`](Self::lost_parent) says why; the first failure of a worker or upload.
    pub async fn begin_patched(
        &mut self,
        meta: Meta,
        strategy: Strategy,
        tag: Option<u64>,
        patch: Patch,
    ) -> Result<(), RepoError> {
        if self.file.is_some() || self.options.patch_from.is_none() {
            return Err(RepoError::Invalid { what: "a patched file began where none can".to_owned() });
        }
        patch.check().map_err(|what| RepoError::Invalid { what })?;
        let path = String::from_utf8_lossy(&meta.path).into_owned();
        let begun = self.plan(&meta.path, strategy, patch).await;
        let patching = begun.map_err(|error| self.parent_failed(&path, error))?;
        let grid = self.grid(strategy);
        self.file = Some(FileCut::new(grid, tag));
        self.file_parent = Some(FileParent::of(patching.old.reader(), &patching.refs));
        self.patched = Some(Box::new(patching));
        self.assembler.begin_file(meta, chunking(grid));
        Ok(())
    }

    /// The next bytes of the changed ranges of the open file.
    ///
    /// # Errors
    /// Invalid without an open patched file, or when all its ranges are full; as
    /// [`begin_patched`](Self::begin_patched).
    ///
    /// # Cancellation
    /// Dropping loses the ingest, nothing else.
    pub async fn patch(&mut self, mut data: &[u8]) -> Result<(), RepoError> {
        while !data.is_empty() {
            let Some(mut patching) = self.patched.take() else { return Err(no_patched_file()) };
            let Some(wanted) = patching.wanted() else {
                return Err(RepoError::Invalid {
                    what: "more bytes than the changed ranges hold".to_owned(),
                });
            };
            let cell = wanted / patching.cell_bytes;
            if patching.open.as_ref().is_none_or(|open| open.number != cell) {
                self.go_to(&mut patching, cell).await?;
                let open = self.load(&mut patching, cell).await?;
                patching.open = Some(open);
            }
            let taken = patching.put(data);
            data = data.get(taken..).expect("put takes at most what it is given");
            self.patched = Some(patching);
        }
        Ok(())
    }

    /// Ends the open patched file.
    ///
    /// # Errors
    /// Invalid when bytes of its changed ranges are missing; as [`patch`](Self::patch).
    pub async fn end_patched(&mut self) -> Result<Patched, RepoError> {
        let mut patching = self.patched.take().ok_or_else(no_patched_file)?;
        if patching.wanted().is_some() {
            return Err(RepoError::Invalid { what: "a patched file ended before its changes".to_owned() });
        }
        let cells = patching.cells();
        self.go_to(&mut patching, cells).await?;
        let crc32c = patching.checksum.finish(patching.patch.length);
        self.close_file(Some(crc32c)).await?;
        let known_bytes = patching.known_bytes;
        Ok(Patched { length: patching.patch.length, crc32c, known_bytes })
    }

    /// Why files cannot be patched from the backup that was asked for, once that was found: it lacks a
    /// file, or cannot be read. The ingest is of no more use then; one without it may be.
    #[must_use]
    pub fn lost_parent(&self) -> Option<&str> {
        self.lost_parent.as_deref()
    }

    /// Packs that were found damaged when the parent was read: what is to be
    /// [noted](crate::Repository::mark_damaged) before the next ingest.
    #[must_use]
    pub fn damaged_packs(&self) -> &[PackId] {
        &self.damaged_packs
    }

    /// The backup that files are patched from, if there is one.
    #[must_use]
    pub fn patched_from(&self) -> Option<&capy_types::BackupKey> {
        self.options.patch_from.as_ref()
    }

    /// Notes why the parent is of no use, unless the fault is another's.
    pub(super) fn parent_failed(&mut self, path: &str, error: RepoError) -> RepoError {
        use capy_types::ErrorKind::{Corrupt, NotFound};
        self.damaged_packs.extend(error.damaged_pack());
        if matches!(error.kind(), Corrupt | NotFound) {
            self.lost_parent = Some(format!("{path}: {error}"));
        }
        error
    }

    /// What is to be done for the file.
    async fn plan(&mut self, path: &[u8], strategy: Strategy, patch: Patch) -> Result<Patching, RepoError> {
        let missing = || RepoError::Inconsistent {
            object: self.options.patch_from.as_ref().map(ToString::to_string).unwrap_or_default(),
            problem: "does not have this file".to_owned(),
        };
        let parent = self.parent.as_mut().ok_or_else(missing)?;
        let file = parent.entry(path).await?.ok_or_else(missing)?;
        let reader = parent.reader().clone();
        let refs = RefCursor::new(reader.clone(), &file.content).placed(&self.ctx).await?;
        let cell_bytes = u64::from(self.repo.config().chunking.grid_bytes);
        let kept = patch.kept.min(file.content.length / patch.block * patch.block);
        let on_grid = self.grid(strategy).is_some() && is_on_grid(&refs, cell_bytes);
        let mut touched = if on_grid {
            touched_cells(&patch, kept, cell_bytes, &refs)
        } else {
            vec![true; patch.length.div_ceil(cell_bytes) as usize]
        };
        self.keep_sound(&mut touched, &refs)?;
        let refs = Arc::new(refs);
        let mut old = OldCells::new(reader, self.ctx.clone(), refs.clone(), cell_bytes, kept);
        let checksum = prefix_checksum(&old, &file, kept, &patch, cell_bytes, &mut touched).await?;
        old.plan(&touched);
        let (next, range, position, known_bytes) = (0, 0, 0, 0);
        let open = None;
        Ok(Patching {
            patch,
            kept,
            cell_bytes,
            refs,
            touched,
            old,
            checksum,
            next,
            open,
            range,
            position,
            known_bytes,
        })
    }

    /// Notes the chunks of untouched cells as used; those that new backups may not build on are read
    /// and stored anew.
    fn keep_sound(&self, touched: &mut [bool], refs: &[(u64, ChunkRef)]) -> Result<(), RepoError> {
        for (touched, refs) in touched.chunks_mut(256).zip(refs.chunks(256)) {
            let whole = touched.iter().zip(refs).filter(|(touched, _)| !**touched);
            let sound = self.shared.dedup().reuse(whole.map(|(_, (_, chunk))| &chunk.id))?;
            let cells = touched.iter_mut().filter(|touched| !**touched);
            cells.zip(sound).for_each(|(touched, sound)| *touched = !sound);
        }
        Ok(())
    }

    /// Closes the open cell and adds those up to `cell` that get no given bytes.
    async fn go_to(&mut self, patching: &mut Patching, cell: u64) -> Result<(), RepoError> {
        if let Some(open) = patching.open.take() {
            self.close(patching, open).await?;
        }
        while patching.next < cell {
            if patching.touched.get(patching.next as usize).is_none_or(|touched| *touched) {
                let open = self.load(patching, patching.next).await?;
                self.close(patching, open).await?;
                continue;
            }
            let from = patching.next as usize;
            let to = (cell as usize).min(patching.refs.len());
            let run = patching.touched.get(from..to).unwrap_or_default();
            let run = run.iter().take_while(|touched| !**touched).count();
            let chunks: Vec<_> = patching
                .refs
                .get(from..from + run)
                .unwrap_or_default()
                .iter()
                .map(|(_, chunk)| *chunk)
                .collect();
            patching.next += run as u64;
            self.add_known(patching, chunks).await?;
        }
        Ok(())
    }

    async fn add_known(&mut self, patching: &mut Patching, chunks: Vec<ChunkRef>) -> Result<(), RepoError> {
        let bytes = chunks.iter().map(|chunk| chunk.len).sum();
        patching.known_bytes += bytes;
        patching.checksum.kept(bytes);
        if let Some(file) = &mut self.file {
            file.skip(bytes);
        }
        // The checksum of the file is put together here, and given at its end.
        let chunk = |chunk: ChunkRef| ChunkResult { id: chunk.id, size: chunk.size, crc32c: 0 };
        self.take_over(chunks.into_iter().map(chunk).collect()).await
    }

    /// A cell as it was, as long as it will be.
    async fn load(&mut self, patching: &mut Patching, cell: u64) -> Result<OpenCell, RepoError> {
        let span = patching.span(cell);
        let mut data = vec![0; (span.end - span.start) as usize];
        let old = if span.start < patching.kept {
            let since = Instant::now();
            let read = patching.old.take(cell).await;
            self.waited_for_parent += since.elapsed();
            Some(read.map_err(|error| self.parent_failed("a changed file", error))?)
        } else {
            None
        };
        if let (Some(old), Some(room)) = (&old, data.get_mut(..old.as_ref().map_or(0, Bytes::len))) {
            room.copy_from_slice(old);
        }
        Ok(OpenCell { number: cell, old, data })
    }

    async fn close(&mut self, patching: &mut Patching, open: OpenCell) -> Result<(), RepoError> {
        patching.checksum.replaced(open.old.as_deref(), &open.data);
        patching.next = open.number + 1;
        let whole = patching.refs.get(open.number as usize).zip(open.old).filter(|((start, chunk), old)| {
            (*start, chunk.len) == (open.number * patching.cell_bytes, old.len() as u64)
        });
        self.append(&open.data, true, whole.map(|((_, chunk), old)| (chunk.id, old))).await
    }
}

fn no_patched_file() -> RepoError {
    RepoError::Invalid { what: "no patched file is open".to_owned() }
}
