//! How much the cache may take: counted when first written to, added up since, and counted again from
//! time to time, because other processes write to the same directory.
//!
//! Invariants: nothing is written beyond the bound as far as this process knows, and no more than a
//! tenth of it is written between two counts; what was used longest ago goes first, down to nine tenths,
//! so that a count is paid once for a tenth of the bound; only files of the cache's own names are
//! counted or removed, whatever else lies in the directory.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// What the cache's directories of single repositories begin with.
pub(super) const DIRECTORY_PREFIX: &str = "capy-store-";
/// What its files end with: blocks, and blocks in the making.
pub(super) const BLOCK_SUFFIX: &str = ".block";
pub(super) const TEMPORARY_SUFFIX: &str = ".block-tmp";
/// What a file takes beside its bytes is at most the rest of a page of the file system.
const PAGE_BYTES: u64 = 4096;

/// The bound, and what is known to be there.
#[derive(Debug)]
pub(super) struct Room {
    max_bytes: u64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Bytes there at the last count and since; `None` before the first.
    bytes: Option<u64>,
    /// Bytes written since the last count.
    since: u64,
}

impl Room {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, held: Mutex::default() }
    }

    /// Makes sure that a file of `bytes` can be written below `root`, removing others if need be;
    /// `false` when there is no room for it.
    pub(super) fn make(&self, root: &Path, bytes: u64) -> io::Result<bool> {
        let bytes = on_disk(bytes);
        let tenth = self.max_bytes / 10;
        if bytes > self.max_bytes - tenth {
            return Ok(false);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let known = held.bytes.filter(|there| there + bytes <= self.max_bytes && held.since + bytes <= tenth);
        let there = match known {
            Some(there) => there,
            None => {
                held.since = 0;
                self.count(root, bytes)?
            }
        };
        held.bytes = Some(there);
        if there + bytes > self.max_bytes {
            return Ok(false);
        }
        held.bytes = Some(there + bytes);
        held.since += bytes;
        Ok(true)
    }

    /// Counts what is there and, when `wanted` bytes more are too many, removes what was not used for
    /// longest. Two passes: 24 bytes of memory for each file, however long the names are.
    fn count(&self, root: &Path, wanted: u64) -> io::Result<u64> {
        let (mut files, mut there) = (Vec::new(), 0);
        for_each_file(root, |_, facts| {
            files.push((used(facts), on_disk(facts.len())));
            there += on_disk(facts.len());
        })?;
        if there + wanted <= self.max_bytes {
            return Ok(there);
        }
        let target = (self.max_bytes - self.max_bytes / 10).saturating_sub(wanted);
        files.sort_unstable();
        let mut left = there;
        let oldest = files.iter().take_while(|(_, bytes)| {
            let goes = left > target;
            left = left.saturating_sub(*bytes);
            goes
        });
        let Some(newest_to_go) = oldest.map(|(used, _)| *used).last() else { return Ok(there) };
        for_each_file(root, |entry, facts| {
            if there > target && used(facts) <= newest_to_go && fs::remove_file(entry.path()).is_ok() {
                there = there.saturating_sub(on_disk(facts.len()));
            }
        })?;
        Ok(there)
    }
}

fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

/// When a file was last used: whoever reads a block sets its time of change.
fn used(facts: &Metadata) -> SystemTime {
    facts.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Shows every file of the cache below `root`; what goes away meanwhile is passed over.
fn for_each_file(root: &Path, mut each: impl FnMut(&DirEntry, &Metadata)) -> io::Result<()> {
    for directory in entries(root)? {
        let named = directory.file_name().to_str().is_some_and(|name| name.starts_with(DIRECTORY_PREFIX));
        if !named || !directory.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for entry in entries(&directory.path())? {
            let name = entry.file_name();
            let own =
                name.to_str().is_some_and(|n| n.ends_with(BLOCK_SUFFIX) || n.ends_with(TEMPORARY_SUFFIX));
            if let Some(facts) = entry.metadata().ok().filter(|facts| own && facts.is_file()) {
                each(&entry, &facts);
            }
        }
    }
    Ok(())
}

/// The entries of a directory; none where there is no directory.
fn entries(directory: &Path) -> io::Result<impl Iterator<Item = DirEntry>> {
    let listed = match fs::read_dir(directory) {
        Ok(listed) => Some(listed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(listed.into_iter().flatten().map_while(Result::ok))
}
