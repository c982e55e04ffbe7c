//! Joining packs in the making: the last, small packs of a backup's threads become few.
//!
//! Frames lie in a joined pack in the order in which a reader asks for them: differences, whole chunks
//! of data, then nodes and manifest, each kind in one run. Invariants: a frame is opened where it was
//! sealed and sealed anew for its place, so nothing that is not authentic moves; none is lost or doubled.

use capy_format::limits::PACK_FRAMES_MAX;
use capy_format::{ChunkClass, FrameInfo, FrameKind};

use super::builder::PackBuilder;
use crate::RepoError;

/// Groups packs, small ones first, so that each group fits a pack of `full_bytes`.
pub(crate) fn group(mut packs: Vec<PackBuilder>, full_bytes: usize) -> Vec<Vec<PackBuilder>> {
    packs.sort_by_key(PackBuilder::len);
    let mut groups: Vec<Vec<PackBuilder>> = Vec::new();
    let (mut bytes, mut frames) = (0, 0);
    for pack in packs {
        (bytes, frames) = (bytes + pack.len(), frames + pack.frames().len());
        match groups.last_mut() {
            Some(group) if bytes <= full_bytes && frames <= PACK_FRAMES_MAX => group.push(pack),
            _ => {
                (bytes, frames) = (pack.len(), pack.frames().len());
                groups.push(vec![pack]);
            }
        }
    }
    groups
}

/// Moves every frame of `packs` into `into`.
pub(crate) fn join(packs: &[PackBuilder], mut into: PackBuilder) -> Result<PackBuilder, RepoError> {
    let mut places: Vec<_> = packs
        .iter()
        .flat_map(|pack| pack.frames().iter().enumerate().map(move |(ordinal, frame)| (frame, pack, ordinal)))
        .collect();
    // Stable: within a kind, frames of one thread stay in the order of their files.
    places.sort_by_key(|(frame, ..)| run_of(frame));
    for (_, pack, ordinal) in places {
        into.move_in(pack, ordinal)?;
    }
    Ok(into)
}

/// Which run of a joined pack a frame belongs to.
fn run_of(frame: &FrameInfo) -> u8 {
    match (frame.class, frame.kind) {
        (ChunkClass::Data, FrameKind::Delta) => 0,
        (ChunkClass::Data, FrameKind::Full) => 1,
        (ChunkClass::Meta, _) => 2,
    }
}

#[cfg(test)]
mod tests {
    use capy_codec::{Compressor, DeltaEncoder, MasterKey, RepositoryKeys};
    use capy_types::{ChunkId, PackId, RepositoryId, SeededEntropy};

    use super::*;
    use crate::pack::FrameOpener;

    const FULL_BYTES: usize = 1 << 20;

    struct Bench {
        entropy: SeededEntropy,
        keys: RepositoryKeys,
        repository: RepositoryId,
    }

    impl Bench {
        fn new(seed: u64) -> Self {
            println!("seed {seed}");
            let entropy = SeededEntropy::new(seed);
            let repository = RepositoryId::random(&entropy);
            let keys = RepositoryKeys::derive(&MasterKey::generate(&entropy), repository);
            Self { entropy, keys, repository }
        }

        fn empty(&self) -> PackBuilder {
            PackBuilder::new(PackId::random(&self.entropy), &self.keys, self.repository, FULL_BYTES)
        }

        fn pack(&self, chunks: &[(ChunkClass, Vec<u8>)]) -> PackBuilder {
            let mut pack = self.empty();
            let mut compressor = Compressor::new(3).expect("a level");
            for (class, plain) in chunks {
                let id = self.keys.chunk_namer().name(plain);
                pack.append(id, *class, plain, &mut compressor).expect("appended");
            }
            pack
        }
    }

    #[test]
    fn every_frame_opens_in_its_new_place_and_each_kind_is_one_run() {
        let bench = Bench::new(31);
        let plain = |n: u8| vec![n; 3000 + usize::from(n)];
        let chunks = |numbers: std::ops::Range<u8>| -> Vec<_> {
            let class = |n: u8| if n.is_multiple_of(3) { ChunkClass::Meta } else { ChunkClass::Data };
            numbers.map(|n| (class(n), plain(n))).collect()
        };
        let mut packs = vec![bench.pack(&chunks(0..10)), bench.pack(&chunks(10..17)), bench.empty()];
        let base = plain(1);
        let changed = [base.as_slice(), b"and more"].concat();
        let namer = bench.keys.chunk_namer();
        let delta = packs[1].append_delta(
            namer.name(&changed),
            &changed,
            (&namer.name(&base), &base),
            1000,
            &mut DeltaEncoder::new(3).expect("a level"),
        );
        assert!(delta.expect("encoded").is_some());

        let sealed = join(&packs, bench.empty()).expect("joined").finish(&bench.keys).expect("finished");
        assert_eq!(sealed.frames.len(), 18);
        assert!(sealed.frames.is_sorted_by_key(run_of), "each kind lies together");
        let mut opener = FrameOpener::new(&bench.keys, bench.repository);
        let mut seen: Vec<ChunkId> = Vec::new();
        for (ordinal, frame) in (0..).zip(&sealed.frames) {
            let range = frame.offset as usize..(frame.offset + frame.stored_len) as usize;
            let mut stored = sealed.bytes[range].to_vec();
            match frame.kind {
                FrameKind::Full => {
                    opener.open(&sealed.id, ordinal, frame, &mut stored).expect("opens");
                }
                FrameKind::Delta => {
                    let body =
                        opener.open_delta(&sealed.id, ordinal, frame, &mut stored).expect("opens").to_vec();
                    let mut rebuilt = Vec::new();
                    opener.apply(&base, &body, frame.plain_len, &mut rebuilt).expect("applies");
                    assert!(opener.is(&frame.chunk, &rebuilt));
                }
            }
            seen.push(frame.chunk);
        }
        let mut expected: Vec<ChunkId> = (0..17).map(|n| namer.name(&plain(n))).collect();
        expected.push(namer.name(&changed));
        expected.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, expected, "none is lost or doubled");
    }

    #[test]
    fn groups_fit_a_pack_and_small_ones_go_together() {
        use capy_types::Entropy as _;
        let bench = Bench::new(32);
        let pack = |kib: usize| {
            let mut plain = vec![0; kib << 10];
            bench.entropy.fill(&mut plain);
            bench.pack(&[(ChunkClass::Data, plain)])
        };
        let sizes = |groups: Vec<Vec<PackBuilder>>| -> Vec<Vec<usize>> {
            groups.iter().map(|group| group.iter().map(|pack| pack.len() >> 10).collect()).collect()
        };
        let packs = [900, 1, 60, 30, 950].map(pack).into_iter().collect();
        assert_eq!(sizes(group(packs, FULL_BYTES)), [vec![1, 30, 60, 900], vec![950]]);
        assert!(group(Vec::new(), FULL_BYTES).is_empty());
    }
}
