//! The index against a plain map, with spilling forced.

use std::collections::HashMap;
use std::ops::ControlFlow;

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
    let mut expected: HashMap<ChunkId, (u32, u32, u32)> = HashMap::new();
    for _ in 0..2600 {
        let pack = PackId::random(&entropy);
        let frames: Vec<_> = (0..1000).map(|n| frame(ChunkId::random(&entropy), 64 + n * 1100)).collect();
        let number = index.insert_pack(KnownPack { id: pack, index: None, usable: true }, &frames).unwrap();
        let sampled = (0..).zip(&frames).step_by(97);
        expected.extend(sampled.map(|(ordinal, f)| (f.chunk, (number, ordinal, f.offset))));
    }
    assert!(!index.disk.is_empty(), "the test must reach the disk");
    for (chunk, (number, ordinal, offset)) in &expected {
        let found = index.get(chunk).unwrap().expect("inserted");
        assert_eq!((found.pack, found.ordinal, found.offset), (*number, *ordinal, *offset));
        assert_eq!((found.stored_len, found.plain_len), (1000 + offset % 7, 4096));
        assert_eq!(found.frame(*chunk, 4096, None), frame(*chunk, *offset));
    }
    for _ in 0..10_000 {
        assert_eq!(index.get(&ChunkId::random(&entropy)).unwrap(), None);
    }
}

/// How many chunks the index of the next test has: those of 6 TB where everything is tested.
fn many_chunks() -> usize {
    if std::env::var_os("CAPY_TEST_MATRIX").is_some() { 50_000_000 } else { 4_000_000 }
}

/// The peak of this process's resident memory in KiB.
fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// Run by the next test in a process of its own, where nobody else takes memory.
#[test]
#[ignore = "the next test runs it"]
fn fill_and_look_up() {
    const IN_PACK: usize = 1000;
    let count = many_chunks();
    let before = peak_kib();
    let mut index = ChunkIndex::new(std::env::temp_dir());
    let started = std::time::Instant::now();
    let mut frames = Vec::with_capacity(IN_PACK);
    for pack in 0..count / IN_PACK {
        let entropy = SeededEntropy::new(pack as u64);
        let id = PackId::random(&entropy);
        frames.clear();
        frames.extend((0..IN_PACK as u32).map(|n| frame(ChunkId::random(&entropy), 64 + n * 1100)));
        index.insert_pack(KnownPack { id, index: None, usable: true }, &frames).unwrap();
    }
    let filled = started.elapsed();
    let per_second = |count: usize, since: std::time::Instant| count as f64 / since.elapsed().as_secs_f64();

    // Known ones of packs all over, and as many strangers.
    let packs = (0..count / IN_PACK).step_by(count / IN_PACK / 200);
    let known: Vec<ChunkId> = packs
        .flat_map(|pack| {
            let entropy = SeededEntropy::new(pack as u64);
            let _ = PackId::random(&entropy);
            (0..IN_PACK).map(move |_| ChunkId::random(&entropy))
        })
        .collect();
    let started = std::time::Instant::now();
    assert!(known.iter().all(|chunk| index.get(chunk).unwrap().is_some()));
    let hits = per_second(known.len(), started);
    let entropy = SeededEntropy::new(u64::MAX);
    let strangers: Vec<ChunkId> = known.iter().map(|_| ChunkId::random(&entropy)).collect();
    let started = std::time::Instant::now();
    assert!(strangers.iter().all(|chunk| index.get(chunk).unwrap().is_none()));
    let misses = per_second(strangers.len(), started);
    let grown = peak_kib() - before;
    println!(
        "{count} chunks in {filled:.1?}, {} packs; found {hits:.0}/s, unknown {misses:.0}/s; peak KiB {grown}",
        index.packs().len()
    );
}

#[test]
fn however_many_chunks_there_are_the_index_takes_little_memory() {
    let program = std::env::current_exe().unwrap();
    let test = ["index::tests::fill_and_look_up", "--exact", "--ignored", "--nocapture"];
    let output = std::process::Command::new(program).args(test).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let peak = said.split_once("peak KiB ").and_then(|(_, rest)| rest.split_whitespace().next());
    let peak: usize = peak.and_then(|kib| kib.parse().ok()).expect("it says its peak");
    // The fixed budget, and of each chunk a share of its page's fence and of its pack: here a
    // thousand chunks share a pack, which takes 120 bytes.
    let limit = 80 * 1024 + many_chunks() / 1024;
    assert!(peak <= limit, "{peak} KiB, more than {limit}");
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
        filler.chunks(1 << 16).for_each(|frames| _ = insert(&mut index, frames));
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
        DiskRun::merge(vec![MemoryRun::from_unsorted(entries).entries()], &dir).unwrap()
    };
    let runs = [run(0..3000, 1), run(1000..2000, 2), run(1500..1600, 3)];
    let merged = DiskRun::merge(runs.iter().map(DiskRun::entries).collect(), &dir).unwrap();
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

fn delta(chunk: ChunkId, base: ChunkId, offset: u32) -> FrameInfo {
    FrameInfo { kind: FrameKind::Delta, compression: 2, base: Some(base), ..frame(chunk, offset) }
}

#[test]
fn of_several_frames_the_best_is_found_in_whatever_order_they_come() {
    let entropy = SeededEntropy::new(13);
    let (chunk, base) = (ChunkId::random(&entropy), ChunkId::random(&entropy));
    let id = |n| PackId::from_bytes([n; 24]);
    // From worst to best.
    let frames = [
        (KnownPack { id: id(1), index: None, usable: false }, delta(chunk, base, 100)),
        (KnownPack { id: id(2), index: None, usable: false }, frame(chunk, 200)),
        (KnownPack { id: id(4), index: None, usable: true }, delta(chunk, base, 300)),
        (KnownPack { id: id(3), index: None, usable: true }, delta(chunk, base, 400)),
        (KnownPack { id: id(9), index: None, usable: true }, frame(chunk, 500)),
    ];
    for count in 1..=frames.len() {
        for turn in 0..count {
            let mut index = ChunkIndex::new(std::env::temp_dir());
            let mut order: Vec<_> = frames[..count].to_vec();
            order.rotate_left(turn);
            for reversed in [false, true] {
                if reversed {
                    order.reverse();
                }
                order.iter().for_each(|(pack, frame)| _ = index.insert_pack(*pack, &[*frame]).unwrap());
                let found = index.get(&chunk).unwrap().expect("known").offset;
                assert_eq!(found, frames[count - 1].1.offset, "{count} frames from {turn}");
            }
        }
    }
}

#[test]
fn bases_are_found_in_memory_and_in_the_file_and_full_frames_have_none() {
    let entropy = SeededEntropy::new(14);
    let mut index = ChunkIndex::new(std::env::temp_dir());
    let mut expected = Vec::new();
    for number in 0..40_u32 {
        let frames: Vec<_> = (0..10_000_u32)
            .map(|n| match n % 3 {
                0 => frame(ChunkId::random(&entropy), n),
                _ => delta(ChunkId::random(&entropy), ChunkId::random(&entropy), n),
            })
            .collect();
        let pack = KnownPack { id: PackId::random(&entropy), index: None, usable: true };
        assert_eq!(index.insert_pack(pack, &frames).unwrap(), number);
        expected.extend(frames.iter().step_by(501).map(|frame| (frame.chunk, frame.base)));
    }
    for (chunk, base) in expected {
        let found = index.get(&chunk).unwrap().expect("known");
        assert_eq!((index.base(found).unwrap(), found.is_delta()), (base, base.is_some()));
    }
}

#[test]
fn a_chain_is_followed_to_its_full_frame_or_its_fault() {
    let entropy = SeededEntropy::new(15);
    let mut index = ChunkIndex::new(std::env::temp_dir());
    let ids: Vec<_> = (0..100).map(|_| ChunkId::random(&entropy)).collect();
    let mut insert = |frame: FrameInfo| {
        let pack = KnownPack { id: PackId::random(&entropy), index: None, usable: true };
        index.insert_pack(pack, &[frame]).unwrap();
    };
    insert(frame(ids[0], 64));
    (1..100).for_each(|n| insert(delta(ids[n], ids[n - 1], 64)));
    let [lost, circle, back] = [1, 2, 3].map(|n| ChunkId::from_bytes([n; 32]));
    insert(delta(circle, back, 64));
    insert(delta(back, circle, 64));
    let follow = |chunk: &ChunkId| {
        let mut seen = Vec::new();
        let end = index.follow(chunk, |link| {
            seen.push(link.chunk);
            ControlFlow::Continue(())
        });
        (end.unwrap(), seen)
    };
    assert_eq!(follow(&ids[0]), (Ok(true), vec![ids[0]]));
    assert_eq!(follow(&ids[3]), (Ok(true), vec![ids[3], ids[2], ids[1], ids[0]]));
    assert_eq!(follow(&ids[64]).0, Ok(true));
    assert_eq!(follow(&ids[65]).0, Err(BrokenChain::Endless));
    assert_eq!(follow(&circle).0, Err(BrokenChain::Endless));
    assert_eq!(follow(&lost).0, Err(BrokenChain::Unknown(lost)));
    let stopped = index.follow(&ids[3], |link| match link.chunk == ids[1] {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    assert_eq!(stopped.unwrap(), Ok(false));
}
