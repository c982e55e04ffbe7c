//! How a point that a server wrote is found again in the archived log.

use capy_format::{RestorePoint, RestorePointKind, SegmentFacts, WalEvent, WalEventKind};
use capy_postgres::recovery::RecoveryTarget;
use capy_types::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId, Timestamp};

use super::aim::{Aim, aim};
use super::in_log::NamedPoints;
use crate::wal::archive::Archive;

const SIZE: u64 = 16 << 20;
/// From the begin of the record to its end.
const RECORD: u64 = 104;

fn lsn(segment: u64, offset: u64) -> Lsn {
    Lsn::from_u64(segment * SIZE + offset)
}

/// A segment with restore points: where they begin, and their names.
fn segment(timeline: u32, number: u64, points: &[(u64, &str)]) -> (SegmentName, SegmentFacts) {
    let name = SegmentName::containing(TimelineId::from_u32(timeline), lsn(number, 0), SegmentSize::DEFAULT);
    let event = |(offset, name): &(u64, &str)| WalEvent {
        at: lsn(number, *offset),
        time: None,
        what: WalEventKind::RestorePoint { name: (*name).to_owned() },
    };
    let facts = SegmentFacts {
        system_id: SystemId::from_u64(1),
        major: 15,
        segment_size: SegmentSize::DEFAULT,
        first: Some(lsn(number, 40)),
        last: Some(lsn(number, SIZE - 100)),
        end: name.end(),
        stopped: None,
        commits: 0,
        aborts: 0,
        first_end: None,
        last_end: None,
        times: None,
        events: points.iter().map(event).collect(),
        more_events: 0,
        tail: None,
        head: None,
    };
    (name, facts)
}

fn archive(segments: Vec<(SegmentName, SegmentFacts)>, forks: &[(u32, u32, Lsn)]) -> Archive {
    Archive::made_of(segments, forks)
}

/// Where a recovery to the point `x` goes whose record ends there.
fn aim_at(archive: &Archive, end: Lsn) -> Result<Aim, String> {
    let point = RestorePoint {
        id: "1".to_owned(),
        cluster: "main".parse().expect("a name"),
        kind: RestorePointKind::Pitr,
        label: "x".to_owned(),
        note: None,
        created_by: None,
        created_at: Timestamp::from_micros(0),
        backup_key: None,
        pitr_time: None,
        lsn: Some(end),
        in_wal: true,
    };
    aim(archive, &NamedPoints::of(archive), &point)
}

fn by_name(timeline: u32) -> Result<Aim, String> {
    let target = RecoveryTarget::Name("x".to_owned());
    Ok(Aim { target, timeline: TimelineId::from_u32(timeline), inclusive: true })
}

fn by_position(end: Lsn, timeline: u32) -> Result<Aim, String> {
    let target = RecoveryTarget::Lsn(end);
    Ok(Aim { target, timeline: TimelineId::from_u32(timeline), inclusive: false })
}

#[test]
fn a_name_that_the_log_has_once_is_the_target() {
    let archive = archive(vec![segment(1, 1, &[(500, "x"), (900, "y")]), segment(1, 2, &[])], &[]);
    assert_eq!(aim_at(&archive, lsn(1, 500 + RECORD)), by_name(1));
}

#[test]
fn of_several_of_a_name_the_own_one_is_reached_by_its_end() {
    let archive = archive(vec![segment(1, 1, &[(500, "x")]), segment(1, 2, &[(700, "x")])], &[]);
    for end in [lsn(1, 500 + RECORD), lsn(2, 700 + RECORD)] {
        assert_eq!(aim_at(&archive, end), by_position(end, 1));
    }
}

#[test]
fn a_point_is_looked_for_on_every_timeline_and_the_newest_that_has_it_is_followed() {
    let fork = [(2, 1, lsn(2, 600))];
    // The new timeline's copy of the segment in which it began has what was before.
    let both =
        archive(vec![segment(1, 1, &[]), segment(1, 2, &[(500, "x")]), segment(2, 2, &[(500, "x")])], &fork);
    assert_eq!(aim_at(&both, lsn(2, 500 + RECORD)), by_name(2));
    let left = archive(vec![segment(1, 1, &[]), segment(1, 2, &[(900, "x")]), segment(2, 2, &[])], &fork);
    assert_eq!(aim_at(&left, lsn(2, 900 + RECORD)), by_name(1));
    // The same name, once on each.
    let each = archive(vec![segment(1, 2, &[(900, "x")]), segment(2, 2, &[(700, "x")])], &fork);
    assert_eq!(aim_at(&each, lsn(2, 900 + RECORD)), by_name(1));
    assert_eq!(aim_at(&each, lsn(2, 700 + RECORD)), by_name(2));
}

#[test]
fn a_point_that_crosses_a_border_is_found_by_its_parts() {
    let mut record = [0; 98];
    record[0] = 98;
    // XLOG_RESTORE_POINT of the resource manager XLOG, and its main data of 72 bytes.
    (record[16], record[24], record[25]) = (0x70, 255, 72);
    record[34] = b'x';
    let (first, second) = record.split_at(60);
    let (name, mut before) = segment(1, 1, &[]);
    let (next, mut after) = segment(1, 2, &[]);
    before.tail = Some((lsn(1, SIZE - 60), hex::encode(first)));
    after.head = Some(hex::encode(second));
    let end = lsn(2, 40 + 40);
    let whole = archive(vec![(name, before.clone()), (next, after)], &[]);
    assert_eq!(NamedPoints::of(&whole).named("x").len(), 1);
    assert_eq!(aim_at(&whole, end), by_name(1));
    let cut = archive(vec![(name, before), segment(1, 2, &[])], &[]);
    assert!(NamedPoints::of(&cut).named("x").is_empty());
}

#[test]
fn what_the_archived_log_does_not_have_is_not_taken_for_it() {
    let archive_of = |points: &[(u64, &str)]| archive(vec![segment(1, 1, points)], &[]);
    let end = lsn(1, 500 + RECORD);
    for wrong in [&[][..], &[(500, "y")], &[(20_000, "x")]] {
        let why = aim_at(&archive_of(wrong), end).expect_err("it is not there");
        assert!(why.contains("000000010000000000000001 does not have it"), "{why}");
    }
    // What is not archived yet may have it.
    let ahead = lsn(2, 500);
    assert_eq!(aim_at(&archive_of(&[]), ahead), by_position(ahead, 1));
    // So may a segment whose events are not all listed.
    let (name, mut facts) = segment(1, 1, &[]);
    facts.more_events = 1;
    assert_eq!(aim_at(&archive(vec![(name, facts)], &[]), end), by_position(end, 1));
}
