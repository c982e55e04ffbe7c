//! The directory of the cache: blocks of one repository's objects, each a file of its own.
//!
//! Contained by: the cache, on blocking threads. Invariants: a file appears under its name complete, by
//! a rename, and is believed only when its checksum holds, so nothing is synced; a file that is not what
//! its name says is removed; below the directory that was given no link is followed and nothing but files
//! is read, so that whoever else can write there leads nowhere and holds nobody up; whatever the directory
//! refuses is told once, after which nothing more is written, and never an error to whoever reads.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};

use super::block;
use super::room::{BLOCK_SUFFIX, DIRECTORY_PREFIX, Room, TEMPORARY_SUFFIX};

/// Longest object name whose blocks are kept: with number and suffix it stays below the 255 bytes of a
/// file name.
const NAME_MAX_BYTES: usize = 190;

/// Tells tools that copy directories that this one need not be copied: <https://bford.info/cachedir/>.
const TAG_NAME: &str = "CACHEDIR.TAG";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # Sealed parts of a capy-store repository. Safe to delete at any moment.\n";

/// Blocks of one repository.
#[derive(Debug)]
pub(super) struct Shelf {
    /// The directory as given, which other repositories may share.
    root: PathBuf,
    /// The part of it that is this repository's.
    directory: PathBuf,
    scope: String,
    room: Room,
    next: AtomicU64,
    damaged: AtomicU64,
    fault: OnceLock<String>,
    #[cfg(test)]
    pub(super) refuse_writes: std::sync::atomic::AtomicBool,
}

impl Shelf {
    pub(super) fn new(root: &Path, scope: &str, max_bytes: u64) -> Self {
        Self {
            root: root.to_owned(),
            directory: root.join(format!("{DIRECTORY_PREFIX}{scope}")),
            scope: scope.to_owned(),
            room: Room::new(max_bytes),
            next: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            fault: OnceLock::new(),
            #[cfg(test)]
            refuse_writes: false.into(),
        }
    }

    /// Why nothing more is written, if so.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Files that were not what their name says.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Names have no comma and are told apart by it; two names never share a file.
    fn path(&self, name: &str, start: u64) -> Option<PathBuf> {
        let number = start / block::BLOCK_BYTES;
        let file = format!("{},{number}{BLOCK_SUFFIX}", name.replace('/', ","));
        (name.len() <= NAME_MAX_BYTES).then(|| self.directory.join(file))
    }

    /// Fills `content` with the block of `name` that starts at `start`, if it is here and sound.
    pub(super) fn read(&self, name: &str, start: u64, content: &mut [u8]) -> bool {
        let Some(path) = self.path(name, start).filter(|_| self.check_directory().is_ok()) else {
            return false;
        };
        let Ok(file) = open(&path) else { return false };
        let head = block::head(&self.scope, name, start, content.len());
        // A file that cannot be read is as bad as one that reads wrong.
        let sound = block::read(&file, &head, content).unwrap_or(false);
        if sound {
            // What was used last stays longest. Where that cannot be noted, what came last does.
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let _ = futimens(&file, &Timestamps { last_access: omit, last_modification: now });
        } else {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            let _ = fs::remove_file(&path);
        }
        sound
    }

    /// Keeps a block, as far as there is room and the directory takes it.
    pub(super) fn write(&self, name: &str, start: u64, content: &[u8]) {
        let Some(path) = self.path(name, start).filter(|_| self.fault().is_none()) else { return };
        let head = block::head(&self.scope, name, start, content.len());
        let room = || self.room.make(&self.root, block::file_bytes(&head, content.len()));
        let outcome = match self.check_directory().and_then(|()| room()) {
            Ok(true) => self.put(&path, &head, content),
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let fault = format!("{}: {error}", self.directory.display());
            tracing::warn!("nothing more is kept in the cache, which is only slower: {fault}");
            let _ = self.fault.set(fault);
        }
    }

    /// Removes a block.
    pub(super) fn remove(&self, name: &str, start: u64) {
        if let Some(path) = self.path(name, start).filter(|_| self.check_directory().is_ok()) {
            let _ = fs::remove_file(path);
        }
    }

    /// What is in the repository's place is a directory, or nothing yet. A link there could lead to other
    /// people's files.
    fn check_directory(&self) -> io::Result<()> {
        match fs::symlink_metadata(&self.directory) {
            Ok(facts) if facts.is_dir() => Ok(()),
            Ok(_) => Err(io::Error::other("it is no directory of the cache's own")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn put(&self, path: &Path, head: &[u8], content: &[u8]) -> io::Result<()> {
        match self.try_put(path, head, content) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
        // Never made, or removed meanwhile, which anybody may do.
        self.make_directory()?;
        match self.try_put(path, head, content) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn make_directory(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        match create(&self.directory.join(TAG_NAME)) {
            Ok(mut tag) => tag.write_all(TAG.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn try_put(&self, path: &Path, head: &[u8], content: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if self.refuse_writes.load(Ordering::Relaxed) {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!("{}-{number}{TEMPORARY_SUFFIX}", std::process::id()));
        let file = match create(&temporary) {
            Ok(file) => file,
            // Left by a process of the same number: in time it goes as unused blocks do.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(error),
        };
        let done = block::write(&file, head, content).and_then(|()| fs::rename(&temporary, path));
        if done.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        done
    }
}

/// A file that is there. A link is not followed, and a pipe without a writer is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// A new file, for its owner alone.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}
