//! The restore points that the archived log has.
//!
//! Contained by: the aim. The archive has put together those that cross the border of two segments.

use std::collections::BTreeMap;

use capy_format::WalEventKind;
use capy_postgres::TimelineHistory;
use capy_types::{Lsn, SegmentName, TimelineId};

use crate::wal::archive::Archive;

/// From the begin of a restore point's record to its end in bytes, at most: 98, aligned to 104, and
/// a page header in the middle.
const RECORD_MAX_BYTES: u64 = 256;

/// A restore point in the archived log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NamedPoint {
    /// Where its record begins.
    pub(super) at: Lsn,
    segment: SegmentName,
}

impl NamedPoint {
    /// The timeline of the segment it is in.
    pub(super) fn timeline(&self) -> TimelineId {
        self.segment.timeline()
    }

    /// Whether its record ends at `end`.
    pub(super) fn ends_at(&self, end: Lsn) -> bool {
        let length = end.as_u64().checked_sub(self.at.as_u64());
        length.is_some_and(|length| (1..=RECORD_MAX_BYTES).contains(&length))
    }

    /// Whether it is in that history, in the copy of its segment that a server replays.
    pub(super) fn is_on(&self, archive: &Archive, history: &TimelineHistory) -> bool {
        let replayed = archive.segment_of(history, self.segment);
        replayed.is_some_and(|(name, facts)| name == self.segment && self.at < facts.end)
    }
}

/// The restore points of an archive's log, by name.
#[derive(Debug, Default)]
pub(super) struct NamedPoints(BTreeMap<String, Vec<NamedPoint>>);

impl NamedPoints {
    pub(super) fn of(archive: &Archive) -> Self {
        let mut found = Self::default();
        for timeline in archive.timelines() {
            for (name, facts) in archive.segments_on(timeline) {
                for event in &facts.events {
                    if let WalEventKind::RestorePoint { name: label } = &event.what {
                        found.add(label, NamedPoint { at: event.at, segment: *name });
                    }
                }
            }
        }
        found
    }

    fn add(&mut self, label: &str, point: NamedPoint) {
        self.0.entry(label.to_owned()).or_default().push(point);
    }

    pub(super) fn named(&self, label: &str) -> &[NamedPoint] {
        self.0.get(label).map_or(&[], Vec::as_slice)
    }
}
