//! How far an archive goes along one history, and why it ends there.
//!
//! Contained by: the archive. Invariant: nothing is counted that a history does not have, even where a
//! server left to itself would replay it.

use capy_format::{SegmentFacts, WalEvent};
use capy_postgres::TimelineHistory;
use capy_types::{Lsn, SegmentName, TimelineId, Timestamp};

use super::Archive;

/// Why the WAL that can be replayed ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReachEnd {
    /// The archive has no later segment of this history.
    Archive,
    /// It has none, and what there is lies before the history's own timeline: with this segment, which
    /// is missing, a server would go on in what an older timeline wrote after it was left.
    Fork(SegmentName),
    /// A segment is missing, and later ones are there.
    Hole(SegmentName),
    /// The valid WAL of a segment ends early, and later ones are there.
    Broken(SegmentName, String),
}

/// Segments of one history that follow each other.
pub(crate) struct Reach<'a> {
    history: &'a TimelineHistory,
    /// Where recovery begins, within the first segment.
    start: Lsn,
    pub(crate) segments: Vec<(SegmentName, &'a SegmentFacts)>,
    pub(crate) ended: ReachEnd,
    /// Whether a server would go on in the archive behind the end, with what is no part of the history.
    pub(crate) strays: bool,
}

/// A timeline that has transactions of its own behind the place where it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Branch {
    pub(crate) timeline: TimelineId,
    pub(crate) left_at: Lsn,
}

impl Archive {
    /// What can be replayed on `history` from `start` on.
    pub(crate) fn reach<'a>(&'a self, history: &'a TimelineHistory, start: Lsn) -> Reach<'a> {
        let mut at = SegmentName::containing(history.timeline(), start, self.segment_size());
        let mut segments = Vec::new();
        let mut missing = None;
        while let Some((name, facts)) = self.segment_of(history, at) {
            segments.push((name, facts));
            let last_byte = history.timeline_at(Lsn::from_u64(at.end().as_u64() - 1));
            at = at.next();
            if name.timeline() != last_byte {
                // The older timeline's copy ends at the fork.
                missing = Some(name.on(last_byte));
                break;
            }
            if let Some(why) = &facts.stopped
                && self.continues(history, at)
            {
                let ended = ReachEnd::Broken(name, why.clone());
                return Reach { history, start, segments, ended, strays: false };
            }
        }
        let last = segments.last().map(|(name, _)| *name);
        let missing = missing.unwrap_or_else(|| at.on(history.timeline_at(at.start())));
        let ended = if self.continues(history, at) {
            ReachEnd::Hole(missing)
        } else if last.is_some_and(|last| last.timeline() != history.timeline()) {
            ReachEnd::Fork(missing)
        } else {
            ReachEnd::Archive
        };
        let strays = last.is_some_and(|last| self.strays(history, last));
        Reach { history, start, segments, ended, strays }
    }

    /// Whether a server on `history` would go on behind `last`, its last segment, in WAL of that one's
    /// timeline that is not its history: it asks for the next segment of every timeline from there on.
    fn strays(&self, history: &TimelineHistory, last: SegmentName) -> bool {
        let Some(end) = left_at(history, last.timeline()) else { return false };
        let is_behind = |name: SegmentName| {
            self.segments.get(&name).is_some_and(|facts| facts.end > end.max(name.start()))
        };
        end <= last.end() && (is_behind(last) || is_behind(last.next()))
    }

    /// The timelines on the way from `start` that have transactions behind the place where they were left.
    pub(crate) fn branches(&self, history: &TimelineHistory, start: Lsn) -> Vec<Branch> {
        let ancestors = history.ancestors().iter().map(|entry| entry.timeline);
        let left = ancestors.filter_map(|timeline| {
            Some(Branch { timeline, left_at: left_at(history, timeline).filter(|at| *at > start)? })
        });
        let went_on = |branch: &Branch| {
            let from = SegmentName::containing(branch.timeline, branch.left_at, self.segment_size());
            let later =
                self.segments.range(from..).take_while(|(name, _)| name.timeline() == branch.timeline);
            let mut ends = later.filter_map(|(_, facts)| facts.last_end);
            ends.any(|end| end.at >= branch.left_at)
        };
        left.filter(went_on).collect()
    }

    /// Whether any segment of `history` at or after `at` is there.
    fn continues(&self, history: &TimelineHistory, at: SegmentName) -> bool {
        let timelines = history.ancestors().iter().map(|entry| entry.timeline).chain([history.timeline()]);
        timelines.into_iter().any(|timeline| {
            let later = self.segments.range(at.on(timeline)..);
            let mut own = later.take_while(|(name, _)| name.timeline() == timeline);
            own.any(|(name, _)| history.timeline_at(name.start()) == timeline)
        })
    }
}

impl Reach<'_> {
    /// The end of the last whole record.
    pub(crate) fn end(&self) -> Option<Lsn> {
        self.segments.last().map(|(_, facts)| facts.end)
    }

    /// The last whole record: a recovery that has replayed it has reached the end.
    pub(crate) fn last_record(&self) -> Option<Lsn> {
        let mut is_continued = false;
        self.segments.iter().rev().find_map(|(name, facts)| {
            // One that begins here may be all that the next segment has.
            let crossing = facts.tail.as_ref().filter(|_| is_continued).map(|(at, _)| *at);
            is_continued = facts.end > name.start();
            crossing.or(facts.last)
        })
    }

    /// Until when everything that committed is known to be here: the latest time that any record
    /// carries.
    pub(crate) fn known_until(&self) -> Option<Timestamp> {
        self.segments.iter().rev().find_map(|(_, facts)| latest_time(facts))
    }

    /// The time of the last commit or abort.
    pub(crate) fn last_commit(&self) -> Option<Timestamp> {
        self.segments.iter().filter_map(|(_, facts)| facts.times).map(|(_, latest)| latest).max()
    }

    /// The history that is followed.
    pub(crate) fn history(&self) -> &TimelineHistory {
        self.history
    }

    /// The events, in order: of the first segment those that recovery meets.
    pub(crate) fn events(&self) -> impl Iterator<Item = &WalEvent> {
        let all = self.segments.iter().flat_map(|(_, facts)| &facts.events);
        all.filter(|event| event.at >= self.start)
    }

    /// Whether every segment from `start` up to the byte before `stop` is here.
    pub(crate) fn covers(&self, stop: Lsn) -> bool {
        self.end().is_some_and(|end| end >= stop)
    }
}

/// Where `history` left one of the timelines before its own.
pub(super) fn left_at(history: &TimelineHistory, timeline: TimelineId) -> Option<Lsn> {
    // Positions do not always increase: a timeline may end before its parent was left.
    let later = history.ancestors().iter().skip_while(|entry| entry.timeline != timeline);
    later.map(|entry| entry.switch_lsn).min()
}

pub(in crate::wal) fn latest_time(facts: &SegmentFacts) -> Option<Timestamp> {
    let commit = facts.times.map(|(_, latest)| latest);
    facts.events.iter().filter_map(|event| event.time).chain(commit).max()
}
