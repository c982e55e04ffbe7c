//! What can be wrong with stored bytes: always with the object and the offset.

use capy_types::ErrorKind;

/// Bytes of an object that are not what they must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {problem} (at offset {offset})")]
pub struct FormatError {
    /// The object.
    pub object: String,
    /// Where in it, in bytes; for a compressed or sealed body, in its plaintext.
    pub offset: u64,
    /// What is wrong.
    pub problem: FormatProblem,
}

/// What is wrong with stored bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatProblem {
    /// The magic is not there.
    #[error("not a capy-store object")]
    NotOurs,
    /// Written by a newer version.
    #[error("format version {found} found, this program reads up to {supported}")]
    NewerVersion {
        /// The version found.
        found: u16,
        /// The newest version this program reads.
        supported: u16,
    },
    /// Another kind of object than expected.
    #[error("an object of kind {found} found where {expected} was expected")]
    Kind {
        /// The kind expected.
        expected: &'static str,
        /// The kind found.
        found: &'static str,
    },
    /// Fewer bytes than there must be.
    #[error("truncated: {expected} bytes expected, {found} found")]
    Truncated {
        /// How many there must be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// More bytes than there must be.
    #[error("{found} bytes found where {expected} were expected")]
    TooLong {
        /// How many there must be.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A count or length beyond its limit.
    #[error("{what} of {found} is beyond the limit of {limit}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// What was found.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A value that makes no sense.
    #[error("{what}")]
    Value {
        /// One fact.
        what: String,
    },
}

impl FormatError {
    pub(crate) fn new(object: &str, offset: u64, problem: FormatProblem) -> Self {
        Self { object: object.to_owned(), offset, problem }
    }

    pub(crate) fn value(object: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::new(object, offset, FormatProblem::Value { what: what.into() })
    }

    /// `Invalid` for a newer version (another program is needed), else `Corrupt`.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self.problem {
            FormatProblem::NewerVersion { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Corrupt,
        }
    }
}
