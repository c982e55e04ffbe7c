//! Sorted runs of index entries, in memory and on disk, 32 bytes an entry.
//!
//! Invariant: a run's keys ascend strictly. A disk run keeps one fence key per 4 KiB page in
//! memory, so a lookup reads one page.

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
/// Entries read at once when a disk run is merged: 256 KiB.
const BLOCK_ENTRIES: usize = 64 * PAGE_ENTRIES;

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

    /// The entries in order.
    pub(super) fn entries(&self) -> Entries<'_> {
        Box::new(self.0.iter().map(|entry| Ok(*entry)))
    }
}

/// The entries of a run in order.
pub(super) type Entries<'a> = Box<dyn Iterator<Item = Result<RunEntry, RepoError>> + 'a>;

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
    pub(super) fn get(&self, key: &Key) -> Result<Option<Location>, RepoError> {
        let wanted = fence(key);
        // The page before the first fence not below the wanted key, and on while fences allow it:
        // keys that share 64 bits may straddle a page.
        let first = self.fences.partition_point(|f| *f < wanted).saturating_sub(1);
        for page in first..self.fences.len() {
            if page > first && self.fences.get(page).is_none_or(|f| *f > wanted) {
                break;
            }
            let mut page_bytes = [0; PAGE_ENTRIES * ENTRY_BYTES];
            let from = page * PAGE_ENTRIES;
            let count = PAGE_ENTRIES.min(self.entries - from);
            let bytes = page_bytes.get_mut(..count * ENTRY_BYTES).expect("at most a page");
            let read = self.file.read_exact_at(bytes, (from * ENTRY_BYTES) as u64);
            read.map_err(local("read the spilled index"))?;
            let entries = bytes.as_chunks::<ENTRY_BYTES>().0;
            if let Ok(at) = entries.binary_search_by(|entry| entry.first_chunk::<16>().cmp(&Some(key))) {
                return Ok(entries.get(at).map(|entry| RunEntry(*entry).location()));
            }
        }
        Ok(None)
    }

    /// The entries in order, read a block at a time.
    pub(super) fn entries(&self) -> Entries<'_> {
        let blocks = (0..self.entries).step_by(BLOCK_ENTRIES).map(|from| {
            let count = BLOCK_ENTRIES.min(self.entries - from);
            let mut bytes = vec![0; count * ENTRY_BYTES];
            let read = self.file.read_exact_at(&mut bytes, (from * ENTRY_BYTES) as u64);
            read.map_err(local("read the spilled index")).map(|()| bytes)
        });
        Box::new(blocks.flat_map(|block| {
            let (failed, bytes) = match block {
                Ok(bytes) => (None, bytes),
                Err(error) => (Some(Err(error)), Vec::new()),
            };
            let count = bytes.len() / ENTRY_BYTES;
            let entry = move |n: usize| {
                let from = bytes.get(n * ENTRY_BYTES..).and_then(<[u8]>::first_chunk);
                Ok(RunEntry(*from.expect("below the count")))
            };
            failed.into_iter().chain((0..count).map(entry))
        }))
    }

    /// One run of all, oldest first, streamed; of equal keys the one in the later run stays.
    pub(super) fn merge(mut runs: Vec<Entries<'_>>, dir: &Path) -> Result<Self, RepoError> {
        let mut heads = Vec::with_capacity(runs.len());
        for run in &mut runs {
            heads.push(run.next().transpose()?);
        }
        let mut writer = DiskRunWriter::create(dir)?;
        // Few runs: looking at every head takes less than keeping them in order. Of equal ones
        // `min_by_key` gives the first.
        while let Some(least) = heads.iter().rev().flatten().min_by_key(|entry| *entry.key()).copied() {
            writer.push(&least)?;
            for (head, run) in heads.iter_mut().zip(&mut runs) {
                if head.is_some_and(|entry| entry.key() == least.key()) {
                    *head = run.next().transpose()?;
                }
            }
        }
        writer.finish()
    }
}
