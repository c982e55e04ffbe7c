//! An archive as recovery sees it: segments by timeline, and the histories that join timelines.
//!
//! Contained by: windows and targets. Everything here is planning from facts; no whole segment is
//! read but one that stands for a newer timeline's missing copy, for what of it is before the fork. One
//! that a receiver has only begun counts as far as it is durable.
//! The rules are the server's: of several timelines' copies of one segment it takes the newest that
//! the history allows, and it goes on as long as each next segment is there. With one exception: where
//! the copy of the timeline that goes on is missing, a server goes on in what the older one wrote after
//! it was left. That is no part of the history, and nothing is planned with it.

mod reach;

use std::collections::{BTreeMap, BTreeSet};

use capy_format::{ArchiveIdentity, SegmentFacts, WalEvent, WalEventKind, WalFacts};
use capy_postgres::TimelineHistory;
use capy_repo::WalCatalog;
use capy_types::{
    ClusterName, Ctx, ErrorKind, Lsn, SegmentName, SegmentSize, TimelineId, WalFile, WalFileKind,
};

use super::borders::{self, End};
use super::facts::facts_of;
use super::tail::{Bounds, Found};
use crate::{Error, Repository, Result};

pub(super) use reach::latest_time;
use reach::left_at;
pub(crate) use reach::{Branch, Reach, ReachEnd};

/// A cluster's archive.
pub(crate) struct Archive {
    pub(crate) cluster: ClusterName,
    pub(crate) identity: ArchiveIdentity,
    pub(crate) catalog: WalCatalog,
    histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Whole ones, and beginnings of others, with what the records say that end in the next.
    segments: BTreeMap<SegmentName, SegmentFacts>,
    /// The segments of which there is only the beginning, in parts.
    open: BTreeSet<SegmentName>,
    crossing: BTreeMap<SegmentName, End>,
    /// Segments up to where a history left their timeline, when the copy of the timeline that goes on
    /// there is missing. None when the segment cannot be read.
    left: BTreeMap<(SegmentName, Lsn), Option<SegmentFacts>>,
}

impl Archive {
    /// Loads the archive of `cluster`.
    pub(crate) async fn load(repository: &Repository, ctx: &Ctx, cluster: &ClusterName) -> Result<Self> {
        let repo = &repository.repo;
        let identity = repo.archive(cluster).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no WAL archive {cluster}"))
                .with_hint("archive_command = 'capy-store … wal push --cluster NAME %p' makes one")
        })?;
        // Before the whole ones: what becomes whole meanwhile is among those.
        let in_parts = repo.segments_in_parts(cluster).await?;
        let mut catalog = repo.wal_catalog(ctx, cluster).await?;
        let mut histories = BTreeMap::new();
        for file in catalog.files.keys().filter(|file| file.kind() == WalFileKind::History) {
            let content = repo.get_wal(cluster, file).await?.bytes;
            let history = TimelineHistory::parse(file.timeline(), &content)
                .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{file}: {error}")))?;
            histories.insert(file.timeline(), history);
        }
        let mut segments = BTreeMap::new();
        for (file, listed) in &mut catalog.files {
            if file.kind() == WalFileKind::Segment
                && let Some(facts) =
                    listed.facts.as_mut().and_then(|facts: &mut WalFacts| facts.segment.take())
                && let Some(name) = file.segment(identity.segment_size)
            {
                segments.insert(name, facts);
            }
        }
        let cluster = cluster.clone();
        let (open, crossing, left) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        let mut archive = Self { cluster, identity, catalog, histories, segments, open, crossing, left };
        for (file, _) in in_parts.into_iter().filter(|(_, held)| *held > 0) {
            archive.add_open(repository, file).await?;
        }
        archive.crossing = borders::join(&mut archive.segments, &archive.histories);
        archive.end_at_forks(repository).await?;
        Ok(archive)
    }

    /// Those of `segments` that are not there any more, though gathered facts tell of them. From now on
    /// nothing is planned with them.
    pub(crate) async fn lose_absent(
        &mut self,
        repository: &Repository,
        segments: &[WalFile],
    ) -> Result<Vec<WalFile>> {
        // What was listed or read when the archive was loaded is known to be there.
        let is_gathered = |file: &&WalFile| {
            self.catalog.files.get(*file).is_some_and(|listed| listed.stored_bytes.is_none())
        };
        let gathered: Vec<_> = segments.iter().filter(is_gathered).cloned().collect();
        let absent = repository.repo.absent_wal(&self.cluster, &gathered).await?;
        for file in &absent {
            self.catalog.files.remove(file);
            if let Some(name) = file.segment(self.segment_size()) {
                self.segments.remove(&name);
            }
        }
        if !absent.is_empty() {
            self.end_at_forks(repository).await?;
        }
        Ok(absent)
    }

    /// Reads the segments that stand for a newer timeline's copy, to know what of them is its history.
    async fn end_at_forks(&mut self, repository: &Repository) -> Result<()> {
        for (name, end) in self.overlong() {
            let file = WalFile::from(name);
            let read = match repository.find_wal(&self.cluster, &file).await {
                Ok(found) => found.map(Found::into_bytes).transpose(),
                Err(error) => Err(error),
            };
            let facts = match read {
                Ok(bytes) => bytes
                    .and_then(|bytes| Bounds::up_to(end).tail(name, &bytes))
                    .and_then(|bytes| facts_of(&file, &bytes, repository.clock().now()).ok()?.segment),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.catalog.problems.push((file.to_string(), error.to_string()));
                    None
                }
                Err(error) => return Err(error),
            };
            self.left.insert((name, end), facts);
        }
        Ok(())
    }

    /// The segments that stand for a newer timeline's copy and go on behind the fork, and the fork.
    fn overlong(&self) -> BTreeSet<(SegmentName, Lsn)> {
        let forks = self
            .histories
            .values()
            .flat_map(|history| history.ancestors().iter().map(move |entry| (history, entry.switch_lsn)));
        let stand_in = |(history, fork): (&TimelineHistory, Lsn)| {
            let at = SegmentName::containing(history.timeline(), fork, self.segment_size());
            let (name, facts) = self.segment_of(history, at)?;
            let end = left_at(history, name.timeline())?;
            (facts.end > end && end < name.end()).then_some((name, end))
        };
        forks.filter_map(stand_in).collect()
    }

    /// Adds a segment of which there are parts, unless it is whole.
    async fn add_open(&mut self, repository: &Repository, file: WalFile) -> Result<()> {
        let Some(name) = file.segment(self.segment_size()) else { return Ok(()) };
        if self.catalog.files.contains_key(&file) {
            return Ok(());
        }
        let parts = repository.repo.read_wal_parts(&self.cluster, &file).await?;
        let found = if parts.changed {
            // It has just become whole, or its parts were made one.
            repository.find_wal(&self.cluster, &file).await?
        } else {
            self.bounds(name).tail(name, &parts.bytes).map(Found::Tail)
        };
        if let Some(damage) = parts.damage {
            self.catalog.problems.push((format!("the parts of {file}"), damage.to_string()));
        }
        // Less than a header is nothing yet.
        let Some(found) = found else { return Ok(()) };
        let is_open = matches!(found, Found::Tail(_));
        let facts = facts_of(&file, &found.into_bytes()?, repository.clock().now()).ok();
        if let Some(facts) = facts.and_then(|facts| facts.segment) {
            self.segments.insert(name, facts);
            self.open.extend(is_open.then_some(name));
        }
        Ok(())
    }

    /// What of a segment belongs to its timeline alone, and to all that came from it.
    fn bounds(&self, name: SegmentName) -> Bounds {
        let mut bounds = Bounds::default();
        self.histories.values().for_each(|history| bounds.narrow(history, name));
        bounds
    }

    /// The segments of a timeline of which there is only the beginning.
    pub(crate) fn open_on(&self, timeline: TimelineId) -> impl Iterator<Item = SegmentName> {
        self.open.iter().copied().filter(move |name| name.timeline() == timeline)
    }

    pub(crate) fn segment_size(&self) -> SegmentSize {
        self.identity.segment_size
    }

    /// The timelines that have a file, or the beginning of one.
    pub(crate) fn timelines(&self) -> Vec<TimelineId> {
        let open = self.open.iter().map(|name| name.timeline());
        let all: BTreeSet<_> = self.catalog.files.keys().map(WalFile::timeline).chain(open).collect();
        all.into_iter().collect()
    }

    /// The newest timeline that a server following `latest` would find: histories are asked for one
    /// after the other, and the first that is missing ends the search.
    pub(crate) fn latest_from(&self, timeline: TimelineId) -> TimelineId {
        let mut newest = timeline;
        loop {
            let next = TimelineId::from_u32(newest.as_u32() + 1);
            if !self.histories.contains_key(&next) {
                return newest;
            }
            newest = next;
        }
    }

    /// A later timeline that a server on `timeline` would never find, because a history before it is
    /// missing.
    pub(crate) fn hidden_from(&self, timeline: TimelineId) -> Option<TimelineId> {
        let reached = self.latest_from(timeline);
        self.timelines().into_iter().find(|other| *other > reached)
    }

    /// The timeline with which the archive begins. A server that was promoted before it began to
    /// archive here does not archive its history again.
    pub(crate) fn oldest(&self) -> Option<TimelineId> {
        self.timelines().into_iter().min()
    }

    /// The history of a timeline. That of the archive's oldest may be missing, as for the server: what
    /// was before is in no backup of this archive.
    pub(crate) fn history(&self, timeline: TimelineId) -> Result<TimelineHistory> {
        match self.histories.get(&timeline) {
            Some(history) => Ok(history.clone()),
            None if timeline.as_u32() == 1 || self.oldest() == Some(timeline) => {
                Ok(TimelineHistory::of_first(timeline))
            }
            None => {
                let what = format!("the archive {} has no {}", self.cluster, WalFile::history(timeline));
                Err(Error::new(ErrorKind::NotFound, what)
                    .with_hint("without it nobody knows where this timeline began: push it again"))
            }
        }
    }

    /// Whether a server finds a history of this timeline, or needs none.
    pub(crate) fn has_history(&self, timeline: TimelineId) -> bool {
        timeline.as_u32() == 1 || self.histories.contains_key(&timeline)
    }

    /// The history of a timeline for a recovery that begins on `own`: what was before that does not
    /// matter, so that its own history may be missing.
    pub(crate) fn history_from(&self, own: TimelineId, timeline: TimelineId) -> Result<TimelineHistory> {
        if timeline == own && !self.histories.contains_key(&own) {
            return Ok(TimelineHistory::of_first(own));
        }
        self.history(timeline)
    }

    /// The copy of a segment that a server on `history` replays, and what of it is in that history.
    pub(crate) fn segment_of(
        &self,
        history: &TimelineHistory,
        at: SegmentName,
    ) -> Option<(SegmentName, &SegmentFacts)> {
        let newest = history.timeline_at(Lsn::from_u64(at.end().as_u64() - 1));
        let oldest = history.timeline_at(at.start());
        let ancestors = history.ancestors().iter().map(|entry| entry.timeline).chain([history.timeline()]);
        let mut candidates: Vec<_> = ancestors.filter(|t| (oldest..=newest).contains(t)).collect();
        candidates.reverse();
        candidates.into_iter().find_map(|timeline| {
            let name = at.on(timeline);
            let whole = self.segments.get(&name)?;
            let end = left_at(history, timeline);
            match end.and_then(|end| self.left.get(&(name, end))) {
                Some(up_to_fork) => up_to_fork.as_ref().map(|facts| (name, facts)),
                None => Some((name, whole)),
            }
        })
    }

    /// Where the restore points of a name are in a history, in order, from the beginning of the archive on.
    pub(crate) fn restore_points(&self, history: &TimelineHistory, wanted: &str) -> Vec<Lsn> {
        let is_wanted =
            |event: &&WalEvent| matches!(&event.what, WalEventKind::RestorePoint { name } if name == wanted);
        let having =
            self.segments.iter().filter(|(_, facts)| facts.events.iter().any(|event| is_wanted(&event)));
        let replayed = having.filter_map(|(name, _)| {
            self.segment_of(history, *name).filter(|(copy, _)| copy == name).map(|(_, facts)| facts)
        });
        let points = replayed.flat_map(|facts| facts.events.iter().filter(is_wanted));
        let points: BTreeSet<_> = points.map(|event| event.at).collect();
        points.into_iter().collect()
    }

    /// The transaction whose end begins in a segment and ends in the next.
    pub(crate) fn crossing_end(&self, name: SegmentName) -> Option<End> {
        self.crossing.get(&name).copied()
    }

    /// The segments of one timeline, in order.
    pub(crate) fn segments_on(
        &self,
        timeline: TimelineId,
    ) -> impl Iterator<Item = (&SegmentName, &SegmentFacts)> {
        self.segments.iter().filter(move |(name, _)| name.timeline() == timeline)
    }
}

#[cfg(test)]
impl Archive {
    /// An archive of these segments, and of timelines that came from others: (timeline, parent,
    /// where).
    pub(crate) fn made_of(segments: Vec<(SegmentName, SegmentFacts)>, forks: &[(u32, u32, Lsn)]) -> Self {
        let mut catalog = WalCatalog::default();
        let listed = || capy_repo::ListedWal { facts: None, stored_bytes: None };
        let mut histories: BTreeMap<TimelineId, TimelineHistory> = BTreeMap::new();
        for (timeline, parent, at) in forks {
            let timeline = TimelineId::from_u32(*timeline);
            let before = histories.get(&TimelineId::from_u32(*parent));
            let mut lines: Vec<_> =
                before.into_iter().flat_map(|history| history.ancestors().to_vec()).collect();
            lines.push(capy_postgres::HistoryEntry {
                timeline: TimelineId::from_u32(*parent),
                switch_lsn: *at,
                reason: "test".to_owned(),
            });
            let text: String = lines
                .iter()
                .map(|line| format!("{}\t{}\t{}\n", line.timeline, line.switch_lsn, line.reason))
                .collect();
            let history = TimelineHistory::parse(timeline, text.as_bytes()).expect("a history");
            histories.insert(timeline, history);
            catalog.files.insert(WalFile::history(timeline), listed());
        }
        catalog.files.extend(segments.iter().map(|(name, _)| (WalFile::from(*name), listed())));
        let identity = ArchiveIdentity {
            cluster: "main".parse().expect("a name"),
            system_id: capy_types::SystemId::from_u64(1),
            segment_size: SegmentSize::DEFAULT,
            created_at: capy_types::Timestamp::from_micros(0),
        };
        let mut segments = segments.into_iter().collect();
        let crossing = borders::join(&mut segments, &histories);
        let (cluster, open, left) = (identity.cluster.clone(), BTreeSet::new(), BTreeMap::new());
        let mut archive = Self { cluster, identity, catalog, histories, segments, open, crossing, left };
        for (name, end) in archive.overlong() {
            let mut facts = archive.segments.get(&name).cloned().expect("it is one of them");
            facts.end = end;
            facts.events.retain(|event| event.at < end);
            archive.left.insert((name, end), Some(facts));
        }
        archive
    }
}
