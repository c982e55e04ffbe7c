//! Batches: pooled buffers of whole chunks, and the cutting of a file into them.
//!
//! Invariants: a batch that leaves the feeder holds only closed chunks; a chunk never spans two
//! batches; the cuts do not depend on how the bytes were fed or where a batch ended.

use bytes::Bytes;
use capy_codec::{CdcSizes, ChunkNamer, Cutter};
use capy_format::ChunkingPolicy;
use capy_types::ChunkId;
use capy_types::limits::MIB;

use super::predict::Predicted;
use crate::RepoError;

/// Size of a batch in bytes: large enough that handing it over costs nothing (a wake-up of a few
/// microseconds against milliseconds of work), small enough that a handful of them are cheap.
pub(crate) const BATCH_BYTES: usize = 4 * MIB;

/// The manifest's word for a file cut by content.
pub(crate) const CHUNKING_CDC: u8 = 0;
/// The manifest's word for a file cut on a grid.
pub(crate) const CHUNKING_GRID: u8 = 1;

/// How a manifest names the way a file was cut.
pub(super) const fn chunking(grid: Option<usize>) -> u8 {
    if grid.is_some() { CHUNKING_GRID } else { CHUNKING_CDC }
}

/// Largest chunk that an ingest cuts: half a batch, so that a batch always holds several.
const CUT_MAX_BYTES: usize = BATCH_BYTES / 2;

/// Refuses chunk sizes that batches cannot hold or nothing can be cut by.
pub(crate) fn check_policy(policy: &ChunkingPolicy) -> Result<(), RepoError> {
    let largest = policy.data_max.max(policy.grid_bytes) as usize;
    if largest > CUT_MAX_BYTES {
        return Err(RepoError::Invalid {
            what: format!("chunks of {largest} bytes: at most {CUT_MAX_BYTES} bytes are supported"),
        });
    }
    data_sizes(policy).map(drop)
}

/// The sizes for content-defined chunking of data.
pub(super) fn data_sizes(policy: &ChunkingPolicy) -> Result<CdcSizes, RepoError> {
    CdcSizes::new(policy.data_min as usize, policy.data_avg as usize, policy.data_max as usize)
        .map_err(|problem| RepoError::Invalid { what: format!("chunk sizes: {problem}") })
}

/// One closed chunk inside a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) len: usize,
    /// Offset of the chunk in its file in bytes.
    pub(super) offset: u64,
    pub(super) tag: Option<u64>,
    /// Its name, where it was found already.
    pub(super) id: Option<ChunkId>,
    /// The parent's chunk of the same region.
    pub(super) parent: Option<ChunkId>,
}

/// A buffer of whole chunks on its way to a worker and back.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) sequence: u64,
    pub(super) data: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
    /// Bases that were read already: the piece, the parent's chunk, and its bytes.
    pub(super) at_hand: Vec<(usize, ChunkId, Bytes)>,
}

impl Batch {
    /// Whether `needed` more bytes fit.
    pub(super) fn has_room(&self, needed: usize) -> bool {
        // With nothing open, a batch is kept while a small file still fits.
        self.data.len() + needed.max(8 * 1024) <= BATCH_BYTES
    }

    pub(super) fn clear(&mut self) {
        self.data.clear();
        self.pieces.clear();
        self.at_hand.clear();
    }
}

/// What files cut by content are cut with.
pub(super) struct CutBy<'a> {
    pub(super) cutter: &'a Cutter,
    pub(super) namer: &'a ChunkNamer,
    pub(super) predicted: Option<&'a mut Predicted>,
}

impl CutBy<'_> {
    fn next_cut(&mut self, open: &[u8], at_end: bool) -> Option<(usize, Option<ChunkId>)> {
        match &mut self.predicted {
            Some(predicted) => predicted.cut(open, at_end, self.cutter, self.namer),
            None => self.cutter.next_cut(open, at_end).map(|length| (length, None)),
        }
    }
}

/// The cutting state of the open file.
#[derive(Debug)]
pub(super) struct FileCut {
    grid: Option<usize>,
    tag: Option<u64>,
    /// Offset in the file of the first byte that is not in a closed chunk.
    offset: u64,
    /// Where that byte is in the present batch; meaningful while `pending` > 0.
    start: usize,
    pending: usize,
    /// Where the last byte ends that the inspector shall see.
    uninspected_end: u64,
    /// A chunk of the grid that was named before it came: where, how long, and its name.
    named: Option<(u64, usize, ChunkId)>,
}

impl FileCut {
    pub(super) fn new(grid: Option<usize>, tag: Option<u64>) -> Self {
        Self { grid, tag, offset: 0, start: 0, pending: 0, uninspected_end: 0, named: None }
    }

    /// Room a batch must have for this file to go on in it.
    pub(super) fn room_needed(&self) -> usize {
        // On the grid a chunk is begun only where it fits whole, so that no byte is moved twice.
        self.grid.map_or(1, |size| size - self.pending)
    }

    /// Appends as much of `data` as the batch takes; returns how much. `inspect`: the inspector shall
    /// see it.
    pub(super) fn append(&mut self, batch: &mut Batch, data: &[u8], inspect: bool) -> usize {
        if batch.data.capacity() < BATCH_BYTES {
            batch.data.reserve_exact(BATCH_BYTES - batch.data.len());
        }
        if self.pending == 0 {
            self.start = batch.data.len();
        }
        let room = BATCH_BYTES.saturating_sub(batch.data.len());
        let room = self.grid.map_or(room, |size| room.min(size - self.pending));
        let taken = data.len().min(room);
        batch.data.extend_from_slice(&data[..taken]);
        self.pending += taken;
        if inspect {
            self.uninspected_end = self.offset + self.pending as u64;
        }
        taken
    }

    /// Closes every chunk whose end is decided; returns how many.
    pub(super) fn cut(&mut self, batch: &mut Batch, by: &mut CutBy<'_>, at_end: bool) -> u64 {
        let mut closed = 0;
        while self.pending > 0 {
            let open = &batch.data[self.start..self.start + self.pending];
            let cut = match self.grid {
                Some(size) if self.pending >= size || at_end => {
                    let length = self.pending.min(size);
                    Some((length, self.name_of(length)))
                }
                Some(_) => None,
                // Scanning starts only when the cut is certain to be decided: each byte is
                // scanned once.
                None if open.len() >= by.cutter.sizes().max || at_end => by.next_cut(open, at_end),
                None => None,
            };
            let Some((length, id)) = cut else { break };
            let (start, offset) = (self.start, self.offset);
            let tag = self.tag.filter(|_| offset < self.uninspected_end);
            batch.pieces.push(Piece { start, len: length, offset, tag, id, parent: None });
            self.offset += length as u64;
            self.start += length;
            self.pending -= length;
            closed += 1;
        }
        closed
    }

    /// The length of the cell that the next byte begins, on the grid.
    pub(super) fn cell_begins(&self) -> Option<usize> {
        self.grid.filter(|_| self.pending == 0 && !self.is_off_grid())
    }

    /// Bytes that the open chunk of the grid still takes.
    pub(super) fn room_in_cell(&self) -> Option<usize> {
        self.grid.filter(|_| self.pending > 0).map(|size| size - self.pending)
    }

    /// The file's tag and where its next byte stands, when the inspector sees it.
    pub(super) fn tag_here(&self) -> Option<(u64, u64)> {
        self.tag.map(|tag| (tag, self.offset + self.pending as u64))
    }

    /// The next `length` bytes are named: if they become a chunk of the grid, it need not be again.
    pub(super) fn name_next(&mut self, name: ChunkId, length: usize) {
        self.named = (self.pending == 0).then_some((self.offset, length, name));
    }

    /// The name of the open chunk of this length, where it is known.
    fn name_of(&self, length: usize) -> Option<ChunkId> {
        self.named.filter(|named| (named.0, named.1) == (self.offset, length)).map(|named| named.2)
    }

    /// Goes on behind a chunk of the grid that is known; `false` where none of this length can be.
    pub(super) fn skip_cell(&mut self, length: usize) -> bool {
        let fits = self.grid.is_some_and(|size| (1..=size).contains(&length));
        let is_next = fits && self.pending == 0 && !self.is_off_grid();
        if is_next {
            self.skip(length as u64);
        }
        is_next
    }

    /// Whether the last chunk of the grid was shorter than the others: only the end can follow.
    pub(super) fn is_off_grid(&self) -> bool {
        self.pending == 0 && self.grid.is_some_and(|size| !self.offset.is_multiple_of(size as u64))
    }

    /// Goes on behind `bytes` bytes of whole chunks that are known; nothing is open.
    pub(super) fn skip(&mut self, bytes: u64) {
        debug_assert_eq!(self.pending, 0, "a chunk is closed before another is known");
        self.offset += bytes;
    }

    /// Takes the bytes that are not in a closed chunk out of the batch.
    pub(super) fn detach_tail(&mut self, batch: &mut Batch) -> Vec<u8> {
        let tail = if self.pending > 0 { batch.data.split_off(self.start) } else { Vec::new() };
        self.start = 0;
        tail
    }

    /// Puts them at the start of the next batch.
    pub(super) fn attach_tail(&mut self, batch: &mut Batch, tail: &[u8]) {
        self.start = batch.data.len();
        batch.data.extend_from_slice(tail);
    }
}
