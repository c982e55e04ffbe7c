//! Cuts: pinned for ever, equal to the crate `fastcdc`, independent of feeding, local.

use capy_types::{Entropy, RepositoryId, SeededEntropy};
use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use proptest::prelude::*;

use super::*;
use crate::{MasterKey, RepositoryKeys};

/// Small sizes, so that a few hundred kilobytes hold many cuts.
const SMALL: CdcSizes = CdcSizes { min: 64, avg: 256, max: 2048 };

fn gear() -> Gear {
    let master = MasterKey::from_bytes(std::array::from_fn(|i| i as u8));
    let repository = RepositoryId::from_bytes(std::array::from_fn(|i| 0x20 + i as u8));
    RepositoryKeys::derive(&master, repository).gear().clone()
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    SeededEntropy::new(seed).fill(&mut data);
    data
}

fn rows() -> Vec<u8> {
    (0..40_000_u64)
        .flat_map(|i| format!("{i}\trow of table number {}\t{}\n", i % 7, i * i).into_bytes())
        .collect()
}

fn cuts(data: &[u8], sizes: CdcSizes) -> Vec<usize> {
    let cutter = Cutter::new(&gear(), sizes);
    let (mut rest, mut lengths) = (data, Vec::new());
    while let Some(length) = cutter.next_cut(rest, true) {
        lengths.push(length);
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    lengths
}

/// Feeds pieces of the given lengths, in turn, and cuts whenever a cut is decided.
fn cuts_fed(data: &[u8], sizes: CdcSizes, pieces: &[usize]) -> Vec<usize> {
    let cutter = Cutter::new(&gear(), sizes);
    let (mut buffer, mut fed, mut lengths) = (Vec::new(), 0, Vec::new());
    for piece in pieces.iter().cycle() {
        let until = data.len().min(fed + piece);
        buffer.extend_from_slice(&data[fed..until]);
        fed = until;
        while let Some(length) = cutter.next_cut(&buffer, fed == data.len()) {
            lengths.push(length);
            buffer.drain(..length);
        }
        if fed == data.len() {
            break;
        }
    }
    lengths
}

fn cuts_of_the_crate(data: &[u8], sizes: CdcSizes) -> Vec<usize> {
    let gear = gear();
    let shifted = gear.0.map(|word| word << 1);
    let CdcSizes { min, avg, max } = sizes;
    let (s, l) = select_masks(avg, Normalization::Level1);
    let (mut rest, mut lengths) = (data, Vec::new());
    while !rest.is_empty() {
        let (_, length) = cut_gear(rest, min, avg, max, s, l, s << 1, l << 1, &*gear.0, &shifted);
        lengths.push(length);
        rest = &rest[length..];
    }
    lengths
}

// Computed by a second implementation, written in Python from FORMAT.md. Never regenerate them: a
// difference means that old and new backups no longer share chunks.
#[test]
fn cut_points_never_change() {
    let data = CdcSizes::DATA;
    let manifest = CdcSizes::MANIFEST;
    let golden: [(&str, Vec<u8>, CdcSizes, &[usize]); 5] = [
        (
            "random",
            random(1, 1 << 20),
            data,
            &[72237, 74063, 104032, 70911, 86810, 109981, 80634, 76816, 42533, 75406, 73997, 92279, 88877],
        ),
        (
            "random, odd length",
            random(1, 200_001),
            manifest,
            &[17588, 28263, 24611, 43560, 5576, 18713, 7989, 19625, 17229, 16847],
        ),
        (
            "rows",
            rows(),
            data,
            &[
                71669, 45778, 54053, 98301, 79007, 86135, 76228, 212607, 104189, 69514, 84332, 131606,
                103428, 123039, 53138, 50248, 59369,
            ],
        ),
        (
            "rows, small chunks",
            rows()[..300_000].to_vec(),
            manifest,
            &[59270, 12399, 27274, 18504, 8129, 43935, 5609, 24160, 65536, 4985, 24059, 6140],
        ),
        ("zeros", vec![0; 1 << 20], data, &[524288, 524288]),
    ];
    for (name, bytes, sizes, expected) in golden {
        assert_eq!(cuts(&bytes, sizes), expected, "{name}");
    }
}

#[test]
fn the_gear_table_never_changes() {
    let gear = gear();
    for (index, word) in [
        (0, 0xbd0b_58a9_067c_eab2_u64),
        (1, 0x0599_d0cd_60c3_2391),
        (127, 0x1c5c_d55a_96c3_d995),
        (255, 0x6ce5_64e4_1e53_11a3),
    ] {
        assert_eq!(gear.0[index], word, "word {index}");
    }
    assert_eq!(format!("{gear:?}"), "Gear(redacted)");
}

#[test]
fn sizes_that_make_no_sense_are_refused_with_the_reason() {
    for (min, avg, max, reason) in [
        (4097, 16384, 65536, "they must be even"),
        (32, 16384, 65536, "out of range"),
        (64, 128, 65536, "out of range"),
        (64, 8 * MIB, 8 * MIB, "out of range"),
        (4096, 16384, CHUNK_MAX_BYTES + 2, "out of range"),
        (16384, 4096, 65536, "they must ascend"),
        (4096, 65536, 16384, "they must ascend"),
    ] {
        let error = CdcSizes::new(min, avg, max).unwrap_err();
        assert_eq!(error.to_string(), format!("chunk sizes {min}/{avg}/{max}: {reason}"));
    }
    assert_eq!(CdcSizes::new(32 * KIB, 64 * KIB, 512 * KIB), Ok(CdcSizes::DATA));
    assert_eq!(CdcSizes::new(4 * KIB, 16 * KIB, 64 * KIB), Ok(CdcSizes::MANIFEST));
}

#[test]
fn a_cut_is_decided_at_the_end_or_with_max_bytes_and_not_before() {
    let cutter = Cutter::new(&gear(), SMALL);
    assert_eq!(cutter.next_cut(&[], true), None);
    assert_eq!(cutter.next_cut(&[], false), None);
    for len in [1, 63, 64, 65, 2047] {
        assert_eq!(cutter.next_cut(&vec![0; len], false), None, "{len} zeros, more to come");
        assert_eq!(cutter.next_cut(&vec![0; len], true), Some(len), "{len} zeros, then the end");
    }
    for len in [2048, 2049, 10_000] {
        assert_eq!(cutter.next_cut(&vec![0; len], false), Some(2048), "{len} zeros");
    }
    let fixed = Cutter::new(&gear(), CdcSizes::new(1024, 1024, 1024).unwrap());
    assert_eq!(fixed.next_cut(&random(1, 1023), false), None);
    assert_eq!(fixed.next_cut(&random(1, 1024), false), Some(1024));
}

/// Even sizes that [`CdcSizes::new`] accepts.
fn sizes() -> impl Strategy<Value = CdcSizes> {
    (128_usize..4096, 0_usize..4096, 0_usize..16384).prop_map(|(avg, less, more)| {
        let avg = 2 * avg;
        let min = avg.saturating_sub(less & !1).max(64);
        CdcSizes::new(min, avg, avg + (more & !1)).expect("even, ascending, in range")
    })
}

/// Random bytes, bytes of two letters, runs of zeros, rows: odd lengths too.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let few =
        |mask: u8| move |(seed, len)| random(seed, len).into_iter().map(|b| b & mask).collect::<Vec<_>>();
    let shape = (any::<u64>(), 0_usize..100_000);
    prop_oneof![
        shape.clone().prop_map(few(0xff)),
        shape.clone().prop_map(few(0x01)),
        shape
            .clone()
            .prop_map(|(seed, len)| [random(seed, len / 2), vec![0; len / 2], random(!seed, 99)].concat()),
        shape.prop_map(|(_, len)| rows()[..len].to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn cuts_are_those_of_the_fastcdc_crate(data in data(), sizes in sizes()) {
        prop_assert_eq!(cuts(&data, sizes), cuts_of_the_crate(&data, sizes));
    }

    #[test]
    fn chunks_make_up_the_whole_and_keep_to_the_sizes(data in data(), sizes in sizes()) {
        let lengths = cuts(&data, sizes);
        prop_assert_eq!(lengths.iter().sum::<usize>(), data.len());
        let last = lengths.len().saturating_sub(1);
        for (index, length) in lengths.iter().enumerate() {
            prop_assert!(*length <= sizes.max);
            let least = if index == last { 1 } else { sizes.min };
            prop_assert!(*length >= least);
        }
    }

    #[test]
    fn fed_in_pieces_is_fed_whole(
        data in data(),
        sizes in sizes(),
        pieces in prop::collection::vec(1_usize..30_000, 1..8),
    ) {
        prop_assert_eq!(cuts_fed(&data, sizes, &pieces), cuts(&data, sizes));
    }

    #[test]
    fn a_known_chunk_is_confirmed_exactly_where_a_scan_cuts_it_again(
        data in data(),
        sizes in sizes(),
        seed: u64,
        tail in prop_oneof![0_usize..4, 0_usize..40_000],
        at_end: bool,
    ) {
        let cutter = Cutter::new(&gear(), sizes);
        let mut rest = data.as_slice();
        for length in cuts(&data, sizes) {
            let (chunk, after) = rest.split_at(length);
            let other = random(seed, tail);
            // What followed it, a part of that, or something else, ending there or not.
            for follows in [after, &after[..tail.min(after.len())], &other, &[&after[..after.len().min(1)], &other].concat()] {
                let found = [chunk, follows].concat();
                let scanned = cutter.next_cut(&found, at_end) == Some(length);
                prop_assert_eq!(cutter.confirms(&found, length, at_end), scanned, "{} and {}", length, follows.len());
            }
            rest = after;
        }
    }

    #[test]
    fn an_insert_moves_few_cuts(seed: u64, at in 0_usize..400_000, insert in 1_usize..2000) {
        let data = random(seed, 400_000);
        let changed = [&data[..at], &random(!seed, insert), &data[at..]].concat();
        let ends = |data: &[u8], shift: usize| -> Vec<usize> {
            cuts(data, SMALL).iter().scan(0, |end, length| { *end += length; Some(*end + shift) }).collect()
        };
        let (before, after) = (ends(&data, insert), ends(&changed, 0));
        // From some end behind the insert on all cuts are the old ones, moved.
        let again = after.iter().position(|end| *end >= at + insert && before.contains(end));
        let again = after[again.expect("the end itself is a cut of both")];
        let tail = |ends: &[usize]| ends.iter().copied().filter(|end| *end >= again).collect::<Vec<_>>();
        prop_assert_eq!(tail(&before), tail(&after));
        // The chance that no cut has met yet halves every 250 bytes (measured), so 2^-80 here.
        prop_assert!(again <= at + insert + 20_000, "cuts meet again only at {}", again);
        // And every cut decided before the insert is as it was (a cut looks at the byte behind it).
        let head = |data: &[u8]| -> Vec<usize> {
            ends(data, 0).into_iter().filter(|end| *end < at).collect()
        };
        prop_assert_eq!(head(&data), head(&changed));
    }
}
