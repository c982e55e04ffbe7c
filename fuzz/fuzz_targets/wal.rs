//! What a server archives: WAL segments, whole or cut, and timeline histories.
#![no_main]

use capy_postgres::TimelineHistory;
use capy_postgres::wal::SegmentFacts;
use capy_types::TimelineId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(read) = SegmentFacts::read(input) {
        assert!(read.scan.end <= read.header.end(), "nothing is found behind the segment");
    }
    let _ = TimelineHistory::parse(TimelineId::from_u32(7), input);
});
