//! Whether a server can send only what changed, and since which backups: what is known before it is
//! asked for a base backup. What else it wants, summaries of all WAL since, it says itself.

use capy_types::SystemId;

use crate::PostgresError;
use crate::connect::ConnectSettings;
use crate::replication::{ReplicationConnection, TimelineHistory};

/// The first version that sends changed blocks alone.
const INCREMENTAL_SINCE: u32 = 170_000;

/// A server asked for its part in incremental backups.
#[derive(Debug, Clone)]
pub struct IncrementalServer {
    /// Its `server_version_num`.
    pub version_num: u32,
    /// The cluster it is.
    pub system_id: SystemId,
    /// The way to its present timeline: a backup from elsewhere is none to build on.
    pub history: TimelineHistory,
    /// Whether it notes which blocks change (`summarize_wal`).
    pub summarizes: bool,
    /// Whether its pages have checksums. `pg_checksums` changes all of them and writes no WAL: no block
    /// counts as changed by that.
    pub data_checksums: bool,
}

impl IncrementalServer {
    /// Asks, over the replication protocol.
    ///
    /// # Errors
    /// No connection; the server's own; a history file that cannot be read.
    ///
    /// # Cancellation
    /// Safe: the connection is closed.
    pub async fn ask(settings: &ConnectSettings) -> Result<Self, PostgresError> {
        let mut connection = ReplicationConnection::open(settings).await?;
        let identity = connection.identify_system().await?;
        let version_num = connection.show("server_version_num").await?.parse().unwrap_or_default();
        let summarizes = version_num >= INCREMENTAL_SINCE && connection.show("summarize_wal").await? == "on";
        let data_checksums = connection.show("data_checksums").await? == "on";
        let timeline = identity.timeline;
        let history = if timeline.as_u32() == 1 {
            TimelineHistory::of_first(timeline)
        } else {
            let file = connection.timeline_history(timeline).await?;
            TimelineHistory::parse(timeline, &file.content)
                .map_err(|error| PostgresError::protocol(error.to_string()))?
        };
        Ok(Self { version_num, system_id: identity.system_id, history, summarizes, data_checksums })
    }

    /// Whether it can at all.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self) -> Result<(), String> {
        Self::check_version(self.version_num)?;
        if !self.summarizes {
            return Err("summarize_wal is off".to_owned());
        }
        Ok(())
    }

    pub(crate) fn check_version(version_num: u32) -> Result<(), String> {
        if version_num < INCREMENTAL_SINCE {
            let major = version_num / 10_000;
            return Err(format!(
                "it needs PostgreSQL 17 or later, and this is {major}: only 17 and later can"
            ));
        }
        Ok(())
    }
}
