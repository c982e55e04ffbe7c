//! The error of everything that touches PostgreSQL: one enum, each variant one kind of failure.

use std::io;

use capy_types::ErrorKind;

use crate::backup_manifest::ManifestError;
use crate::control::ControlError;
use crate::label::LabelError;
use crate::recovery::RecoveryPlanError;
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
    /// A recovery that cannot be.
    #[error(transparent)]
    Recovery(#[from] RecoveryPlanError),
    /// The entries of a `pg_wal.tar` do not fit into the base archive, or a file of a data directory
    /// has no form in a tar.
    #[error("{what}: {source}")]
    WalTar {
        /// The file or directory.
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
    /// A directory that is not the one the server works on.
    #[error("not the data directory of the server: {path}: {problem}")]
    NotTheServersDirectory {
        /// The directory.
        path: String,
        /// What shows it.
        problem: String,
    },
    /// WAL that a backup needs was removed while it was taken.
    #[error("WAL segment {segment}, which the backup needs, is gone from pg_wal")]
    WalRemoved {
        /// Its name.
        segment: String,
    },
    /// What a standby follows went over to another timeline in the middle of a backup.
    #[error("the standby went over to timeline {timeline} in the middle of the backup")]
    TimelineChanged {
        /// The new timeline.
        timeline: u32,
    },
    /// A connection string that makes no sense.
    #[error("connection settings: {problem}")]
    Conninfo {
        /// One fact; never a password.
        problem: String,
    },
    /// No connection could be made.
    #[error("cannot connect to {host}: {source}")]
    Connect {
        /// The host and port, or the socket.
        host: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("lost the connection to {host}: {source}")]
    ConnectionLost {
        /// The host and port, or the socket.
        host: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// TLS did not come about.
    #[error("TLS: {problem}")]
    Tls {
        /// One fact.
        problem: String,
    },
    /// The server refused or failed.
    #[error("the server says: {0}")]
    Server(Box<ServerError>),
    /// Plain SQL failed.
    #[error("{host}: {}", in_full(source))]
    Sql {
        /// The host and port, or the socket.
        host: String,
        /// What happened.
        source: tokio_postgres::Error,
    },
    /// The server does not speak as it should.
    #[error("protocol: {what}")]
    Protocol {
        /// One fact.
        what: String,
    },
    /// A server of a kind that is not supported.
    #[error("{what} is not supported: {advice}")]
    Unsupported {
        /// What was found.
        what: String,
        /// What would do.
        advice: &'static str,
    },
}

/// What a server says when it refuses or fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// Its SQLSTATE.
    pub code: String,
    /// Its message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ServerError {
    /// Whether it refuses the role, or the server itself comes or goes: asking for something else
    /// would not help.
    pub(crate) fn is_about_access(&self) -> bool {
        matches!(kind_of(&self.code), ErrorKind::Denied | ErrorKind::Unavailable)
    }

    /// Reads the fields of an error or notice: a type byte and a text, each ended by zero.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let mut error = Self { code: String::new(), message: String::new(), detail: None, hint: None };
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }

    /// An error in the server's terms that we noticed ourselves.
    pub(crate) fn local(code: &str, message: &str, hint: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_owned(), detail: None, hint: Some(hint.to_owned()) }
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        self.detail.iter().try_for_each(|detail| write!(f, ": {detail}"))?;
        self.hint.iter().try_for_each(|hint| write!(f, ": {hint}"))
    }
}

impl PostgresError {
    pub(crate) fn protocol(what: String) -> Self {
        Self::Protocol { what }
    }

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
            Self::Recovery(source) => source.kind(),
            Self::WalTar { .. } | Self::Conninfo { .. } | Self::Unsupported { .. } => ErrorKind::Invalid,
            Self::Connect { .. }
            | Self::ConnectionLost { .. }
            | Self::WalRemoved { .. }
            | Self::TimelineChanged { .. } => ErrorKind::Unavailable,
            Self::Tls { .. } => ErrorKind::Denied,
            Self::Protocol { .. } => ErrorKind::Corrupt,
            Self::Sql { source, .. } => {
                source.code().map_or(ErrorKind::Unavailable, |code| kind_of(code.code()))
            }
            Self::Server(error) => kind_of(&error.code),
            Self::Empty { .. }
            | Self::Compressed { .. }
            | Self::NotATarDirectory { .. }
            | Self::NotTheServersDirectory { .. } => ErrorKind::Invalid,
        }
    }
}

/// What happened, of which `tokio_postgres` itself shows no more than "db error".
fn in_full(error: &tokio_postgres::Error) -> String {
    let Some(refused) = error.as_db_error() else {
        return std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |s| format!("{error}: {s}"));
    };
    let said = ServerError {
        code: refused.code().code().to_owned(),
        message: refused.message().to_owned(),
        detail: refused.detail().map(str::to_owned),
        hint: refused.hint().map(str::to_owned),
    };
    format!("the server says: {said}")
}

/// Which next step an SQLSTATE asks for.
fn kind_of(code: &str) -> ErrorKind {
    match code.get(..2) {
        // Invalid authorization, insufficient privilege.
        Some("28") => ErrorKind::Denied,
        _ if code == "42501" => ErrorKind::Denied,
        // WAL or a file that was removed: waiting does not bring it back.
        _ if code == "58P01" => ErrorKind::NotFound,
        // Connection trouble, too many connections, shutting down, starting up.
        Some("08" | "53" | "57" | "58") => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    }
}
