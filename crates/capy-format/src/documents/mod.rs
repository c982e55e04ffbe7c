//! Documents: the small JSON objects of a repository.
//!
//! Unknown fields are ignored on reading, so that a later program of the same format version may
//! add some; required fields and their types are not negotiable. Invariant: a document that was
//! read has passed the same `check` that is called before it is written.

mod backup;
mod config;
mod root;
mod slot;
mod wal;

pub use backup::{
    BackupKind, BackupRecord, BackupState, Collation, ManifestCheck, PostgresFacts, Stats, Tablespace,
};
pub use config::{ChunkingPolicy, Config};
pub use root::{BackupEntry, Pin, Root, SessionEntry, Tombstone, Verification, VerificationState};
pub use slot::{KdfParams, KeySlot, KeySlotKind, WrappedKey};
pub use wal::{
    ArchiveIdentity, RestorePoint, RestorePointKind, SegmentFacts, TransactionEnd, WalEvent, WalEventKind,
    WalFacts, WalParameters,
};

use capy_types::limits::LABEL_MAX_BYTES;
use serde::de::DeserializeOwned;

use crate::FormatError;

fn from_json<T: DeserializeOwned>(object: &str, json: &[u8]) -> Result<T, FormatError> {
    serde_json::from_slice(json).map_err(|error| {
        let offset = offset_of(json, error.line(), error.column());
        // The library's message ends in a line and a column; the offset says the same.
        let message = error.to_string();
        let fact = message.split(" at line ").next().unwrap_or_default();
        FormatError::value(object, offset, format!("not the document it should be: {fact}"))
    })
}

/// The offset of a place that is given as a line, counted from 1, and bytes read of that line.
fn offset_of(json: &[u8], line: usize, column: usize) -> u64 {
    let before: usize =
        json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(json.len()) as u64
}

/// Turns what a `check` found into an error; a document's rules have no place of their own.
fn checked<T>(
    object: &str,
    document: T,
    check: impl FnOnce(&T) -> Result<(), String>,
) -> Result<T, FormatError> {
    match check(&document) {
        Ok(()) => Ok(document),
        Err(problem) => Err(FormatError::value(object, 0, problem)),
    }
}

/// Labels are for people; longer ones are refused at the door.
fn check_label(label: &str) -> Result<(), String> {
    if label.len() <= LABEL_MAX_BYTES {
        return Ok(());
    }
    Err(format!("label of {} bytes, {LABEL_MAX_BYTES} at most", label.len()))
}

#[cfg(test)]
mod tests;
