//! Why a manifest was refused, with line and offset.

use capy_types::ErrorKind;

/// A manifest that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is not JSON, or not the JSON of a manifest.
    #[error("bad backup_manifest, line {line}, byte {offset}: {problem}")]
    Syntax {
        /// Line number from 1.
        line: u64,
        /// Offset in the file.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A version this program does not read.
    #[error("unsupported backup_manifest version {found}: 1 and 2 are read")]
    Version {
        /// As written.
        found: String,
    },
    /// It ends before it is complete.
    #[error("backup_manifest ends too early, at byte {offset}")]
    Truncated {
        /// Its length.
        offset: u64,
    },
    /// Its own checksum is wrong: it was changed after it was written.
    #[error("bad backup_manifest: its checksum is {found}, the content's is {expected}")]
    Checksum {
        /// As written.
        found: String,
        /// As computed.
        expected: String,
    },
}

impl ManifestError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Version { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Corrupt,
        }
    }
}
