//! The index against a plain map, with spilling forced.

use std::collections::HashMap;

use capy_format::{ChunkClass, FrameInfo, FrameKind};
use capy_types::{ChunkId, PackId, SeededEntropy};

use super::*;

fn frame(chunk: ChunkId, offset: u32) -> FrameInfo {
    FrameInfo {
        chunk,
        kind: FrameKind::Full,
        class: ChunkClass::Data,
        compression: 1,
        offset,
        stored_len: 1000 + offset % 7,
        plain_len: 4096,
        base: None,
    }
}

#[test]
fn a_million_chunks_in_spilled_runs_are_all_found_and_strangers_are_not() {
    let entropy = SeededEntropy::new(11);
    let mut index = ChunkIndex::new(std::env::temp_dir());
    let mut expected: HashMap<ChunkId, (u32, u32)> = HashMap::new();
    for _ in 0..2600 {
        let pack = PackId::random(&entropy);
        let frames: Vec<_> = (0..1000).map(|n| frame(ChunkId::random(&entropy), 64 + n * 1100)).collect();
        let number = index.insert_pack(KnownPack { id: pack, index: None, usable: true }, &frames).unwrap();
        expected.extend(frames.iter().step_by(97).map(|f| (f.chunk, (number, f.offset))));
    }
    assert!(!index.disk.is_empty(), "the test must reach the disk");
    for (chunk, (number, offset)) in &expected {
        let found = index.get(chunk).unwrap().expect("inserted");
        assert_eq!((found.pack, found.offset), (*number, *offset));
        assert_eq!(found.stored_len, 1000 + offset % 7);
        assert_eq!(found.frame(*chunk, 4096).kind, FrameKind::Full);
    }
    for _ in 0..10_000 {
        assert_eq!(index.get(&ChunkId::random(&entropy)).unwrap(), None);
    }
}

#[test]
fn a_later_pack_hides_an_earlier_one_wherever_the_earlier_one_went() {
    let entropy = SeededEntropy::new(12);
    let mut index = ChunkIndex::new(std::env::temp_dir());
    let chunk = ChunkId::random(&entropy);
    let insert = |index: &mut ChunkIndex, frames: &[FrameInfo]| {
        let pack = KnownPack { id: PackId::random(&entropy), index: None, usable: true };
        index.insert_pack(pack, frames).unwrap()
    };
    let mut last = insert(&mut index, &[frame(chunk, 64)]);
    for round in 0..12 {
        let filler: Vec<_> = (0..TABLE_MAX as u32).map(|n| frame(ChunkId::random(&entropy), n)).collect();
        insert(&mut index, &filler);
        assert_eq!(index.get(&chunk).unwrap().expect("known").pack, last, "round {round}");
        last = insert(&mut index, &[frame(chunk, 64)]);
    }
}

#[test]
fn runs_merge_to_the_newest_entry_and_pages_are_searched_to_their_edges() {
    let dir = std::env::temp_dir();
    let key = |n: u32| {
        let mut key = [0; 16];
        // Many keys share their first eight bytes, so fences repeat.
        key[..8].copy_from_slice(&u64::from(n / 500).to_be_bytes());
        key[8..12].copy_from_slice(&n.to_be_bytes());
        key
    };
    let location = |pack| Location::new(pack, 3, &frame(ChunkId::from_bytes([0; 32]), 99));
    let run = |range: std::ops::Range<u32>, pack| {
        let entries = range.map(|n| RunEntry::new(key(n), location(pack))).collect();
        DiskRun::write(&MemoryRun::from_unsorted(entries), &dir).unwrap()
    };
    let merged = DiskRun::merge(&[run(0..3000, 1), run(1000..2000, 2), run(1500..1600, 3)], &dir).unwrap();
    for n in 0..3000 {
        let pack = match n {
            1500..1600 => 3,
            1000..2000 => 2,
            _ => 1,
        };
        assert_eq!(merged.get(&key(n)).unwrap().map(|l| l.pack), Some(pack), "key {n}");
    }
    assert_eq!(merged.get(&key(3000)).unwrap(), None);
}
