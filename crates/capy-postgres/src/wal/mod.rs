//! WAL segments of PostgreSQL 13 to 18, read for what an archive must know of them.
//!
//! [`read_header`] says whose segment it is; [`SegmentScanner`] walks its pages and records and
//! verifies every CRC; [`decode_record`] and [`decode_event`] say what a record is about; and
//! [`FactsReader`] does all of it and keeps [`SegmentFacts`]. A record that crosses into the next
//! segment is put together by [`join`].
//!
//! Contained by: nothing else of this crate. Sources of the layouts: `xlog_internal.h`,
//! `xlogrecord.h`, `xact.h`, `pg_control.h`, `dbcommands_xlog.h` of PostgreSQL, little-endian.
//! Invariants: no I/O; bytes come in pieces of any size; memory is bounded by one page, the kept
//! bytes of one record ([`KEPT_BYTES`], [`KEPT_EVENT_BYTES`]) and the limits of [`SegmentEvents`],
//! whatever the bytes say.

mod crossing;
mod error;
mod event;
mod facts;
mod fields;
mod header;
mod open_record;
mod record;
mod scanner;
mod transaction;
mod values;

#[cfg(test)]
mod tests;

pub use crossing::{CROSSING_KEPT_BYTES, Join, JoinError, JoinedRecord, RecordHead, RecordTail, join};
pub use error::{Fault, WalError};
pub use event::{
    BackupEnd, Checkpoint, DatabaseEvent, EndOfRecovery, Parameters, RestorePoint, TablespaceCreated,
    TablespaceDropped, Truncation, TruncationTarget, WalEvent, decode_event,
};
pub use facts::{
    CommitStamp, EVENTS_MAX, FactsReader, RELATIONS_MAX, RelationDrop, SegmentEvents, SegmentFacts,
};
pub use header::{NameFit, SegmentHeader, WAL_PAGE_BYTES, read_header};
pub use open_record::{KEPT_BYTES, KEPT_EVENT_BYTES};
pub use record::{
    BlockImage, BlockReference, DecodeError, DecodedRecord, ImageCompression, RecordHeader, Rmgr,
    decode_record,
};
pub use scanner::{RECORD_MAX_BYTES, Record, ScanReport, SegmentScanner, Stopped};
pub use transaction::{RelationList, TransactionEnd};
pub use values::{PgMajor, PgTimestamp, RelFileLocator, TransactionId, WalLevel};
