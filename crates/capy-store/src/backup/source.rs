//! What a backup is taken of.
//!
//! Contained by: the backup. Nothing is opened here: files, connections and standard input are
//! touched when the backup starts.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use capy_format::BackupKind;
use capy_postgres::Source;
use capy_postgres::source::{StreamSource, TarSource};
use capy_types::Ctx;

use super::postgres::PostgresSource;
use crate::Result;

/// What a backup is taken of.
///
/// The three kinds: a running server ([`postgres`](Self::postgres)), tars as `pg_basebackup -Ft`
/// writes them ([`tar`](Self::tar) and its relatives), and any bytes under one name
/// ([`stream`](Self::stream)).
pub struct BackupSource(Kind);

enum Kind {
    Postgres(Box<PostgresSource>),
    Tar(PathBuf),
    TarStdin,
    TarReader(Box<dyn Read + Send>),
    StreamStdin(String),
    Stream(String, Box<dyn Read + Send>),
}

impl BackupSource {
    /// A running server, over its replication protocol or by its files.
    #[must_use]
    pub fn postgres(source: PostgresSource) -> Self {
        Self(Kind::Postgres(Box::new(source)))
    }

    /// A tar file, or a directory of tars as `pg_basebackup -Ft -D dir` writes it.
    pub fn tar(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Tar(path.into()))
    }

    /// A tar on standard input, as `pg_basebackup -Ft -D -` writes it.
    #[must_use]
    pub const fn tar_stdin() -> Self {
        Self(Kind::TarStdin)
    }

    /// A tar from a reader, which is read on a thread of its own.
    pub fn tar_reader(reader: impl Read + Send + 'static) -> Self {
        Self(Kind::TarReader(Box::new(reader)))
    }

    /// Any bytes on standard input, stored as one file of this name.
    pub fn stream_stdin(name: impl Into<String>) -> Self {
        Self(Kind::StreamStdin(name.into()))
    }

    /// Any bytes from a reader, stored as one file of this name.
    pub fn stream(name: impl Into<String>, reader: impl Read + Send + 'static) -> Self {
        Self(Kind::Stream(name.into(), Box::new(reader)))
    }

    /// What a backup of it is.
    pub(super) const fn kind(&self) -> BackupKind {
        match &self.0 {
            Kind::Postgres(_) | Kind::Tar(_) | Kind::TarStdin | Kind::TarReader(_) => BackupKind::Base,
            Kind::StreamStdin(_) | Kind::Stream(..) => BackupKind::Stream,
        }
    }

    /// The server, if it is one.
    pub(super) const fn server(&self) -> Option<&PostgresSource> {
        match &self.0 {
            Kind::Postgres(source) => Some(source),
            _ => None,
        }
    }

    /// Opens it. `check_pages`: whether the pages will be checked.
    pub(super) async fn open(self, ctx: &Ctx, check_pages: bool) -> Result<Source> {
        Ok(match self.0 {
            Kind::Postgres(source) => source.open(ctx, check_pages, None).await?,
            Kind::Tar(path) => Source::Tar(TarSource::open(&path)?),
            Kind::TarStdin => Source::Tar(TarSource::from_stdin()?),
            Kind::TarReader(reader) => Source::Tar(TarSource::from_reader(reader, "the tar")),
            Kind::StreamStdin(name) => Source::Stream(StreamSource::from_stdin(name)?),
            Kind::Stream(name, reader) => Source::Stream(StreamSource::from_reader(reader, name)?),
        })
    }
}

impl fmt::Debug for BackupSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Postgres(_) => "BackupSource::Postgres",
            Kind::Tar(_) | Kind::TarStdin | Kind::TarReader(_) => "BackupSource::Tar",
            Kind::StreamStdin(_) | Kind::Stream(..) => "BackupSource::Stream",
        })
    }
}
