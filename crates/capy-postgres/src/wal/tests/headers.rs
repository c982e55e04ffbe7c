//! Headers: what a segment says it is, and what is refused.

use capy_types::{ErrorKind, Lsn, SystemId, TimelineId};

use super::super::{FactsReader, NameFit, PgMajor, WalError, read_header};
use super::synthetic::{Log, SEGMENT, START, SYSTEM, TIMELINE, segment_size};

fn segment(major: PgMajor) -> Vec<u8> {
    let mut log = Log::new(major);
    log.add_filler(100);
    log.segment()
}

/// The header with bytes of it changed.
fn changed(at: usize, bytes: &[u8]) -> Result<super::super::SegmentHeader, WalError> {
    let mut segment = segment(PgMajor::V15);
    segment[at..at + bytes.len()].copy_from_slice(bytes);
    read_header(&segment)
}

#[test]
fn a_header_names_its_cluster_and_place() {
    for major in PgMajor::ALL {
        let header = read_header(&segment(major)).unwrap();
        assert_eq!(header.major, major);
        assert_eq!(header.system_id, SystemId::from_u64(SYSTEM));
        assert_eq!(header.timeline, TimelineId::from_u32(TIMELINE));
        assert_eq!((header.start, header.segment_size), (Lsn::from_u64(START), segment_size()));
        assert_eq!(header.end(), Lsn::from_u64(START + SEGMENT as u64));
    }
}

#[test]
fn what_is_no_segment_is_refused_by_name() {
    let whole = segment(PgMajor::V15);
    for len in [0, 1, 39] {
        assert_eq!(read_header(&whole[..len]), Err(WalError::Short { found_bytes: len }));
    }
    assert_eq!(read_header(&[0; 40]), Err(WalError::Unused));
    assert_eq!(changed(0, &[0x01, 0xD1]), Err(WalError::Magic { found: 0xD101 }));
    assert_eq!(changed(2, &[1, 0]), Err(WalError::Flags { found: 1 }));
    assert_eq!(changed(2, &[0x12, 0]), Err(WalError::Flags { found: 0x12 }));
    assert_eq!(changed(4, &[0; 4]), Err(WalError::NoTimeline));
    assert_eq!(changed(32, &[0, 0, 0x30, 0]), Err(WalError::SegmentSize { found_bytes: 0x30_0000 }));
    assert_eq!(changed(36, &[0, 0x40, 0, 0]), Err(WalError::PageSize { found_bytes: 0x4000 }));
    let found = Lsn::from_u64(START + 0x2000);
    assert_eq!(
        changed(8, &found.as_u64().to_le_bytes()),
        Err(WalError::Unaligned { found, segment_bytes: SEGMENT as u64 })
    );
    // The segment that would end where no position is.
    let last = u64::MAX - (SEGMENT as u64 - 1);
    assert!(matches!(changed(8, &last.to_le_bytes()), Err(WalError::Unaligned { .. })));
    assert_eq!(changed(4, &[0; 4]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(WalError::Unused.kind(), ErrorKind::Invalid);
}

#[test]
fn a_name_must_fit() {
    let header = read_header(&segment(PgMajor::V15)).unwrap();
    assert_eq!(header.check_name("00000003000000000000000A"), Ok(NameFit::Exact));
    let older = NameFit::OlderTimeline { found: TimelineId::from_u32(3) };
    assert_eq!(header.check_name("00000004000000000000000A"), Ok(older));
    let error = header.check_name("00000002000000000000000A").unwrap_err();
    assert_eq!(error.to_string(), "WAL segment is of timeline 3, its name says 2");
    let error = header.check_name("00000003000000000000000B").unwrap_err();
    assert_eq!(error.to_string(), "WAL segment begins at 0/A00000, its name says 0/B00000");
    assert!(matches!(header.check_name("00000003000000000000000A.partial"), Err(WalError::Name(_))));
}

#[test]
fn another_cluster_or_version_is_told() {
    let header = read_header(&segment(PgMajor::V15)).unwrap();
    assert_eq!(header.check_cluster(SystemId::from_u64(SYSTEM), PgMajor::V15), Ok(()));
    assert!(matches!(
        header.check_cluster(SystemId::from_u64(1), PgMajor::V15),
        Err(WalError::System { found, .. }) if found.as_u64() == SYSTEM
    ));
    let error = header.check_cluster(SystemId::from_u64(SYSTEM), PgMajor::V16).unwrap_err();
    assert_eq!(error.to_string(), "WAL segment is of PostgreSQL 15, expected 16");
}

#[test]
fn a_reader_of_facts_refuses_what_does_not_begin_as_a_segment() {
    assert_eq!(FactsReader::new().finish(), Err(WalError::Short { found_bytes: 0 }));
    let mut reader = FactsReader::new();
    reader.push(&[0; 39]).unwrap();
    assert_eq!(reader.push(&[0; 1]), Err(WalError::Unused));
    assert_eq!(reader.push(&[1; 1]), Err(WalError::Unused));
    assert_eq!(reader.finish(), Err(WalError::Unused));
}
