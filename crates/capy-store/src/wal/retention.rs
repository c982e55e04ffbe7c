//! Which WAL no kept backup can use any more.
//!
//! Contained by: expire. A segment stays if it lies on any history that a kept base backup can
//! follow, at or after the backup's start; histories stay for ever. Where anything is not known (no
//! backup is kept, a history file is missing) everything stays. So does the newest timeline, which may
//! have no base backup yet.

use std::collections::BTreeSet;

use capy_format::BackupEntry;
use capy_postgres::TimelineHistory;
use capy_types::{BackupKey, ClusterName, Ctx, Lsn, SegmentName, TimelineId, WalFile, WalFileKind};

use super::archive::Archive;
use super::windows::bases;
use crate::{BackupInfo, Repository, Result};

impl Repository {
    /// The base backups among `backups` from which a recovery can follow the newest timeline of an
    /// archive; none when there is no archive.
    pub(crate) async fn leading_to_newest(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        backups: &[BackupEntry],
    ) -> Result<BTreeSet<BackupKey>> {
        if self.repo.archive(cluster).await?.is_none() {
            return Ok(BTreeSet::new());
        }
        let archive = Archive::load(self, ctx, cluster).await?;
        let newest = archive.timelines().into_iter().max();
        let Some(history) = newest.and_then(|newest| archive.history(newest).ok()) else {
            return Ok(BTreeSet::new());
        };
        let bases = bases(backups, &archive);
        let leading = bases.into_iter().filter(|entry| leads_to(&history, entry));
        Ok(leading.map(|entry| entry.key.clone()).collect())
    }

    /// What none of the `kept` base backups of its system needs of an archive.
    pub(crate) async fn unneeded_wal(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        kept: &[BackupInfo],
    ) -> Result<UnneededWal> {
        let in_parts = self.repo.segments_in_parts(cluster).await?;
        let archive = Archive::load(self, ctx, cluster).await?;
        Ok(unneeded(&archive, in_parts.into_iter().map(|(segment, _)| segment), kept))
    }
}

/// What no kept backup needs.
#[derive(Debug, Default)]
pub(crate) struct UnneededWal {
    /// Files, oldest first.
    pub(crate) files: Vec<WalFile>,
    /// Segments of which there are parts.
    pub(crate) in_parts: Vec<WalFile>,
    /// The newest timeline, when no kept backup leads to it. Its WAL stays all the same.
    pub(crate) without_base: Option<TimelineId>,
}

/// Whether a recovery from a backup can follow `history`.
fn leads_to(history: &TimelineHistory, entry: &BackupEntry) -> bool {
    let (Some(own), Some(start), Some(stop)) = (entry.timeline, entry.start_lsn, entry.stop_lsn) else {
        return false;
    };
    let last_byte = Lsn::from_u64(stop.as_u64().saturating_sub(1));
    history.contains(own, start) && history.contains(own, last_byte)
}

/// Where a kept base backup begins.
pub(super) struct Base {
    pub(super) timeline: TimelineId,
    pub(super) start: Lsn,
}

fn unneeded(archive: &Archive, in_parts: impl Iterator<Item = WalFile>, kept: &[BackupInfo]) -> UnneededWal {
    let placed = |backup: &BackupInfo| Some(Base { timeline: backup.timeline?, start: backup.start_lsn? });
    let bases: Vec<Option<Base>> = kept.iter().map(placed).collect();
    // A base whose place is not known could need anything.
    let Some(bases) = bases.into_iter().collect::<Option<Vec<Base>>>().filter(|bases| !bases.is_empty())
    else {
        return UnneededWal::default();
    };
    let needed = needed(archive, &bases);
    let files = archive.catalog.files.keys().filter(|file| file.kind() != WalFileKind::History);
    let goes = |file: &WalFile| file.segment(archive.segment_size()).is_some_and(|name| !needed.keeps(name));
    UnneededWal {
        files: files.filter(|file| goes(file)).cloned().collect(),
        in_parts: in_parts.filter(goes).collect(),
        without_base: needed.without_base,
    }
}

/// What is needed, by timeline: everything from the first segment on.
pub(super) struct Needed {
    from: Vec<(TimelineId, SegmentName)>,
    unknown: BTreeSet<TimelineId>,
    without_base: Option<TimelineId>,
}

impl Needed {
    pub(super) fn keeps(&self, name: SegmentName) -> bool {
        let timeline = name.timeline();
        self.unknown.contains(&timeline)
            || self.without_base == Some(timeline)
            || self.from.iter().any(|(t, from)| *t == timeline && name >= *from)
    }
}

pub(super) fn needed(archive: &Archive, bases: &[Base]) -> Needed {
    let mut needed = Needed { from: Vec::new(), unknown: BTreeSet::new(), without_base: None };
    for timeline in archive.timelines() {
        let Ok(history) = archive.history(timeline) else {
            needed.unknown.insert(timeline);
            continue;
        };
        for base in bases.iter().filter(|base| history.contains(base.timeline, base.start)) {
            let first = SegmentName::containing(timeline, base.start, archive.segment_size());
            // On every timeline of the way, from the backup or from where the timeline began.
            let way = history.ancestors().iter().map(|entry| entry.timeline).chain([timeline]);
            needed.from.extend(way.filter(|t| *t >= base.timeline).map(|t| (t, first.on(t))));
        }
    }
    let newest = archive.timelines().into_iter().max();
    needed.without_base = newest.filter(|newest| {
        !needed.unknown.contains(newest) && needed.from.iter().all(|(timeline, _)| timeline != newest)
    });
    needed
}
