//! What is kept of a segment is bounded, and what is not kept is counted.

use super::super::{
    EVENTS_MAX, KEPT_BYTES, KEPT_EVENT_BYTES, PgMajor, RELATIONS_MAX, Rmgr, SegmentFacts, SegmentScanner,
    read_header,
};
use super::synthetic::{Log, commit_data};

/// A commit that drops `count` relations.
fn drop_data(count: u32) -> Vec<u8> {
    let mut data = [commit_data(5), 4_u32.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    for number in 0..count {
        data.extend([1663, 5, number].map(u32::to_le_bytes).concat());
    }
    data
}

#[test]
fn the_bytes_kept_of_a_record_are_bounded() {
    let mut log = Log::new(PgMajor::V15);
    log.add_filler(5000);
    log.add_filler(50_000);
    log.add(Rmgr::TRANSACTION, 0, &[0; 70_000]);
    let segment = log.segment();
    let mut kept = Vec::new();
    let mut scanner = SegmentScanner::new(read_header(&segment).unwrap());
    scanner.push(&segment, |record| kept.push(record.kept.len()));
    assert_eq!(kept, [KEPT_BYTES, KEPT_BYTES, KEPT_EVENT_BYTES]);
}

#[test]
fn events_beyond_the_limit_are_counted() {
    let mut log = Log::new(PgMajor::V15);
    for _ in 0..EVENTS_MAX + 3 {
        log.add(Rmgr::XLOG, 0x70, &[&[0; 8][..], b"point\0"].concat());
    }
    let events = SegmentFacts::read(&log.segment()).unwrap().events;
    assert_eq!((events.restore_points.len(), events.dropped_events), (EVENTS_MAX, 3));
    assert_eq!(events.restore_points[7].name, "point");
}

#[test]
fn relations_beyond_the_limit_are_counted() {
    let mut log = Log::new(PgMajor::V15);
    for _ in 0..5 {
        log.add(Rmgr::TRANSACTION, 0x80, &drop_data(5000));
    }
    let events = SegmentFacts::read(&log.segment()).unwrap().events;
    let lengths: Vec<_> = events.relation_drops.iter().map(|drop| drop.relations.relations.len()).collect();
    assert_eq!(lengths, [5000, 5000, 5000, RELATIONS_MAX - 15_000, 0]);
    let complete: Vec<_> = events.relation_drops.iter().map(|drop| drop.relations.complete).collect();
    assert_eq!(complete, [true, true, true, false, false]);
    assert_eq!((events.commits, events.dropped_events), (5, 2));
}

#[test]
fn a_commit_longer_than_what_is_kept_still_counts() {
    let mut log = Log::new(PgMajor::V15);
    let lsn = log.add(Rmgr::TRANSACTION, 0x80, &drop_data(8000));
    let mut tables = [5, 9000, 0].map(u32::to_le_bytes).concat();
    (0..9000_u32).for_each(|oid| tables.extend(oid.to_le_bytes()));
    log.add(Rmgr::HEAP, 0x30, &tables);
    let events = SegmentFacts::read(&log.segment()).unwrap().events;
    assert_eq!((events.commits, events.undecoded), (1, 0));
    let drop = &events.relation_drops[0];
    assert_eq!((drop.lsn, drop.relations.complete), (lsn, false));
    assert!(drop.relations.relations.len() > 5400);
}

#[test]
fn stamps_need_not_rise() {
    let mut log = Log::new(PgMajor::V15);
    let lsns: Vec<_> =
        [50, 10, 90, 40].map(|time| log.add(Rmgr::TRANSACTION, 0, &commit_data(time))).into_iter().collect();
    log.add(Rmgr::TRANSACTION, 0x20, &commit_data(95));
    let events = SegmentFacts::read(&log.segment()).unwrap().events;
    let micros = |time: Option<super::super::PgTimestamp>| time.map(super::super::PgTimestamp::as_micros);
    assert_eq!((events.commits, events.aborts), (4, 1));
    assert_eq!((micros(events.min_end_time), micros(events.max_end_time)), (Some(10), Some(95)));
    let (first, last) = (events.first_commit.unwrap(), events.last_commit.unwrap());
    assert_eq!((first.lsn, first.time.as_micros()), (lsns[0], 50));
    assert_eq!((last.lsn, last.time.as_micros()), (lsns[3], 40));
    assert_eq!(events.newest_xid.unwrap().as_u32(), 777);
}

#[test]
fn an_event_that_makes_no_sense_is_counted() {
    let mut log = Log::new(PgMajor::V15);
    log.add(Rmgr::TRANSACTION, 0, &[1, 2, 3]);
    log.add(Rmgr::XLOG, 0x10, &[0; 60]);
    log.add(Rmgr::XLOG, 0x20, &[]);
    let events = SegmentFacts::read(&log.segment()).unwrap().events;
    assert_eq!((events.undecoded, events.commits), (2, 0));
}
