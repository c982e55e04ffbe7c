//! Page checksums, looked at while the pages pass through the workers.
//!
//! Contained by: the backup, as the inspector of its ingest. Whether the cluster has checksums may
//! be known only at the end (`pg_control` comes last in a tar), and so may the start position; so
//! failures are gathered, bounded, and judged at the end by PostgreSQL's own rule: a page that was
//! changed after the backup began may be torn, and recovery repairs it.
//! Invariants: block numbers are those of the whole relation, not of its segment file; a page cut
//! in two by content-defined chunks is put together before it is looked at.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use capy_format::{Content, Entry, PostgresFacts};
use capy_postgres::page::{Page, PageProblem, PageVerdict, check_page};
use capy_repo::{Inspector, Reader};
use capy_types::Lsn;
use capy_types::limits::{PAGE_SIZE_BYTES, RELATION_SEGMENT_PAGES};

use crate::Result;
use crate::report::{FINDINGS_MAX, Findings};
use crate::restore::prefix_of;

/// Pages cut in two that are kept at once: 8 KiB each. Every worker has at most two of them.
const HALVES_MAX: usize = 4096;

/// Identifies a file whose pages are looked at, in the 64 bits an ingest hands through: its number
/// among the files of the backup, and its segment number, so that nothing is remembered per file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageTag(u64);

/// Bits for the segment: 2^24 segments of 1 GiB are more than PostgreSQL's largest relation.
const SEGMENT_BITS: u32 = 24;

impl PageTag {
    /// The tag of file number `file`, segment `segment`; `None` beyond any real relation.
    pub(super) const fn new(file: u64, segment: u32) -> Option<Self> {
        if segment >> SEGMENT_BITS != 0 || file >> (64 - SEGMENT_BITS) != 0 {
            return None;
        }
        Some(Self(file << SEGMENT_BITS | segment as u64))
    }

    pub(super) const fn as_u64(self) -> u64 {
        self.0
    }

    const fn file(self) -> u64 {
        self.0 >> SEGMENT_BITS
    }

    /// The relation's block number of the page at `offset` of the file.
    const fn block(self, offset: u64) -> u32 {
        let segment = (self.0 & ((1 << SEGMENT_BITS) - 1)) as u32;
        let page = (offset / PAGE_SIZE_BYTES as u64) as u32;
        segment.wrapping_mul(RELATION_SEGMENT_PAGES).wrapping_add(page)
    }
}

/// A page that does not agree with its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadPage {
    /// The file's number among the files of the backup.
    pub(super) file: u64,
    pub(super) problem: PageProblem,
}

/// Looks at pages and remembers the bad ones.
#[derive(Default)]
pub(super) struct PageChecker {
    /// 0 while it is not known.
    start_lsn: AtomicU64,
    /// Pages changed before the backup began, or of which that is not known: nothing excuses them.
    older: Mutex<Gathered>,
    /// Pages that recovery may rewrite. Kept apart, so that many of them cannot crowd out the others.
    newer: Mutex<Gathered>,
    halves: Mutex<HashMap<(u64, u64), Half>>,
}

/// The first bad pages, and the number of all.
#[derive(Default)]
struct Gathered {
    first: Vec<BadPage>,
    total: u64,
}

impl Gathered {
    fn add(&mut self, page: BadPage) {
        self.total += 1;
        if self.first.len() < FINDINGS_MAX {
            self.first.push(page);
        }
    }
}

/// The part of a page that has come.
struct Half {
    page: Box<Page>,
    filled: usize,
}

impl PageChecker {
    /// Tells where the backup began.
    pub(super) fn start_lsn_is(&self, lsn: Lsn) {
        self.start_lsn.store(lsn.as_u64(), Ordering::Relaxed);
    }

    /// Begins anew: what was seen was of a backup that came to nothing.
    pub(super) fn forget(&self) {
        self.start_lsn.store(0, Ordering::Relaxed);
        *lock(&self.older) = Gathered::default();
        *lock(&self.newer) = Gathered::default();
        lock(&self.halves).clear();
    }

    /// The verdict: bad pages that recovery will not repair, and how many there are in all.
    ///
    /// A page excuses itself by a position within the backup. One from beyond its end is not
    /// believed: no page of the backup can be newer than that.
    pub(super) fn judge(&self, facts: &PostgresFacts) -> (Vec<BadPage>, u64) {
        if facts.data_checksums != Some(true) {
            return (Vec::new(), 0);
        }
        let replayed = |page: &BadPage| {
            page.problem.is_replayed_from(facts.start_lsn)
                && facts.stop_lsn.is_none_or(|stop| page.problem.lsn <= stop)
        };
        let (mut judged, mut total) = (Vec::new(), 0);
        for gathered in [&self.older, &self.newer] {
            let mut gathered = std::mem::take(&mut *lock(gathered));
            let before = gathered.first.len() as u64;
            gathered.first.retain(|page| !replayed(page));
            let beyond = gathered.total - before;
            // Those beyond the list are judged as the list was.
            if !gathered.first.is_empty() {
                total += gathered.first.len() as u64 + beyond;
            }
            judged.extend(gathered.first);
        }
        judged.sort_by_key(|page| (page.file, page.problem.block));
        judged.truncate(FINDINGS_MAX);
        (judged, total)
    }

    fn page(&self, tag: PageTag, offset: u64, page: &Page) {
        let PageVerdict::Suspect(problem) = check_page(page, tag.block(offset)) else { return };
        let start = self.start_lsn.load(Ordering::Relaxed);
        let newer = start != 0 && problem.lsn.as_u64() >= start;
        let gathered = if newer { &self.newer } else { &self.older };
        lock(gathered).add(BadPage { file: tag.file(), problem });
    }

    /// Adds a piece of a page; looks at it when it is whole.
    fn piece(&self, tag: PageTag, offset: u64, piece: &[u8]) {
        let within = (offset % PAGE_SIZE_BYTES as u64) as usize;
        let page_offset = offset - within as u64;
        let mut halves = lock(&self.halves);
        if halves.len() >= HALVES_MAX && !halves.contains_key(&(tag.0, page_offset)) {
            // Only ends of odd-sized files pile up here: none of them is a whole page.
            halves.clear();
        }
        let half = halves
            .entry((tag.0, page_offset))
            .or_insert_with(|| Half { page: Box::new([0; PAGE_SIZE_BYTES]), filled: 0 });
        if let Some(room) = half.page.get_mut(within..within + piece.len()) {
            room.copy_from_slice(piece);
            half.filled += piece.len();
        }
        if half.filled == PAGE_SIZE_BYTES
            && let Some(whole) = halves.remove(&(tag.0, page_offset))
        {
            drop(halves);
            self.page(tag, page_offset, &whole.page);
        }
    }
}

impl Inspector for PageChecker {
    fn inspect(&self, tag: u64, offset: u64, chunk: &[u8]) {
        let tag = PageTag(tag);
        let (mut offset, mut rest) = (offset, chunk);
        while !rest.is_empty() {
            let within = (offset % PAGE_SIZE_BYTES as u64) as usize;
            let (piece, after) = rest.split_at(rest.len().min(PAGE_SIZE_BYTES - within));
            match piece.as_array::<PAGE_SIZE_BYTES>() {
                Some(page) => self.page(tag, offset, page),
                None => self.piece(tag, offset, piece),
            }
            offset += piece.len() as u64;
            rest = after;
        }
    }
}

/// Puts bad pages into words, with the paths of their files: one more pass over the manifest, which
/// only a damaged cluster costs.
pub(super) async fn report(
    reader: &Reader,
    manifest: &Content,
    bad: &[BadPage],
    total: u64,
    findings: &mut Findings,
) -> Result<()> {
    if total == 0 {
        return Ok(());
    }
    let mut rest = bad;
    let mut entries = reader.manifest(manifest);
    let (mut number, mut prefix) = (0, PathBuf::new());
    while let (Some(next), Some(entry)) = (rest.first(), entries.next().await?) {
        match entry {
            Entry::Archive(header) => prefix = prefix_of(&header.kind),
            Entry::File(file) => {
                if next.file == number {
                    let path = prefix.join(String::from_utf8_lossy(&file.meta.path).as_ref());
                    let of_file = rest.iter().take_while(|page| page.file == number).count();
                    for page in rest.iter().take(of_file) {
                        findings.add(|| format!("{}: {}", path.display(), page.problem));
                    }
                    rest = rest.get(of_file..).unwrap_or_default();
                }
                number += 1;
            }
            _ => {}
        }
    }
    findings.total += total.saturating_sub(bad.len() as u64);
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
