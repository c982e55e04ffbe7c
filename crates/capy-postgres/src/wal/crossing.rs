//! Records that begin in one segment and end in a later one, put together from what each segment's
//! scan kept.
//!
//! Each side keeps its first [`CROSSING_KEPT_BYTES`] of the record and the CRC of all its bytes
//! there; two CRCs combine without the bytes, so the record is verified as any other.
//!
//! Contained by: [`super::ScanReport`] has the sides, [`join`] takes whole facts.

use capy_types::Lsn;

use super::error::Fault;
use super::event::{WalEvent, decode_event};
use super::facts::SegmentFacts;
use super::header::SegmentHeader;
use super::open_record::check_crc;
use super::record::{DecodeError, RECORD_HEADER_BYTES, RecordHeader};
use super::scanner::Stopped;

/// Bytes kept of a record on each side of a border: a commit's time lies in its first 37 bytes.
pub const CROSSING_KEPT_BYTES: usize = 512;

/// The start of a record that goes on in the next segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordTail {
    /// Where the record begins.
    pub lsn: Lsn,
    /// Length of the whole record in bytes.
    pub total_bytes: u32,
    /// How many of them are in this segment.
    pub taken_bytes: u32,
    /// The first of them.
    pub kept: Vec<u8>,
    /// CRC-32C of those in this segment that are behind the record's header.
    pub body_crc: u32,
}

/// The end, or a middle part, of a record that began in a segment before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHead {
    /// How many bytes the record still had when this segment began.
    pub remaining_bytes: u32,
    /// How many of them are in this segment.
    pub taken_bytes: u32,
    /// The first of them.
    pub kept: Vec<u8>,
    /// CRC-32C of those in this segment.
    pub crc: u32,
    /// Where the next record may begin, when this one ends in this segment.
    pub end: Option<Lsn>,
}

/// What [`join`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// No record goes on beyond the first segment.
    Nothing,
    /// The record, whole and verified.
    Record(JoinedRecord),
    /// The record does not end in the segments that were given.
    Unfinished {
        /// Where it begins.
        lsn: Lsn,
        /// Bytes that are in later segments.
        missing_bytes: u32,
    },
    /// The server crashed before it had written the rest, and went on without the record.
    Overwritten {
        /// Where it begins.
        lsn: Lsn,
    },
}

/// A record that crosses a border.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedRecord {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the next one may begin.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
    /// What it says, if it matters. Of a long list of relations only the first may be there.
    pub event: Option<WalEvent>,
}

/// Segments that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Not the next segment of the same log.
    #[error("WAL segment at {found} does not follow: expected the same cluster's at {expected}")]
    NotNext {
        /// Where the next one begins.
        expected: Lsn,
        /// Where the one given begins.
        found: Lsn,
    },
    /// The next segment does not go on with the record.
    #[error("WAL segment at {segment} does not go on with the record at {lsn}")]
    NoContinuation {
        /// The segment.
        segment: Lsn,
        /// The record.
        lsn: Lsn,
    },
    /// The next segment's valid WAL ends inside the record.
    #[error("WAL segment at {segment} ends inside the record at {lsn}")]
    BrokenOff {
        /// The segment.
        segment: Lsn,
        /// The record.
        lsn: Lsn,
    },
    /// The record is not valid.
    #[error("bad WAL record at {lsn}: {why}")]
    Record {
        /// The record.
        lsn: Lsn,
        /// What is wrong.
        why: Fault,
    },
    /// The record makes no sense.
    #[error("WAL record at {lsn}: {source}")]
    Decode {
        /// The record.
        lsn: Lsn,
        /// What is wrong.
        source: DecodeError,
    },
}

impl RecordTail {
    pub(super) fn new(
        lsn: Lsn,
        total_bytes: u32,
        taken_bytes: u32,
        mut kept: Vec<u8>,
        body_crc: u32,
    ) -> Self {
        kept.truncate(CROSSING_KEPT_BYTES);
        kept.shrink_to_fit();
        Self { lsn, total_bytes, taken_bytes, kept, body_crc }
    }
}

impl RecordHead {
    pub(super) const fn new(remaining_bytes: u32) -> Self {
        Self { remaining_bytes, taken_bytes: 0, kept: Vec::new(), crc: 0, end: None }
    }

    pub(super) const fn missing_bytes(&self) -> u32 {
        self.remaining_bytes.saturating_sub(self.taken_bytes)
    }

    /// Takes no more than what is missing.
    pub(super) fn take(&mut self, piece: &[u8]) {
        // A piece is at most one page, so the cast loses nothing.
        self.taken_bytes += piece.len() as u32;
        self.crc = crc32c::crc32c_append(self.crc, piece);
        let room = CROSSING_KEPT_BYTES.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }
}

/// Puts together the record that begins in `first` and ends in a segment of `following`: the next
/// ones in order, mostly one. Segments behind the record's end are not looked at.
///
/// # Errors
/// [`JoinError`]: the segments do not fit together, or the record is not valid.
pub fn join(first: &SegmentFacts, following: &[&SegmentFacts]) -> Result<Join, JoinError> {
    let Some(tail) = &first.scan.tail else { return Ok(Join::Nothing) };
    let mut joint = Joint::begin(tail);
    let mut before = &first.header;
    for next in following {
        check_next(before, &next.header)?;
        let (lsn, segment) = (tail.lsn, next.header.start);
        if next.scan.overwrites_head {
            return Ok(Join::Overwritten { lsn });
        }
        let head = next.scan.head.as_ref().filter(|head| head.remaining_bytes == joint.missing_bytes);
        joint.add(head.ok_or(JoinError::NoContinuation { segment, lsn })?);
        match head.and_then(|head| head.end) {
            Some(end) => return joint.finish(first, end).map(Join::Record),
            None if next.scan.stopped != Stopped::Full => {
                return Err(JoinError::BrokenOff { segment, lsn });
            }
            None => before = &next.header,
        }
    }
    Ok(Join::Unfinished { lsn: tail.lsn, missing_bytes: joint.missing_bytes })
}

fn check_next(before: &SegmentHeader, next: &SegmentHeader) -> Result<(), JoinError> {
    let same_log = (next.system_id, next.major, next.segment_size)
        == (before.system_id, before.major, before.segment_size);
    if same_log && next.start == before.end() && next.timeline >= before.timeline {
        Ok(())
    } else {
        Err(JoinError::NotNext { expected: before.end(), found: next.start })
    }
}

/// A record in the making.
struct Joint<'a> {
    tail: &'a RecordTail,
    missing_bytes: u32,
    kept: Vec<u8>,
    /// Whether `kept` is everything so far, so that what follows belongs behind it.
    kept_all: bool,
    /// CRC of all bytes behind the first segment's, and their number.
    rest_crc: u32,
    rest_bytes: usize,
}

impl<'a> Joint<'a> {
    fn begin(tail: &'a RecordTail) -> Self {
        Self {
            tail,
            missing_bytes: tail.total_bytes.saturating_sub(tail.taken_bytes),
            kept: tail.kept.clone(),
            kept_all: tail.kept.len() == tail.taken_bytes as usize,
            rest_crc: 0,
            rest_bytes: 0,
        }
    }

    fn add(&mut self, head: &RecordHead) {
        if self.kept_all {
            self.kept.extend_from_slice(&head.kept);
            self.kept_all = head.kept.len() == head.taken_bytes as usize;
        }
        let taken = head.taken_bytes as usize;
        self.rest_crc = crc32c::crc32c_combine(self.rest_crc, head.crc, taken);
        self.rest_bytes += taken;
        self.missing_bytes = self.missing_bytes.saturating_sub(head.taken_bytes);
    }

    fn finish(self, first: &SegmentFacts, end: Lsn) -> Result<JoinedRecord, JoinError> {
        let lsn = self.tail.lsn;
        let invalid = |why| JoinError::Record { lsn, why };
        let short = Fault::RecordLength { found_bytes: self.tail.total_bytes };
        let header = RecordHeader::read(&self.kept).ok_or_else(|| invalid(short))?;
        if let Some(expected) = first.scan.last_record.filter(|last| *last != header.previous) {
            return Err(invalid(Fault::Link { expected, found: header.previous }));
        }
        if !header.rmgr.exists_in(first.header.major) {
            return Err(invalid(Fault::ResourceManager { found: header.rmgr.as_u8() }));
        }
        check_crc(&header, &self.kept, self.body_crc()).map_err(invalid)?;
        let event = decode_event(lsn, &self.kept, first.header.major);
        let event = event.map_err(|source| JoinError::Decode { lsn, source })?;
        Ok(JoinedRecord { lsn, end, header, event })
    }

    /// CRC of all bytes behind the header, part of which may be in the second segment.
    fn body_crc(&self) -> u32 {
        let here = (self.tail.taken_bytes as usize).min(RECORD_HEADER_BYTES);
        let header_rest = self.kept.get(here..RECORD_HEADER_BYTES).unwrap_or_default();
        let body_bytes = self.rest_bytes.saturating_sub(header_rest.len());
        // A CRC of two parts is that of the first, moved by the second's length, xor the second's.
        let rest = self.rest_crc ^ crc32c::crc32c_combine(crc32c::crc32c(header_rest), 0, body_bytes);
        crc32c::crc32c_combine(self.tail.body_crc, rest, body_bytes)
    }
}
