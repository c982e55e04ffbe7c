//! A running server to ask, and to leave marks in the log of.

use capy_postgres::{ConnectSettings, PostgresError, ReplicationConnection, SqlConnection};

use crate::Result;

/// How a running server is reached, for plain SQL.
#[derive(Debug, Clone)]
pub struct PostgresServer {
    settings: ConnectSettings,
}

impl PostgresServer {
    /// Reads a connection string as [`PostgresSource`](crate::PostgresSource) does.
    ///
    /// # Errors
    /// `Invalid` when the string, or a value it resolves to, makes no sense.
    pub fn connect_with(conninfo: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        Ok(Self { settings: ConnectSettings::parse(conninfo, variable)? })
    }

    pub(crate) const fn settings(&self) -> &ConnectSettings {
        &self.settings
    }

    pub(crate) async fn open(&self) -> Result<SqlConnection> {
        Ok(SqlConnection::open(&self.settings).await?)
    }

    /// Connects as a backup and a receiver do, which `pg_hba.conf` lets in by lines of their own.
    pub(crate) async fn try_replication(&self) -> std::result::Result<(), PostgresError> {
        ReplicationConnection::open(&self.settings).await?.identify_system().await.map(drop)
    }
}
