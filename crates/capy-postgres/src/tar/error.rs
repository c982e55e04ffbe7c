//! Why a tar was refused, with the offset in the stream.

use capy_types::ErrorKind;

/// Bytes that are not a tar this crate reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The stream ended inside an entry.
    #[error("tar ends inside {entry} at byte {offset}: {missing_bytes} bytes are missing")]
    Truncated {
        /// The entry's path, or what part of the tar it was.
        entry: String,
        /// Bytes read.
        offset: u64,
        /// How many more the entry needs at least.
        missing_bytes: u64,
    },
    /// A header block that is none.
    #[error("not a tar header at byte {offset}: {problem}")]
    Header {
        /// Where the block begins.
        offset: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A pax record or long name that makes no sense.
    #[error("bad tar extension at byte {offset}: {problem}")]
    Extension {
        /// Where the extension's header begins.
        offset: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A hard link: PostgreSQL writes none, and restoring one would share a file's bytes.
    #[error("unsupported tar entry: {entry} at byte {offset} is a hard link")]
    HardLink {
        /// The entry's path.
        entry: String,
        /// Where its header begins.
        offset: u64,
    },
    /// A kind of entry this crate does not read.
    #[error("unsupported tar entry type {what} of {entry} at byte {offset}")]
    Unsupported {
        /// The type as written, or what it is.
        what: String,
        /// The entry's path.
        entry: String,
        /// Where its header begins.
        offset: u64,
    },
    /// Something else than zeros follows the end marker.
    #[error("data after the end of the tar at byte {offset}")]
    AfterEnd {
        /// Where the data begins.
        offset: u64,
    },
    /// Zeros without end.
    #[error("more than {limit} zero bytes after the last tar entry, at byte {offset}")]
    TrailingZeros {
        /// Bytes read.
        offset: u64,
        /// The limit.
        limit: u64,
    },
}

impl TarError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::HardLink { .. } | Self::Unsupported { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Corrupt,
        }
    }
}
