//! The notes in a spool: small JSON files, written whole or not at all.
//!
//! Invariants: a note that cannot be read, or is about another repository, is as good as none. None is
//! flushed to disk: a crash of the machine may take it or leave it empty, and the file is then archived
//! once more, which finds it there. A flush for each would cost the worker as much as the segment's own.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use capy_types::{ErrorKind, Timestamp, WalFile};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Kind, SourceId, Spool, SpoolFault};
use crate::Result;

/// Longest note read in bytes: a few hundred in practice.
const NOTE_MAX_BYTES: u64 = 64 * 1024;
/// Longest message kept in a note, in characters, so that every note written can be read.
const MESSAGE_MAX_CHARS: usize = 4000;

/// That a file is durable in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acknowledgement {
    /// The repository.
    pub(super) place: String,
    /// The file.
    pub(super) source: SourceId,
    /// Whether it was new there.
    pub(super) new: bool,
    /// Size of its object in bytes; 0 when it was there before.
    pub(super) stored_bytes: u64,
    /// What is odd about it.
    pub(super) notices: Vec<String>,
}

/// That the server waits for a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// The repository it shall go to.
    pub(super) place: String,
    /// The directory it is in.
    pub(super) pgwal: PathBuf,
}

/// That a file could not be archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The repository.
    place: String,
    /// The file as it was; `None` when it was not even read.
    pub(super) source: Option<SourceId>,
    pub(super) kind: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) attempts: u32,
    pub(super) since: Timestamp,
    pub(super) at: Timestamp,
}

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(super) pid: u32,
    pub(super) place: String,
    pub(super) pgwal: PathBuf,
}

impl Failure {
    pub(super) fn of(
        spool: &Spool,
        fault: &SpoolFault,
        source: Option<SourceId>,
        attempts: u32,
        now: Timestamp,
    ) -> Self {
        Self {
            place: spool.place.clone(),
            source,
            kind: fault.kind.as_str().to_owned(),
            message: fault.message.chars().take(MESSAGE_MAX_CHARS).collect(),
            hint: fault.hint.as_ref().map(|hint| hint.chars().take(MESSAGE_MAX_CHARS).collect()),
            attempts,
            since: now,
            at: now,
        }
    }

    pub(super) fn fault(&self) -> SpoolFault {
        SpoolFault::new(kind_named(&self.kind), self.message.clone(), self.hint.clone())
    }
}

/// A kind by its word. An unknown one can only be a newer version's.
fn kind_named(word: &str) -> ErrorKind {
    const KINDS: [ErrorKind; 7] = [
        ErrorKind::NotFound,
        ErrorKind::Conflict,
        ErrorKind::Unavailable,
        ErrorKind::Corrupt,
        ErrorKind::Invalid,
        ErrorKind::Denied,
        ErrorKind::Cancelled,
    ];
    KINDS.into_iter().find(|kind| kind.as_str() == word).unwrap_or(ErrorKind::Internal)
}

impl Spool {
    /// The acknowledgement of a file for this repository, if there is one that can be read.
    pub(super) fn read_acknowledgement(&self, file: &WalFile) -> Option<Acknowledgement> {
        let note: Acknowledgement = read(&self.note(file, Kind::Ok))?;
        (note.place == self.place).then_some(note)
    }

    pub(super) fn write_acknowledgement(&self, file: &WalFile, note: &Acknowledgement) -> Result<()> {
        self.write(file, Kind::Ok, note)
    }

    pub(super) fn read_ask(&self, file: &WalFile) -> Option<Ask> {
        read(&self.note(file, Kind::Ask))
    }

    pub(super) fn write_ask(&self, file: &WalFile, pgwal: &Path) -> Result<()> {
        let ask = Ask { place: self.place.clone(), pgwal: pgwal.to_owned() };
        self.write(file, Kind::Ask, &ask)
    }

    pub(super) fn read_failure(&self, file: &WalFile) -> Option<Failure> {
        let note: Failure = read(&self.note(file, Kind::Error))?;
        (note.place == self.place).then_some(note)
    }

    /// Keeps when the file first failed.
    pub(super) fn write_failure(&self, file: &WalFile, note: &Failure) -> Result<()> {
        let since = self.read_failure(file).map_or(note.since, |before| before.since);
        self.write(file, Kind::Error, &Failure { since, ..note.clone() })
    }

    /// Which writing of a note this is: another one has another number or time.
    pub(super) fn stamp(&self, file: &WalFile, kind: Kind) -> Option<(u64, i64, i64)> {
        let meta = std::fs::metadata(self.note(file, kind)).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    /// Who holds the lock, as far as it says.
    pub(super) fn holder(&self) -> Option<Holder> {
        read(&self.directory.join("lock"))
    }

    fn write(&self, file: &WalFile, kind: Kind, note: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(note).expect("a note is plain data");
        let name = format!("{file}{}", kind.suffix());
        replace(&self.directory, &name, &json)
            .map_err(|error| self.failed(&format!("write {name} in"), error))
    }
}

/// `None` when there is none, or none that can be understood.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut json = Vec::new();
    File::open(path).ok()?.take(NOTE_MAX_BYTES).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}

/// Opens a lock file, which is made empty if it is not there.
pub(in crate::wal) fn open_lock(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Says in a locked file who holds it.
pub(super) fn sign(lock: &File, holder: &Holder) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let json = serde_json::to_vec(holder).expect("plain data");
    lock.set_len(0)?;
    lock.write_all_at(&json, 0)
}

/// Whether `lock` is still the file at `path`: when the directory was removed and made anew, another
/// process can hold the lock that counts.
pub(in crate::wal) fn is_at(lock: &File, path: &Path) -> bool {
    let here = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    lock.metadata().map(here).ok() == std::fs::metadata(path).map(here).ok()
}

/// Writes `directory/name` so that every process finds it whole or as it was before. Nothing is flushed:
/// after a crash of the machine it may be lost, or be there with other content.
fn replace(directory: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let ordinal = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!("{TEMPORARY}{}.{ordinal}", std::process::id()));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        std::fs::rename(&temporary, directory.join(name))
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

/// How the name of a file in the making begins.
const TEMPORARY: &str = ".new.";

/// Removes what writers left that were killed.
pub(super) fn sweep(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(writer_is_gone) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn writer_is_gone(name: &str) -> bool {
    let writer = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split('.').next()?.parse().ok());
    writer.and_then(rustix::process::Pid::from_raw).is_some_and(|writer| {
        rustix::process::test_kill_process(writer).is_err_and(|error| error == rustix::io::Errno::SRCH)
    })
}
