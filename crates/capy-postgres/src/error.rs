//! The error of everything that touches PostgreSQL: one enum, each variant one kind of failure.

use std::io;

use capy_types::ErrorKind;

use crate::backup_manifest::ManifestError;
use crate::control::ControlError;
use crate::label::LabelError;
use crate::tar::{TarError, TarWriteError};

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
    #[error("no data in {what}: did {producer} fail?")]
    Empty {
        /// The file or `standard input`.
        what: String,
        /// Who should have written it.
        producer: &'static str,
    },
    /// The input is compressed; only plain tar deduplicates.
    #[error("{what} is compressed with {format}: decompress it first (`{advice}`) or leave out --compress")]
    Compressed {
        /// The file or `standard input`.
        what: String,
        /// `gzip`, `zstd`, `lz4`, `bzip2` or `xz`.
        format: &'static str,
        /// A command that makes it plain.
        advice: &'static str,
    },
    /// A tar does not parse.
    #[error("{what}: {source}")]
    Tar {
        /// The file or `standard input`.
        what: String,
        /// What is wrong, and where.
        source: TarError,
    },
    /// A label or tablespace map does not parse.
    #[error("{what}: {source}")]
    Label {
        /// The archive it is in.
        what: String,
        /// What is wrong, and where.
        source: LabelError,
    },
    /// A backup manifest does not parse, or its own checksum is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A control file is not read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The entries of a `pg_wal.tar` do not fit into the base archive.
    #[error("{what}: {source}")]
    WalTar {
        /// The file.
        what: String,
        /// What is wrong.
        source: TarWriteError,
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
    pub(crate) fn read(what: &str, source: io::Error) -> Self {
        Self::Read { what: what.to_owned(), source }
    }

    pub(crate) fn tar(what: &str, source: TarError) -> Self {
        Self::Tar { what: what.to_owned(), source }
    }

    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Unavailable,
            },
            Self::Tar { source, .. } => source.kind(),
            Self::Label { source, .. } => source.kind(),
            Self::Manifest(source) => source.kind(),
            Self::Control(source) => source.kind(),
            Self::WalTar { .. } => ErrorKind::Invalid,
            Self::Empty { .. } | Self::Compressed { .. } | Self::NotATarDirectory { .. } => {
                ErrorKind::Invalid
            }
        }
    }
}
