//! Restore points: moments that somebody wants to be able to return to, under a name.
//!
//! Made by a running server, which writes the name into its log ([`create`]), or as a mere label of
//! a time, a position or a backup. Whether a moment can be reached is never stored: it is judged anew
//! each time ([`state`]), by the code that the restore itself uses. A restore to a label that the log
//! does not know is turned into one to what the label stands for ([`label`]).
//!
//! Invariants: a label is unique in a cluster for each kind, and one that leads into the log is not a
//! name that the log has already, because recovery stops at the first of a name. (Two that are made at
//! the same instant are not kept apart.) A label of a time or a position means the timeline of when it
//! was made, whatever was promoted since.

mod aim;
mod create;
mod in_log;
mod label;
mod state;
#[cfg(test)]
mod tests;

use capy_types::{BackupId, BackupKey, BackupSelector, ClusterName, Lsn, TimelineId, Timestamp};
use serde::Serialize;

use crate::PostgresServer;

/// What a restore point is made of.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RestorePointAt {
    /// The present moment, which this server writes into its log.
    Server(PostgresServer),
    /// The present moment, as a time.
    Now,
    /// A time.
    Time(Timestamp),
    /// A position in the log: recovery stops behind the record that begins there.
    Lsn(Lsn),
    /// A backup, as it is.
    Backup(BackupSelector),
}

/// How a restore point is made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestorePointOptions {
    /// The name: one line of 1 to 512 bytes; of 1 to 63 where a server writes it.
    pub label: String,
    /// More about it, at most 4096 bytes.
    pub note: Option<String>,
    /// Who makes it: one line of at most 200 bytes.
    pub created_by: Option<String>,
    /// What it is made of.
    pub at: RestorePointAt,
}

impl RestorePointOptions {
    /// A restore point with no more than it must have.
    pub fn new(label: impl Into<String>, at: RestorePointAt) -> Self {
        Self { label: label.into(), note: None, created_by: None, at }
    }
}

/// What a restore point leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RestorePointKind {
    /// A backup, as it is.
    Backup,
    /// A moment that recovery reaches.
    Pitr,
}

/// Whether a restore to it would succeed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RestorePointState {
    /// It would.
    Reachable,
    /// Not before WAL is archived that is still to come.
    Pending,
    /// It would not.
    Unreachable,
}

impl RestorePointKind {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Pitr => "pitr",
        }
    }
}

impl RestorePointState {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Pending => "pending",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RestorePointInfo {
    /// Unique in its cluster.
    pub id: BackupId,
    /// The cluster.
    pub cluster: ClusterName,
    /// What it leads to.
    pub kind: RestorePointKind,
    /// Its name.
    pub label: String,
    /// More about it.
    pub note: Option<String>,
    /// Who made it.
    pub created_by: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether a restore to it would succeed now.
    pub state: RestorePointState,
    /// Why it would not, or not yet.
    pub reason: Option<String>,
    /// The moment, where it has one.
    pub pitr_time: Option<Timestamp>,
    /// The position, where it is known; of a point in the log, the end of its record.
    pub lsn: Option<Lsn>,
    /// The timeline that recovery would follow.
    pub timeline: Option<TimelineId>,
    /// The part of `backup_key` behind the cluster.
    pub backup_id: Option<BackupId>,
    /// The backup it is; for a moment, the base backup that recovery would begin with.
    pub backup_key: Option<BackupKey>,
    /// Whether the log has it, under its label.
    pub in_wal: bool,
}
