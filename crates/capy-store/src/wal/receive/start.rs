//! Where to begin, when nothing is in the making.
//!
//! After the newest segment of the server's history that the archive has. The server is asked for
//! that place even if its slot stands later: after a failover a new slot stands where the server was
//! when it was made, while the WAL before is often still there.

use capy_format::names;
use capy_postgres::TimelineHistory;
use capy_types::{Lsn, SegmentName, TimelineId, WalFile, WalFileKind};
use futures::TryStreamExt;

use super::failure::Outcome;
use super::parts::Leftovers;
use super::{Receiver, WalGap};
use crate::{BackupKind, Result};

/// How far back names are listed, in segments, until one is found: a receiver that was away for long
/// costs a few requests more, and a long archive is not listed whole.
const LOOK_BACK: [u64; 3] = [256, 8192, u64::MAX];

impl Receiver<'_> {
    /// The first segment to receive.
    pub(super) async fn find_start(
        &mut self,
        history: &TimelineHistory,
        flushed: Lsn,
        kept_from: Lsn,
        leftovers: &Leftovers,
    ) -> Outcome<SegmentName> {
        let on_history = |start: Lsn| {
            let segment = SegmentName::containing(history.timeline(), start, self.segment_size);
            segment.on(history.timeline_at(segment.start()))
        };
        if let Some(newest) = self.newest_archived(history, flushed).await? {
            return Ok(on_history(newest.end()));
        }
        if let Some(begun) = leftovers.first_on(history) {
            return Ok(begun);
        }
        let start = on_history(kept_from);
        if let Some(end) = self.newest_backup(history).await?
            && end < start.start()
        {
            self.gap(WalGap { timeline: start.timeline(), from: end, to: start.start() });
            self.notice(
                "the newest base backup ends before the WAL that is received now: it cannot be recovered \
                 beyond its end; take another",
            );
        }
        Ok(start)
    }

    /// The newest segment of the server's history that the archive has whole.
    async fn newest_archived(&self, history: &TimelineHistory, flushed: Lsn) -> Result<Option<SegmentName>> {
        let left = history.ancestors().iter().rev().map(|entry| (entry.timeline, entry.switch_lsn));
        for (timeline, end) in [(history.timeline(), flushed)].into_iter().chain(left) {
            let near = SegmentName::containing(timeline, end, self.segment_size);
            for back in LOOK_BACK {
                let listed = self.segments_after(timeline, near.number().saturating_sub(back)).await?;
                // Of the segment in which a timeline was left, the new timeline's copy counts.
                let serves =
                    |name: &SegmentName| history.contains(timeline, Lsn::from_u64(name.end().as_u64() - 1));
                if let Some(newest) = listed.into_iter().filter(serves).max() {
                    return Ok(Some(newest));
                }
                if back >= near.number() {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// The archived segments of a timeline after the one of this number.
    async fn segments_after(&self, timeline: TimelineId, number: u64) -> Result<Vec<SegmentName>> {
        let size = self.segment_size;
        let position = Lsn::from_u64(number.saturating_mul(size.bytes()));
        let after = WalFile::from(SegmentName::containing(timeline, position, size));
        let (cluster, store) = (&self.options.cluster, self.repository.repo.store());
        let (prefix, after) = (names::wal_timeline(cluster, timeline), names::wal(cluster, &after));
        let mut listed = store.list_after(&prefix, &after);
        let mut found = Vec::new();
        while let Some(info) = listed.try_next().await? {
            let file = names::parse_wal(&info.name).map(|(_, file)| file);
            let segment = file.filter(|file| file.kind() == WalFileKind::Segment);
            found.extend(segment.and_then(|file| file.segment(size)));
        }
        Ok(found)
    }

    /// The end of the newest base backup on the server's history.
    async fn newest_backup(&self, history: &TimelineHistory) -> Result<Option<Lsn>> {
        let backups = self.repository.list_backups(self.ctx, Some(&self.options.cluster)).await?;
        let ends = backups.iter().filter_map(|backup| {
            let own = backup.kind == BackupKind::Base && backup.system_id == self.report.system_id;
            let end = backup.stop_lsn?;
            (own && history.contains(backup.timeline?, Lsn::from_u64(end.as_u64().checked_sub(1)?)))
                .then_some(end)
        });
        Ok(ends.max())
    }
}
