//! Records that cross the border of segments.

use capy_types::Lsn;

use super::super::{
    CROSSING_KEPT_BYTES, Fault, Join, JoinError, PgMajor, PgTimestamp, Rmgr, SegmentFacts, Stopped, WalEvent,
    join,
};
use super::synthetic::{Log, SEGMENT, START, commit_data, record};

/// A log with a commit, of so many bytes, that begins `left` bytes before the first border.
fn log(left: usize, padding: usize) -> (Log, Lsn) {
    let mut log = Log::new(PgMajor::V15);
    log.fill_to(SEGMENT, left);
    let data = [commit_data(123_456), vec![0x11; padding]].concat();
    let lsn = log.add(Rmgr::TRANSACTION, 0, &data);
    log.add_filler(60);
    (log, lsn)
}

fn refs(facts: &[SegmentFacts]) -> Vec<&SegmentFacts> {
    facts.iter().collect()
}

#[test]
fn a_commit_is_found_wherever_the_border_cuts_it() {
    for left in (8..=72).step_by(8) {
        for padding in [40, 600, 5000] {
            let (log, lsn) = log(left, padding);
            let mut facts = log.facts();
            assert_eq!((facts[0].scan.stopped.clone(), facts[0].scan.end), (Stopped::Full, lsn));
            let Join::Record(joined) = join(&facts[0], &[&facts[1]]).unwrap() else { panic!("{left}") };
            assert_eq!((joined.lsn, joined.end), (lsn, facts[1].scan.first_record.unwrap()));
            let Some(WalEvent::Commit(end)) = &joined.event else { panic!("{:?}", joined.event) };
            assert_eq!((end.lsn, end.time), (lsn, PgTimestamp::from_micros(123_456)));
            assert_eq!(facts[0].events.commits + facts[1].events.commits, 0);
            facts[0].add(&joined);
            assert_eq!((facts[0].events.commits, facts[0].events.last_commit.unwrap().lsn), (1, lsn));
            assert_eq!(facts[1].scan.before_first, Some(lsn));
        }
    }
}

#[test]
fn what_each_side_keeps_is_bounded() {
    let (log, _) = log(4096, 5000);
    let facts = log.facts();
    let tail = facts[0].scan.tail.as_ref().unwrap();
    let head = facts[1].scan.head.as_ref().unwrap();
    assert_eq!((tail.kept.len(), head.kept.len()), (CROSSING_KEPT_BYTES, CROSSING_KEPT_BYTES));
    assert_eq!((tail.taken_bytes, tail.total_bytes), (4096, 24 + 5 + 8 + 5000));
    assert_eq!(head.remaining_bytes, tail.total_bytes - tail.taken_bytes);
}

#[test]
fn a_record_of_many_segments_needs_them_all() {
    let (log, lsn) = log(16, 3 * SEGMENT);
    let facts = log.facts();
    assert_eq!(facts.len(), 5);
    assert_eq!((facts[2].scan.first_record, facts[2].scan.records), (None, 0));
    assert_eq!((facts[2].scan.end, facts[2].scan.stopped.clone()), (facts[2].header.start, Stopped::Full));
    let following = refs(&facts[1..]);
    let joined = join(&facts[0], &following).unwrap();
    assert!(
        matches!(&joined, Join::Record(record) if record.event.is_some() && record.header.total_bytes > 3 << 20)
    );
    let unfinished = join(&facts[0], &following[..2]).unwrap();
    assert!(
        matches!(unfinished, Join::Unfinished { lsn: at, missing_bytes } if at == lsn && missing_bytes > 1 << 20)
    );
    assert_eq!(join(&facts[1], &following[1..]), Ok(Join::Nothing), "it did not begin there");
}

#[test]
fn segments_that_do_not_fit_are_told() {
    let (log, lsn) = log(64, 600);
    let facts = log.facts();
    let border = Lsn::from_u64(START + SEGMENT as u64);
    assert_eq!(join(&facts[1], &[]), Ok(Join::Nothing));
    assert!(
        matches!(join(&facts[0], &[&facts[0]]), Err(JoinError::NotNext { expected, .. }) if expected == border)
    );
    let mut other = facts[1].clone();
    other.header.system_id = capy_types::SystemId::from_u64(1);
    assert!(matches!(join(&facts[0], &[&other]), Err(JoinError::NotNext { .. })));
    let mut other = facts[1].clone();
    other.scan.head = None;
    assert_eq!(join(&facts[0], &[&other]), Err(JoinError::NoContinuation { segment: border, lsn }));

    let mut segments = log.segments();
    segments[1][100] ^= 1;
    let damaged = SegmentFacts::read(&segments[1]).unwrap();
    let error = join(&facts[0], &[&damaged]).unwrap_err();
    assert!(matches!(error, JoinError::Record { why: Fault::Crc { .. }, .. }), "{error}");

    let (long, lsn) = self::log(64, 20_000);
    let (facts, mut segments) = (long.facts(), long.segments());
    segments[1][8192..].fill(0);
    let cut = SegmentFacts::read(&segments[1]).unwrap();
    let page = Lsn::from_u64(border.as_u64() + 8192);
    assert_eq!(cut.scan.stopped, Stopped::Invalid { at: border, why: Fault::Unwritten { page } });
    assert_eq!(join(&facts[0], &[&cut]), Err(JoinError::BrokenOff { segment: border, lsn }));
}

#[test]
fn a_crossing_record_must_link_and_belong() {
    let bad = |previous: Option<Lsn>, rmgr: u8| {
        let mut log = Log::new(PgMajor::V15);
        log.fill_to(SEGMENT, 8);
        let last = SegmentFacts::read(&log.segments()[0]).unwrap().scan.last_record.unwrap();
        log.add_raw(&record(Rmgr::from_u8(rmgr), 0, 1, previous.unwrap_or(last), &[1; 60]));
        let facts = log.facts();
        join(&facts[0], &[&facts[1]])
    };
    assert!(matches!(bad(None, 11), Ok(Join::Record(_))));
    assert!(matches!(
        bad(Some(Lsn::from_u64(START)), 11),
        Err(JoinError::Record { why: Fault::Link { .. }, .. })
    ));
    assert!(matches!(
        bad(None, 99),
        Err(JoinError::Record { why: Fault::ResourceManager { found: 99 }, .. })
    ));
    assert!(matches!(bad(None, Rmgr::TABLESPACE.as_u8()), Ok(Join::Record(_))));
}

#[test]
fn a_record_that_crosses_and_makes_no_sense_is_told() {
    let mut log = Log::new(PgMajor::V15);
    log.fill_to(SEGMENT, 8);
    // A commit without its time.
    log.add(Rmgr::TRANSACTION, 0, &[1, 2, 3]);
    let facts = log.facts();
    assert!(matches!(join(&facts[0], &[&facts[1]]), Err(JoinError::Decode { .. })));
}

#[test]
fn a_record_whose_rest_was_never_written_is_overwritten() {
    for kept_pages in [0, 2] {
        let (mut log, lsn) = log(64, 60_000);
        let before = SegmentFacts::read(&log.segments()[0]).unwrap().scan.last_record.unwrap();
        log.cut_to(SEGMENT + kept_pages * 8192, before);
        log.add_page_header(8, 0);
        log.add(Rmgr::XLOG, 0xD0, &[0; 16]);
        let facts = log.facts();
        assert_eq!(join(&facts[0], &[&facts[1]]), Ok(Join::Overwritten { lsn }));
        assert_eq!((facts[1].scan.records, facts[1].scan.head.clone()), (1, None));
        assert!(matches!(facts[1].scan.stopped, Stopped::Zeros { .. }));
    }
}
