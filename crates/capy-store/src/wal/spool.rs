//! Asynchronous push: archive_command hands over to a worker that is ahead of it.
//!
//! The server calls one process per file and waits for it. With a spool that process opens no
//! repository: it looks for the worker's word that this very file is durable ([`Spool::push`]),
//! which is there already when the worker was ahead, and takes it away. The worker
//! ([`SpoolWorker`]) reads which files the server waits to have archived, uploads several at once,
//! and leaves its word for each.
//!
//! What lies in `DIR/<cluster>/`, a directory of the server's user alone:
//!
//! | file | by | says |
//! |---|---|---|
//! | `lock` | worker | held while one runs; who it is |
//! | `FILE.ask` | push | the server waits for this file now |
//! | `FILE.ok` | worker | this file, known by [`SourceId`], is durable in that repository |
//! | `FILE.error` | worker | it could not be archived, why, and how often it was tried |
//! | `worker.log` | worker | what went wrong, with times |
//!
//! Invariants: an `ok` is written only after [`push_wal`](crate::Repository::push_wal)'s work was
//! done and the repository was seen to be still the one that was opened; it is believed only for
//! the file whose device, inode, size, time and first bytes it names, and for the repository it
//! names. Everything here may be lost at any moment: a file is then archived once more, which finds
//! it there. Nothing in the server's directory is changed.

mod note;
mod queue;
mod source;
mod status;
#[cfg(test)]
mod tests;
mod upload;
mod wait;
mod worker;

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use capy_types::{ClusterName, ErrorKind, Timestamp, WalFile};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;

use crate::{Error, Location, Result};

use note::{Acknowledgement, Failure, Holder};
pub(super) use note::{is_at, open_lock};
use source::SourceId;
pub(super) use status::free_bytes;
pub use status::{
    ArchiveStatus, SegmentRates, ServerWal, SpoolStatus, TimelineStatus, WaitingWal, WalStatus,
    WalStatusOptions, wal_status,
};
pub use worker::{SpoolEnd, SpoolOptions, SpoolReport, SpoolWorker};

/// Where [`Spool::push`] and the worker of one cluster meet.
#[derive(Debug, Clone)]
pub struct Spool {
    /// `DIR/<cluster>`.
    directory: PathBuf,
    cluster: ClusterName,
    /// The repository, as far as it can be named without opening it.
    place: String,
}

/// Why a file could not be archived, as a worker leaves it for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolFault {
    /// The class of failure.
    pub kind: ErrorKind,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A file that could not be archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailingWal {
    /// The file.
    pub file: WalFile,
    /// The class of failure.
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// How often it was tried since it last succeeded or the worker started.
    pub attempts: u32,
    /// When it first failed.
    pub since: Timestamp,
    /// When it last failed.
    pub at: Timestamp,
}

/// What a note about a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ask,
    Ok,
    Error,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Ask, Self::Ok, Self::Error];

    const fn suffix(self) -> &'static str {
        match self {
            Self::Ask => ".ask",
            Self::Ok => ".ok",
            Self::Error => ".error",
        }
    }
}

impl SpoolFault {
    /// A fault in words.
    pub fn new(kind: ErrorKind, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { kind, message: message.into(), hint }
    }
}

impl From<&Error> for SpoolFault {
    fn from(error: &Error) -> Self {
        Self::new(error.kind(), error.chain(), error.hint().map(str::to_owned))
    }
}

impl From<SpoolFault> for Error {
    fn from(fault: SpoolFault) -> Self {
        let error = Self::new(fault.kind, fault.message);
        match fault.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

impl Spool {
    /// The spool of `cluster` in `directory`, for the repository at `location`. The directory is
    /// made if it is not there.
    ///
    /// # Errors
    /// `Denied`, `Unavailable` when it cannot be made.
    pub fn open(directory: impl AsRef<Path>, cluster: &ClusterName, location: &Location) -> Result<Self> {
        let directory = directory.as_ref().join(cluster.as_str());
        let failed = |error| Error::io(format!("make the spool {}", directory.display()), error);
        let directory = std::path::absolute(&directory).map_err(failed)?;
        let failed = |error| Error::io(format!("make the spool {}", directory.display()), error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        Ok(Self { directory, cluster: cluster.clone(), place: place(location) })
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a worker's log goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("worker.log")
    }

    /// Whether a worker runs: it holds the lock.
    ///
    /// # Errors
    /// When the lock cannot be asked for.
    pub fn has_worker(&self) -> Result<bool> {
        let lock = self.lock_file()?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            // Held for a moment only: a worker that starts now tries for longer than that.
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(self.failed("ask for the lock of", error.into())),
        }
    }

    /// The files that could not be archived.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn failing(&self) -> Result<Vec<FailingWal>> {
        let mut failing = Vec::new();
        for file in self.noted(Kind::Error)? {
            let Some(note) = self.read_failure(&file) else { continue };
            let Failure { kind, message, hint, attempts, since, at, .. } = note;
            failing.push(FailingWal { file, kind, message, hint, attempts, since, at });
        }
        failing.sort_by(|a, b| queue::order(&a.file, &b.file));
        Ok(failing)
    }

    /// Tells everybody who waits now that nothing can be archived.
    ///
    /// # Errors
    /// When the spool cannot be written.
    pub fn refuse_all(&self, fault: &SpoolFault, now: Timestamp) -> Result<()> {
        for file in self.noted(Kind::Ask)? {
            self.write_failure(&file, &Failure::of(self, fault, None, 1, now))?;
            self.forget(&file, Kind::Ask);
        }
        Ok(())
    }

    fn lock_file(&self) -> Result<File> {
        open_lock(&self.lock_path()).map_err(|error| self.failed("open the lock of", error))
    }

    fn lock_path(&self) -> PathBuf {
        self.directory.join("lock")
    }

    fn note(&self, file: &WalFile, kind: Kind) -> PathBuf {
        self.directory.join(format!("{file}{}", kind.suffix()))
    }

    /// The files of which there is a note of this kind.
    fn noted(&self, kind: Kind) -> Result<Vec<WalFile>> {
        Ok(self.notes()?.into_iter().filter(|(_, found)| *found == kind).map(|(file, _)| file).collect())
    }

    /// All notes. Whatever else lies in the directory is passed over.
    fn notes(&self) -> Result<Vec<(WalFile, Kind)>> {
        let failed = |error| self.failed("read", error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            let note = Kind::ALL
                .into_iter()
                .find_map(|kind| Some((name.strip_suffix(kind.suffix())?.parse::<WalFile>().ok()?, kind)));
            found.extend(note);
        }
        Ok(found)
    }

    /// Removes a note; one that is gone is fine.
    fn forget(&self, file: &WalFile, kind: Kind) {
        let path = self.note(file, kind);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a note");
        }
    }

    fn failed(&self, doing: &str, error: std::io::Error) -> Error {
        Error::io(format!("{doing} the spool {}", self.directory.display()), error)
    }
}

/// The repository in words that are the same for everybody who means it, without secrets.
pub(super) fn place(location: &Location) -> String {
    let url = location.url();
    let url = match url.split_once("://") {
        Some(("file", path)) => path.to_owned(),
        Some(_) => url.to_owned(),
        None => std::path::absolute(url).map_or_else(|_| url.to_owned(), |path| path.display().to_string()),
    };
    match &location.store.endpoint {
        Some(endpoint) => format!("{url} at {endpoint}"),
        None => url,
    }
}

/// The directory of the server's that holds `path`, by its one name.
pub(super) fn server_directory(path: &Path) -> Result<PathBuf> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::canonicalize(parent).map_err(|error| Error::io(format!("find {}", parent.display()), error))
}
