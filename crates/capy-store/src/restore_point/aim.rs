//! The recovery that leads to a stored moment.
//!
//! Contained by: the state of a restore point, and the restore to a label. Where the log has the name
//! once, recovery goes by name; where another point of that name comes first, it goes by position.

use capy_format::RestorePoint;
use capy_postgres::recovery::RecoveryTarget;
use capy_types::{Lsn, SegmentName, TimelineId, Timestamp, WalFile};

use super::in_log::NamedPoints;
use crate::wal::archive::Archive;

/// The recovery that leads to a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aim {
    pub(super) target: RecoveryTarget,
    pub(super) timeline: TimelineId,
    pub(super) inclusive: bool,
}

/// The recovery that leads to a point of kind `pitr`, or why none does.
pub(super) fn aim(
    archive: &Archive,
    named: &NamedPoints,
    point: &RestorePoint,
) -> std::result::Result<Aim, String> {
    if let Some(lsn) = point.lsn.filter(|_| point.in_wal) {
        return aim_into_log(archive, named, point, lsn);
    }
    let (target, moment) = match (point.pitr_time, point.lsn) {
        (Some(time), _) => (RecoveryTarget::Time(time), point.created_at.max(time)),
        (None, Some(lsn)) => (RecoveryTarget::Lsn(lsn), point.created_at),
        (None, None) => return Err("it points at no moment".to_owned()),
    };
    Ok(Aim { target, timeline: timeline_at(archive, moment), inclusive: true })
}

/// To a point that a server wrote into its log up to `end`.
fn aim_into_log(
    archive: &Archive,
    named: &NamedPoints,
    point: &RestorePoint,
    end: Lsn,
) -> std::result::Result<Aim, String> {
    // The record that follows it begins at its end, and is not part of it.
    let by_position = |timeline| Aim { target: RecoveryTarget::Lsn(end), timeline, inclusive: false };
    let known = named.named(&point.label);
    let mut timelines = archive.timelines();
    timelines.sort_by_key(|timeline| std::cmp::Reverse((*timeline == newest(archive), *timeline)));
    for timeline in timelines {
        let Ok(history) = archive.history(timeline) else { continue };
        let mut met = known.iter().filter(|other| other.is_on(archive, &history));
        if let Some(own) = met.clone().find(|other| other.ends_at(end)) {
            let is_only = met.all(|other| other.at == own.at);
            let by_name =
                Aim { target: RecoveryTarget::Name(point.label.clone()), timeline, inclusive: true };
            return Ok(if is_only { by_name } else { by_position(timeline) });
        }
    }
    let timeline = timeline_at(archive, point.created_at);
    let last_byte = Lsn::from_u64(end.as_u64().saturating_sub(1));
    let segment = SegmentName::containing(timeline, last_byte, archive.segment_size());
    let archived = archive.history(timeline).ok().and_then(|history| archive.segment_of(&history, segment));
    match archived {
        // Its events are not all listed.
        Some((_, facts)) if facts.more_events == 0 && last_byte < facts.end => {
            Err(format!("the WAL that is archived as {segment} does not have it"))
        }
        _ => Ok(by_position(timeline)),
    }
}

/// The newest timeline that the archive knew of at a moment.
fn timeline_at(archive: &Archive, moment: Timestamp) -> TimelineId {
    let is_known = |timeline| {
        let listed = archive.catalog.files.get(&WalFile::history(timeline));
        let archived_at = listed.and_then(|listed| listed.facts.as_ref()).map(|facts| facts.archived_at);
        listed.is_some() && archived_at.is_none_or(|archived_at| archived_at <= moment)
    };
    let mut timeline = oldest(archive);
    loop {
        let next = TimelineId::from_u32(timeline.as_u32() + 1);
        if !is_known(next) {
            return timeline;
        }
        timeline = next;
    }
}

fn oldest(archive: &Archive) -> TimelineId {
    archive.oldest().unwrap_or(TimelineId::from_u32(1))
}

/// The timeline that WAL may still come of.
pub(super) fn newest(archive: &Archive) -> TimelineId {
    archive.latest_from(oldest(archive))
}
