//! Which WAL no kept backup can use any more.
//!
//! Contained by: expire. A segment stays if it lies on any history that a kept base backup can
//! follow, at or after the backup's start; histories stay for ever. Where anything is not known (no
//! backup is kept, a history file is missing) everything stays.

use std::collections::BTreeSet;

use capy_types::{ClusterName, Ctx, Lsn, SegmentName, TimelineId, WalFile, WalFileKind};

use super::archive::Archive;
use crate::{BackupInfo, BackupKind, Repository, Result};

impl Repository {
    /// What none of the `kept` backups needs of an archive; nothing when there is no archive.
    pub(crate) async fn unneeded_wal(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        kept: &[&BackupInfo],
    ) -> Result<UnneededWal> {
        if self.repo.archive(cluster).await?.is_none() {
            return Ok(UnneededWal::default());
        }
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
}

/// Where a kept base backup begins.
pub(super) struct Base {
    pub(super) timeline: TimelineId,
    pub(super) start: Lsn,
}

fn unneeded(archive: &Archive, in_parts: impl Iterator<Item = WalFile>, kept: &[&BackupInfo]) -> UnneededWal {
    let own = |backup: &&&BackupInfo| {
        backup.kind == BackupKind::Base && backup.system_id == Some(archive.identity.system_id)
    };
    let placed = |backup: &&BackupInfo| Some(Base { timeline: backup.timeline?, start: backup.start_lsn? });
    let bases: Vec<Option<Base>> = kept.iter().filter(own).map(placed).collect();
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
    }
}

/// What is needed, by timeline: everything from the first segment on.
pub(super) struct Needed {
    from: Vec<(TimelineId, SegmentName)>,
    unknown: BTreeSet<TimelineId>,
}

impl Needed {
    pub(super) fn keeps(&self, name: SegmentName) -> bool {
        let timeline = name.timeline();
        self.unknown.contains(&timeline) || self.from.iter().any(|(t, from)| *t == timeline && name >= *from)
    }
}

pub(super) fn needed(archive: &Archive, bases: &[Base]) -> Needed {
    let mut needed = Needed { from: Vec::new(), unknown: BTreeSet::new() };
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
    needed
}
