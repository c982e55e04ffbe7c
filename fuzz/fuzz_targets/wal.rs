//! What a server archives: WAL segments, whole or cut, their records, and timeline histories.
#![no_main]

use capy_postgres::TimelineHistory;
use capy_postgres::wal::{PgMajor, SegmentFacts, decode_event};
use capy_types::{Lsn, TimelineId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(read) = SegmentFacts::read(input) {
        assert!(read.scan.end <= read.header.end(), "nothing is found behind the segment");
    }
    // A record inside a segment is reached only past its CRC, which is never guessed.
    for major in PgMajor::ALL {
        let _ = decode_event(Lsn::from_u64(1 << 24), input, major);
    }
    let _ = TimelineHistory::parse(TimelineId::from_u32(7), input);
});
