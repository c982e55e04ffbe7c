//! The pieces of a scan: a page that is read from front to back, and a record that goes on over
//! pages.
//!
//! Contained by: [`super::scanner`]. Invariant: of a record no more is held than is kept of it.

use capy_types::Lsn;

use super::crossing::RecordTail;
use super::error::Fault;
use super::record::{CRC_OFFSET, RECORD_HEADER_BYTES, RecordHeader};

/// Bytes kept of a record: room for all its headers (24 + 33 blocks × 27 + 13, see
/// [`super::decode_record`]).
pub const KEPT_BYTES: usize = 1024;

/// Bytes kept of a record that [`super::decode_event`] may read: room for a commit that drops 5400
/// relations of 12 bytes.
pub const KEPT_EVENT_BYTES: usize = 64 * 1024;

/// Records begin at multiples of this many bytes: `MAXIMUM_ALIGNOF`.
const ALIGNMENT: usize = 8;

/// A record of which not all bytes passed yet.
#[derive(Debug)]
pub(super) struct OpenRecord {
    pub(super) lsn: Lsn,
    total_bytes: u32,
    taken_bytes: u32,
    pub(super) kept: Vec<u8>,
    /// Once its bytes are there.
    pub(super) header: Option<RecordHeader>,
    /// CRC of the bytes behind the header.
    pub(super) body_crc: u32,
}

impl OpenRecord {
    pub(super) fn new(lsn: Lsn, total_bytes: u32) -> Self {
        Self { lsn, total_bytes, taken_bytes: 0, kept: Vec::new(), header: None, body_crc: 0 }
    }

    pub(super) fn missing_bytes(&self) -> u32 {
        self.total_bytes - self.taken_bytes
    }

    /// Takes no more than what is missing, and gives the header when it becomes whole.
    pub(super) fn take(&mut self, piece: &[u8]) -> Option<RecordHeader> {
        let missing_header = RECORD_HEADER_BYTES.saturating_sub(self.kept.len());
        let (head, body) = piece.split_at(missing_header.min(piece.len()));
        self.kept.extend_from_slice(head);
        // A piece is at most one page, so the cast loses nothing.
        self.taken_bytes += piece.len() as u32;
        let mut completed = None;
        if self.header.is_none() && self.kept.len() >= RECORD_HEADER_BYTES {
            self.header = RecordHeader::read(&self.kept);
            completed = self.header;
        }
        if let Some(header) = &self.header {
            self.body_crc = crc32c::crc32c_append(self.body_crc, body);
            let room = kept_bytes(header).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(body.get(..room).unwrap_or(body));
        }
        completed
    }

    pub(super) fn into_tail(self) -> RecordTail {
        RecordTail::new(self.lsn, self.total_bytes, self.taken_bytes, self.kept, self.body_crc)
    }
}

/// How many of a record's bytes are kept.
pub(super) fn kept_bytes(header: &RecordHeader) -> usize {
    if header.rmgr.has_events() { KEPT_EVENT_BYTES } else { KEPT_BYTES }
}

/// Compares the CRC: of the body first, then of the header up to the CRC itself.
pub(super) fn check_crc(header: &RecordHeader, record: &[u8], body_crc: u32) -> Result<(), Fault> {
    let covered = record.get(..CRC_OFFSET).unwrap_or_default();
    let expected = crc32c::crc32c_append(body_crc, covered);
    if header.crc == expected { Ok(()) } else { Err(Fault::Crc { found: header.crc, expected }) }
}

/// The part of a page that is still to be read.
pub(super) struct PageCursor<'a> {
    page: &'a [u8],
    offset: usize,
    address: Lsn,
}

impl<'a> PageCursor<'a> {
    /// Behind the header of the page at `address`.
    pub(super) fn new(page: &'a [u8], header_bytes: usize, address: Lsn) -> Self {
        Self { page, offset: header_bytes, address }
    }

    pub(super) fn position(&self) -> Lsn {
        advance(self.address, self.offset)
    }

    /// Takes so many bytes, or all that are left in the page.
    pub(super) fn take(&mut self, count: u32) -> &'a [u8] {
        let rest = self.page.get(self.offset..).unwrap_or_default();
        let piece = rest.get(..count as usize).unwrap_or(rest);
        self.offset += piece.len();
        piece
    }

    /// Moves on to where a record may begin, at most to the page's end.
    pub(super) fn align(&mut self) -> Lsn {
        self.offset = self.offset.next_multiple_of(ALIGNMENT);
        self.position()
    }

    /// The length field of the next record; `None` at the page's end.
    pub(super) fn next_record(&mut self) -> Option<u32> {
        self.align();
        let rest = self.page.get(self.offset..)?;
        rest.first_chunk().copied().map(u32::from_le_bytes)
    }
}

/// No position of a segment wraps around: [`super::read_header`] refuses such segments.
pub(super) fn advance(from: Lsn, bytes: usize) -> Lsn {
    Lsn::from_u64(from.as_u64().saturating_add(bytes as u64))
}
