//! A running server as the source of a backup.

use std::path::PathBuf;

use bytes::Bytes;
use capy_postgres::{
    BaseBackupOptions, ConnectSettings, LocalOptions, LocalSource, ReplicationSource, Source,
};
use capy_types::Ctx;

use crate::Result;

/// How the server's checkpoint at the start of a backup is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checkpoint {
    /// At once, with a burst of writing.
    #[default]
    Fast,
    /// Spread over time, as the server's settings say.
    Spread,
}

/// Most threads that read: each holds a buffer of 1 MiB.
const READING_THREADS_MAX: usize = 8;

/// A running server, and how to ask it for a base backup.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PostgresSource {
    settings: ConnectSettings,
    /// Include the WAL that makes the backup consistent by itself: the default. Without it,
    /// recovery needs that WAL from an archive.
    pub include_wal: bool,
    /// How the checkpoint at the start is made.
    pub checkpoint: Checkpoint,
    /// The label in `backup_label`; the server shows it while the backup runs.
    pub server_label: String,
    /// The server's data directory as this host sees it: then its files are read in their places, by
    /// several threads, between the beginning and the end of a low-level backup, instead of being
    /// sent over the replication protocol. What is stored is the same. The role needs the right to
    /// call `pg_backup_start` and `pg_backup_stop` (`pg_start_backup` and `pg_stop_backup` before
    /// 15), and this process the right to read the files.
    pub data_directory: Option<PathBuf>,
}

impl PostgresSource {
    /// Reads a connection string (`key=value` pairs or a URI) as libpq does; `variable` answers for
    /// libpq's environment variables (and `HOME` and `USER`), for the library itself never reads
    /// the environment.
    ///
    /// # Errors
    /// `Invalid` when the string, or a value it resolves to, makes no sense.
    pub fn connect_with(conninfo: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        Ok(Self {
            settings: ConnectSettings::parse(conninfo, variable)?,
            include_wal: true,
            checkpoint: Checkpoint::default(),
            server_label: "capy-store".to_owned(),
            data_directory: None,
        })
    }

    /// How to reach the server.
    pub(super) const fn settings(&self) -> &ConnectSettings {
        &self.settings
    }

    /// `check_pages`: whether the pages will be checked; then those read while they were being
    /// written are read again. `incremental_from`: the `backup_manifest` of the backup since which
    /// the changes are wanted.
    pub(super) async fn open(
        self,
        ctx: &Ctx,
        check_pages: bool,
        incremental_from: Option<Bytes>,
    ) -> Result<Source> {
        let fast_checkpoint = self.checkpoint == Checkpoint::Fast;
        Ok(match self.data_directory {
            Some(data_directory) => {
                let options = LocalOptions {
                    data_directory,
                    label: self.server_label,
                    fast_checkpoint,
                    include_wal: self.include_wal,
                    check_pages,
                    threads: reading_threads(),
                };
                Source::Local(Box::new(LocalSource::start(ctx, &self.settings, &options).await?))
            }
            None => {
                let options = BaseBackupOptions {
                    label: self.server_label,
                    fast_checkpoint,
                    include_wal: self.include_wal,
                    incremental_from,
                };
                Source::Replication(Box::new(ReplicationSource::start(ctx, &self.settings, &options).await?))
            }
        })
    }
}

/// Threads that read a server's files: from the page cache as many as there are processors would
/// only take them from those who hash; from a disk a few requests at once are what it wants.
fn reading_threads() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, READING_THREADS_MAX)
}
