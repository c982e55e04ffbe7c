//! Page checks on pages made here; those on a real server's files are in `tests/it`.

use capy_types::{Entropy, SeededEntropy};

use super::*;

fn used_page(seed: u64, block: u32, lsn: u64) -> Page {
    let mut page = [0; PAGE_SIZE_BYTES];
    SeededEntropy::new(seed).fill(&mut page);
    page[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
    page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
    page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
    let checksum = page_checksum(&page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn check(segment: u32, data: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<PageProblem>, PageCounts) {
    let (mut checker, mut problems, mut rest) = (PageChecker::new(segment), Vec::new(), data);
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(piece().clamp(1, rest.len()));
        checker.feed(head, |problem| problems.push(problem));
        rest = tail;
    }
    let counts = checker.finish(|problem| problems.push(problem));
    (problems, counts)
}

/// The algorithm as `checksum_impl.h` spells it out, one lane after the other.
fn plain_checksum(page: &Page, block: u32) -> u16 {
    let mut page = *page;
    page[8..10].fill(0);
    let mut result = 0;
    for (lane, start) in LANE_STARTS.into_iter().enumerate() {
        let words = (0..PAGE_SIZE_BYTES / ROW_BYTES).map(|row| {
            let at = row * ROW_BYTES + lane * 4;
            u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
        });
        result ^= words.chain([0, 0]).fold(start, |sum, word| {
            let mixed = sum ^ word;
            mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17)
        });
    }
    ((result ^ block) % 65_535 + 1) as u16
}

#[test]
fn the_vector_form_is_the_plain_one() {
    for seed in 0..200 {
        let page = used_page(seed, 3, 0x28);
        assert_eq!(page_checksum(&page, seed as u32), plain_checksum(&page, seed as u32), "seed {seed}");
        assert_eq!(wide::fastest_lane_sum(&page), lane_sum(&page), "seed {seed}");
    }
}

#[test]
fn sound_and_new_pages_give_no_report() {
    let data = [used_page(1, 0, 9), [0; PAGE_SIZE_BYTES], used_page(2, 2, 9)].concat();
    let (problems, counts) = check(0, &data, || 1000);
    assert_eq!(problems, []);
    assert_eq!(counts, PageCounts { pages: 3, new: 1, without_checksum: 0, problems: 0 });
}

#[test]
fn a_block_is_numbered_from_the_start_of_its_relation() {
    let page = used_page(1, 2 * RELATION_SEGMENT_PAGES, 9);
    assert_eq!(check(2, &page, || usize::MAX).0, []);
    let (problems, _) = check(1, &page, || usize::MAX);
    assert_eq!(problems.len(), 1, "the same page elsewhere is in the wrong place");
    assert_eq!(problems[0].block, RELATION_SEGMENT_PAGES);
}

#[test]
fn every_byte_of_a_page_is_watched() {
    let page = used_page(5, 7, 0x1_0000_0028);
    for at in (0..PAGE_SIZE_BYTES).step_by(7).chain([8, 9, PAGE_SIZE_BYTES - 1]) {
        let mut damaged = page;
        damaged[at] ^= 0x10;
        let PageVerdict::Suspect(problem) = check_page(&damaged, 7) else {
            panic!("byte {at} is not watched")
        };
        assert_eq!(problem.block, 7);
    }
}

#[test]
fn each_fault_is_told_apart() {
    let fault = |change: fn(&mut Page)| {
        let mut page = used_page(5, 7, 0x28);
        change(&mut page);
        match check_page(&page, 7) {
            PageVerdict::Suspect(problem) => problem.fault,
            verdict => panic!("{verdict:?}"),
        }
    };
    assert!(matches!(fault(|page| page[4000] ^= 1), PageFault::Checksum { .. }));
    assert_eq!(fault(|page| page[8..10].fill(0)), PageFault::NoChecksum);
    assert_eq!(fault(|page| page[14..16].fill(0)), PageFault::NotNew);
    assert_eq!(
        fault(|page| {
            page.fill(0);
            page[PAGE_SIZE_BYTES - 1] = 1;
        }),
        PageFault::NotNew
    );
}

#[test]
fn a_last_partial_page_is_reported() {
    let data = [&used_page(1, 0, 9)[..], &used_page(2, 1, 0x77)[..100]].concat();
    let (problems, counts) = check(0, &data, || 5000);
    let fault = PageFault::Partial { found_bytes: 100 };
    assert_eq!(problems, [PageProblem { block: 1, lsn: Lsn::from_u64(0x77), fault }]);
    assert_eq!((counts.pages, counts.problems), (1, 1));
    assert!(!problems[0].is_replayed_from(Lsn::from_u64(0)), "replay does not lengthen a file");
}

#[test]
fn a_page_changed_after_the_start_is_left_to_replay() {
    let mut page = used_page(5, 7, 0x2000_0000);
    page[5000] ^= 1;
    let PageVerdict::Suspect(problem) = check_page(&page, 7) else { panic!("damage is seen") };
    assert!(problem.is_replayed_from(Lsn::from_u64(0x2000_0000)));
    assert!(!problem.is_replayed_from(Lsn::from_u64(0x2000_0001)));
}

#[test]
fn reports_do_not_depend_on_the_pieces() {
    let mut data: Vec<u8> = (0..9).flat_map(|block| used_page(u64::from(block), block, 9)).collect();
    for at in [10, 30_000, 65_536, 73_000] {
        data[at] ^= 1;
    }
    data.truncate(8 * PAGE_SIZE_BYTES + 9000 - PAGE_SIZE_BYTES);
    let whole = check(0, &data, || usize::MAX);
    assert!(!whole.0.is_empty());
    for size in [1, 511, 8191, 8192, 8193, 20_000] {
        assert_eq!(check(0, &data, || size), whole, "pieces of {size}");
    }
}
