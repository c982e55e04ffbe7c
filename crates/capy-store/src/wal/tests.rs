//! The archive as recovery sees it: holes, forks, and what may go.

use capy_format::{SegmentFacts, TransactionEnd, WalEvent, WalEventKind};
use capy_types::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId, Timestamp, WalFile};

use super::archive::{Archive, Branch, ReachEnd};
use super::retention::{Base, needed};

const SIZE: u64 = 16 << 20;

fn lsn(segment: u64, offset: u64) -> Lsn {
    Lsn::from_u64(segment * SIZE + offset)
}

fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::containing(TimelineId::from_u32(timeline), lsn(number, 0), SegmentSize::DEFAULT)
}

fn facts(timeline: u32, number: u64) -> (SegmentName, SegmentFacts) {
    let name = segment(timeline, number);
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
        events: Vec::new(),
        more_events: 0,
        tail: None,
        head: None,
    };
    (name, facts)
}

/// Timeline 1 has segments 1 to 6 without 4; timeline 2 left it inside 3 and has 3 to 5.
fn forked() -> Archive {
    let first = [1, 2, 3, 5, 6].map(|number| facts(1, number));
    let second = [3, 4, 5].map(|number| facts(2, number));
    Archive::made_of(first.into_iter().chain(second).collect(), &[(2, 1, lsn(3, 5000))])
}

fn names(archive: &Archive, timeline: u32, start: Lsn) -> (Vec<String>, ReachEnd) {
    let history = archive.history(TimelineId::from_u32(timeline)).expect("known");
    let reach = archive.reach(&history, start);
    (reach.segments.iter().map(|(name, _)| name.to_string()).collect(), reach.ended)
}

#[test]
fn recovery_goes_from_a_timeline_to_the_one_that_came_from_it() {
    let (segments, ended) = names(&forked(), 2, lsn(2, 40));
    assert_eq!(segments, [segment(1, 2), segment(2, 3), segment(2, 4), segment(2, 5)].map(|n| n.to_string()));
    assert_eq!(ended, ReachEnd::Archive);
}

#[test]
fn a_hole_ends_what_can_be_reached_and_is_named() {
    let (segments, ended) = names(&forked(), 1, lsn(1, 40));
    assert_eq!(segments.len(), 3);
    assert_eq!(ended, ReachEnd::Hole(segment(1, 4)));
}

#[test]
fn the_old_timelines_copy_serves_up_to_the_fork_where_the_new_ones_is_missing() {
    let archive = Archive::made_of(
        [1, 2, 3].map(|n| facts(1, n)).into_iter().chain([facts(2, 4)]).collect(),
        &[(2, 1, lsn(3, 5000))],
    );
    let (segments, ended) = names(&archive, 2, lsn(2, 40));
    assert_eq!(segments, [segment(1, 2), segment(1, 3)].map(|n| n.to_string()));
    assert_eq!(ended, ReachEnd::Hole(segment(2, 3)));
    // Timeline 1 itself has all of it.
    let history = archive.history(TimelineId::from_u32(1)).expect("known");
    assert_eq!(archive.reach(&history, lsn(2, 40)).end(), Some(lsn(4, 0)));
}

/// Where what is planned with ends on timeline 2, and whether a server would go on.
fn end_on_two(archive: &Archive) -> (Option<Lsn>, bool, ReachEnd) {
    let history = archive.history(TimelineId::from_u32(2)).expect("known");
    let reach = archive.reach(&history, lsn(2, 40));
    (reach.end(), reach.strays, reach.ended)
}

#[test]
fn what_the_old_timeline_wrote_after_the_fork_is_not_planned_with_while_the_new_ones_is_not_there() {
    let archive = |numbers: &[u64], fork: Lsn| {
        Archive::made_of(numbers.iter().map(|n| facts(1, *n)).collect(), &[(2, 1, fork)])
    };
    let missing = || ReachEnd::Fork(segment(2, 3));
    let within = lsn(3, 5000);
    assert_eq!(end_on_two(&archive(&[1, 2, 3, 4], within)), (Some(within), true, missing()));
    assert_eq!(end_on_two(&archive(&[1, 2, 3], within)), (Some(within), true, missing()));
    // Not archived, or never: nothing to go astray in, yet.
    let (before, border) = (lsn(3, 0), lsn(4, 0));
    let not_yet = ReachEnd::Fork(segment(1, 3));
    assert_eq!(end_on_two(&archive(&[1, 2], within)), (Some(before), false, not_yet));
    // At the border of two segments.
    let missing = || ReachEnd::Fork(segment(2, 4));
    assert_eq!(end_on_two(&archive(&[1, 2, 3], border)), (Some(border), false, missing()));
    assert_eq!(end_on_two(&archive(&[1, 2, 3, 4], border)), (Some(border), true, missing()));
}

#[test]
fn a_branch_that_is_left_out_is_told_when_it_has_transactions() {
    let branches = |at: Option<Lsn>, start: Lsn| {
        let mut on = facts(1, 4);
        on.1.last_end = at.map(|at| TransactionEnd { at, time: Timestamp::from_micros(0) });
        let segments = [1, 2, 3].map(|n| facts(1, n)).into_iter().chain([on, facts(2, 3)]).collect();
        let archive = Archive::made_of(segments, &[(2, 1, lsn(3, 5000))]);
        let history = archive.history(TimelineId::from_u32(2)).expect("known");
        archive.branches(&history, start)
    };
    let told = [Branch { timeline: TimelineId::from_u32(1), left_at: lsn(3, 5000) }];
    assert_eq!(branches(Some(lsn(4, 100)), lsn(2, 40)), told);
    assert_eq!(branches(None, lsn(2, 40)), []);
    // Of a backup that was taken later, that is long past.
    assert_eq!(branches(Some(lsn(4, 100)), lsn(3, 6000)), []);
}

#[test]
fn the_wal_that_an_old_timeline_wrote_after_the_fork_is_no_part_of_the_new_one() {
    let archive = Archive::made_of(
        [1, 2, 3, 4, 5].map(|n| facts(1, n)).into_iter().chain([facts(2, 3)]).collect(),
        &[(2, 1, lsn(3, 5000))],
    );
    let (segments, ended) = names(&archive, 2, lsn(2, 40));
    assert_eq!(segments, [segment(1, 2), segment(2, 3)].map(|n| n.to_string()));
    assert_eq!(ended, ReachEnd::Archive);
}

#[test]
fn what_happened_before_the_start_in_its_segment_is_not_met() {
    let mut first = facts(1, 1);
    let what = || WalEventKind::CreateTablespace { oid: 5, location: "/fast".to_owned() };
    let at = |offset| WalEvent { at: lsn(1, offset), time: None, what: what() };
    first.1.events = vec![at(1000), at(2000), at(3000)];
    let archive = Archive::made_of(vec![first], &[]);
    let history = archive.history(TimelineId::from_u32(1)).expect("known");
    let met: Vec<_> = archive.reach(&history, lsn(1, 2000)).events().map(|event| event.at).collect();
    assert_eq!(met, [lsn(1, 2000), lsn(1, 3000)]);
}

#[test]
fn wal_that_ends_inside_a_segment_ends_the_way_unless_it_is_the_last() {
    let mut broken = facts(1, 2);
    broken.1.stopped = Some("zeros".to_owned());
    broken.1.end = lsn(2, 1000);
    let archive = Archive::made_of(vec![facts(1, 1), broken.clone(), facts(1, 3)], &[]);
    assert_eq!(names(&archive, 1, lsn(1, 40)).1, ReachEnd::Broken(segment(1, 2), "zeros".to_owned()));
    let archive = Archive::made_of(vec![facts(1, 1), broken], &[]);
    assert_eq!(names(&archive, 1, lsn(1, 40)).1, ReachEnd::Archive);
}

#[test]
fn a_missing_history_hides_every_later_timeline() {
    let segments = vec![facts(1, 1), facts(2, 2), facts(3, 3)];
    let archive = Archive::made_of(segments, &[(3, 1, lsn(1, 5000))]);
    let one = TimelineId::from_u32(1);
    assert_eq!(archive.latest_from(one), one);
    assert_eq!(archive.hidden_from(one), Some(TimelineId::from_u32(2)));
    // Whoever is on it already needs no history to go on.
    let two = TimelineId::from_u32(2);
    assert!(archive.history_from(two, two).is_ok() && archive.history_from(one, two).is_err());
    assert!(archive.history(TimelineId::from_u32(2)).is_err());
}

/// The segments that may go when the bases begin there.
fn may_go(archive: &Archive, bases: &[(u32, Lsn)]) -> Vec<String> {
    let bases: Vec<_> = bases
        .iter()
        .map(|(timeline, start)| Base { timeline: TimelineId::from_u32(*timeline), start: *start })
        .collect();
    let needed = needed(archive, &bases);
    let segments =
        archive.catalog.files.keys().filter_map(|file: &WalFile| file.segment(SegmentSize::DEFAULT));
    segments.filter(|name| !needed.keeps(*name)).map(|name| name.to_string()).collect()
}

#[test]
fn wal_goes_only_below_the_oldest_kept_base_of_each_history() {
    let archive = forked();
    assert_eq!(may_go(&archive, &[(1, lsn(2, 40))]), [segment(1, 1).to_string()]);
    // A base of timeline 2 needs nothing of timeline 1: neither what is before nor the other branch.
    let gone = [segment(1, 1), segment(1, 2), segment(1, 3), segment(1, 5), segment(1, 6), segment(2, 3)];
    assert_eq!(may_go(&archive, &[(2, lsn(4, 40))]), gone.map(|name| name.to_string()));
    // The newest timeline stays, though no base leads to it.
    let gone = [segment(1, 1), segment(1, 2), segment(1, 3)].map(|name| name.to_string());
    assert_eq!(may_go(&archive, &[(1, lsn(5, 40))]), gone);
    // Two bases: each keeps its own way.
    let gone = [segment(1, 1), segment(1, 2), segment(1, 3)].map(|name| name.to_string());
    assert_eq!(may_go(&archive, &[(1, lsn(5, 40)), (2, lsn(3, 6000))]), gone);
}

#[test]
fn a_timeline_whose_history_is_missing_keeps_everything() {
    let archive = Archive::made_of(vec![facts(1, 1), facts(1, 9), facts(2, 2)], &[]);
    assert_eq!(may_go(&archive, &[(1, lsn(9, 40))]), [segment(1, 1).to_string()]);
}
