//! Round trips over bases of every likeness, bases that can be none, and stored bytes that lie.

use capy_types::{Entropy, SeededEntropy};
use proptest::prelude::*;

use super::*;

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    SeededEntropy::new(seed).fill(&mut data);
    data
}

fn encode(base: &[u8], plain: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    DeltaEncoder::new(3).unwrap().encode(base, plain, limit, &mut out).unwrap().then_some(out)
}

fn decode(base: &[u8], stored: &[u8], plain_len: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = b"left over".to_vec();
    let result = DeltaDecoder::new().decode(base, stored, plain_len, &mut out);
    assert!(result.is_ok() || out.is_empty(), "nothing is left behind by a failure");
    assert!(out.capacity() <= plain_len.max(9), "{} bytes held for {plain_len}", out.capacity());
    result.map(|()| out)
}

#[test]
fn a_chunk_with_a_few_changes_takes_a_few_bytes_at_every_size() {
    // The largest is what a batch can hold: base and chunk must both lie within zstd's window.
    for len in [8192, 131_072, 524_288, 1 << 20] {
        let base = random(1, len);
        let mut plain = base.clone();
        for at in (0..len).step_by(len / 4) {
            plain[at] ^= 0xff;
        }
        let stored = encode(&base, &plain, len / 2).expect("alike");
        assert!(stored.len() < 200 + len / 100, "{} bytes for four changes in {len}", stored.len());
        assert_eq!(decode(&base, &stored, len), Ok(plain));
    }
}

#[test]
fn bytes_that_moved_are_found_where_they_were() {
    let base = random(2, 100_000);
    let plain = [&base[40_000..], b"between", &base[..40_000]].concat();
    let stored = encode(&base, &plain, 50_000).expect("alike");
    assert!(stored.len() < 200, "{}", stored.len());
    assert_eq!(decode(&base, &stored, plain.len()), Ok(plain));
}

#[test]
fn what_does_not_fit_the_limit_is_not_stored() {
    let (base, plain) = (random(3, 100_000), random(4, 100_000));
    assert_eq!(encode(&base, &plain, 50_000), None, "nothing in common");
    assert_eq!(encode(&base, &plain, usize::MAX), None, "not below its own length");
    let stored = encode(&base, &base.clone(), 100_000).expect("the same");
    assert_eq!(encode(&base, &base.clone(), stored.len()), None);
    assert_eq!(encode(&base, &base.clone(), 2 * stored.len()), Some(stored));
    for limit in [0, 1] {
        assert_eq!(encode(&base, &base.clone(), limit), None);
    }
}

#[test]
fn a_dictionary_or_nothing_is_no_base() {
    let plain = vec![7; 1000];
    let dictionary = [&DICTIONARY_MAGIC[..], &[7; 1000]].concat();
    for base in [&[][..], &dictionary] {
        assert!(!can_be_base(base));
        assert_eq!(encode(base, &plain, 900), None);
        let stored = encode(&plain, &plain.clone(), 900).unwrap();
        let error = decode(base, &stored, 1000).unwrap_err();
        assert_eq!(error.to_string(), "damaged zstd frame: its base can be none");
    }
}

#[test]
fn a_delta_of_another_length_is_refused_before_room_is_made() {
    let base = random(5, 10_000);
    let stored = encode(&base, &base.clone(), 5000).unwrap();
    for wrong in [0, 1, 9_999, 10_001, 1 << 23] {
        let expected = DecompressError::Length { expected: wrong, found: 10_000 };
        assert_eq!(decode(&base, &stored, wrong), Err(expected), "expected {wrong} bytes");
    }
}

#[test]
fn truncated_and_prolonged_deltas_are_refused() {
    let base = random(6, 20_000);
    let mut plain = base.clone();
    plain[10_000..10_100].fill(1);
    let stored = encode(&base, &plain, 10_000).unwrap();
    for len in 0..stored.len() {
        assert!(decode(&base, &stored[..len], plain.len()).is_err(), "{len} of {} bytes", stored.len());
    }
    assert!(decode(&base, &[&stored[..], b"x"].concat(), plain.len()).is_err());
    assert_eq!(decode(&base, &stored, plain.len()), Ok(plain));
}

fn golden(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/format/v2").join(name)
}

#[test]
fn the_golden_delta_is_read() {
    let read = |name| std::fs::read(golden(name)).unwrap();
    let (base, chunk) = (read("delta-base.bin"), read("delta-chunk.bin"));
    assert_eq!(decode(&base, &read("delta-body.bin"), chunk.len()), Ok(chunk));
}

#[test]
#[ignore = "wrote the golden delta, once"]
fn write_the_golden_delta() {
    let base: Vec<u8> = (0..200).flat_map(|n| format!("row {n} of {}\n", n * n).into_bytes()).collect();
    let chunk = [&base[1500..], &base[..1000], b"a row of its own\n"].concat();
    let body = encode(&base, &chunk, 1000).unwrap();
    for (name, bytes) in [("delta-base.bin", base), ("delta-chunk.bin", chunk), ("delta-body.bin", body)] {
        assert!(!golden(name).exists(), "{name} is never written again");
        std::fs::write(golden(name), bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One context for all: nothing of one chunk or base reaches the next.
    #[test]
    fn many_deltas_through_one_context_come_back(
        chunks in prop::collection::vec((any::<u64>(), 1_usize..60_000, 0_usize..60_000, any::<[u16; 4]>()), 1..8),
        level in 1_i32..=19,
    ) {
        let mut encoder = DeltaEncoder::new(level).unwrap();
        let mut decoder = DeltaDecoder::new();
        let mut back = Vec::new();
        for (seed, base_len, plain_len, edits) in chunks {
            let base = random(seed, base_len);
            // Cut, prolonged or as long as the base, with edits here and there.
            let mut plain = base.clone();
            plain.resize(plain_len, 0x55);
            for edit in edits {
                if let Some(byte) = plain.get_mut(usize::from(edit)) {
                    *byte ^= 0x5a;
                }
            }
            let mut stored = b"before".to_vec();
            if encoder.encode(&base, &plain, usize::MAX, &mut stored).unwrap() {
                prop_assert!(stored.len() - 6 < plain.len());
                decoder.decode(&base, &stored[6..], plain.len(), &mut back).unwrap();
                prop_assert!(back == plain, "{} of {} bytes, seed {}", plain_len, base_len, seed);
            } else {
                prop_assert_eq!(stored, b"before");
            }
        }
    }

    /// Any stored bytes over any base: an error, or exactly the length asked for.
    #[test]
    fn whatever_is_stored_never_panics_and_never_changes_the_length(
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        other_base in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let base = random(11, 4000);
        let plain = [&base[1000..3000], &[3; 500]].concat();
        let mut stored = encode(&base, &plain, 2000).unwrap();
        *at.get_mut(&mut stored) ^= 1 << bit;
        let base = if other_base { random(12, 100) } else { base };
        for stored in [stored, noise] {
            if let Ok(found) = decode(&base, &stored, plain.len()) {
                prop_assert_eq!(found.len(), plain.len());
            }
        }
    }
}
