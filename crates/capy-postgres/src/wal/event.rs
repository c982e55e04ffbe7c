//! What an archive wants to know of a record: ends of transactions, checkpoints, restore points,
//! parameters, databases, tablespaces, truncations.
//!
//! Layouts: `pg_control.h` (`CheckPoint`), `xlog_internal.h`, `dbcommands_xlog.h`, `tablespace.h`,
//! `storage_xlog.h`, `heapam_xlog.h`. Between 13 and 18 only the codes of the database records
//! moved (in 15) and fields were added behind those that are read here.

use capy_types::{Lsn, TimelineId, Timestamp};

use super::fields::Fields;
use super::record::{DecodeError, RecordHeader, Rmgr, decode_record, relation};
use super::transaction::{
    ABORT, ABORT_PREPARED, COMMIT, COMMIT_PREPARED, OPERATION_MASK, TransactionEnd, decode as decode_end,
};
use super::values::{PgMajor, PgTimestamp, RelFileLocator, WalLevel};

/// `MAXFNAMELEN`: a restore point's name and the zero byte behind it.
const RESTORE_POINT_NAME_BYTES: usize = 64;
/// `MAXPGPATH`.
const TABLESPACE_PATH_BYTES: usize = 1024;

/// A record that matters to an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalEvent {
    /// A transaction committed.
    Commit(TransactionEnd),
    /// A transaction aborted.
    Abort(TransactionEnd),
    /// `pg_create_restore_point`.
    RestorePoint(RestorePoint),
    /// The settings that a standby must not have lower.
    Parameters(Parameters),
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// A promotion.
    EndOfRecovery(EndOfRecovery),
    /// A base backup of the primary ended.
    BackupEnd(BackupEnd),
    /// A database was created.
    DatabaseCreated(DatabaseEvent),
    /// A database was dropped.
    DatabaseDropped(DatabaseEvent),
    /// A tablespace was created.
    TablespaceCreated(TablespaceCreated),
    /// A tablespace was dropped.
    TablespaceDropped(TablespaceDropped),
    /// A relation was cut short.
    Truncation(Truncation),
}

/// A named point to restore to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Where the record begins.
    pub lsn: Lsn,
    /// When it was made.
    pub time: PgTimestamp,
    /// Its name. Bytes that are not UTF-8 are replaced.
    pub name: String,
}

/// Settings of the primary from this record on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Where the record begins.
    pub lsn: Lsn,
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// A checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Where recovery from it starts.
    pub redo: Lsn,
    /// Whether the server was shutting down.
    pub shutdown: bool,
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline before, when the record begins a new one; else the same.
    pub previous_timeline: TimelineId,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// The next transaction's number, with its epoch in the upper half.
    pub next_xid: u64,
    /// When, to the second.
    pub time: Timestamp,
}

/// The end of a recovery that began a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfRecovery {
    /// Where the record begins.
    pub lsn: Lsn,
    /// When.
    pub time: PgTimestamp,
    /// The new timeline.
    pub timeline: TimelineId,
    /// The timeline it forked off.
    pub previous_timeline: TimelineId,
}

/// The end of a base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupEnd {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Where the backup started.
    pub start: Lsn,
}

/// A database that came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseEvent {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Oid of the database.
    pub database: u32,
}

/// A new tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceCreated {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Oid of the tablespace.
    pub tablespace: u32,
    /// Its directory, which replay writes to; empty for one inside the data directory. Bytes that
    /// are not UTF-8 are replaced.
    pub path: String,
}

/// A tablespace that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TablespaceDropped {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Oid of the tablespace.
    pub tablespace: u32,
}

/// Relations cut short in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncation {
    /// Where the record begins.
    pub lsn: Lsn,
    /// What was cut.
    pub target: TruncationTarget,
}

/// What a truncation cuts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TruncationTarget {
    /// The file of one relation, to a number of blocks: vacuum, or `TRUNCATE` of a relation that
    /// is new in the transaction.
    File {
        /// The relation.
        relation: RelFileLocator,
        /// Blocks that stay.
        blocks: u32,
    },
    /// `TRUNCATE` of tables, which only `wal_level = logical` tells. Their old files go with the
    /// commit.
    Tables {
        /// Oid of the database.
        database: u32,
        /// Oids of the tables.
        tables: Vec<u32>,
    },
}

/// Reads what a record says, from its kept first bytes. `None` for a record that does not matter.
///
/// # Errors
/// [`DecodeError`]: the record is of a kind that matters, but its content makes no sense.
pub fn decode_event(lsn: Lsn, record: &[u8], major: PgMajor) -> Result<Option<WalEvent>, DecodeError> {
    let Some(header) = RecordHeader::read(record) else {
        return Err(DecodeError { problem: "it ends inside its header", offset: record.len() });
    };
    let Some(kind) = Kind::of(&header, major) else { return Ok(None) };
    let decoded = decode_record(record, major)?;
    let (start, length) = (decoded.main_data_offset as usize, decoded.main_data_bytes as usize);
    let kept = record.get(start..).unwrap_or_default();
    let data = kept.get(..length).unwrap_or(kept);
    let event = kind.read(&Content { lsn, header, data, cut: data.len() < length, major });
    event.map(Some).ok_or(DecodeError { problem: "its main data end early", offset: start })
}

/// The main data of a record and what tells how to read them.
struct Content<'a> {
    lsn: Lsn,
    header: RecordHeader,
    data: &'a [u8],
    /// Whether the last part of the data was not kept.
    cut: bool,
    major: PgMajor,
}

/// The records that matter.
enum Kind {
    Commit,
    Abort,
    RestorePoint,
    Parameters,
    Checkpoint { shutdown: bool },
    EndOfRecovery,
    BackupEnd,
    DatabaseCreated,
    DatabaseDropped,
    TablespaceCreated,
    TablespaceDropped,
    FileTruncation,
    TableTruncation,
}

impl Kind {
    fn of(header: &RecordHeader, major: PgMajor) -> Option<Self> {
        // The lower half is the server's own and says nothing about the record.
        let info = header.info & 0xF0;
        let wal_logged_copies = major >= PgMajor::V15;
        Some(match (header.rmgr, info) {
            (Rmgr::TRANSACTION, _) => match info & OPERATION_MASK {
                COMMIT | COMMIT_PREPARED => Self::Commit,
                ABORT | ABORT_PREPARED => Self::Abort,
                _ => return None,
            },
            (Rmgr::XLOG, 0x00) => Self::Checkpoint { shutdown: true },
            (Rmgr::XLOG, 0x10) => Self::Checkpoint { shutdown: false },
            (Rmgr::XLOG, 0x50) => Self::BackupEnd,
            (Rmgr::XLOG, 0x60) => Self::Parameters,
            (Rmgr::XLOG, 0x70) => Self::RestorePoint,
            (Rmgr::XLOG, 0x90) => Self::EndOfRecovery,
            (Rmgr::STORAGE, 0x20) => Self::FileTruncation,
            (Rmgr::DATABASE, 0x00) => Self::DatabaseCreated,
            (Rmgr::DATABASE, 0x10) if wal_logged_copies => Self::DatabaseCreated,
            (Rmgr::DATABASE, 0x10) => Self::DatabaseDropped,
            (Rmgr::DATABASE, 0x20) if wal_logged_copies => Self::DatabaseDropped,
            (Rmgr::TABLESPACE, 0x00) => Self::TablespaceCreated,
            (Rmgr::TABLESPACE, 0x10) => Self::TablespaceDropped,
            (Rmgr::HEAP, _) if info & OPERATION_MASK == 0x30 => Self::TableTruncation,
            _ => return None,
        })
    }

    /// `None` when the data are too short.
    fn read(&self, content: &Content<'_>) -> Option<WalEvent> {
        let (lsn, mut fields) = (content.lsn, Fields(content.data));
        let end = || decode_end(lsn, &content.header, content.data, content.cut, content.major);
        Some(match self {
            Self::Commit => WalEvent::Commit(end()?),
            Self::Abort => WalEvent::Abort(end()?),
            Self::RestorePoint => {
                let time = PgTimestamp::from_micros(fields.i64()?);
                let name = fields.text(RESTORE_POINT_NAME_BYTES)?;
                WalEvent::RestorePoint(RestorePoint { lsn, time, name })
            }
            Self::Parameters => WalEvent::Parameters(parameters(lsn, &mut fields)?),
            Self::Checkpoint { shutdown } => WalEvent::Checkpoint(checkpoint(lsn, *shutdown, &mut fields)?),
            Self::EndOfRecovery => WalEvent::EndOfRecovery(EndOfRecovery {
                lsn,
                time: PgTimestamp::from_micros(fields.i64()?),
                timeline: TimelineId::from_u32(fields.u32()?),
                previous_timeline: TimelineId::from_u32(fields.u32()?),
            }),
            Self::BackupEnd => WalEvent::BackupEnd(BackupEnd { lsn, start: fields.lsn()? }),
            Self::DatabaseCreated => {
                WalEvent::DatabaseCreated(DatabaseEvent { lsn, database: fields.u32()? })
            }
            Self::DatabaseDropped => {
                WalEvent::DatabaseDropped(DatabaseEvent { lsn, database: fields.u32()? })
            }
            Self::TablespaceCreated => {
                let tablespace = fields.u32()?;
                let path = fields.text(TABLESPACE_PATH_BYTES)?;
                WalEvent::TablespaceCreated(TablespaceCreated { lsn, tablespace, path })
            }
            Self::TablespaceDropped => {
                WalEvent::TablespaceDropped(TablespaceDropped { lsn, tablespace: fields.u32()? })
            }
            Self::FileTruncation => {
                let blocks = fields.u32()?;
                let target = TruncationTarget::File { relation: relation(&mut fields)?, blocks };
                WalEvent::Truncation(Truncation { lsn, target })
            }
            Self::TableTruncation => {
                let target = table_truncation(&mut fields, content.cut)?;
                WalEvent::Truncation(Truncation { lsn, target })
            }
        })
    }
}

fn parameters(lsn: Lsn, fields: &mut Fields<'_>) -> Option<Parameters> {
    Some(Parameters {
        lsn,
        max_connections: fields.u32()?,
        max_worker_processes: fields.u32()?,
        max_wal_senders: fields.u32()?,
        max_prepared_transactions: fields.u32()?,
        max_locks_per_transaction: fields.u32()?,
        wal_level: WalLevel::from_u32(fields.u32()?),
        wal_log_hints: fields.bool()?,
        track_commit_timestamp: fields.bool()?,
    })
}

fn checkpoint(lsn: Lsn, shutdown: bool, fields: &mut Fields<'_>) -> Option<Checkpoint> {
    let redo = fields.lsn()?;
    let timeline = TimelineId::from_u32(fields.u32()?);
    let previous_timeline = TimelineId::from_u32(fields.u32()?);
    let full_page_writes = fields.bool()?;
    // Padding, and in PostgreSQL 18 the WAL level.
    fields.skip(7)?;
    let next_xid = fields.u64()?;
    // Oids, multixacts and the oldest transactions: seven numbers and 4 bytes of padding.
    fields.skip(32)?;
    let time = Timestamp::from_micros(fields.i64()?.saturating_mul(1_000_000));
    Some(Checkpoint { lsn, redo, shutdown, timeline, previous_timeline, full_page_writes, next_xid, time })
}

fn table_truncation(fields: &mut Fields<'_>, cut: bool) -> Option<TruncationTarget> {
    let (database, count) = (fields.u32()?, fields.u32()?);
    // Flags and padding.
    fields.skip(4)?;
    let mut tables = Vec::new();
    for _ in 0..count {
        match fields.u32() {
            Some(table) => tables.push(table),
            None if cut => break,
            None => return None,
        }
    }
    Some(TruncationTarget::Tables { database, tables })
}
