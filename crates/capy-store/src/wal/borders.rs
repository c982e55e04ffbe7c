//! Records that begin in one segment and end in the next: events of neither, put together from what
//! the facts of both have of them.
//!
//! Contained by: the archive. Without it a setting, a tablespace, a restore point or a commit whose
//! record happens to cross a border would be unknown, and a plan wrong that rests on its absence.

use std::collections::BTreeMap;

use capy_format::{SegmentFacts, TransactionEnd};
use capy_postgres::TimelineHistory;
use capy_postgres::wal::{self, PgMajor, WalEvent, decode_event};
use capy_types::{Lsn, SegmentName, TimelineId, Timestamp};

use super::facts::{CROSSING_MAX_BYTES, list_events};

/// Ends the location of a tablespace of which only the beginning is known.
pub(crate) const CUT_LOCATION: &str = "…";
/// Bytes of a record's length, with which it begins.
const LENGTH_BYTES: usize = 4;

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// Where its record begins.
    pub(crate) lsn: Lsn,
    /// The time it carries.
    pub(crate) time: Timestamp,
    /// The lower half of its number.
    pub(crate) xid: Option<u32>,
}

/// Adds to each segment's facts what the record says that begins in it and ends in the next. Returns
/// the ends of transactions among these records.
pub(super) fn join(
    segments: &mut BTreeMap<SegmentName, SegmentFacts>,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
) -> BTreeMap<SegmentName, End> {
    let open = segments.iter().filter(|(_, facts)| facts.tail.is_some());
    let crossing: Vec<_> = open
        .filter_map(|(name, facts)| Some((*name, record(facts, continuation(segments, histories, *name)?)?)))
        .collect();
    let mut ends = BTreeMap::new();
    for (name, event) in crossing {
        if let WalEvent::Commit(end) | WalEvent::Abort(end) = &event {
            let (time, xid) = (end.time.to_timestamp(), end.xid.map(|xid| xid.as_u32()));
            ends.insert(name, End { lsn: end.lsn, time, xid });
        }
        if let Some(facts) = segments.get_mut(&name) {
            add(facts, event);
        }
    }
    ends
}

/// The segment that goes on where another ends: the next of its timeline, or where that was never
/// filled the copy with which a later timeline began.
fn continuation<'a>(
    segments: &'a BTreeMap<SegmentName, SegmentFacts>,
    histories: &BTreeMap<TimelineId, TimelineHistory>,
    name: SegmentName,
) -> Option<&'a SegmentFacts> {
    let next = name.next();
    let begun = histories.iter().filter(|(_, history)| history.timeline_at(next.start()) == name.timeline());
    let copies = begun.map(|(timeline, _)| next.on(*timeline));
    std::iter::once(next).chain(copies).find_map(|name| segments.get(&name))
}

/// The record between two segments, if it is one that matters.
fn record(facts: &SegmentFacts, next: &SegmentFacts) -> Option<WalEvent> {
    let (at, tail) = facts.tail.as_ref()?;
    let mut record = hex::decode(tail).ok()?;
    // Facts keep the beginning of what each segment has of it.
    if record.len() < CROSSING_MAX_BYTES {
        record.extend(hex::decode(next.head.as_ref()?).ok()?);
    }
    let length = record.first_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_le_bytes(*bytes) as usize)?;
    record.truncate(length);
    let mut event = decode_event(*at, &record, PgMajor::from_number(facts.major.into())?).ok()??;
    if let WalEvent::TablespaceCreated(made) = &mut event
        && record.len() < length
    {
        made.path.push_str(CUT_LOCATION);
    }
    Some(event)
}

fn add(facts: &mut SegmentFacts, event: WalEvent) {
    let mut events = wal::SegmentEvents::default();
    events.add(event);
    facts.commits += events.commits;
    facts.aborts += events.aborts;
    if let Some(commit) = events.last_commit {
        let (at, time) = (commit.lsn, commit.time.to_timestamp());
        let end = TransactionEnd { at, time };
        facts.first_end.get_or_insert(end);
        facts.last_end = Some(end);
    }
    if let Some(time) = events.max_end_time.map(wal::PgTimestamp::to_timestamp) {
        let (earliest, latest) = facts.times.unwrap_or((time, time));
        facts.times = Some((earliest.min(time), latest.max(time)));
    }
    // It begins behind all others.
    facts.events.extend(list_events(&events));
}
