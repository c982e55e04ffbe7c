//! A running server as the source of a backup.

use capy_postgres::{BaseBackupOptions, ConnectSettings, ReplicationSource, Source};
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
        })
    }

    pub(super) async fn open(self, ctx: &Ctx) -> Result<Source> {
        let options = BaseBackupOptions {
            label: self.server_label,
            fast_checkpoint: self.checkpoint == Checkpoint::Fast,
            include_wal: self.include_wal,
            incremental_from: None,
        };
        Ok(Source::Replication(Box::new(ReplicationSource::start(ctx, &self.settings, &options).await?)))
    }
}
