//! Bytes of three kinds: noise, text, and pages as PostgreSQL's tables and indexes have them.

use capy_types::limits::PAGE_SIZE_BYTES;
use capy_types::{Entropy, SeededEntropy};

/// Size of a page in bytes.
pub const PAGE_BYTES: usize = PAGE_SIZE_BYTES;

const PAGE_HEADER_BYTES: usize = 24;
const LINE_POINTER_BYTES: usize = 4;
const TUPLE_HEADER_BYTES: usize = 24;

const WORDS: [&str; 32] = [
    "account",
    "address",
    "amount",
    "archive",
    "balance",
    "branch",
    "cancel",
    "city",
    "closed",
    "credit",
    "customer",
    "date",
    "delivery",
    "email",
    "invoice",
    "item",
    "name",
    "note",
    "open",
    "order",
    "paid",
    "payment",
    "pending",
    "price",
    "product",
    "quantity",
    "returned",
    "shipped",
    "status",
    "street",
    "total",
    "warehouse",
];

/// Incompressible bytes: what encrypted or already compressed columns look like.
#[must_use]
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    SeededEntropy::new(seed).fill(&mut data);
    data
}

/// Lines as a plain `pg_dump` has them: tab-separated columns of a growing id, a status, a date, an
/// amount, a few words and, in every fourth row, 32 random hex digits. zstd makes it a third.
#[must_use]
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    let mut out = Vec::with_capacity(len + 200);
    let mut id = 1_000_000;
    while out.len() < len {
        id += 1 + chance.below(3);
        let (day, amount) = (chance.below(28) + 1, chance.below(1_000_000));
        let line = format!(
            "{id}\t{}\t2026-{:02}-{day:02}\t{}.{:02}\t",
            chance.word(),
            chance.below(12) + 1,
            amount / 100,
            amount % 100
        );
        out.extend_from_slice(line.as_bytes());
        for _ in 0..3 + chance.below(8) {
            out.extend_from_slice(chance.word().as_bytes());
            out.push(b' ');
        }
        if chance.below(4) == 0 {
            out.extend_from_slice(format!("\t{:016x}{:016x}", chance.next(), chance.next()).as_bytes());
        }
        out.push(b'\n');
    }
    out.truncate(len);
    out
}

/// `count` pages of 8 KiB, of which out of every 64:
///
/// - 47 are of a table: page header, line pointers, a hole of zeros of 5 to 30 % of the page, and
///   rows of a tuple header, a growing id, a timestamp, an amount, a few words, and in every fourth
///   row 16 random bytes;
/// - 16 are of an index: growing 8-byte keys with the places of their rows, filled to 90 %;
/// - one is all zero, as a file that was just extended ends.
///
/// zstd makes them less than a third. The checksum in the header is zero; who needs true ones sets them.
#[must_use]
pub fn pages(seed: u64, count: usize) -> Vec<u8> {
    let mut data = vec![0; count * PAGE_BYTES];
    let mut chance = Chance::new(seed);
    let mut id = 1;
    for (index, page) in data.as_chunks_mut::<PAGE_BYTES>().0.iter_mut().enumerate() {
        match index % 64 {
            63 => {}
            at if at % 4 == 3 => index_page(page, &mut chance, &mut id),
            _ => table_page(page, &mut chance, &mut id),
        }
    }
    data
}

fn table_page(page: &mut [u8; PAGE_BYTES], chance: &mut Chance, id: &mut u64) {
    let hole = PAGE_BYTES * (5 + chance.below(26) as usize) / 100;
    let (mut lower, mut upper) = (PAGE_HEADER_BYTES, PAGE_BYTES);
    let mut row = Vec::with_capacity(256);
    let transaction = 700_000 + (*id >> 6) as u32;
    loop {
        row.clear();
        *id += 1;
        row.extend_from_slice(&transaction.to_le_bytes());
        row.extend_from_slice(&[0; 8]);
        row.extend_from_slice(&((lower / LINE_POINTER_BYTES) as u16).to_le_bytes());
        row.extend_from_slice(&[6, 0, 0x02, 0x09, 24, 0, 0, 0, 0, 0]);
        debug_assert_eq!(row.len(), TUPLE_HEADER_BYTES);
        row.extend_from_slice(&id.to_le_bytes());
        row.extend_from_slice(&(820_000_000_000_000 + *id * 1_000 + chance.below(1_000)).to_le_bytes());
        row.extend_from_slice(&chance.below(1_000_000).to_le_bytes());
        for _ in 0..2 + chance.below(6) {
            row.extend_from_slice(chance.word().as_bytes());
            row.push(b' ');
        }
        if chance.below(4) == 0 {
            row.extend_from_slice(&chance.next().to_le_bytes());
            row.extend_from_slice(&chance.next().to_le_bytes());
        }
        row.resize(row.len().next_multiple_of(8), 0);
        if upper - lower < hole + row.len() + LINE_POINTER_BYTES {
            break;
        }
        upper -= row.len();
        page[upper..upper + row.len()].copy_from_slice(&row);
        let pointer = upper as u32 | 1 << 15 | (row.len() as u32) << 17;
        page[lower..lower + LINE_POINTER_BYTES].copy_from_slice(&pointer.to_le_bytes());
        lower += LINE_POINTER_BYTES;
    }
    header(page, *id, lower, upper);
}

fn index_page(page: &mut [u8; PAGE_BYTES], chance: &mut Chance, id: &mut u64) {
    const ENTRY_BYTES: usize = 16;
    let special = PAGE_BYTES - 16;
    let entries = (special - PAGE_HEADER_BYTES) * 9 / 10 / (ENTRY_BYTES + LINE_POINTER_BYTES);
    let (mut lower, mut upper) = (PAGE_HEADER_BYTES, special);
    for _ in 0..entries {
        *id += 1 + chance.below(2);
        upper -= ENTRY_BYTES;
        page[upper..upper + 4].copy_from_slice(&((*id / 60) as u32).rotate_left(16).to_le_bytes());
        page[upper + 4..upper + 6].copy_from_slice(&((*id % 60) as u16).to_le_bytes());
        page[upper + 6..upper + 8].copy_from_slice(&(ENTRY_BYTES as u16).to_le_bytes());
        page[upper + 8..upper + 16].copy_from_slice(&id.to_le_bytes());
        let pointer = upper as u32 | 1 << 15 | (ENTRY_BYTES as u32) << 17;
        page[lower..lower + LINE_POINTER_BYTES].copy_from_slice(&pointer.to_le_bytes());
        lower += LINE_POINTER_BYTES;
    }
    header(page, *id, lower, upper);
    page[16..18].copy_from_slice(&(special as u16).to_le_bytes());
}

/// Position, bounds, size and version; positions grow as pages do and stay below 4 GiB.
fn header(page: &mut [u8; PAGE_BYTES], id: u64, lower: usize, upper: usize) {
    page[4..8].copy_from_slice(&(0x0100_0000 + (id as u32 & 0x00ff_ffff)).to_le_bytes());
    page[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
    page[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
    page[16..18].copy_from_slice(&(PAGE_BYTES as u16).to_le_bytes());
    page[18..20].copy_from_slice(&(PAGE_BYTES as u16 | 4).to_le_bytes());
}

/// SplitMix64 without the lock of [`SeededEntropy`]: a gigabyte takes a second or two.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed).next_u64())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn word(&mut self) -> &'static str {
        WORDS[(self.next() >> 59) as usize]
    }
}
