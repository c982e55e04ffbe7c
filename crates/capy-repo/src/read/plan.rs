//! Planning: which ranges of which packs are read for the frames that are wanted.

use std::ops::Range;

use capy_format::{ChunkClass, names};
use capy_objects::{StoreError, StoreErrorKind};
use capy_types::limits::{KIB, MIB};
use capy_types::{ChunkId, PackId};

use super::blocks::BLOCK_BYTES;
use super::{Defect, DefectKind, Want};
use crate::index::{ChunkIndex, Link, Location};

/// Longest ranged request in bytes: object stores answer best at 4 to 16 MiB, and memory is this
/// times the requests in flight.
const RANGE_MAX_BYTES: u64 = 4 * MIB as u64;
/// A gap that is cheaper to read than to ask around. A remote store's request of 10 to 30 ms is 1 to
/// 3 MB at 100 MB/s, a local one's of 50 µs is 100 KB at 2 GB/s: here the loss is 0.2 ms at most, there
/// the gain 5 ms at least. Unwanted frames in between cost only their bytes.
const GAP_MAX_BYTES: u64 = 512 * KIB as u64;

/// A frame and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameAt {
    pub(super) pack: PackId,
    pub(super) chunk: ChunkId,
    /// Length of the chunk in bytes.
    pub(super) size: u32,
    pub(super) location: Location,
    pub(super) base: Option<ChunkId>,
    /// Where the last frame of the pack ends.
    pub(super) pack_end: u32,
}

impl FrameAt {
    pub(super) fn new(index: &ChunkIndex, link: &Link) -> Option<Self> {
        let pack = index.pack(link.location.pack)?.id;
        let Link { chunk, location, base } = *link;
        let pack_end = index.frames_end(location.pack);
        Some(Self { pack, chunk, size: location.plain_len, location, base, pack_end })
    }

    pub(super) fn info(&self) -> capy_format::FrameInfo {
        self.location.frame(self.chunk, self.size, self.base)
    }

    /// The block it begins in, if it is read as part of blocks that are kept: in a small pack, or beside
    /// other nodes and pieces of manifests.
    fn block(&self) -> Option<u32> {
        let kept = self.pack_end <= BLOCK_BYTES || self.info().class == ChunkClass::Meta;
        kept.then_some(self.location.offset / BLOCK_BYTES)
    }

    pub(super) fn range(&self) -> Range<u64> {
        let start = u64::from(self.location.offset);
        start..start + u64::from(self.location.stored_len)
    }

    pub(super) fn is_where(&self, other: &Self) -> bool {
        (self.location.pack, self.location.ordinal) == (other.location.pack, other.location.ordinal)
    }

    pub(super) fn defect(&self, want: &Want, kind: DefectKind, problem: &str) -> Defect {
        let problem = if self.chunk == want.chunk {
            problem.to_owned()
        } else {
            format!("{problem}; chunk {} is a difference to it", want.chunk)
        };
        Defect {
            object: names::pack(&self.pack),
            offset: Some(u64::from(self.location.offset)),
            chunk: Some(want.chunk),
            pack: Some(self.pack),
            kind,
            problem,
        }
    }

    pub(super) fn store_defect(&self, want: &Want, error: &StoreError) -> Option<Defect> {
        let kind = match error.kind {
            StoreErrorKind::NotFound => DefectKind::Missing,
            StoreErrorKind::Truncated { .. } => DefectKind::Truncated,
            _ => return None,
        };
        Some(self.defect(want, kind, &error.to_string()))
    }
}

/// A want, the frame to read for it, and the deltas to apply to that, by number, in order.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) want: Want,
    pub(super) frame: FrameAt,
    pub(super) deltas: Vec<u32>,
}

/// One ranged request and the frames it serves, by offset.
pub(super) struct RangePlan {
    pub(super) range: Range<u64>,
    /// Whether it is read as part of blocks that are kept.
    pub(super) blocks: bool,
    pub(super) frames: Vec<Located>,
}

impl RangePlan {
    fn of(first: Located) -> Self {
        Self { range: first.frame.range(), blocks: first.frame.block().is_some(), frames: vec![first] }
    }

    /// Whether a frame that lies behind those it has is read with them.
    fn takes(&self, next: &FrameAt) -> bool {
        let alike = |first: &Located| first.frame.pack == next.pack && first.frame.block() == next.block();
        let range = next.range();
        self.frames.first().is_some_and(alike)
            && (self.blocks
                || range.start <= self.range.end + GAP_MAX_BYTES
                    && range.end - self.range.start <= RANGE_MAX_BYTES)
    }

    fn push(&mut self, next: Located) {
        self.range.end = self.range.end.max(next.frame.range().end);
        self.frames.push(next);
    }
}

/// Joins neighbours into ranges.
pub(super) fn plan(mut located: Vec<Located>) -> Vec<RangePlan> {
    located.sort_by(|a, b| {
        let place = |l: &Located| (l.frame.location.pack, l.frame.location.offset);
        // Those that share deltas come one after the other.
        place(a).cmp(&place(b)).then_with(|| a.deltas.cmp(&b.deltas))
    });
    let mut plans: Vec<RangePlan> = Vec::new();
    for frame in located {
        match plans.last_mut() {
            Some(open) if open.takes(&frame.frame) => open.push(frame),
            _ => plans.push(RangePlan::of(frame)),
        }
    }
    plans
}
