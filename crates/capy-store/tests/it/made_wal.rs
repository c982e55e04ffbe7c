//! WAL made by hand: the first page of a segment with the records that a test is about, as
//! PostgreSQL 15 writes them, and a switch behind them.

use capy_types::{Lsn, SegmentName, SegmentSize, TimelineId, Timestamp};

/// The system of the made base backups.
const SYSTEM: u64 = 7_000_000_000_000_000_001;
/// `XLOG_PAGE_MAGIC` of PostgreSQL 15.
const MAGIC: u16 = 0xD110;
const PAGE_BYTES: usize = 8192;
/// The transaction of what is not said to be another's.
const XID: u32 = 777;
/// Resource managers and operations: `rmgrlist.h`, `pg_control.h`, `xact.h`.
const XLOG: u8 = 0;
const XACT: u8 = 1;
const NOOP: u8 = 0x20;
const SWITCH: u8 = 0x40;
const RESTORE_POINT: u8 = 0x70;
const COMMIT: u8 = 0x00;

/// A segment in the making.
#[derive(Clone)]
pub(crate) struct MadeSegment {
    name: SegmentName,
    bytes: Vec<u8>,
    previous: u64,
}

impl MadeSegment {
    /// The segment of this number on a timeline, with nothing in it.
    pub(crate) fn new(timeline: u32, number: u64) -> Self {
        let size = SegmentSize::DEFAULT;
        let start = number * size.bytes();
        let name = SegmentName::containing(TimelineId::from_u32(timeline), Lsn::from_u64(start), size);
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(timeline.to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(SYSTEM.to_le_bytes());
        bytes.extend((size.bytes() as u32).to_le_bytes());
        bytes.extend((PAGE_BYTES as u32).to_le_bytes());
        Self { name, bytes, previous: start - 64 }
    }

    pub(crate) fn name(&self) -> String {
        self.name.to_string()
    }

    /// Where the next record begins.
    pub(crate) fn position(&self) -> Lsn {
        Lsn::from_u64(self.name.start().as_u64() + self.bytes.len() as u64)
    }

    /// Records that mean nothing, up to a position.
    pub(crate) fn up_to(mut self, lsn: u64) -> Self {
        while self.position().as_u64() < lsn {
            self.add(XLOG, NOOP, &[]);
        }
        self
    }

    pub(crate) fn commit(self, time: Timestamp) -> Self {
        self.commit_of(XID, time)
    }

    /// The commit of this transaction.
    pub(crate) fn commit_of(mut self, xid: u32, time: Timestamp) -> Self {
        self.add_of(xid, XACT, COMMIT, &postgres_time(time).to_le_bytes());
        self
    }

    /// A restore point; its end is the next position.
    pub(crate) fn restore_point(mut self, name: &str, time: Timestamp) -> Self {
        let mut data = postgres_time(time).to_le_bytes().to_vec();
        data.extend(name.as_bytes());
        data.resize(8 + 64, 0);
        self.add(XLOG, RESTORE_POINT, &data);
        self
    }

    fn add(&mut self, rmgr: u8, info: u8, data: &[u8]) {
        self.add_of(XID, rmgr, info, data);
    }

    fn add_of(&mut self, xid: u32, rmgr: u8, info: u8, data: &[u8]) {
        let here = self.position().as_u64();
        let mut record = Vec::new();
        let body = if data.is_empty() { 0 } else { 2 + data.len() };
        record.extend((24 + body as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, rmgr, 0, 0, 0, 0, 0, 0]);
        if !data.is_empty() {
            record.extend([255, u8::try_from(data.len()).unwrap()]);
            record.extend(data);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        record.resize(record.len().next_multiple_of(8), 0);
        self.previous = here;
        self.bytes.extend(record);
        assert!(self.bytes.len() < PAGE_BYTES, "only the first page is made");
    }

    /// The whole segment, ended by a switch.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.add(XLOG, SWITCH, &[]);
        self.bytes.resize(SegmentSize::DEFAULT.bytes() as usize, 0);
        self.bytes
    }
}

/// Microseconds since 2000.
fn postgres_time(time: Timestamp) -> i64 {
    time.as_micros() - Timestamp::from_postgres_micros(0).as_micros()
}
