//! Sorted runs of index entries, in memory and on disk, 32 bytes an entry.
//!
//! Invariant: a run's keys ascend strictly. A disk run keeps one fence key per 4 KiB page in
//! memory, so a lookup reads one page.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Key, Location};
use crate::RepoError;

/// Stored size of an entry in bytes: 16 key, 16 location.
const ENTRY_BYTES: usize = 32;
/// Entries per page of a disk run: 4 KiB.
const PAGE_ENTRIES: usize = 128;

/// One entry as kept in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunEntry([u8; ENTRY_BYTES]);

impl RunEntry {
    /// Packs the location into 126 bits: pack 32, ordinal 16, offset 26, stored length 24, length 24,
    /// flags 4. Each is bounded as [`Location`] says.
    pub(super) fn new(key: Key, location: Location) -> Self {
        let mut packed = 0;
        for (value, bits) in [
            (location.pack, 32),
            (location.ordinal, 16),
            (location.offset, 26),
            (location.stored_len, 24),
            (location.plain_len, 24),
            (u32::from(location.flags), 4),
        ] {
            debug_assert!(bits == 32 || value < 1 << bits, "{value} does not fit {bits} bits");
            packed = packed << bits | u128::from(value);
        }
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..16].copy_from_slice(&key);
        bytes[16..].copy_from_slice(&packed.to_le_bytes());
        Self(bytes)
    }

    fn key(&self) -> &Key {
        self.0.first_chunk().expect("32 bytes hold 16")
    }

    fn location(&self) -> Location {
        let mut packed = u128::from_le_bytes(*self.0.last_chunk().expect("32 bytes hold 16"));
        let mut take = |bits: u32| {
            let value = packed & ((1 << bits) - 1);
            packed >>= bits;
            u32::try_from(value).expect("at most 32 bits were kept")
        };
        let flags = u8::try_from(take(4)).expect("four bits");
        let (plain_len, stored_len, offset) = (take(24), take(24), take(26));
        Location { flags, plain_len, stored_len, offset, ordinal: take(16), pack: take(32) }
    }
}

/// A sorted run in memory.
#[derive(Debug)]
pub(super) struct MemoryRun(Vec<RunEntry>);

impl MemoryRun {
    pub(super) fn from_unsorted(mut entries: Vec<RunEntry>) -> Self {
        entries.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        Self(entries)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len() * ENTRY_BYTES
    }

    pub(super) fn get(&self, key: &Key) -> Option<Location> {
        let at = self.0.binary_search_by(|entry| entry.key().cmp(key)).ok()?;
        self.0.get(at).map(RunEntry::location)
    }

    /// One run of all; of equal keys the one in the later run stays.
    pub(super) fn merge(runs: Vec<Self>) -> Self {
        let mut all: Vec<(usize, RunEntry)> = runs
            .into_iter()
            .enumerate()
            .flat_map(|(age, run)| run.0.into_iter().map(move |entry| (age, entry)))
            .collect();
        all.sort_unstable_by(|(age_a, a), (age_b, b)| a.key().cmp(b.key()).then(age_b.cmp(age_a)));
        all.dedup_by(|(_, later), (_, kept)| later.key() == kept.key());
        Self(all.into_iter().map(|(_, entry)| entry).collect())
    }
}

/// A sorted run in an unnamed local file.
#[derive(Debug)]
pub(super) struct DiskRun {
    file: File,
    entries: usize,
    /// The first eight key bytes of every page.
    fences: Vec<u64>,
}

fn local(what: &'static str) -> impl Fn(std::io::Error) -> RepoError {
    move |source| RepoError::Local { what, source }
}

fn fence(key: &Key) -> u64 {
    u64::from_be_bytes(*key.first_chunk().expect("16 bytes hold 8"))
}

/// Writes entries in order and gathers the fences.
struct DiskRunWriter {
    out: BufWriter<File>,
    entries: usize,
    fences: Vec<u64>,
}

impl DiskRunWriter {
    fn create(dir: &Path) -> Result<Self, RepoError> {
        let file = tempfile::tempfile_in(dir).map_err(local("create the spilled index"))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), entries: 0, fences: Vec::new() })
    }

    fn push(&mut self, entry: &RunEntry) -> Result<(), RepoError> {
        if self.entries.is_multiple_of(PAGE_ENTRIES) {
            self.fences.push(fence(entry.key()));
        }
        self.entries += 1;
        self.out.write_all(&entry.0).map_err(local("write the spilled index"))
    }

    fn finish(self) -> Result<DiskRun, RepoError> {
        let file = self.out.into_inner().map_err(|e| local("write the spilled index")(e.into_error()))?;
        Ok(DiskRun { file, entries: self.entries, fences: self.fences })
    }
}

impl DiskRun {
    pub(super) fn write(run: &MemoryRun, dir: &Path) -> Result<Self, RepoError> {
        let mut writer = DiskRunWriter::create(dir)?;
        run.0.iter().try_for_each(|entry| writer.push(entry))?;
        writer.finish()
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Location>, RepoError> {
        let wanted = fence(key);
        // The page before the first fence not below the wanted key, and on while fences allow it:
        // keys that share 64 bits may straddle a page.
        let first = self.fences.partition_point(|f| *f < wanted).saturating_sub(1);
        for page in first..self.fences.len() {
            if page > first && self.fences.get(page).is_none_or(|f| *f > wanted) {
                break;
            }
            let entries = self.read_page(page)?;
            if let Ok(at) = entries.binary_search_by(|entry| entry.key().cmp(key)) {
                return Ok(entries.get(at).map(RunEntry::location));
            }
        }
        Ok(None)
    }

    fn read_page(&self, page: usize) -> Result<Vec<RunEntry>, RepoError> {
        let from = page * PAGE_ENTRIES;
        let count = PAGE_ENTRIES.min(self.entries - from);
        let mut bytes = [0; PAGE_ENTRIES * ENTRY_BYTES];
        let bytes = &mut bytes[..count * ENTRY_BYTES];
        self.file
            .read_exact_at(bytes, (from * ENTRY_BYTES) as u64)
            .map_err(local("read the spilled index"))?;
        Ok(bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(|entry| RunEntry(*entry)).collect())
    }

    /// One run of all, streamed page by page; of equal keys the one in the later run stays.
    pub(super) fn merge(runs: &[Self], dir: &Path) -> Result<Self, RepoError> {
        let mut cursors: Vec<DiskCursor<'_>> = runs.iter().map(DiskCursor::new).collect();
        let mut writer = DiskRunWriter::create(dir)?;
        loop {
            let mut best: Option<RunEntry> = None;
            for cursor in &mut cursors {
                // Later cursors win ties, as later runs hide earlier ones.
                if let Some(entry) = cursor.peek()?
                    && best.is_none_or(|b| entry.key().cmp(b.key()) != Ordering::Greater)
                {
                    best = Some(entry);
                }
            }
            let Some(entry) = best else { return writer.finish() };
            writer.push(&entry)?;
            for cursor in &mut cursors {
                if cursor.peek()?.is_some_and(|e| e.key() == entry.key()) {
                    cursor.at += 1;
                }
            }
        }
    }
}

/// Reads a disk run in order.
struct DiskCursor<'a> {
    run: &'a DiskRun,
    at: usize,
    page: Option<usize>,
    entries: Vec<RunEntry>,
}

impl<'a> DiskCursor<'a> {
    fn new(run: &'a DiskRun) -> Self {
        Self { run, at: 0, page: None, entries: Vec::new() }
    }

    fn peek(&mut self) -> Result<Option<RunEntry>, RepoError> {
        if self.at >= self.run.entries {
            return Ok(None);
        }
        let page = self.at / PAGE_ENTRIES;
        if self.page != Some(page) {
            self.entries = self.run.read_page(page)?;
            self.page = Some(page);
        }
        Ok(self.entries.get(self.at % PAGE_ENTRIES).copied())
    }
}
