//! Damaged segments: whatever the bytes, nothing panics and nothing grows.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::{PgMajor, Rmgr, SegmentFacts, decode_event, decode_record, join};
use super::synthetic::{Log, SEGMENT, commit_data, record, seal};

/// Bytes of the log that noise falls on: its first pages and both sides of the border.
const NOISY: usize = 24 * 1024;

fn log(major: PgMajor) -> Vec<Vec<u8>> {
    let mut log = Log::new(major);
    for time in 0..50 {
        log.add(Rmgr::TRANSACTION, 0, &commit_data(time));
        log.add(Rmgr::XLOG, 0x70, &[&[0; 8][..], b"point\0"].concat());
        log.add_filler(500);
    }
    log.fill_to(SEGMENT, 16);
    log.add(Rmgr::TRANSACTION, 0, &[commit_data(99), vec![0; 9000]].concat());
    for time in 0..50 {
        log.add(Rmgr::TRANSACTION, 0, &commit_data(time));
    }
    log.segments()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(13),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn major() -> impl Strategy<Value = PgMajor> {
    (0..PgMajor::ALL.len()).prop_map(|index| PgMajor::ALL[index])
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn flipped_bytes_never_panic(
        major in major(),
        flips in prop::collection::vec((0..NOISY, any::<u8>()), 1..8),
        length in prop_oneof![Just(SEGMENT), 0..SEGMENT],
    ) {
        let mut segments = log(major);
        for (at, value) in flips {
            segments[0][at] = value;
            // The first half of the noise falls on the first segment's end, the other behind it.
            if at < NOISY / 2 {
                segments[0][SEGMENT - 1 - at] = value;
            } else {
                segments[1][at - NOISY / 2] = value;
            }
        }
        let first = SegmentFacts::read(&segments[0][..length]);
        let second = SegmentFacts::read(&segments[1]);
        if let (Ok(first), Ok(second)) = (first, second) {
            prop_assert!(first.scan.end >= first.header.start && first.scan.end <= first.header.end());
            let _ = join(&first, &[&second]);
        }
    }

    #[test]
    fn sealed_nonsense_never_panics(
        major in major(),
        rmgr in prop::sample::select(vec![0_u8, 1, 2, 4, 5, 10, 11]),
        info in any::<u8>(),
        data in prop::collection::vec(any::<u8>(), 0..400),
        flips in prop::collection::vec((24_usize..60, any::<u8>()), 0..6),
    ) {
        let mut bytes = record(Rmgr::from_u8(rmgr), info, 5, super::synthetic::BEFORE, &data);
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        seal(&mut bytes);
        for len in [bytes.len(), bytes.len() / 2] {
            let _ = decode_record(&bytes[..len], major);
            let _ = decode_event(capy_types::Lsn::from_u64(8), &bytes[..len], major);
        }
        let mut log = Log::new(major);
        log.add_raw(&bytes);
        prop_assert!(SegmentFacts::read(&log.segment()).is_ok());
    }

    #[test]
    fn pure_noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let _ = SegmentFacts::read(&noise);
        let mut segment = log(PgMajor::V17).swap_remove(0);
        segment[40..40 + noise.len()].copy_from_slice(&noise);
        prop_assert!(SegmentFacts::read(&segment).is_ok());
    }
}
