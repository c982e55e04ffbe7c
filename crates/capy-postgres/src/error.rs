//! The error of everything that touches PostgreSQL: one enum, each variant one kind of failure.

use std::io;

use capy_types::ErrorKind;

/// Anything that can go wrong between PostgreSQL and the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// A file or pipe could not be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// The file, directory or `standard input`.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The input ended before its first byte.
    #[error("no data in {what}: did pg_basebackup fail?")]
    Empty {
        /// The file or `standard input`.
        what: String,
    },
    /// The input is compressed; only plain tar deduplicates.
    #[error("{what} is compressed with {format}: pass plain tar, for example `{advice}`")]
    Compressed {
        /// The file or `standard input`.
        what: String,
        /// `gzip`, `zstd`, `lz4`, `bzip2` or `xz`.
        format: &'static str,
        /// A command that makes it plain.
        advice: String,
    },
    /// A directory does not look like what `pg_basebackup -Ft -D` writes.
    #[error("not a directory of base backup tars: {path}: {problem}")]
    NotATarDirectory {
        /// The directory.
        path: String,
        /// What is missing or in the way.
        problem: String,
    },
}

impl PostgresError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Unavailable,
            },
            Self::Empty { .. } | Self::Compressed { .. } | Self::NotATarDirectory { .. } => {
                ErrorKind::Invalid
            }
        }
    }
}
