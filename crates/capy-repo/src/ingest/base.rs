//! Bases for deltas: which chunk a new one is stored against, and fetching it in time.
//!
//! A worker that meets changed chunks hands their batch to a task, which reads the bases of the
//! whole batch in a few ranged requests, and goes on with another batch meanwhile. Invariants: a base
//! was stored, indexed and fit to be built on when this session began or was stored by it, and so was
//! everything it rests on; a base that cannot be read makes its chunk a full one, never a failure.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use capy_format::names;
use capy_types::limits::MIB;
use capy_types::{ChunkId, Ctx, Problem};
use tokio::sync::Semaphore;

use super::batch::BATCH_BYTES;
use crate::read::{Places, Want};
use crate::{ReadOptions, Reader};

/// Batches beyond the workers' own that may wait for bases: at 100 ms for a batch, eight of them are
/// 300 MB/s.
const WAITING_BATCHES: usize = 4;
/// Range requests of one batch at once. Its bases lie together: one or two ranges of a pack for the
/// full frames, and one in each pack with deltas.
const REQUESTS: usize = 4;
/// Problems told of before they are only counted.
const PROBLEMS_MAX: u32 = 10;
/// Chunks below this are not worth a delta: the name of its base alone takes 64 bytes.
const CHUNK_MIN_BYTES: usize = 1024;

/// When chunks are stored as their difference to the parent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaPolicy {
    /// Most deltas on a full frame; 0 stores no deltas. A chunk whose parent has reached it is
    /// stored against the full frame itself.
    pub depth_max: u8,
    /// A delta is stored when it takes less than this share of the full frame, in percent.
    pub share_percent: u8,
}

impl DeltaPolicy {
    /// Every chunk is stored whole.
    pub const NONE: Self = Self { depth_max: 0, share_percent: 0 };

    /// Bytes that a delta of a chunk of `size` may take, where a chunk of `full.0` bytes took
    /// `full.1`.
    fn limit(self, size: usize, full: (u32, u32)) -> usize {
        let expected = u64::from(full.1) * size as u64 / u64::from(full.0.max(1));
        usize::try_from(expected.min(size as u64) * u64::from(self.share_percent) / 100).unwrap_or(0)
    }
}

impl Default for DeltaPolicy {
    /// Measured over ten days of a cluster: see the README.
    fn default() -> Self {
        Self { depth_max: 4, share_percent: 50 }
    }
}

/// Kept of small packs: the latest days of changes, which every batch asks for.
pub(super) const KEPT_BYTES: usize = 16 * MIB;

/// Memory in bytes that deltas take beside everything else: the batches that wait, the bases of all
/// batches, what is being read, and what is kept.
pub(super) const fn memory_bytes(jobs: usize) -> usize {
    let batches = jobs + 2 + WAITING_BATCHES;
    BATCH_BYTES * (WAITING_BATCHES + batches) + BATCH_BYTES * (jobs + WAITING_BATCHES) / 2 + KEPT_BYTES
}

/// How many batches there are.
pub(super) const fn batches(jobs: usize, deltas: bool) -> usize {
    jobs + 2 + if deltas { WAITING_BATCHES } else { 0 }
}

/// What a chunk may be stored against.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) chunk: ChunkId,
    /// Its length in bytes.
    pub(super) size: u32,
    /// Length and stored length of the full frame it rests on.
    pub(super) full: (u32, u32),
    /// Everything it rests on.
    pub(super) packs: Vec<u32>,
}

/// A base at hand.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) chunk: ChunkId,
    pub(super) plain: Bytes,
    pub(super) packs: Vec<u32>,
    /// Bytes the delta may take.
    pub(super) limit: usize,
}

/// Reads bases.
pub(super) struct Bases {
    reader: Reader,
    ctx: Ctx,
    policy: DeltaPolicy,
    permits: Semaphore,
    problems: AtomicU32,
}

impl Bases {
    pub(super) fn new(reader: &Reader, ctx: &Ctx, policy: DeltaPolicy, jobs: usize) -> Self {
        let options = ReadOptions { requests: REQUESTS, ..reader.options().clone() };
        Self {
            reader: reader.with_options(options),
            ctx: ctx.clone(),
            policy,
            permits: Semaphore::new(jobs + WAITING_BATCHES),
            problems: AtomicU32::new(0),
        }
    }

    /// Most deltas on a full frame, when a chunk of this length is worth one at all.
    pub(super) fn depth_max(&self, size: usize) -> Option<u8> {
        (size >= CHUNK_MIN_BYTES && self.policy.depth_max > 0).then_some(self.policy.depth_max)
    }

    /// Reads the bases of a batch: for each of its chunks, by length, the candidate if it has one.
    /// `at_hand` are those that were read already.
    pub(super) async fn fetch(
        &self,
        candidates: Vec<Option<(usize, Candidate)>>,
        at_hand: Vec<(usize, ChunkId, Bytes)>,
    ) -> Vec<Option<Base>> {
        let _permit = self.permits.acquire().await;
        let mut plains = vec![None; candidates.len()];
        for (piece, chunk, bytes) in at_hand {
            let candidate = candidates.get(piece).and_then(Option::as_ref);
            if let (Some((_, base)), Some(place)) = (candidate, plains.get_mut(piece)) {
                *place = Some(bytes).filter(|_| base.chunk == chunk);
            }
        }
        let wants: Vec<Want> = (0..)
            .zip(candidates.iter().zip(&plains))
            .filter(|(_, (_, plain))| plain.is_none())
            .filter_map(|(token, (candidate, _))| {
                let (_, base) = candidate.as_ref()?;
                Some(Want { chunk: base.chunk, size: base.size, token })
            })
            .collect();
        let places = Places::new(plains);
        match self.reader.fetch(&self.ctx, &wants, places.accept()).await {
            Ok(defects) => defects.iter().for_each(|(_, defect)| {
                self.problem(defect.object.clone(), &defect.problem);
            }),
            Err(error) => self.problem(names::PACKS_PREFIX.to_owned(), &error.to_string()),
        }
        let base = |((size, candidate), plain): ((usize, Candidate), Bytes)| Base {
            limit: self.policy.limit(size, candidate.full),
            chunk: candidate.chunk,
            packs: candidate.packs,
            plain,
        };
        candidates
            .into_iter()
            .zip(places.take())
            .map(|(candidate, plain)| candidate.zip(plain).map(base))
            .collect()
    }

    fn problem(&self, subject: String, problem: &str) {
        if self.problems.fetch_add(1, Ordering::Relaxed) < PROBLEMS_MAX {
            let message = format!("cannot be read, so that chunks are stored whole: {problem}");
            self.ctx.progress.problem(Problem { subject, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_may_take_a_share_of_what_the_whole_chunk_would() {
        let policy = DeltaPolicy { depth_max: 4, share_percent: 50 };
        assert_eq!(policy.limit(131_072, (131_072, 40_000)), 20_000);
        assert_eq!(policy.limit(65_536, (131_072, 40_000)), 10_000, "a chunk half as long");
        assert_eq!(policy.limit(131_072, (131_072, 131_088)), 65_536, "a chunk that does not compress");
        assert_eq!(DeltaPolicy::NONE.limit(131_072, (131_072, 40_000)), 0);
    }
}
