//! Documents: the small JSON objects of a repository. Unknown fields are ignored on reading, so
//! that a later program of the same format version may add some.

mod backup;
mod config;
mod root;
mod slot;

pub use backup::{
    BackupKind, BackupRecord, BackupState, Collation, ManifestCheck, PostgresFacts, Stats, Tablespace,
};
pub use config::{ChunkingPolicy, Config};
pub use root::{BackupEntry, Root, SessionEntry, Tombstone, Verification, VerificationState};
pub use slot::{KdfParams, KeySlot, KeySlotKind, WrappedKey};

use serde::de::DeserializeOwned;

use crate::FormatError;

fn from_json<T: DeserializeOwned>(object: &str, json: &[u8]) -> Result<T, FormatError> {
    serde_json::from_slice(json).map_err(|error| {
        // The document is one line: the column is the offset in the plaintext.
        FormatError::value(object, error.column(), format!("not the document it should be: {error}"))
    })
}
