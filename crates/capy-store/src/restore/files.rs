//! The files of a restore: written in any order from many threads, each proven before it counts.
//!
//! Contained by: the restore, as the sink of the repository's bulk read.
//! Invariants: a file is created exactly once, by the first of its chunks, and never follows a
//! link; only bytes whose chunk id matched are written; a file gets its mode and owner only once
//! its length and whole checksum matched. Open handles and remembered files are bounded by the
//! bulk read's window.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use capy_repo::{Defect, FileSink};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::durable::begin_write_back;
use crate::report::Findings;

/// Handles kept open for files of more than one chunk: far below the usual limit of 1024.
const HANDLES_MAX: usize = 256;

/// Bytes of one file after which the disk is asked to begin: long enough to be written in few pieces,
/// and of a gigabyte only a hundredth is left for the flush at the end.
const WRITE_BACK_BYTES: u64 = 8 << 20;

/// Files from this length on in bytes have their room taken before they are written: shorter ones come
/// in one range, and so at once.
const RESERVED_MIN_BYTES: u64 = 4 << 20;

/// Mode of a file while it is being written: its owner's alone.
const WRITING_MODE: u32 = 0o600;

/// A file on its way.
struct Pending {
    path: PathBuf,
    mode: u32,
    length: u64,
    /// Created by the first chunk; taken by the finish.
    handle: Mutex<Handle>,
    unsent: Mutex<Unsent>,
}

/// What was written to a file since the disk was last asked to begin.
#[derive(Default)]
struct Unsent {
    bytes: u64,
    /// The part of the file in which those bytes are.
    part: Option<Range<u64>>,
}

impl Unsent {
    /// Adds a write; hands out the part to be sent when it is worth it.
    fn add(&mut self, offset: u64, length: u64) -> Option<Range<u64>> {
        let end = offset + length;
        self.part = Some(self.part.take().map_or(offset..end, |p| p.start.min(offset)..p.end.max(end)));
        self.bytes += length;
        if self.bytes < WRITE_BACK_BYTES {
            return None;
        }
        self.bytes = 0;
        self.part.take()
    }
}

enum Handle {
    NotCreated,
    Open(Arc<File>),
    /// Created, but not kept open.
    Closed,
}

/// Writes the files of a restore.
pub(crate) struct RestoredFiles {
    owner: Option<(u32, u32)>,
    pending: Mutex<HashMap<u64, Arc<Pending>>>,
    open_handles: AtomicU64,
    defects: Mutex<Findings>,
}

impl RestoredFiles {
    pub(crate) fn new(owner: Option<(u32, u32)>) -> Self {
        Self { owner, pending: Mutex::default(), open_handles: AtomicU64::new(0), defects: Mutex::default() }
    }

    /// Announces a file, before its first chunk is asked for.
    pub(crate) fn announce(&self, file: u64, path: PathBuf, mode: u32, length: u64) {
        let pending =
            Pending { path, mode, length, handle: Mutex::new(Handle::NotCreated), unsent: Mutex::default() };
        lock(&self.pending).insert(file, Arc::new(pending));
    }

    /// What could not be restored.
    pub(crate) fn take_defects(&self) -> Findings {
        std::mem::take(&mut *lock(&self.defects))
    }

    fn pending(&self, file: u64) -> io::Result<Arc<Pending>> {
        let found = lock(&self.pending).get(&file).map(Arc::clone);
        found.ok_or_else(|| io::Error::other("a file that was not announced"))
    }

    /// The handle to write through: a kept one, or one for this write only.
    fn handle(&self, pending: &Pending, single_write: bool) -> io::Result<Arc<File>> {
        let mut handle = lock(&pending.handle);
        let file = match &*handle {
            Handle::Open(file) => return Ok(Arc::clone(file)),
            Handle::NotCreated => {
                let file = create(&pending.path)?;
                reserve(&file, pending.length)?;
                Arc::new(file)
            }
            Handle::Closed => return open_existing(&pending.path).map(Arc::new),
        };
        let keep = !single_write && self.open_handles.fetch_add(1, Ordering::Relaxed) < HANDLES_MAX as u64;
        if !single_write && !keep {
            self.open_handles.fetch_sub(1, Ordering::Relaxed);
        }
        *handle = if keep { Handle::Open(Arc::clone(&file)) } else { Handle::Closed };
        Ok(file)
    }
}

impl FileSink for RestoredFiles {
    fn write(&self, file: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let pending = self.pending(file)?;
        let single_write = offset == 0 && data.len() as u64 == pending.length;
        let handle = self.handle(&pending, single_write)?;
        handle.write_all_at(data, offset)?;
        let part = lock(&pending.unsent).add(offset, data.len() as u64);
        if let Some(part) = part {
            begin_write_back(&handle, part);
        }
        Ok(())
    }

    fn finished(&self, file: u64) -> io::Result<()> {
        let pending = self.pending(file)?;
        if pending.length == 0 {
            create(&pending.path)?;
        }
        if matches!(std::mem::replace(&mut *lock(&pending.handle), Handle::Closed), Handle::Open(_)) {
            self.open_handles.fetch_sub(1, Ordering::Relaxed);
        }
        set_mode_and_owner(&pending.path, pending.mode, self.owner)?;
        lock(&self.pending).remove(&file);
        Ok(())
    }

    fn defect(&self, file: u64, defect: Defect) {
        let path = self.describe(file);
        lock(&self.defects).add(|| format!("{path}: {defect}"));
    }

    fn describe(&self, file: u64) -> String {
        self.pending(file).map_or_else(|_| format!("file {file}"), |p| p.path.display().to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data under these locks is whole after every statement: a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates a file that must not exist, and must not be a link.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(WRITING_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::Error::new(
                error.kind(),
                "it exists already: it is in the backup twice, or somebody else writes here",
            ),
            _ => error,
        })
}

/// Takes room for a file whose parts come in any order, so that they lie side by side, and a full disk
/// shows at once. Where a file system cannot, it is written without.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    if length < RESERVED_MIN_BYTES {
        return Ok(());
    }
    // The size stays what was written.
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error.into()),
        _ => Ok(()),
    }
}

fn open_existing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
}

/// Gives a file, directory or link of the restore its final mode and owner.
pub(crate) fn set_mode_and_owner(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    if mode & 0o7777 != WRITING_MODE {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))?;
    }
    set_owner(path, owner)
}

/// Gives the path itself, not what it may point to, to its owner.
pub(crate) fn set_owner(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn restored(chunks: &[(u64, &[u8])], length: u64, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let files = RestoredFiles::new(None);
        files.announce(7, path.clone(), mode, length);
        for (offset, data) in chunks {
            files.write(7, *offset, data).expect("written");
        }
        files.finished(7).expect("finished");
        assert!(files.take_defects().is_empty());
        (dir, path)
    }

    #[test]
    fn chunks_in_any_order_make_the_file_and_the_mode_comes_last() {
        let (_dir, path) = restored(&[(3, b"def"), (0, b"abc")], 6, 0o640);
        assert_eq!(std::fs::read(&path).expect("read"), b"abcdef");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn an_empty_file_is_a_file() {
        let (_dir, path) = restored(&[], 0, 0o600);
        assert_eq!(path.metadata().expect("there").len(), 0);
    }

    #[test]
    fn the_disk_is_asked_to_begin_once_enough_of_a_file_was_written_in_any_order() {
        let mut unsent = Unsent::default();
        assert_eq!(unsent.add(WRITE_BACK_BYTES, WRITE_BACK_BYTES - 1), None);
        assert_eq!(unsent.add(100, 1), Some(100..2 * WRITE_BACK_BYTES - 1));
        assert_eq!(unsent.add(0, 1), None);
    }

    #[test]
    fn room_for_a_long_file_is_taken_with_its_first_part_and_its_size_is_what_was_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let probe = File::create(dir.path().join("probe")).expect("created");
        let can = rustix::fs::fallocate(&probe, FallocateFlags::KEEP_SIZE, 0, 4096).is_ok();
        let path = dir.path().join("file");
        let files = RestoredFiles::new(None);
        files.announce(1, path.clone(), 0o600, RESERVED_MIN_BYTES);
        files.write(1, 8192, b"part").expect("written");
        let facts = path.metadata().expect("there");
        assert_eq!(facts.len(), 8196);
        assert_eq!(facts.blocks() * 512 >= RESERVED_MIN_BYTES, can, "{} blocks", facts.blocks());
    }

    #[test]
    fn a_full_disk_shows_at_the_first_part() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = File::create(dir.path().join("file")).expect("created");
        let error = reserve(&file, u64::MAX >> 1).expect_err("no disk has that much");
        assert!(matches!(error.raw_os_error(), Some(27 | 28)), "too large or no room: {error}");
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").expect("written");
        let path = dir.path().join("file");
        std::os::unix::fs::symlink(&victim, &path).expect("linked");
        let files = RestoredFiles::new(None);
        files.announce(1, path, 0o600, 4);
        assert!(files.write(1, 0, b"evil").is_err());
        assert_eq!(std::fs::read(&victim).expect("read"), b"precious");
    }

    #[test]
    fn more_open_files_than_handles_still_come_out_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = RestoredFiles::new(None);
        let count = HANDLES_MAX as u64 + 50;
        for n in 0..count {
            files.announce(n, dir.path().join(n.to_string()), 0o600, 2);
            files.write(n, 1, b"b").expect("written");
        }
        for n in 0..count {
            files.write(n, 0, b"a").expect("written");
            files.finished(n).expect("finished");
            assert_eq!(std::fs::read(dir.path().join(n.to_string())).expect("read"), b"ab");
        }
        assert_eq!(files.open_handles.load(Ordering::Relaxed), 0);
    }
}
