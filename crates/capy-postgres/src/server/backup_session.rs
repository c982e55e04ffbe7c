//! PostgreSQL's low-level backup: one session that begins it, lives until the files are read, and
//! ends it.
//!
//! Source: PostgreSQL documentation, "Making a Base Backup Using the Low Level API" (non-exclusive);
//! the functions have other names before 15.
//!
//! Invariants: begin and end are of one session, and a session that is gone has failed the backup;
//! nothing in the server's settings ends a session that waits for its files.

use std::path::PathBuf;

use capy_types::{Lsn, TimelineId};

use super::facts::facts_of_session;
use super::{Advice, SqlConnection};
use crate::PostgresError;
use crate::connect::ConnectSettings;
use crate::source::SourceFacts;

/// The first version in which the functions have their present names.
const RENAMED_SINCE: u32 = 150_000;

/// The first version that ends idle sessions when told to.
const IDLE_SESSION_TIMEOUT_SINCE: u32 = 140_000;

/// A session that takes a backup.
#[derive(Debug)]
pub(crate) struct BackupSession {
    connection: SqlConnection,
    version_num: u32,
}

/// What the server says at the end.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) lsn: Lsn,
    /// `backup_label`, to be stored as it is.
    pub(crate) label: String,
    /// `tablespace_map`, empty without tablespaces.
    pub(crate) tablespace_map: String,
}

impl BackupSession {
    /// Connects, and asks the server about itself.
    pub(crate) async fn open(
        settings: &ConnectSettings,
    ) -> Result<(Self, SourceFacts, Vec<Advice>), PostgresError> {
        let connection = SqlConnection::open(settings).await?;
        let (facts, advice) = facts_of_session(&connection).await?;
        let version_num = facts.version_num.unwrap_or_default();
        Ok((Self { connection, version_num }, facts, advice))
    }

    /// Whether the session still lives.
    pub(crate) fn check(&self) -> Result<(), PostgresError> {
        if self.connection.client().is_closed() { Err(self.lost()) } else { Ok(()) }
    }

    /// Where the server's files are, unless the role may not know.
    pub(crate) async fn data_directory(&self) -> Result<Option<PathBuf>, PostgresError> {
        Ok(self.setting("data_directory").await?.map(PathBuf::from))
    }

    /// Where statistics are kept while the server runs; none from 15 on.
    pub(crate) async fn statistics_directory(&self) -> Result<Option<PathBuf>, PostgresError> {
        Ok(self.setting("stats_temp_directory").await?.map(PathBuf::from))
    }

    async fn setting(&self, name: &str) -> Result<Option<String>, PostgresError> {
        let rows = self.connection.rows("select setting from pg_settings where name = $1", &[&name]).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// The position of the last checkpoint record, as the server reads it from its control file.
    pub(crate) async fn checkpoint_lsn(&self) -> Result<Lsn, PostgresError> {
        let row =
            self.connection.row("select checkpoint_lsn::text from pg_control_checkpoint()", &[]).await?;
        self.lsn(row.get(0))
    }

    /// Makes the server keep the WAL from here on until the session ends: by a temporary slot, for
    /// which it needs a free one, and the role `REPLICATION`.
    pub(crate) async fn keep_wal(&self) -> Result<(), PostgresError> {
        let sql = "select pg_create_physical_replication_slot('capy_store_' || pg_backend_pid(), true, true)";
        self.connection.rows(sql, &[]).await.map(drop)
    }

    /// Begins the backup; returns where recovery of it will begin. With a spread checkpoint this
    /// takes minutes.
    pub(crate) async fn start(&self, label: &str, fast: bool) -> Result<Lsn, PostgresError> {
        for setting in ["statement_timeout", "lock_timeout", "idle_session_timeout"] {
            if setting == "idle_session_timeout" && self.version_num < IDLE_SESSION_TIMEOUT_SINCE {
                continue;
            }
            self.connection.rows(&format!("set {setting} = 0"), &[]).await?;
        }
        let sql = match self.version_num >= RENAMED_SINCE {
            true => "select pg_backup_start($1, $2)::text",
            false => "select pg_start_backup($1, $2, false)::text",
        };
        // No limit: the checkpoint takes as long as it takes.
        let row = self.connection.client().query_one(sql, &[&label, &fast]).await;
        let row = row.map_err(|source| self.failed(source))?;
        self.lsn(row.get(0))
    }

    /// Ends the backup. Does not wait for the archiver: whoever wants the WAL reads it himself.
    pub(crate) async fn stop(&self) -> Result<Stopped, PostgresError> {
        let sql = match self.version_num >= RENAMED_SINCE {
            true => "select lsn::text, labelfile, spcmapfile from pg_backup_stop(false)",
            false => "select lsn::text, labelfile, spcmapfile from pg_stop_backup(false, false)",
        };
        let row = self.connection.client().query_one(sql, &[]).await;
        let row = row.map_err(|source| self.failed(source))?;
        let tablespace_map: Option<String> = row.get(2);
        Ok(Stopped {
            lsn: self.lsn(row.get(0))?,
            label: row.get(1),
            tablespace_map: tablespace_map.unwrap_or_default(),
        })
    }

    /// On a standby: the timeline of the position that its files must be recovered to.
    pub(crate) async fn minimum_recovery_timeline(&self) -> Result<TimelineId, PostgresError> {
        let sql = "select min_recovery_end_timeline::text from pg_control_recovery()";
        let row = self.connection.row(sql, &[]).await?;
        let text: String = row.get(0);
        let id: u32 = text.parse().map_err(|_| self.connection.nonsense(&text, sql))?;
        Ok(TimelineId::from_u32(id))
    }

    fn lsn(&self, text: String) -> Result<Lsn, PostgresError> {
        text.parse().map_err(|_| self.connection.nonsense(&text, "a question for a position"))
    }

    /// A session that ended says so, whatever the driver makes of it.
    fn failed(&self, source: tokio_postgres::Error) -> PostgresError {
        if source.as_db_error().is_none() && self.connection.client().is_closed() {
            return self.lost();
        }
        self.connection.failed(source)
    }

    fn lost(&self) -> PostgresError {
        PostgresError::ConnectionLost {
            host: self.connection.host().to_owned(),
            source: std::io::Error::other("the session that holds the backup has ended"),
        }
    }
}
