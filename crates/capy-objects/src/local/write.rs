//! How an object gets onto a local disk for good.
//!
//! 1. The directories of the name are made, and each is synced into its parent (once a process).
//! 2. The body goes to `.tmp/<pid>-<n>`, which its writer keeps locked, and is synced.
//! 3. `renameat2(NOREPLACE)` gives it its name: one step, refused when the name is taken. File
//!    systems without it get `link` and `unlink`.
//! 4. The directory is synced. Only now is the object acknowledged.
//!
//! An error before 3 removes the temporary file. A process that dies leaves it; the next writer
//! removes every temporary file whose lock is free, so none belongs to anybody alive.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::{LocalFault, make_directory, read};
use crate::StoreErrorKind;

/// Where objects are made. Hidden, so it is not listed and cannot be an object's name.
const TEMPORARY: &str = ".tmp";

/// Names tried for a temporary file. Each failure means another process of the same number, on
/// another host or long dead, holds that name.
const TEMPORARY_NAMES_TRIED: u32 = 10_000;

/// Writes objects of one local store.
#[derive(Debug)]
pub(super) struct Writer {
    next: AtomicU64,
    /// Directories known to be on disk, with all above them.
    durable: Mutex<HashSet<PathBuf>>,
    swept: Once,
    #[cfg(test)]
    pub(super) faults: super::tests::Faults,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            durable: Mutex::new(HashSet::new()),
            swept: Once::new(),
            #[cfg(test)]
            faults: super::tests::Faults::default(),
        }
    }
}

/// The steps at which the operating system may refuse; tests make each of them fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    MakeDirectories,
    CreateTemporary,
    Write,
    SyncFile,
    Rename,
    SyncDirectory,
}

impl Writer {
    pub(super) fn put_new(&self, root: &Path, name: &str, body: &[u8]) -> Result<(), LocalFault> {
        let target = root.join(name);
        let directory = target.parent().unwrap_or(root);
        self.step(Step::MakeDirectories)?;
        self.make_durable(root, directory)?;
        let temporary = self.write_temporary(root, body)?;
        self.step(Step::Rename)?;
        let taken = match temporary.rename_to(&target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_same(&target, body),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody removed the directory: it is made again by the next attempt.
                self.durable.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return Err(LocalFault::Kind(StoreErrorKind::Unavailable));
            }
            Err(error) => return Err(error.into()),
        };
        // An object of another writer, who may have died, may not have reached the disk yet either;
        // whoever finds its name taken goes by what it holds.
        self.step(Step::SyncDirectory)?;
        sync_directory(directory)?;
        taken
    }

    #[cfg_attr(not(test), expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "tests fail here"))]
    fn step(&self, step: Step) -> io::Result<()> {
        #[cfg(test)]
        self.faults.check(step)?;
        let _ = step;
        Ok(())
    }

    /// Makes `directory` and those above it up to `root`, and syncs each into its parent, also
    /// when it exists: whoever made it may have died before.
    fn make_durable(&self, root: &Path, directory: &Path) -> io::Result<()> {
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(directory) {
            return Ok(());
        }
        if directory != root {
            let parent = directory.parent().unwrap_or(root);
            self.make_durable(root, parent)?;
            make_directory(directory)?;
            sync_directory(parent)?;
        }
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_owned());
        Ok(())
    }

    fn write_temporary(&self, root: &Path, body: &[u8]) -> io::Result<Temporary> {
        let directory = root.join(TEMPORARY);
        make_directory(&directory)?;
        self.swept.call_once(|| sweep(&directory));
        self.step(Step::CreateTemporary)?;
        let mut temporary = self.create_temporary(&directory)?;
        self.step(Step::Write)?;
        // Repeats short writes, and takes one of zero bytes for an error.
        temporary.file.write_all(body)?;
        self.step(Step::SyncFile)?;
        temporary.file.sync_all()?;
        Ok(temporary)
    }

    fn create_temporary(&self, directory: &Path) -> io::Result<Temporary> {
        for _ in 0..TEMPORARY_NAMES_TRIED {
            let ordinal = self.next.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{}-{ordinal}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) if is_ours(&file)? => return Ok(Temporary { path, file, named: false }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("every name for a temporary file is taken"))
    }
}

/// Locks a new temporary file. `false` when another writer's sweep got hold of it in between.
fn is_ours(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(Errno::WOULDBLOCK) => Ok(false),
        // No locks here: then a sweep cannot lock either, and leaves the file alone.
        Err(_) => Ok(true),
    }
}

/// Removes what dead writers left. Best effort: what cannot be removed only takes space.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(file) = File::open(entry.path()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let removed = fs::remove_file(entry.path());
            tracing::debug!(path = %entry.path().display(), ok = removed.is_ok(), "swept a dead writer's file");
        }
    }
}

/// A file in the making; removed when dropped without a name.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
    named: bool,
}

impl Temporary {
    fn rename_to(mut self, target: &Path) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => self.named = true,
            // The file system does not know the flag. The old name goes when this is dropped.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => fs::hard_link(&self.path, target)?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            // Nothing more can be done here; the next writer's sweep tries again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `Ok` when the name already holds exactly `body`.
fn check_same(target: &Path, body: &[u8]) -> Result<(), LocalFault> {
    let length = body.len() as u64;
    let same = read::size(target).is_ok_and(|size| size == length) && read::whole(target, length)? == body;
    if same { Ok(()) } else { Err(LocalFault::Kind(StoreErrorKind::AlreadyExists)) }
}

/// Syncs the directory that holds `path`.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
