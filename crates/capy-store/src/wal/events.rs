//! What happened in the archived WAL that somebody may want to return to just before: drops,
//! truncations, restore points, promotions, changed settings.

use capy_format::{WalEvent, WalEventKind};
use capy_types::{ClusterName, Ctx, Lsn, TimelineId, Timestamp};
use serde::Serialize;
use tracing::instrument;

use super::archive::Archive;
use crate::repository::cancellable;
use crate::{Repository, Result};

/// Something in the WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ArchivedEvent {
    /// The timeline of the segment it is in.
    pub timeline: TimelineId,
    /// Where its record begins: `--target-lsn` with `--exclusive` ends just before it.
    pub lsn: Lsn,
    /// The time its record carries, if it does.
    pub time: Option<Timestamp>,
    /// The word for what it is: `restore_point`, `drop`, `truncate`, `create_database` and the like.
    pub kind: &'static str,
    /// What it is about, in words.
    pub what: String,
}

impl Repository {
    /// Everything notable in the archive of `cluster` but checkpoints and ends of backups, in the
    /// order of timelines and positions.
    ///
    /// # Errors
    /// `NotFound` when there is no such archive; `Corrupt`, `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// for event in repository.wal_events(ctx, &"main".parse().unwrap()).await? {
    ///     println!("{} {} {}", event.lsn, event.kind, event.what);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %cluster))]
    pub async fn wal_events(&self, ctx: &Ctx, cluster: &ClusterName) -> Result<Vec<ArchivedEvent>> {
        let work = async {
            let archive = Archive::load(self, ctx, cluster).await?;
            let mut events = Vec::new();
            for timeline in archive.timelines() {
                let own = archive.segments_on(timeline).flat_map(|(_, facts)| &facts.events);
                events.extend(own.filter_map(|event| archived(timeline, event)));
            }
            Ok(events)
        };
        cancellable(ctx, work).await
    }
}

fn archived(timeline: TimelineId, event: &WalEvent) -> Option<ArchivedEvent> {
    let (kind, what) = described(&event.what)?;
    Some(ArchivedEvent { timeline, lsn: event.at, time: event.time, kind, what })
}

fn described(kind: &WalEventKind) -> Option<(&'static str, String)> {
    Some(match kind {
        WalEventKind::RestorePoint { name } => ("restore_point", format!("restore point {name:?}")),
        WalEventKind::Parameters(p) => (
            "settings",
            format!(
                "max_connections {}, max_worker_processes {}, max_wal_senders {}, \
                 max_prepared_transactions {}, max_locks_per_transaction {}",
                p.max_connections,
                p.max_worker_processes,
                p.max_wal_senders,
                p.max_prepared_transactions,
                p.max_locks_per_transaction
            ),
        ),
        WalEventKind::EndOfRecovery { previous } => {
            ("promotion", format!("recovery from timeline {previous} ended"))
        }
        WalEventKind::CreateDatabase { oid } => ("create_database", format!("database {oid} made")),
        WalEventKind::DropDatabase { oid } => ("drop_database", format!("database {oid} dropped")),
        WalEventKind::CreateTablespace { oid, location } => {
            ("create_tablespace", format!("tablespace {oid} made at {location}"))
        }
        WalEventKind::DropTablespace { oid } => ("drop_tablespace", format!("tablespace {oid} dropped")),
        WalEventKind::Truncate { database, relations } => {
            ("truncate", format!("in database {database}, relations {} cut to nothing", list(relations)))
        }
        WalEventKind::Drop { database, relations } => {
            ("drop", format!("in database {database}, files {} dropped", list(relations)))
        }
        _ => return None,
    })
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}
