use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use capy_types::limits::RELATION_SEGMENT_PAGES;

use super::*;
use crate::page::{Page, page_checksum};

const START: u64 = 0x1000;

/// A page of this age whose checksum holds.
fn page(block: u32, lsn: u64, fill: u8) -> Page {
    let mut page = [fill; PAGE_SIZE_BYTES];
    page[..8]
        .copy_from_slice(&[&((lsn >> 32) as u32).to_le_bytes()[..], &(lsn as u32).to_le_bytes()].concat());
    page[14..16].copy_from_slice(&100_u16.to_le_bytes());
    let checksum = page_checksum(&page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
    page
}

#[test]
fn a_page_caught_in_the_middle_of_its_writing_is_read_again_and_a_damaged_one_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("16384.1");
    let first_block = RELATION_SEGMENT_PAGES;
    let mut on_disk = Vec::new();
    on_disk.extend(page(first_block, START - 1, 1));
    on_disk.extend(page(first_block + 1, START + 1, 2));
    on_disk.extend(page(first_block + 2, START - 1, 3));
    on_disk[2 * PAGE_SIZE_BYTES + 8000] ^= 1;
    fs::write(&path, &on_disk).unwrap();

    // The new half of block 1 has come, the old header is still there.
    let mut torn = on_disk.clone();
    let old = page(first_block + 1, START - 1, 9);
    torn[PAGE_SIZE_BYTES..PAGE_SIZE_BYTES + 4096].copy_from_slice(&old[..4096]);
    let file = File::open(&path).unwrap();
    let pages = Pages { file: &file, start: Lsn::from_u64(START), first_block };
    assert!(!pages.settle(&mut torn, 0).unwrap(), "not all are sound");
    assert!(torn == on_disk, "block 1 is whole, block 2 as damaged as it was");

    // A torn page whose header is the new one is recovery's: it is not worth a second look.
    let mut newer = on_disk.clone();
    newer[PAGE_SIZE_BYTES + 4096..2 * PAGE_SIZE_BYTES].fill(9);
    let before = newer.clone();
    assert!(!pages.settle(&mut newer[..2 * PAGE_SIZE_BYTES], 0).unwrap(), "recovery's is not called sound");
    assert!(newer == before);
    assert!(pages.settle(&mut newer[..PAGE_SIZE_BYTES], 0).unwrap(), "the first page is");
    assert!(!pages.settle(&mut newer[..PAGE_SIZE_BYTES - 1], 0).unwrap(), "a part of a page is not");
}

/// Bytes of a cell in these tests: two pages.
const CELL: usize = 2 * PAGE_SIZE_BYTES;

/// Knows the cells it was told of.
#[derive(Debug, Default)]
struct Knows(Mutex<HashSet<ChunkId>>);

impl Knows {
    fn learn(&self, cell: &[u8]) {
        self.0.lock().unwrap().insert(self.name(cell));
    }
}

impl Recognizer for Knows {
    fn cell_bytes(&self) -> usize {
        CELL
    }

    fn name(&self, cell: &[u8]) -> ChunkId {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&crc32c::crc32c(cell).to_le_bytes());
        name[4..8].copy_from_slice(&(cell.len() as u32).to_le_bytes());
        ChunkId::from_bytes(name)
    }

    fn is_known(&self, name: &ChunkId) -> bool {
        self.0.lock().unwrap().contains(name)
    }
}

fn rules(knows: &Arc<Knows>) -> ReadRules {
    let recognizer = Some(Arc::clone(knows) as Arc<dyn Recognizer>);
    let check_pages_from = Some(Lsn::from_u64(START));
    ReadRules { threads: 1, check_pages_from, pages_unchecked: false, recognizer }
}

/// Reads the file as one piece. Answers what became of each cell, `known`, `sound` or `plain`, after
/// proving that what was handed on are its bytes, and that names and checksums are theirs.
fn read(path: &Path, rules: &ReadRules, pool: &BufferPool) -> Vec<&'static str> {
    let content = fs::read(path).unwrap();
    let file = File::open(path).unwrap();
    let stretch = Stretch { file: &file, offset: 0, length: content.len(), first_block: Some(0) };
    let (mut at, mut kinds) = (0, Vec::new());
    for part in stretch.read(rules, pool).unwrap() {
        let (cells, bytes, kind) = match part.event {
            SourceEvent::KnownCells(cells) => (cells, None, "known"),
            SourceEvent::Cells { cells, bytes, sound: true } => (cells, Some(bytes), "sound"),
            SourceEvent::Cells { cells, bytes, sound: false } => (cells, Some(bytes), "plain"),
            other => panic!("{other:?}"),
        };
        let expected = &content[at..at + part.length as usize];
        assert!(bytes.is_none_or(|bytes| bytes == expected), "the bytes from {at} on");
        assert_eq!((cells.length(), cells.crc32c), (part.length, crc32c::crc32c(expected)));
        assert_eq!(part.crc32c, cells.crc32c);
        for (name, length) in &cells.cells {
            let cell = &content[at..at + length];
            assert_eq!(*name, Knows::default().name(cell), "the cell at {at}");
            kinds.push(kind);
            at += length;
        }
    }
    assert_eq!(at, content.len());
    kinds
}

/// Sound pages of cells that are all different.
fn pages(count: u32) -> Vec<u8> {
    (0..count).flat_map(|block| page(block, START - 1, block as u8 + 1)).collect()
}

#[test]
fn known_cells_stay_where_they_are_and_the_others_come_with_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let (path, content) = (directory.path().join("16384"), pages(13));
    fs::write(&path, &content).unwrap();
    let (knows, pool) = (Arc::new(Knows::default()), BufferPool::default());
    let (rules, cells) = (rules(&knows), content.chunks(CELL).collect::<Vec<_>>());
    assert_eq!(read(&path, &rules, &pool), ["sound"; 7]);
    for known in [1, 2, 4, 6] {
        knows.learn(cells[known]);
    }
    let kinds = read(&path, &rules, &pool);
    assert_eq!(kinds, ["sound", "known", "known", "sound", "known", "sound", "known"]);
    cells.iter().for_each(|cell| knows.learn(cell));
    assert_eq!(read(&path, &rules, &pool), ["known"; 7]);
}

#[test]
fn a_cell_with_a_bad_page_is_handed_on_though_it_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("16384");
    let mut content = pages(8);
    content[2 * PAGE_SIZE_BYTES + 5000] ^= 1;
    // Newer than the backup, and torn: recovery mends it, but it is not sound.
    content[4 * PAGE_SIZE_BYTES..5 * PAGE_SIZE_BYTES].copy_from_slice(&page(4, START + 1, 9));
    content[4 * PAGE_SIZE_BYTES + 5000] ^= 1;
    fs::write(&path, &content).unwrap();
    let (knows, pool) = (Arc::new(Knows::default()), BufferPool::default());
    content.chunks(CELL).for_each(|cell| knows.learn(cell));
    let rules = rules(&knows);
    assert_eq!(read(&path, &rules, &pool), ["known", "plain", "plain", "known"]);
    let unchecked = ReadRules { check_pages_from: None, pages_unchecked: true, ..rules.clone() };
    assert_eq!(read(&path, &unchecked, &pool), ["known"; 4], "nobody looks at pages");
    let later = ReadRules { check_pages_from: None, ..rules };
    assert_eq!(read(&path, &later, &pool), ["plain"; 4], "somebody does, later");
}

#[test]
fn only_files_of_relations_have_cells_and_only_where_these_fill_pieces() {
    #[derive(Debug)]
    struct Odd;
    impl Recognizer for Odd {
        fn cell_bytes(&self) -> usize {
            3 * PAGE_SIZE_BYTES
        }
        fn name(&self, _: &[u8]) -> ChunkId {
            panic!("nothing is named")
        }
        fn is_known(&self, _: &ChunkId) -> bool {
            true
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let (path, content) = (directory.path().join("16384"), pages(4));
    fs::write(&path, &content).unwrap();
    let file = File::open(&path).unwrap();
    let knows = Arc::new(Knows::default());
    content.chunks(CELL).for_each(|cell| knows.learn(cell));
    let odd = ReadRules { recognizer: Some(Arc::new(Odd)), ..rules(&knows) };
    for (rules, first_block) in [(odd, Some(0)), (rules(&knows), None)] {
        let stretch = Stretch { file: &file, offset: 0, length: content.len(), first_block };
        let parts = stretch.read(&rules, &BufferPool::default()).unwrap();
        let [Part { event: SourceEvent::SoundPages(bytes) | SourceEvent::Data(bytes), .. }] = &parts[..]
        else {
            panic!("{parts:?}")
        };
        assert!(*bytes == content);
    }
}
