//! Walks a segment page by page and record by record, and finds where its valid WAL ends.
//!
//! The rules are those of PostgreSQL's own reader (`xlogreader.c`): what it would replay is valid
//! here, and what ends recovery there ends the scan here. A record's CRC is computed while its bytes
//! pass, so that records of any length need no memory but for their first bytes.
//!
//! Invariants: a record is given out only after its CRC held; its bytes are no more than
//! [`super::KEPT_EVENT_BYTES`]; after the end was found nothing is read.

use capy_types::{Lsn, TimelineId};

use super::crossing::{RecordHead, RecordTail};
use super::error::Fault;
use super::header::{PageHeader, PageStart, SegmentHeader, WAL_PAGE_BYTES};
use super::open_record::{OpenRecord, PageCursor, advance, check_crc, kept_bytes};
use super::record::{RECORD_HEADER_BYTES, RecordHeader};

/// Longest record in bytes: `MaxAllocSize`, the limit of PostgreSQL 13 to 15; later ones have 1020
/// MiB.
pub const RECORD_MAX_BYTES: u32 = 0x3fff_ffff;

/// A record whose CRC holds.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the next one may begin.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
    /// Its first bytes, from the header on: all, or [`super::KEPT_BYTES`] or [`super::KEPT_EVENT_BYTES`] by its
    /// resource manager.
    pub kept: &'a [u8],
}

/// How a segment's valid WAL ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// With the segment.
    Full,
    /// With a record that closes the segment early; what is behind it means nothing.
    Switched {
        /// That record.
        at: Lsn,
    },
    /// With zeros where a record or a page should begin: not written yet.
    Zeros {
        /// Where they begin.
        at: Lsn,
    },
    /// With the bytes that were given, which were fewer than the segment's.
    Cut {
        /// The first byte that is missing.
        at: Lsn,
    },
    /// With something that is no valid WAL.
    Invalid {
        /// The record or page.
        at: Lsn,
        /// What is wrong with it.
        why: Fault,
    },
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// Whole records in the segment.
    pub records: u64,
    /// The first record that begins in the segment and ends in it.
    pub first_record: Option<Lsn>,
    /// The record before that one, in an earlier segment.
    pub before_first: Option<Lsn>,
    /// The last record that begins in the segment and ends in it.
    pub last_record: Option<Lsn>,
    /// End of the last whole record, where the next one may begin. Without one: the end of the
    /// record from before, whose CRC only [`super::join`] checks, or else the segment's start.
    pub end: Lsn,
    /// How the valid WAL ended.
    pub stopped: Stopped,
    /// The newest timeline of a page.
    pub timeline: TimelineId,
    /// Records that began in the segment and were given up by a crash.
    pub overwritten: u64,
    /// The end of a record that began in a segment before.
    pub head: Option<RecordHead>,
    /// Whether the segment takes the place of the end of a record that began before: a crash
    /// cut that one off.
    pub overwrites_head: bool,
    /// The start of a record that goes on in the next segment; only when the segment is full.
    pub tail: Option<RecordTail>,
}

/// Scans one segment, whose bytes are pushed in pieces of any size.
#[derive(Debug)]
pub struct SegmentScanner {
    segment: SegmentHeader,
    /// The page that the last piece ended in.
    partial: Vec<u8>,
    /// Address of that page.
    next_page: Lsn,
    open: Open,
    stopped: Option<Stopped>,
    /// The end of the record that closed the segment early.
    switch_end: Option<Lsn>,
    report: ScanReport,
}

/// What goes on over the next page.
#[derive(Debug)]
enum Open {
    Nothing,
    /// The record of a segment before; its state is in the report.
    FromBefore,
    Record(OpenRecord),
}

impl SegmentScanner {
    /// A scanner for the segment of that header.
    #[must_use]
    pub fn new(segment: SegmentHeader) -> Self {
        let report = ScanReport {
            records: 0,
            first_record: None,
            before_first: None,
            last_record: None,
            end: segment.start,
            stopped: Stopped::Full,
            timeline: segment.timeline,
            overwritten: 0,
            head: None,
            overwrites_head: false,
            tail: None,
        };
        let next_page = segment.start;
        let (open, partial) = (Open::Nothing, Vec::new());
        Self { segment, partial, next_page, open, stopped: None, switch_end: None, report }
    }

    /// Takes the segment's next bytes, from its first on, and gives every record that is whole now.
    /// Bytes after the end of the valid WAL are passed over.
    pub fn push(&mut self, mut bytes: &[u8], mut visit: impl FnMut(&Record<'_>)) {
        while !bytes.is_empty() && self.stopped.is_none() {
            if self.partial.is_empty()
                && let Some((page, rest)) = bytes.split_first_chunk::<WAL_PAGE_BYTES>()
            {
                self.take_page(page, &mut visit);
                bytes = rest;
                continue;
            }
            let missing = WAL_PAGE_BYTES - self.partial.len();
            let (piece, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.extend_from_slice(piece);
            bytes = rest;
            if self.partial.len() == WAL_PAGE_BYTES {
                let mut page = std::mem::take(&mut self.partial);
                self.take_page(&page, &mut visit);
                page.clear();
                self.partial = page;
            }
        }
    }

    /// Whether the end of the valid WAL was found, so that further bytes say nothing.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.stopped.is_some()
    }

    /// The end of the record that closes the segment early, once its page is whole: nothing that is
    /// behind it is ever read.
    #[must_use]
    pub const fn switch_end(&self) -> Option<Lsn> {
        self.switch_end
    }

    /// Ends the scan.
    #[must_use]
    pub fn finish(self) -> ScanReport {
        let mut report = self.report;
        let cut = Stopped::Cut { at: advance(self.next_page, self.partial.len()) };
        report.stopped = self.stopped.unwrap_or(cut);
        if let (Open::Record(record), Stopped::Full) = (self.open, &report.stopped) {
            report.tail = Some(record.into_tail());
        }
        report
    }

    fn take_page(&mut self, page: &[u8], visit: &mut impl FnMut(&Record<'_>)) {
        match self.read_page(page, visit) {
            Ok(()) => {
                self.next_page = advance(self.next_page, WAL_PAGE_BYTES);
                if self.next_page >= self.segment.end() {
                    self.stopped = Some(Stopped::Full);
                }
            }
            Err(stopped) => self.stopped = Some(stopped),
        }
    }

    fn read_page(&mut self, page: &[u8], visit: &mut impl FnMut(&Record<'_>)) -> Result<(), Stopped> {
        let at = self.next_page;
        let invalid = |why| Stopped::Invalid { at, why };
        let Some(header) = PageHeader::read(page, at, &self.segment).map_err(invalid)? else {
            return Err(self.zero_page());
        };
        if header.timeline < self.report.timeline {
            let newest = self.report.timeline;
            return Err(invalid(Fault::PageTimeline { newest, found: header.timeline }));
        }
        self.report.timeline = header.timeline;
        self.enter_page(header.start).map_err(invalid)?;
        let mut cursor = PageCursor::new(page, header.size_bytes, at);
        self.continue_open(&mut cursor, visit)?;
        while let Some(total_bytes) = cursor.next_record() {
            self.begin_record(total_bytes, &mut cursor, visit)?;
        }
        Ok(())
    }

    /// Zeros in place of a page: the regular end, unless a record is open.
    fn zero_page(&self) -> Stopped {
        let page = self.next_page;
        match &self.open {
            Open::Nothing => Stopped::Zeros { at: page },
            Open::FromBefore => Stopped::Invalid { at: self.segment.start, why: Fault::Unwritten { page } },
            Open::Record(record) => Stopped::Invalid { at: record.lsn, why: Fault::Unwritten { page } },
        }
    }

    /// Compares how a page begins with what is open.
    fn enter_page(&mut self, start: PageStart) -> Result<(), Fault> {
        let is_first = self.next_page == self.segment.start;
        let missing_bytes = match &self.open {
            Open::Nothing => None,
            Open::FromBefore => Some(self.report.head.as_ref().map_or(0, RecordHead::missing_bytes)),
            Open::Record(record) => Some(record.missing_bytes()),
        };
        match (missing_bytes, start) {
            (None, PageStart::Continues { remaining_bytes: 1.. }) if is_first => self.open_head(start),
            (None, PageStart::Continues { .. }) => return Err(Fault::UnexpectedContinuation),
            (Some(expected_bytes), PageStart::Continues { remaining_bytes: found_bytes }) => {
                if expected_bytes != found_bytes {
                    return Err(Fault::ContinuationLength { expected_bytes, found_bytes });
                }
            }
            (Some(_), PageStart::Overwrites) => self.give_up_open(),
            (None, PageStart::Overwrites) => self.report.overwrites_head |= is_first,
            (Some(_), PageStart::Fresh) => return Err(Fault::MissingContinuation),
            (None, PageStart::Fresh) => {}
        }
        Ok(())
    }

    fn open_head(&mut self, start: PageStart) {
        if let PageStart::Continues { remaining_bytes } = start {
            self.report.head = Some(RecordHead::new(remaining_bytes));
            self.open = Open::FromBefore;
        }
    }

    fn give_up_open(&mut self) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => {}
            Open::FromBefore => {
                self.report.head = None;
                self.report.overwrites_head = true;
            }
            Open::Record(_) => self.report.overwritten += 1,
        }
    }

    /// Feeds the page to the record that is open.
    fn continue_open(
        &mut self,
        cursor: &mut PageCursor<'_>,
        visit: &mut impl FnMut(&Record<'_>),
    ) -> Result<(), Stopped> {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => Ok(()),
            Open::FromBefore => {
                if let Some(head) = &mut self.report.head {
                    head.take(cursor.take(head.missing_bytes()));
                    if head.missing_bytes() == 0 {
                        self.report.end = cursor.align();
                        head.end = Some(self.report.end);
                    } else {
                        self.open = Open::FromBefore;
                    }
                }
                Ok(())
            }
            Open::Record(record) => {
                let piece = cursor.take(record.missing_bytes());
                self.feed(record, piece, cursor, visit)
            }
        }
    }

    /// Takes the start of a record, or all of it when it ends in the page.
    fn begin_record(
        &mut self,
        total_bytes: u32,
        cursor: &mut PageCursor<'_>,
        visit: &mut impl FnMut(&Record<'_>),
    ) -> Result<(), Stopped> {
        let lsn = cursor.position();
        let invalid = |why| Stopped::Invalid { at: lsn, why };
        if total_bytes == 0 {
            return Err(Stopped::Zeros { at: lsn });
        }
        if !(RECORD_HEADER_BYTES as u32..=RECORD_MAX_BYTES).contains(&total_bytes) {
            return Err(invalid(Fault::RecordLength { found_bytes: total_bytes }));
        }
        let piece = cursor.take(total_bytes);
        if piece.len() < total_bytes as usize {
            return self.feed(OpenRecord::new(lsn, total_bytes), piece, cursor, visit);
        }
        let Some((head, body)) = piece.split_at_checked(RECORD_HEADER_BYTES) else {
            return Err(invalid(Fault::RecordLength { found_bytes: total_bytes }));
        };
        let Some(header) = RecordHeader::read(head) else {
            return Err(invalid(Fault::RecordLength { found_bytes: total_bytes }));
        };
        self.check_header(&header)
            .and_then(|()| check_crc(&header, head, crc32c::crc32c(body)))
            .map_err(invalid)?;
        let kept = piece.get(..kept_bytes(&header)).unwrap_or(piece);
        self.complete(&Record { lsn, end: cursor.align(), header, kept }, visit)
    }

    /// Adds a piece to a record, and completes it or leaves it open.
    fn feed(
        &mut self,
        mut record: OpenRecord,
        piece: &[u8],
        cursor: &mut PageCursor<'_>,
        visit: &mut impl FnMut(&Record<'_>),
    ) -> Result<(), Stopped> {
        let lsn = record.lsn;
        let invalid = |why| Stopped::Invalid { at: lsn, why };
        if let Some(header) = record.take(piece) {
            self.check_header(&header).map_err(invalid)?;
        }
        match record.header {
            Some(header) if record.missing_bytes() == 0 => {
                check_crc(&header, &record.kept, record.body_crc).map_err(invalid)?;
                self.complete(&Record { lsn, end: cursor.align(), header, kept: &record.kept }, visit)
            }
            _ => {
                self.open = Open::Record(record);
                Ok(())
            }
        }
    }

    fn check_header(&self, header: &RecordHeader) -> Result<(), Fault> {
        if !header.rmgr.exists_in(self.segment.major) {
            return Err(Fault::ResourceManager { found: header.rmgr.as_u8() });
        }
        let (found, segment) = (header.previous, self.segment.start);
        match self.report.last_record {
            Some(expected) if found != expected => Err(Fault::Link { expected, found }),
            // The first one ever written is in the second segment and links to zero.
            None if found >= segment => Err(Fault::ForwardLink { segment, found }),
            _ => Ok(()),
        }
    }

    fn complete(&mut self, record: &Record<'_>, visit: &mut impl FnMut(&Record<'_>)) -> Result<(), Stopped> {
        if self.report.first_record.is_none() {
            self.report.first_record = Some(record.lsn);
            self.report.before_first = Some(record.header.previous);
        }
        self.report.records += 1;
        self.report.last_record = Some(record.lsn);
        self.report.end = record.end;
        if !record.header.is_switch() {
            visit(record);
            return Ok(());
        }
        self.switch_end = Some(record.end);
        self.report.end = self.segment.end();
        visit(&Record { end: self.report.end, ..*record });
        Err(Stopped::Switched { at: record.lsn })
    }
}
