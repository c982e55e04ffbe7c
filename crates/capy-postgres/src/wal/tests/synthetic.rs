//! WAL made by hand: a log of any number of 1 MiB segments, with pages and records as a server
//! would write them.

use super::super::{PgMajor, Rmgr, SegmentFacts, WAL_PAGE_BYTES};
use capy_types::{Lsn, SegmentSize};

/// Size of the segments, the smallest there is.
pub(super) const SEGMENT: usize = 1 << 20;

/// Where the log begins: at the eleventh segment.
pub(super) const START: u64 = 10 * SEGMENT as u64;

pub(super) const SYSTEM: u64 = 7_300_000_000_000_000_001;

pub(super) const TIMELINE: u32 = 3;

/// Where the first record of the log is: behind the long header.
pub(super) const FIRST: Lsn = Lsn::from_u64(START + 40);

/// The record before the log's first.
pub(super) const BEFORE: Lsn = Lsn::from_u64(START - 4096);

/// A log in the making.
pub(super) struct Log {
    major: PgMajor,
    bytes: Vec<u8>,
    previous: Lsn,
}

impl Log {
    pub(super) fn new(major: PgMajor) -> Self {
        Self { major, bytes: Vec::new(), previous: BEFORE }
    }

    /// Where the next record would begin.
    pub(super) fn position(&self) -> Lsn {
        let header = match self.bytes.len() {
            at if at % SEGMENT == 0 => 40,
            at if at % WAL_PAGE_BYTES == 0 => 24,
            _ => 0,
        };
        Lsn::from_u64(START + self.bytes.len() as u64 + header)
    }

    /// Adds a record with main data only, and gives its place.
    pub(super) fn add(&mut self, rmgr: Rmgr, info: u8, data: &[u8]) -> Lsn {
        let record = record(rmgr, info, 777, self.previous, data);
        self.add_raw(&record)
    }

    /// Adds a record that means nothing here, of so many bytes in all.
    pub(super) fn add_filler(&mut self, total_bytes: usize) -> Lsn {
        let header = if total_bytes - 26 <= 255 { 26 } else { 29 };
        self.add(Rmgr::from_u8(11), 0, &vec![0xA5; total_bytes - header])
    }

    /// Fills the log up to so many bytes before the border at `to`, which is further than 64 KiB.
    pub(super) fn fill_to(&mut self, to: usize, left: usize) {
        let target = to - left;
        while target - self.bytes.len() > 40_000 {
            self.add_filler(8192);
        }
        while target - self.bytes.len() > 200 {
            self.add_filler(96);
        }
        let rest = target - self.bytes.len();
        self.add_filler(rest);
        assert_eq!(self.bytes.len(), target, "{rest}");
    }

    /// Adds bytes as one record, whatever they are.
    pub(super) fn add_raw(&mut self, record: &[u8]) -> Lsn {
        let lsn = self.position();
        let mut rest = record;
        while !rest.is_empty() {
            if self.bytes.len().is_multiple_of(WAL_PAGE_BYTES) {
                let remaining = if rest.len() == record.len() { 0 } else { rest.len() };
                self.add_page_header(u16::from(remaining > 0), remaining as u32);
            }
            let room = WAL_PAGE_BYTES - self.bytes.len() % WAL_PAGE_BYTES;
            let (piece, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend_from_slice(piece);
            rest = later;
        }
        let aligned = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(aligned, 0);
        self.previous = lsn;
        lsn
    }

    /// Begins a page by hand, with flags of its own.
    pub(super) fn add_page_header(&mut self, flags: u16, remaining: u32) {
        let long = self.bytes.len().is_multiple_of(SEGMENT);
        let address = START + self.bytes.len() as u64;
        let flags = if long { flags | 2 } else { flags };
        let mut header = Vec::new();
        header.extend(self.major.page_magic().to_le_bytes());
        header.extend(flags.to_le_bytes());
        header.extend(TIMELINE.to_le_bytes());
        header.extend(address.to_le_bytes());
        header.extend(remaining.to_le_bytes());
        header.extend([0; 4]);
        if long {
            header.extend(SYSTEM.to_le_bytes());
            header.extend((SEGMENT as u32).to_le_bytes());
            header.extend((WAL_PAGE_BYTES as u32).to_le_bytes());
        }
        self.bytes.extend(header);
    }

    /// Cuts the log, as a crash does, and sets what the next record links to.
    pub(super) fn cut_to(&mut self, bytes: usize, previous: Lsn) {
        self.bytes.truncate(bytes);
        self.previous = previous;
    }

    /// The segments, the last one filled with zeros.
    pub(super) fn segments(&self) -> Vec<Vec<u8>> {
        let whole = |part: &[u8]| {
            let mut segment = part.to_vec();
            segment.resize(SEGMENT, 0);
            segment
        };
        self.bytes.chunks(SEGMENT).map(whole).collect()
    }

    /// The only segment.
    pub(super) fn segment(&self) -> Vec<u8> {
        let mut segments = self.segments();
        assert_eq!(segments.len(), 1);
        segments.remove(0)
    }

    /// The facts of every segment.
    pub(super) fn facts(&self) -> Vec<SegmentFacts> {
        self.segments().iter().map(|segment| SegmentFacts::read(segment).unwrap()).collect()
    }
}

/// A record with main data only, with its CRC.
pub(super) fn record(rmgr: Rmgr, info: u8, xid: u32, previous: Lsn, data: &[u8]) -> Vec<u8> {
    let mut parts = match u8::try_from(data.len()) {
        Ok(short) => vec![255, short],
        Err(_) => [&[254][..], &(data.len() as u32).to_le_bytes()].concat(),
    };
    parts.extend_from_slice(data);
    record_of_parts(rmgr, info, xid, previous, &parts)
}

/// A record whose parts behind the header are given, with its CRC.
pub(super) fn record_of_parts(rmgr: Rmgr, info: u8, xid: u32, previous: Lsn, parts: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    record.extend((24 + parts.len() as u32).to_le_bytes());
    record.extend(xid.to_le_bytes());
    record.extend(previous.as_u64().to_le_bytes());
    record.extend([info, rmgr.as_u8(), 0, 0, 0, 0, 0, 0]);
    record.extend_from_slice(parts);
    seal(&mut record);
    record
}

/// Makes the CRC of a record right.
pub(super) fn seal(record: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
}

/// The offset of a position in the log's bytes.
pub(super) fn offset(lsn: Lsn) -> usize {
    (lsn.as_u64() - START) as usize
}

pub(super) fn segment_size() -> SegmentSize {
    SegmentSize::try_from(SEGMENT as u64).unwrap()
}

/// Main data of a commit at `time`.
pub(super) fn commit_data(time: i64) -> Vec<u8> {
    time.to_le_bytes().to_vec()
}
