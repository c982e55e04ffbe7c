//! The fast path of what has not changed: the parent's chunks, confirmed by hash before anything is scanned.
//!
//! A file cut by content is mostly the parent's, perhaps shifted. Its next chunk is guessed to be the
//! parent's next; where the cutter confirms the cut and the hash is that of the parent's chunk, that is
//! the cut a scan would have found ([`capy_codec::Cutter::confirms`] says why), and the worker need not
//! hash it again. Where they differ the chunk is scanned, and looked for among the parent's next ones.
//! Invariant: cuts never depend on the parent.

use std::collections::VecDeque;

use capy_codec::{ChunkNamer, Cutter};
use capy_format::ChunkRef;
use capy_types::{ChunkId, Ctx};

use crate::RepoError;
use crate::read::RefCursor;

/// Chunks of the parent in which one of this file is looked for, 64 MiB and more: beyond a longer
/// gap nothing is predicted any more. To compare that many names takes 2 % of the time of a scan.
const LOOK_CHUNKS: usize = 1024;

/// The chunks that the parent has of the open file from some place on.
pub(super) struct Predicted {
    cursor: Option<RefCursor>,
    next: VecDeque<ChunkRef>,
}

impl Predicted {
    pub(super) fn new(cursor: RefCursor) -> Self {
        Self { cursor: Some(cursor), next: VecDeque::new() }
    }

    /// Makes sure that there are enough for a batch.
    ///
    /// # Errors
    /// When the parent cannot be read.
    pub(super) async fn load(&mut self, ctx: &Ctx) -> Result<(), RepoError> {
        while self.next.len() < LOOK_CHUNKS
            && let Some(cursor) = &mut self.cursor
        {
            let refs = cursor.next(ctx).await?;
            if refs.is_empty() {
                self.cursor = None;
            }
            self.next.extend(refs);
        }
        Ok(())
    }

    /// The chunk that starts at `open[0]`, as [`Cutter::next_cut`] cuts it, and its name if that had to
    /// be found.
    pub(super) fn cut(
        &mut self,
        open: &[u8],
        at_end: bool,
        cutter: &Cutter,
        namer: &ChunkNamer,
    ) -> Option<(usize, Option<ChunkId>)> {
        let Some(expected) = self.next.front() else {
            return cutter.next_cut(open, at_end).map(|length| (length, None));
        };
        let length = expected.size as usize;
        let mut hashed = None;
        if cutter.confirms(open, length, at_end) {
            let id = namer.name(open.get(..length)?);
            if id == expected.id {
                self.next.pop_front();
                return Some((length, Some(id)));
            }
            hashed = Some((length, id));
        }
        let length = cutter.next_cut(open, at_end)?;
        let id = match hashed {
            Some((same, id)) if same == length => id,
            _ => namer.name(open.get(..length)?),
        };
        // A chunk of the largest size is a run of something, and there may be many like it.
        if length < cutter.sizes().max
            && let Some(at) = self.next.iter().take(LOOK_CHUNKS).position(|chunk| chunk.id == id)
        {
            self.next.drain(..=at);
        }
        Some((length, Some(id)))
    }
}

#[cfg(test)]
mod tests {
    use capy_codec::{CdcSizes, MasterKey, RepositoryKeys};
    use capy_types::{Entropy, RepositoryId, SeededEntropy};

    use super::*;

    struct Bench {
        cutter: Cutter,
        namer: ChunkNamer,
    }

    impl Bench {
        fn new() -> Self {
            let keys =
                RepositoryKeys::derive(&MasterKey::from_bytes([7; 32]), RepositoryId::from_bytes([9; 16]));
            let sizes = CdcSizes::new(64, 256, 2048).expect("sizes");
            Self { cutter: Cutter::new(keys.gear(), sizes), namer: keys.chunk_namer() }
        }

        fn scan(&self, data: &[u8]) -> VecDeque<ChunkRef> {
            let (mut rest, mut chunks) = (data, VecDeque::new());
            while let Some(length) = self.cutter.next_cut(rest, true) {
                let (chunk, after) = rest.split_at(length);
                let len = length as u64;
                chunks.push_back(ChunkRef { id: self.namer.name(chunk), len, size: length as u32 });
                rest = after;
            }
            chunks
        }

        /// Cuts `data` with `parent` as a guess, as it is fed in `pieces`; also says how many chunks
        /// are left of the parent.
        fn predict(&self, parent: &[u8], data: &[u8], pieces: &[usize]) -> (VecDeque<ChunkRef>, usize) {
            let mut predicted = Predicted { cursor: None, next: self.scan(parent) };
            let (mut from, mut fed, mut chunks) = (0, 0, VecDeque::new());
            for piece in pieces.iter().cycle() {
                fed = data.len().min(fed + piece);
                let at_end = fed == data.len();
                while from < fed && (at_end || fed - from >= self.cutter.sizes().max) {
                    let open = &data[from..fed];
                    let Some((length, id)) = predicted.cut(open, at_end, &self.cutter, &self.namer) else {
                        break;
                    };
                    let name = self.namer.name(&open[..length]);
                    assert!(id.is_none_or(|id| id == name), "a name that was found is the chunk's");
                    chunks.push_back(ChunkRef { id: name, len: length as u64, size: length as u32 });
                    from += length;
                }
                if at_end {
                    return (chunks, predicted.next.len());
                }
            }
            unreachable!("pieces are not empty")
        }
    }

    fn random(seed: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        SeededEntropy::new(seed).fill(&mut data);
        data
    }

    #[test]
    fn what_has_not_changed_is_confirmed_to_the_last_chunk() {
        let (bench, data) = (Bench::new(), random(1, 200_001));
        assert_eq!(bench.predict(&data, &data, &[7000]), (bench.scan(&data), 0));
    }

    #[test]
    fn after_an_insert_or_a_gap_the_rest_is_met_again() {
        let (bench, data) = (Bench::new(), random(2, 200_000));
        let inserted = [&data[..50_000], b"one more line", &data[50_000..]].concat();
        assert_eq!(bench.predict(&data, &inserted, &[7000]), (bench.scan(&inserted), 0));
        let cut = [&data[..50_000], &data[90_000..]].concat();
        assert_eq!(bench.predict(&data, &cut, &[7000]), (bench.scan(&cut), 0));
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        fn data() -> impl Strategy<Value = Vec<u8>> {
            let mask = prop_oneof![Just(0xff_u8), Just(1), Just(0)];
            let run = (any::<u64>(), 0_usize..8_000, mask).prop_map(|(seed, length, mask)| {
                random(seed, length).into_iter().map(|b| b & mask).collect()
            });
            prop::collection::vec(run, 1..6).prop_map(|runs: Vec<Vec<u8>>| runs.concat())
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(400))]

            /// Edits are (where, how many bytes go, what comes), places in thousandths.
            #[test]
            fn cuts_are_those_of_a_plain_scan_whatever_the_parent_has(
                parent in data(),
                edits in prop::collection::vec((0_usize..1000, 0_usize..3_000, data()), 0..4),
                pieces in prop::collection::vec(1_usize..9_000, 1..5),
                other in prop::option::of(data()),
            ) {
                let bench = Bench::new();
                let mut data = parent.clone();
                for (place, gone, comes) in edits {
                    let at = data.len() * place / 1000;
                    let gone = gone.min(data.len() - at);
                    data.splice(at..at + gone, comes);
                }
                let parent = other.unwrap_or(parent);
                let (found, _) = bench.predict(&parent, &data, &pieces);
                prop_assert_eq!(found, bench.scan(&data));
            }
        }
    }
}
