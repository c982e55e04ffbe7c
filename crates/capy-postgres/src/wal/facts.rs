//! What an archive keeps about a segment: whose it is, where its records begin and end, and every
//! event that restores, previews and checks ask for later.
//!
//! Invariant: the size of [`SegmentFacts`] is bounded whatever the segment holds; what is beyond a
//! limit is counted in [`SegmentEvents::dropped_events`], never left out silently.

use capy_types::{Lsn, TimelineId};

use super::crossing::JoinedRecord;
use super::error::WalError;
use super::event::{
    BackupEnd, Checkpoint, DatabaseEvent, EndOfRecovery, Parameters, RestorePoint, TablespaceCreated,
    TablespaceDropped, Truncation, TruncationTarget, WalEvent, decode_event,
};
use super::header::{LONG_HEADER_BYTES, SegmentHeader, read_header};
use super::record::RecordHeader;
use super::scanner::{ScanReport, SegmentScanner};
use super::transaction::{RelationList, TransactionEnd};
use super::values::{PgMajor, PgTimestamp, TransactionId};

/// Events of each kind that are kept: with at most 1100 bytes each (a tablespace's path) 1 MiB of
/// one kind.
pub const EVENTS_MAX: usize = 1024;

/// Relations and tables that are kept in all lists together: 12 bytes each, 192 KiB.
pub const RELATIONS_MAX: usize = 16 * 1024;

/// All that is known about a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Whose it is.
    pub header: SegmentHeader,
    /// Bytes that were read. A whole segment has its header's segment size.
    pub file_bytes: u64,
    /// Its records, and where they end.
    pub scan: ScanReport,
    /// What they say. Records that cross the segment's borders are not in it, see
    /// [`SegmentFacts::add`].
    pub events: SegmentEvents,
}

/// What the records of a segment say, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentEvents {
    /// Committed transactions, prepared ones too.
    pub commits: u64,
    /// Aborted transactions, prepared ones too.
    pub aborts: u64,
    /// The first commit.
    pub first_commit: Option<CommitStamp>,
    /// The last commit.
    pub last_commit: Option<CommitStamp>,
    /// The earliest time of a commit or abort: not always the first one's.
    pub min_end_time: Option<PgTimestamp>,
    /// The latest time of a commit or abort: not always the last one's. A recovery to a time stops at
    /// aborts too.
    pub max_end_time: Option<PgTimestamp>,
    /// The newest transaction that wrote a record.
    pub newest_xid: Option<TransactionId>,
    /// The highest next transaction's number of a checkpoint, with its epoch in the upper half.
    pub next_xid: Option<u64>,
    /// Restore points.
    pub restore_points: Vec<RestorePoint>,
    /// Changes of settings that a standby must follow.
    pub parameter_changes: Vec<Parameters>,
    /// Checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// Ends of recoveries.
    pub end_of_recovery: Vec<EndOfRecovery>,
    /// Ends of base backups.
    pub backup_ends: Vec<BackupEnd>,
    /// Databases created. A copy with several tablespaces is several events.
    pub databases_created: Vec<DatabaseEvent>,
    /// Databases dropped.
    pub databases_dropped: Vec<DatabaseEvent>,
    /// Tablespaces created.
    pub tablespaces_created: Vec<TablespaceCreated>,
    /// Tablespaces dropped.
    pub tablespaces_dropped: Vec<TablespaceDropped>,
    /// Relations cut short.
    pub truncations: Vec<Truncation>,
    /// Commits that remove relations' files: `DROP`, `TRUNCATE`, `VACUUM FULL` and the like.
    pub relation_drops: Vec<RelationDrop>,
    /// Events beyond [`EVENTS_MAX`] of their kind, and lists of relations cut at
    /// [`RELATIONS_MAX`].
    pub dropped_events: u64,
    /// Records that matter but whose content makes no sense.
    pub undecoded: u64,
}

/// Where and when a transaction committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitStamp {
    /// Where the record begins.
    pub lsn: Lsn,
    /// When.
    pub time: PgTimestamp,
}

/// A commit that removes relations' files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationDrop {
    /// Where the commit record begins.
    pub lsn: Lsn,
    /// When it committed.
    pub time: PgTimestamp,
    /// The transaction, when the record tells.
    pub xid: Option<TransactionId>,
    /// The relations.
    pub relations: RelationList,
}

impl SegmentFacts {
    /// Reads a whole segment at once.
    ///
    /// # Errors
    /// As [`FactsReader::finish`].
    pub fn read(segment: &[u8]) -> Result<Self, WalError> {
        let mut reader = FactsReader::new();
        reader.push(segment)?;
        reader.finish()
    }

    /// Adds a record that began in this segment and ends in a later one, from [`super::join`]. Each
    /// must be added once.
    pub fn add(&mut self, record: &JoinedRecord) {
        self.events.saw(&record.header);
        if let Some(event) = &record.event {
            self.events.add(event.clone());
        }
    }

    /// The newest timeline that a page or record of the segment tells.
    #[must_use]
    pub fn newest_timeline(&self) -> TimelineId {
        let checkpoints = self.events.checkpoints.iter().map(|checkpoint| checkpoint.timeline);
        let recoveries = self.events.end_of_recovery.iter().map(|recovery| recovery.timeline);
        checkpoints.chain(recoveries).fold(self.scan.timeline, Ord::max)
    }
}

impl SegmentEvents {
    /// Takes one record: its first bytes, of which the CRC held.
    pub fn take_record(&mut self, lsn: Lsn, header: &RecordHeader, kept: &[u8], major: PgMajor) {
        self.saw(header);
        if header.rmgr.has_events() {
            match decode_event(lsn, kept, major) {
                Ok(Some(event)) => self.add(event),
                Ok(None) => {}
                Err(_) => self.undecoded += 1,
            }
        }
    }

    fn saw(&mut self, header: &RecordHeader) {
        let is_newest = self.newest_xid.is_none_or(|newest| header.xid.follows(newest));
        if header.xid.is_normal() && is_newest {
            self.newest_xid = Some(header.xid);
        }
    }

    /// Takes an event, the latest so far.
    pub fn add(&mut self, event: WalEvent) {
        let kept = match event {
            WalEvent::Commit(end) => return self.add_commit(end),
            WalEvent::Abort(end) => {
                self.aborts += 1;
                return self.add_time(end.time);
            }
            WalEvent::Checkpoint(checkpoint) => {
                self.next_xid = self.next_xid.max(Some(checkpoint.next_xid));
                keep(&mut self.checkpoints, checkpoint)
            }
            WalEvent::RestorePoint(point) => keep(&mut self.restore_points, point),
            WalEvent::Parameters(parameters) => keep(&mut self.parameter_changes, parameters),
            WalEvent::EndOfRecovery(end) => keep(&mut self.end_of_recovery, end),
            WalEvent::BackupEnd(end) => keep(&mut self.backup_ends, end),
            WalEvent::DatabaseCreated(database) => keep(&mut self.databases_created, database),
            WalEvent::DatabaseDropped(database) => keep(&mut self.databases_dropped, database),
            WalEvent::TablespaceCreated(tablespace) => keep(&mut self.tablespaces_created, tablespace),
            WalEvent::TablespaceDropped(tablespace) => keep(&mut self.tablespaces_dropped, tablespace),
            WalEvent::Truncation(mut truncation) => {
                let room = self.room_for_relations();
                let whole = match &mut truncation.target {
                    TruncationTarget::Tables { tables, .. } => cut(tables, room),
                    TruncationTarget::File { .. } => true,
                };
                keep(&mut self.truncations, truncation) && whole
            }
        };
        self.dropped_events += u64::from(!kept);
    }

    fn add_time(&mut self, time: PgTimestamp) {
        self.min_end_time = Some(self.min_end_time.map_or(time, |earliest| earliest.min(time)));
        self.max_end_time = self.max_end_time.max(Some(time));
    }

    fn add_commit(&mut self, end: TransactionEnd) {
        let stamp = CommitStamp { lsn: end.lsn, time: end.time };
        self.commits += 1;
        self.first_commit.get_or_insert(stamp);
        self.last_commit = Some(stamp);
        self.add_time(end.time);
        if let Some(mut relations) = end.relations {
            let whole = cut(&mut relations.relations, self.room_for_relations());
            relations.complete &= whole;
            let drop = RelationDrop { lsn: end.lsn, time: end.time, xid: end.xid, relations };
            let kept = keep(&mut self.relation_drops, drop);
            self.dropped_events += u64::from(!(kept && whole));
        }
    }

    fn room_for_relations(&self) -> usize {
        let dropped = self.relation_drops.iter().map(|drop| drop.relations.relations.len());
        let truncated = self.truncations.iter().map(|truncation| match &truncation.target {
            TruncationTarget::Tables { tables, .. } => tables.len(),
            TruncationTarget::File { .. } => 0,
        });
        RELATIONS_MAX.saturating_sub(dropped.chain(truncated).sum())
    }
}

/// Keeps an event if there is room, and says whether.
fn keep<T>(events: &mut Vec<T>, event: T) -> bool {
    let fits = events.len() < EVENTS_MAX;
    if fits {
        events.push(event);
    }
    fits
}

/// Cuts a list to the room there is, and says whether it stayed whole.
fn cut<T>(list: &mut Vec<T>, room: usize) -> bool {
    let whole = list.len() <= room;
    list.truncate(room);
    list.shrink_to_fit();
    whole
}

/// Reads the facts of a segment whose bytes are pushed in pieces of any size.
#[derive(Debug, Default)]
pub struct FactsReader {
    /// The segment's first bytes, until they hold its header.
    head: Vec<u8>,
    scan: Option<(SegmentHeader, SegmentScanner)>,
    events: SegmentEvents,
    file_bytes: u64,
}

impl FactsReader {
    /// A reader of one segment.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The segment's header, once its bytes are there.
    #[must_use]
    pub fn header(&self) -> Option<&SegmentHeader> {
        self.scan.as_ref().map(|(header, _)| header)
    }

    /// Takes the segment's next bytes.
    ///
    /// # Errors
    /// [`WalError`] when it does not begin as a segment does; then every further call says so too.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), WalError> {
        self.file_bytes += bytes.len() as u64;
        if self.scan.is_none() {
            let missing = LONG_HEADER_BYTES.saturating_sub(self.head.len());
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if self.head.len() < LONG_HEADER_BYTES {
                return Ok(());
            }
            let header = read_header(&self.head)?;
            self.scan = Some((header, SegmentScanner::new(header)));
            let head = std::mem::take(&mut self.head);
            self.scan_bytes(&head);
        }
        self.scan_bytes(bytes);
        Ok(())
    }

    fn scan_bytes(&mut self, bytes: &[u8]) {
        if let Some((header, scanner)) = &mut self.scan {
            let (major, events) = (header.major, &mut self.events);
            scanner.push(bytes, |record| events.take_record(record.lsn, &record.header, record.kept, major));
        }
    }

    /// Ends the segment.
    ///
    /// # Errors
    /// [`WalError`] when it did not begin as a segment does. Whatever is wrong later is told by
    /// [`ScanReport::stopped`].
    pub fn finish(self) -> Result<SegmentFacts, WalError> {
        match self.scan {
            Some((header, scanner)) => Ok(SegmentFacts {
                header,
                file_bytes: self.file_bytes,
                scan: scanner.finish(),
                events: self.events,
            }),
            None => {
                Err(read_header(&self.head).err().unwrap_or(WalError::Short { found_bytes: self.head.len() }))
            }
        }
    }
}
