//! A session of plain SQL.
//!
//! Contained by: the questions to a server in this module. Invariant: no statement waits longer
//! than [`STATEMENT_TIMEOUT`]; dropping the connection ends the session.

use std::io;
use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use crate::PostgresError;
use crate::connect::{self, ConnectSettings};

/// The longest a statement of ours takes: each is a look into shared memory, a catalogue or a
/// directory, or one record of log.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// An open session.
pub struct SqlConnection {
    client: Client,
    host: String,
}

impl SqlConnection {
    /// Connects to the first host that answers, and logs in.
    ///
    /// # Errors
    /// `Connect`, `Tls`, or `Sql` when the server does not let the role in.
    ///
    /// # Cancellation
    /// Safe: the server notices the closed connection.
    pub async fn open(settings: &ConnectSettings) -> Result<Self, PostgresError> {
        let open = async {
            let transport = connect::open(settings).await?;
            let host = transport.host.to_string();
            let mut config = tokio_postgres::Config::new();
            config
                .user(&settings.user)
                .dbname(&settings.database)
                .application_name(&settings.application_name);
            if let Some(password) = settings.password_for(&transport.host) {
                config.password(password.expose());
            }
            match config.connect_raw(transport.stream, NoTls).await {
                Ok((client, connection)) => {
                    // Ends by itself when the client is dropped.
                    tokio::spawn(connection);
                    Ok(Self { client, host })
                }
                Err(source) => Err(PostgresError::Sql { host, source }),
            }
        };
        let host = || settings.hosts.first().map(ToString::to_string).unwrap_or_default();
        let late = |_| PostgresError::Connect { host: host(), source: silence("the connect timeout") };
        tokio::time::timeout(settings.connect_timeout, open).await.map_err(late)?
    }

    /// The host and port, or the socket.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn failed(&self, source: tokio_postgres::Error) -> PostgresError {
        PostgresError::Sql { host: self.host.clone(), source }
    }

    pub(super) async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        match tokio::time::timeout(STATEMENT_TIMEOUT, self.client.query(sql, parameters)).await {
            Ok(answer) => answer.map_err(|source| self.failed(source)),
            Err(_) => {
                let source = silence("a minute");
                Err(PostgresError::ConnectionLost { host: self.host.clone(), source })
            }
        }
    }

    /// The only row of a query that always has one.
    pub(super) async fn row(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PostgresError> {
        let rows = self.rows(sql, parameters).await?;
        rows.into_iter().next().ok_or_else(|| self.nonsense("no row", sql))
    }

    /// An answer that no PostgreSQL gives.
    pub(super) fn nonsense(&self, found: &str, asked: &str) -> PostgresError {
        PostgresError::protocol(format!("{}: {found} in answer to `{asked}`", self.host))
    }
}

impl std::fmt::Debug for SqlConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlConnection").field("host", &self.host).finish_non_exhaustive()
    }
}

fn silence(limit: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit}"))
}
