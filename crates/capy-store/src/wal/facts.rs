//! What is known of a WAL file from its bytes, in the stored format's words.
//!
//! Contained by: push and receive. Refuses what is not the file its name says; WAL that merely ends
//! early is let in and noted, because refusing it would stop the server's archiver for good.

use capy_format::{SegmentFacts, TransactionEnd, WalEvent, WalEventKind, WalFacts, WalParameters};
use capy_postgres::TimelineHistory;
use capy_postgres::wal::{self, NameFit, Stopped, TruncationTarget};
use capy_types::{ChunkId, ErrorKind, Timestamp, WalFile, WalFileKind};

use crate::{Error, Result};

/// Events kept of one segment: the format's limit.
const EVENTS_MAX: usize = capy_format::limits::WAL_EVENTS_MAX;
/// Longest history or backup label in bytes: a line for each timeline, or a few fields.
const SMALL_FILE_MAX_BYTES: usize = 4 << 20;
/// Bytes kept of a record that goes on in the next segment, and of its rest there: enough for the
/// time of a commit and the name of a restore point.
pub(super) const CROSSING_MAX_BYTES: usize = 128;
/// Relations listed of one event.
const RELATIONS_MAX: usize = 64;

/// Reads what is to be known of `file`, archived at `now`.
pub(crate) fn facts_of(file: &WalFile, bytes: &[u8], now: Timestamp) -> Result<WalFacts> {
    let segment = match file.kind() {
        WalFileKind::Segment | WalFileKind::Partial => Some(segment_facts(file, bytes)?),
        WalFileKind::History => {
            check_small(file, bytes)?;
            TimelineHistory::parse(file.timeline(), bytes)
                .map_err(|error| Error::invalid(format!("{file}: {error}")))?;
            None
        }
        WalFileKind::BackupLabel => {
            check_small(file, bytes)?;
            None
        }
    };
    // Content and size are filled in where the file is stored.
    let content = ChunkId::from_bytes([0; 32]);
    Ok(WalFacts { file: file.clone(), content, size: bytes.len() as u64, archived_at: now, segment })
}

fn check_small(file: &WalFile, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() || bytes.len() > SMALL_FILE_MAX_BYTES {
        return Err(Error::invalid(format!("{file}: {} bytes are no {}", bytes.len(), file.kind().as_str())));
    }
    Ok(())
}

fn segment_facts(file: &WalFile, bytes: &[u8]) -> Result<SegmentFacts> {
    let refuse = |error: wal::WalError| Error::invalid(format!("{file}: {error}"));
    let header = wal::read_header(bytes).map_err(refuse)?;
    let name = file.as_str().get(..24).unwrap_or_default();
    let fit = header.check_name(name).map_err(refuse)?;
    if bytes.len() as u64 != header.segment_size.bytes() {
        let (found, expected) = (bytes.len(), header.segment_size.bytes());
        return Err(Error::invalid(format!("{file}: {found} bytes, a segment has {expected}")));
    }
    let read = wal::SegmentFacts::read(bytes).map_err(refuse)?;
    if fit != NameFit::Exact && read.newest_timeline() != file.timeline() {
        let found = read.newest_timeline();
        let what = format!("{file}: holds the WAL of timeline {found} only");
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    Ok(convert(&read))
}

fn convert(read: &wal::SegmentFacts) -> SegmentFacts {
    let (events, stamps) = (&read.events, |stamp: Option<wal::CommitStamp>| {
        stamp.map(|s| TransactionEnd { at: s.lsn, time: s.time.to_timestamp() })
    });
    let (end, stopped) = match &read.scan.stopped {
        Stopped::Full | Stopped::Switched { .. } => (read.header.end(), None),
        Stopped::Zeros { at } => (read.scan.end, Some(format!("zeros from {at} on"))),
        Stopped::Cut { at } => (read.scan.end, Some(format!("cut off at {at}"))),
        Stopped::Invalid { at, why } => (read.scan.end, Some(format!("at {at}: {why}"))),
    };
    let mut listed = list_events(events);
    let more = listed.len().saturating_sub(EVENTS_MAX) as u64 + events.dropped_events;
    listed.truncate(EVENTS_MAX);
    listed.sort_by_key(|event| event.at);
    SegmentFacts {
        system_id: read.header.system_id,
        major: u16::try_from(read.header.major.number()).expect("two digits"),
        segment_size: read.header.segment_size,
        first: read.scan.first_record,
        last: read.scan.last_record,
        end: end.clamp(read.header.start, read.header.end()),
        stopped,
        commits: events.commits,
        aborts: events.aborts,
        first_end: stamps(events.first_commit),
        last_end: stamps(events.last_commit),
        times: events
            .min_end_time
            .zip(events.max_end_time)
            .map(|(min, max)| (min.to_timestamp(), max.to_timestamp())),
        events: listed,
        more_events: more,
        tail: read.scan.tail.as_ref().and_then(tail),
        head: read.scan.head.as_ref().map(|head| hex::encode(first(&head.kept))),
    }
}

/// The start of a record that goes on, if it can matter.
fn tail(tail: &wal::RecordTail) -> Option<(capy_types::Lsn, String)> {
    let header = wal::RecordHeader::read(&tail.kept);
    let matters = header.is_none_or(|header| header.rmgr.has_events());
    matters.then(|| (tail.lsn, hex::encode(first(&tail.kept))))
}

fn first(kept: &[u8]) -> &[u8] {
    kept.get(..CROSSING_MAX_BYTES).unwrap_or(kept)
}

/// The events by weight, those of one kind in order: where not all can be kept, recovery must know of
/// a setting or a tablespace, and can do without the files of one more temporary table.
pub(super) fn list_events(events: &wal::SegmentEvents) -> Vec<WalEvent> {
    let event = |at, time, what| WalEvent { at, time, what };
    let mut all = Vec::new();
    all.extend(events.parameter_changes.iter().map(|p| event(p.lsn, None, parameters(p))));
    all.extend(events.tablespaces_created.iter().map(|made| {
        let what = WalEventKind::CreateTablespace { oid: made.tablespace, location: made.path.clone() };
        event(made.lsn, None, what)
    }));
    let dropped = events.tablespaces_dropped.iter();
    all.extend(dropped.map(|d| event(d.lsn, None, WalEventKind::DropTablespace { oid: d.tablespace })));
    all.extend(events.end_of_recovery.iter().map(|end| {
        let what = WalEventKind::EndOfRecovery { previous: end.previous_timeline };
        event(end.lsn, Some(end.time.to_timestamp()), what)
    }));
    all.extend(events.restore_points.iter().map(|point| {
        let what = WalEventKind::RestorePoint { name: point.name.clone() };
        event(point.lsn, Some(point.time.to_timestamp()), what)
    }));
    let made = events.databases_created.iter();
    all.extend(made.map(|d| event(d.lsn, None, WalEventKind::CreateDatabase { oid: d.database })));
    let dropped = events.databases_dropped.iter();
    all.extend(dropped.map(|d| event(d.lsn, None, WalEventKind::DropDatabase { oid: d.database })));
    let ends = events.backup_ends.iter();
    all.extend(ends.map(|end| event(end.lsn, None, WalEventKind::BackupEnd { start: end.start })));
    all.extend(events.checkpoints.iter().map(|checkpoint| {
        let what = WalEventKind::Checkpoint { redo: checkpoint.redo, shutdown: checkpoint.shutdown };
        event(checkpoint.lsn, Some(checkpoint.time), what)
    }));
    all.extend(events.truncations.iter().filter_map(|cut| Some(event(cut.lsn, None, truncation(cut)?))));
    all.extend(events.relation_drops.iter().map(|drop| {
        let database = drop.relations.relations.first().map_or(0, |relation| relation.database);
        let relations = drop.relations.relations.iter().map(|r| r.filenode).take(RELATIONS_MAX).collect();
        event(drop.lsn, Some(drop.time.to_timestamp()), WalEventKind::Drop { database, relations })
    }));
    all
}

/// Truncations to nothing; vacuum cutting off an empty end is no loss.
fn truncation(cut: &wal::Truncation) -> Option<WalEventKind> {
    match &cut.target {
        TruncationTarget::File { relation, blocks: 0 } => {
            Some(WalEventKind::Truncate { database: relation.database, relations: vec![relation.filenode] })
        }
        TruncationTarget::File { .. } => None,
        TruncationTarget::Tables { database, tables } => Some(WalEventKind::Truncate {
            database: *database,
            relations: tables.iter().copied().take(RELATIONS_MAX).collect(),
        }),
    }
}

fn parameters(p: &wal::Parameters) -> WalEventKind {
    let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    WalEventKind::Parameters(WalParameters {
        max_connections: signed(p.max_connections),
        max_worker_processes: signed(p.max_worker_processes),
        max_wal_senders: signed(p.max_wal_senders),
        max_prepared_transactions: signed(p.max_prepared_transactions),
        max_locks_per_transaction: signed(p.max_locks_per_transaction),
        wal_level: match p.wal_level {
            wal::WalLevel::Minimal => 0,
            wal::WalLevel::Replica => 1,
            _ => 2,
        },
    })
}
