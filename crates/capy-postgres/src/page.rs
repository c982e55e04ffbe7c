//! PostgreSQL's page checksums, checked while a relation file streams past.
//!
//! The algorithm is `pg_checksum_page` of PostgreSQL's `storage/checksum_impl.h`: FNV-1a in 32
//! lanes with an extra shift, the block number mixed in at the end, never zero as a result.
//!
//! What is found is reported, not judged: during a backup pages are torn legally, and only WAL
//! replay makes them whole. Whoever knows where the backup started passes over problems whose
//! `lsn` is at or after that ([`PageProblem::is_replayed_from`]), and whoever knows that the
//! cluster has no checksums passes over [`PageFault::NoChecksum`].

use capy_types::Lsn;
use capy_types::limits::{PAGE_SIZE_BYTES, RELATION_SEGMENT_PAGES};

mod wide;

/// One page of a relation.
pub type Page = [u8; PAGE_SIZE_BYTES];

/// A page that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageProblem {
    /// The block's number in the whole relation, all segments counted.
    pub block: u32,
    /// The position stored in the page, which may be as damaged as the rest.
    pub lsn: Lsn,
    /// What is wrong.
    pub fault: PageFault,
}

impl PageProblem {
    /// Whether recovery from `start` on rewrites the page, if its position can be believed: the
    /// server's own check passes over such pages.
    #[must_use]
    pub fn is_replayed_from(&self, start: Lsn) -> bool {
        self.lsn >= start && !matches!(self.fault, PageFault::Partial { .. })
    }
}

/// What is wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFault {
    /// The stored checksum is not the page's.
    Checksum {
        /// As stored.
        found: u16,
        /// As computed.
        expected: u16,
    },
    /// The stored checksum is zero, which no page of a cluster with checksums has.
    NoChecksum,
    /// The header is that of a page never used, but the rest is not zero.
    NotNew,
    /// The file ends inside this page.
    Partial {
        /// Bytes of the page that are there.
        found_bytes: u32,
    },
}

impl std::fmt::Display for PageProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {} (lsn {}): ", self.block, self.lsn)?;
        match self.fault {
            PageFault::Checksum { found, expected } => {
                write!(f, "checksum is {found:04x}, the page's is {expected:04x}")
            }
            PageFault::NoChecksum => f.write_str("no checksum"),
            PageFault::NotNew => f.write_str("an unused page is not all zero"),
            PageFault::Partial { found_bytes } => write!(f, "only {found_bytes} bytes of the page are there"),
        }
    }
}

/// What a page is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageVerdict {
    /// Its checksum holds.
    Sound,
    /// Never used: all zero.
    New,
    /// Something is wrong.
    Suspect(PageProblem),
}

/// The checksum of a page that is block number `block` of its relation.
#[must_use]
pub fn page_checksum(page: &Page, block: u32) -> u16 {
    let reduced = (wide::fastest_lane_sum(page) ^ block) % 65_535 + 1;
    // Between 1 and 65535, so the cast loses nothing.
    reduced as u16
}

/// Checks one page, block number `block` of its relation.
#[must_use]
pub fn check_page(page: &Page, block: u32) -> PageVerdict {
    let header = PageHeader::read(page);
    let suspect = |fault| PageVerdict::Suspect(PageProblem { block, lsn: header.lsn, fault });
    if header.upper == 0 {
        return if is_zero(page) { PageVerdict::New } else { suspect(PageFault::NotNew) };
    }
    if header.checksum == 0 {
        return suspect(PageFault::NoChecksum);
    }
    match page_checksum(page, block) {
        expected if expected == header.checksum => PageVerdict::Sound,
        expected => suspect(PageFault::Checksum { found: header.checksum, expected }),
    }
}

/// How many pages of which kind a file has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Whole pages.
    pub pages: u64,
    /// Of these: never used.
    pub new: u64,
    /// Of these: used and without a checksum.
    pub without_checksum: u64,
    /// Problems reported, those without checksum and a last partial page included.
    pub problems: u64,
}

/// Checks the pages of one relation segment file as its bytes come, in pieces of any size.
#[derive(Debug)]
pub struct PageChecker {
    first_block: u64,
    counts: PageCounts,
    /// The page that the last piece ended in.
    partial: Vec<u8>,
}

impl PageChecker {
    /// A checker for segment number `segment` of a relation fork: 0 for the file without suffix.
    #[must_use]
    pub fn new(segment: u32) -> Self {
        let first_block = u64::from(segment) * u64::from(RELATION_SEGMENT_PAGES);
        Self { first_block, counts: PageCounts::default(), partial: Vec::new() }
    }

    /// Takes the file's next bytes and reports every problem among the pages now complete.
    pub fn feed(&mut self, mut data: &[u8], mut report: impl FnMut(PageProblem)) {
        if !self.partial.is_empty() {
            let missing = (PAGE_SIZE_BYTES - self.partial.len()).min(data.len());
            let (head, rest) = data.split_at(missing);
            self.partial.extend_from_slice(head);
            data = rest;
            let mut joined = std::mem::take(&mut self.partial);
            match joined.first_chunk() {
                Some(page) => self.check(page, &mut report),
                None => return self.partial = joined,
            }
            joined.clear();
            self.partial = joined;
        }
        let (pages, rest) = data.as_chunks::<PAGE_SIZE_BYTES>();
        for page in pages {
            self.check(page, &mut report);
        }
        self.partial.extend_from_slice(rest);
    }

    /// Ends the file and reports a last page that is not whole.
    pub fn finish(mut self, mut report: impl FnMut(PageProblem)) -> PageCounts {
        if !self.partial.is_empty() {
            let mut page = [0; PAGE_SIZE_BYTES];
            let found_bytes = self.partial.len();
            page[..found_bytes].copy_from_slice(&self.partial);
            self.counts.problems += 1;
            // Below the size of a page, so the cast loses nothing.
            let fault = PageFault::Partial { found_bytes: found_bytes as u32 };
            report(PageProblem { block: self.block(), lsn: PageHeader::read(&page).lsn, fault });
        }
        self.counts
    }

    /// The number of the next block. Relations end at block 2³² - 2; a longer file is none, and
    /// wrapped numbers show as wrong checksums.
    const fn block(&self) -> u32 {
        (self.first_block + self.counts.pages) as u32
    }

    fn check(&mut self, page: &Page, report: &mut impl FnMut(PageProblem)) {
        let verdict = check_page(page, self.block());
        self.counts.pages += 1;
        match verdict {
            PageVerdict::Sound => {}
            PageVerdict::New => self.counts.new += 1,
            PageVerdict::Suspect(problem) => {
                self.counts.problems += 1;
                self.counts.without_checksum += u64::from(problem.fault == PageFault::NoChecksum);
                report(problem);
            }
        }
    }
}

/// The fields of `PageHeaderData` that matter here.
struct PageHeader {
    lsn: Lsn,
    checksum: u16,
    upper: u16,
}

/// Where `pd_checksum` lies.
const CHECKSUM_OFFSET: usize = 8;

impl PageHeader {
    fn read(page: &Page) -> Self {
        let [l0, l1, l2, l3, l4, l5, l6, l7, c0, c1, _, _, _, _, u0, u1, ..] = *page;
        let high = u32::from_le_bytes([l0, l1, l2, l3]);
        let low = u32::from_le_bytes([l4, l5, l6, l7]);
        Self {
            lsn: Lsn::from_u64(u64::from(high) << 32 | u64::from(low)),
            checksum: u16::from_le_bytes([c0, c1]),
            upper: u16::from_le_bytes([u0, u1]),
        }
    }
}

fn is_zero(page: &Page) -> bool {
    // Without an early exit inside a row, so that rows are compared as vectors.
    page.as_chunks::<64>().0.iter().all(|row| row.iter().fold(0, |any, byte| any | byte) == 0)
}

const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;
const FNV_PRIME: u32 = 16_777_619;

/// Where each lane starts: `checksumBaseOffsets` of PostgreSQL.
#[rustfmt::skip]
const LANE_STARTS: [u32; LANES] = [
    0x5B1F_36E9, 0xB852_5960, 0x02AB_50AA, 0x1DE6_6D2A, 0x79FF_467A, 0x9BB9_F8A3, 0x217E_7CD2, 0x83E1_3D2C,
    0xF8D4_474F, 0xE39E_B970, 0x42C6_AE16, 0x9932_16FA, 0x7B09_3B5D, 0x98DA_FF3C, 0xF718_902A, 0x0B1C_9CDB,
    0xE58F_764B, 0x1876_36BC, 0x5D7B_3BB1, 0xE73D_E7DE, 0x92BE_C979, 0xCCA6_C0B2, 0x304A_0979, 0x85AA_43D4,
    0x7831_25BB, 0x6CA8_EAA2, 0xE407_EAC6, 0x4B5C_FC3E, 0x9FBF_8C76, 0x15CA_20BE, 0xF2CA_9FD3, 0x959B_D756,
];

/// `pg_checksum_block`, with the page's own checksum field taken as zero.
#[inline(always)]
fn lane_sum(page: &Page) -> u32 {
    let mut sums = LANE_STARTS;
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        first[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
        mix_row(&mut sums, &first);
        for row in rest {
            mix_row(&mut sums, row);
        }
    }
    for _ in 0..2 {
        mix_row(&mut sums, &[0; ROW_BYTES]);
    }
    sums.into_iter().fold(0, |folded, sum| folded ^ sum)
}

/// One step of every lane. The lanes do not depend on each other: the loop becomes vectors.
#[inline(always)]
fn mix_row(sums: &mut [u32; LANES], row: &[u8; ROW_BYTES]) {
    for (sum, word) in sums.iter_mut().zip(row.as_chunks::<4>().0) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests;
