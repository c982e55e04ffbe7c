//! What the archive knows of a WAL file without opening it: facts, gathered once when the file is
//! archived, and whose archive it is.
//!
//! Facts ride at the end of each WAL object and are gathered into facts objects (kind 8), many to
//! one. They are hints for planning, bound to the file by its content id: whoever restores reads
//! the file itself.

use capy_types::{ChunkId, ClusterName, Lsn, SegmentSize, SystemId, TimelineId, Timestamp, WalFile};
use serde::{Deserialize, Serialize};

use super::{checked, from_json};
use crate::FormatError;
use crate::limits::WAL_EVENTS_MAX;

/// Facts about one archived file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFacts {
    /// Its name.
    pub file: WalFile,
    /// The keyed hash of its bytes.
    pub content: ChunkId,
    /// Its length in bytes.
    pub size: u64,
    /// When it was archived.
    pub archived_at: Timestamp,
    /// What its records say, for segments and partial segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentFacts>,
}

/// What the records of a segment say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// The cluster it belongs to.
    pub system_id: SystemId,
    /// PostgreSQL's major version.
    pub major: u16,
    /// The size of segments.
    pub segment_size: SegmentSize,
    /// The first record that begins here; none when one record fills the segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Lsn>,
    /// The last record that begins and ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Lsn>,
    /// The end of the last whole record, or of the segment when a record goes on in the next.
    pub end: Lsn,
    /// Why reading ended before the end of the segment; none when it did not, or when the server
    /// closed the segment early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Commits, those of prepared transactions included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub commits: u64,
    /// Aborts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub aborts: u64,
    /// The first commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_end: Option<TransactionEnd>,
    /// The last commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<TransactionEnd>,
    /// The earliest and the latest time of a commit or abort: stamps need not ascend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<(Timestamp, Timestamp)>,
    /// What else happened, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<WalEvent>,
    /// How many more events there were than are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_events: u64,
    /// The first bytes of a record that ends in a later segment, in hex, and where it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<(Lsn, String)>,
    /// The first bytes that continue a record of an earlier segment, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A commit or abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionEnd {
    /// Where its record begins.
    pub at: Lsn,
    /// The time it carries.
    pub time: Timestamp,
}

/// Something worth knowing before a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalEvent {
    /// Where its record begins.
    pub at: Lsn,
    /// The time it carries, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// What it is.
    pub what: WalEventKind,
}

/// What an event is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalEventKind {
    /// A named restore point.
    RestorePoint {
        /// Its name.
        name: String,
    },
    /// Settings that recovery must not go below.
    Parameters(WalParameters),
    /// A checkpoint.
    Checkpoint {
        /// Where recovery from it starts.
        redo: Lsn,
        /// Whether the server was shutting down.
        shutdown: bool,
    },
    /// A server began to write this timeline after recovery.
    EndOfRecovery {
        /// The timeline it came from.
        previous: TimelineId,
    },
    /// A base backup ended: whoever restores it must replay to here.
    BackupEnd {
        /// Where that backup began.
        start: Lsn,
    },
    /// A database was made.
    CreateDatabase {
        /// Its oid.
        oid: u32,
    },
    /// A database was dropped.
    DropDatabase {
        /// Its oid.
        oid: u32,
    },
    /// A tablespace was made: replay makes it at the same place again.
    CreateTablespace {
        /// Its oid.
        oid: u32,
        /// Its directory.
        location: String,
    },
    /// A tablespace was dropped.
    DropTablespace {
        /// Its oid.
        oid: u32,
    },
    /// A relation was cut to nothing, or its tables by TRUNCATE.
    Truncate {
        /// The database.
        database: u32,
        /// File number or oid of each relation, as the record has it.
        relations: Vec<u32>,
    },
    /// A transaction that dropped the files of relations committed.
    Drop {
        /// The database.
        database: u32,
        /// Their file numbers.
        relations: Vec<u32>,
    },
    /// Something a later version knows.
    #[serde(other)]
    Other,
}

/// What `XLOG_PARAMETER_CHANGE` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalParameters {
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: i32,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
}

impl WalFacts {
    /// Reads the document and checks its invariants.
    ///
    /// # Errors
    /// Not this document, or one that contradicts itself.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        checked(object, from_json(object, json)?, Self::check)
    }

    /// Reads many, one to a line.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), of the first line that is wrong.
    pub fn from_json_lines(object: &str, lines: &[u8]) -> Result<Vec<Self>, FormatError> {
        lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| Self::from_json(object, l)).collect()
    }

    /// What must hold of all facts, checked before they are written and after they are read.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let Some(name) = self.file.segment(segment.segment_size) else {
            return Err(format!(
                "{} cannot be a segment of {} bytes",
                self.file,
                segment.segment_size.bytes()
            ));
        };
        if !(name.start()..=name.end()).contains(&segment.end) {
            return Err(format!("{} cannot end at {}", self.file, segment.end));
        }
        if segment.events.len() > WAL_EVENTS_MAX {
            return Err(format!("{} events, {WAL_EVENTS_MAX} at most", segment.events.len()));
        }
        Ok(())
    }
}

/// Whose archive it is: made with the first segment, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveIdentity {
    /// The archive's name.
    pub cluster: ClusterName,
    /// The cluster it takes WAL of.
    pub system_id: SystemId,
    /// The size of its segments.
    pub segment_size: SegmentSize,
    /// When it was made.
    pub created_at: Timestamp,
}

impl ArchiveIdentity {
    /// Reads the document.
    ///
    /// # Errors
    /// Not this document.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        from_json(object, json)
    }
}

/// What a restore point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestorePointKind {
    /// A backup, as it is.
    Backup,
    /// A moment that recovery reaches.
    Pitr,
}

/// A moment somebody wants to be able to return to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Its id: unique in the cluster.
    pub id: String,
    /// The cluster.
    pub cluster: ClusterName,
    /// What it is.
    pub kind: RestorePointKind,
    /// A name for people; the name in the WAL as well when the server wrote it there.
    pub label: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The backup it is, for kind `backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_key: Option<capy_types::BackupKey>,
    /// The time to recover to, where that is what it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitr_time: Option<Timestamp>,
    /// The position to recover to, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// Whether the server wrote a named restore point into its WAL.
    #[serde(default)]
    pub in_wal: bool,
}

impl RestorePoint {
    /// Reads the document and checks its invariants.
    ///
    /// # Errors
    /// Not this document, or one that contradicts itself.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        checked(object, from_json(object, json)?, Self::check)
    }

    /// What must hold of every restore point.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        super::check_label(&self.label)?;
        match self.kind {
            RestorePointKind::Backup if self.backup_key.is_none() => Err("points at no backup".to_owned()),
            RestorePointKind::Pitr if self.pitr_time.is_none() && self.lsn.is_none() => {
                Err("points at no moment".to_owned())
            }
            _ => Ok(()),
        }
    }
}
