//! Pages and records: what is valid, and where and why it ends.

use capy_types::{Lsn, TimelineId};

use super::super::{
    Fault, PgMajor, Rmgr, ScanReport, SegmentFacts, SegmentScanner, Stopped, WAL_PAGE_BYTES, read_header,
};
use super::synthetic::{BEFORE, FIRST, Log, SEGMENT, START, TIMELINE, offset, record, seal};

const FILLER: Rmgr = Rmgr::from_u8(11);

fn scan(segment: &[u8]) -> ScanReport {
    SegmentFacts::read(segment).unwrap().scan
}

fn page(number: u64) -> Lsn {
    Lsn::from_u64(START + number * WAL_PAGE_BYTES as u64)
}

/// Four records, of which the third crosses into the second page.
fn log() -> (Log, [Lsn; 4]) {
    let mut log = Log::new(PgMajor::V15);
    let records = [log.add_filler(100), log.add_filler(4000), log.add_filler(5000), log.add_filler(77)];
    (log, records)
}

/// What a scan says when the bytes at a position are changed.
fn changed(at: Lsn, within: usize, bytes: &[u8]) -> Stopped {
    let mut segment = log().0.segment();
    let at = offset(at) + within;
    segment[at..at + bytes.len()].copy_from_slice(bytes);
    scan(&segment).stopped
}

fn invalid(at: Lsn, why: Fault) -> Stopped {
    Stopped::Invalid { at, why }
}

#[test]
fn records_are_found_whatever_the_pieces() {
    let (log, records) = log();
    let segment = log.segment();
    let header = read_header(&segment).unwrap();
    for piece in [1, 7, 8191, 8192, 8193, SEGMENT] {
        let mut scanner = SegmentScanner::new(header);
        let mut seen = Vec::new();
        for bytes in segment.chunks(piece) {
            scanner.push(bytes, |record| seen.push((record.lsn, record.end, record.header.total_bytes)));
        }
        assert!(scanner.is_done());
        let report = scanner.finish();
        assert_eq!(seen.iter().map(|(lsn, ..)| *lsn).collect::<Vec<_>>(), records);
        assert_eq!(seen.iter().map(|(_, _, bytes)| *bytes).collect::<Vec<_>>(), [100, 4000, 5000, 77]);
        assert_eq!(seen.windows(2).filter(|pair| pair[0].1 != pair[1].0).count(), 0);
        assert_eq!(
            (report.records, report.first_record, report.last_record),
            (4, Some(FIRST), Some(records[3]))
        );
        assert_eq!((report.before_first, report.end), (Some(BEFORE), log.position()));
        assert_eq!(report.stopped, Stopped::Zeros { at: report.end });
        assert_eq!((report.head, report.tail, report.overwritten), (None, None, 0));
    }
}

#[test]
fn a_segment_ends_full_or_switched_or_in_zeros_or_cut() {
    let mut log = Log::new(PgMajor::V15);
    log.fill_to(SEGMENT, 0);
    let full = log.segment();
    let report = scan(&full);
    assert_eq!((report.stopped, report.end), (Stopped::Full, Lsn::from_u64(START + SEGMENT as u64)));
    for len in [40, 8191, 8192, SEGMENT - 1] {
        let report = scan(&full[..len]);
        assert_eq!(report.stopped, Stopped::Cut { at: Lsn::from_u64(START + len as u64) });
        assert_eq!(report.tail, None);
    }
    let facts = SegmentFacts::read(&[&full[..], &[1; 9]].concat()).unwrap();
    assert_eq!((facts.scan.stopped, facts.file_bytes), (Stopped::Full, SEGMENT as u64 + 9));

    let mut log = self::log().0;
    let at = log.add(Rmgr::XLOG, 0x40, &[]);
    let mut switched = log.segment();
    switched[offset(at) + 40..].fill(0xEE);
    let report = scan(&switched);
    assert_eq!(
        (report.stopped, report.end),
        (Stopped::Switched { at }, Lsn::from_u64(START + SEGMENT as u64))
    );

    // A page of zeros after one that a record filled to its end.
    let mut log = Log::new(PgMajor::V15);
    log.add_filler(WAL_PAGE_BYTES - 40);
    assert_eq!(scan(&log.segment()).stopped, Stopped::Zeros { at: page(1) });
}

#[test]
fn a_page_from_elsewhere_ends_it() {
    let expected = 0xD110;
    assert_eq!(
        changed(page(1), 0, &[0x13, 0xD1]),
        invalid(page(1), Fault::PageMagic { expected, found: 0xD113 })
    );
    assert_eq!(changed(page(1), 2, &[0x11]), invalid(page(1), Fault::PageFlags { found: 0x11 }));
    assert_eq!(changed(page(1), 2, &[0x03]), invalid(page(1), Fault::PageFlags { found: 0x03 }));
    assert_eq!(changed(page(1), 2, &[0x09]), invalid(page(1), Fault::PageFlags { found: 0x09 }));
    let (newest, found) = (TimelineId::from_u32(TIMELINE), TimelineId::from_u32(2));
    assert_eq!(changed(page(1), 4, &[2]), invalid(page(1), Fault::PageTimeline { newest, found }));
    let found = Lsn::from_u64(page(1).as_u64() & !0xFF_FFFF);
    assert_eq!(
        changed(page(1), 8, &[0, 0, 0]),
        invalid(page(1), Fault::PageAddress { expected: page(1), found: Lsn::from_u64(found.as_u64()) })
    );
    let fault = Fault::ContinuationLength { expected_bytes: 952, found_bytes: 1000 };
    assert_eq!(changed(page(1), 16, &1000_u32.to_le_bytes()), invalid(page(1), fault));
    assert_eq!(changed(page(1), 2, &[0]), invalid(page(1), Fault::MissingContinuation));
    let (_, records) = log();
    let mut segment = log().0.segment();
    segment[WAL_PAGE_BYTES..].fill(0);
    assert_eq!(scan(&segment).stopped, invalid(records[2], Fault::Unwritten { page: page(1) }));
    assert_eq!(scan(&segment).end, records[2]);
}

#[test]
fn a_later_timeline_is_told_and_a_continuation_of_nothing_refused() {
    let mut segment = log().0.segment();
    segment[WAL_PAGE_BYTES + 4] = 9;
    assert_eq!(scan(&segment).timeline, TimelineId::from_u32(9));

    let mut log = Log::new(PgMajor::V15);
    log.add_filler(WAL_PAGE_BYTES - 40);
    log.add_page_header(1, 77);
    assert_eq!(scan(&log.segment()).stopped, invalid(page(1), Fault::UnexpectedContinuation));

    let mut first = self::log().0.segment();
    first[2] |= 1;
    let report = scan(&first);
    assert_eq!(report.stopped, invalid(page(0), Fault::UnexpectedContinuation), "no bytes remain");

    let header = read_header(&first).unwrap();
    let mut other = SegmentScanner::new(super::super::SegmentHeader {
        system_id: capy_types::SystemId::from_u64(1),
        ..header
    });
    other.push(&first, |_| {});
    assert_eq!(other.finish().stopped, invalid(page(0), Fault::LongHeader));
}

#[test]
fn a_record_that_is_none_ends_it() {
    let (_, [first, second, third, _]) = log();
    for found_bytes in [1, 23, 0x4000_0000, u32::MAX] {
        let stopped = changed(second, 0, &found_bytes.to_le_bytes());
        assert_eq!(stopped, invalid(second, Fault::RecordLength { found_bytes }));
    }
    assert_eq!(changed(second, 17, &[22]), invalid(second, Fault::ResourceManager { found: 22 }));
    assert_eq!(changed(third, 17, &[127]), invalid(third, Fault::ResourceManager { found: 127 }));
    let link = Fault::Link { expected: first, found: BEFORE };
    assert_eq!(changed(second, 8, &BEFORE.as_u64().to_le_bytes()), invalid(second, link));
    let found = Lsn::from_u64(START);
    let link = Fault::ForwardLink { segment: found, found };
    assert_eq!(changed(first, 8, &START.to_le_bytes()), invalid(first, link));
    for (at, within) in [(second, 4), (second, 50), (third, 24), (third, 4999)] {
        // Behind the header of the second page the third record goes on.
        let within = if within == 4999 { within + 24 } else { within };
        let stopped = changed(at, within, &[0x5A]);
        assert!(
            matches!(stopped, Stopped::Invalid { at: found, why: Fault::Crc { .. } } if found == at),
            "{stopped:?}"
        );
    }
}

#[test]
fn a_giant_length_is_followed_in_bounded_memory_until_it_proves_wrong() {
    let (mut log, _) = log();
    let mut giant = record(FILLER, 0, 0, log_last(&log), &[7; 2000]);
    giant[..4].copy_from_slice(&0x3fff_ffff_u32.to_le_bytes());
    seal(&mut giant);
    let at = log.add_raw(&giant);
    log.add_filler(WAL_PAGE_BYTES);
    let stopped = scan(&log.segment()).stopped;
    assert!(
        matches!(
            stopped,
            Stopped::Invalid { why: Fault::ContinuationLength { .. } | Fault::MissingContinuation, .. }
        ),
        "{stopped:?}"
    );
    assert!(scan(&log.segment()).end == at);
}

fn log_last(log: &Log) -> Lsn {
    scan(&log.segment()).last_record.unwrap()
}

#[test]
fn custom_resource_managers_came_with_15() {
    for major in PgMajor::ALL {
        let mut log = Log::new(major);
        log.add(Rmgr::from_u8(21), 0, &[1]);
        let at = log.add(Rmgr::from_u8(128), 0, &[1]);
        let report = scan(&log.segment());
        let expected = if major >= PgMajor::V15 {
            Stopped::Zeros { at: report.end }
        } else {
            invalid(at, Fault::ResourceManager { found: 128 })
        };
        assert_eq!(report.stopped, expected);
    }
}

#[test]
fn a_record_given_up_in_a_crash_is_passed_over() {
    let mut log = Log::new(PgMajor::V15);
    let first = log.add_filler(100);
    let lost = log.add_filler(20_000);
    log.cut_to(2 * WAL_PAGE_BYTES, first);
    log.add_page_header(8, 0);
    let after = log.add(Rmgr::XLOG, 0xD0, &[lost.as_u64().to_le_bytes(), [0; 8]].concat());
    let report = scan(&log.segment());
    assert_eq!((report.records, report.overwritten), (2, 1));
    assert_eq!((report.last_record, report.stopped), (Some(after), Stopped::Zeros { at: log.position() }));
}
