//! What can be recovered: for each timeline what WAL there is and where it has holes, for each
//! backup up to where.

use capy_format::{BackupEntry, BackupKind, BackupState};
use capy_types::{BackupKey, ClusterName, Ctx, Lsn, SegmentName, SystemId, TimelineId, Timestamp, WalFile};
use serde::Serialize;
use tracing::instrument;

use super::archive::{Archive, Reach, ReachEnd};
use crate::repository::cancellable;
use crate::{Repository, Result};

/// What an archive and its backups can be recovered to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WalWindows {
    /// The archive.
    pub cluster: ClusterName,
    /// The system whose WAL it is.
    pub system_id: SystemId,
    /// Size of its segments in bytes.
    pub segment_size_bytes: u64,
    /// Its timelines, oldest first.
    pub timelines: Vec<TimelineWal>,
    /// Its base backups, oldest first.
    pub backups: Vec<BackupWindows>,
    /// What is wrong with the archive: damaged objects, files with two contents, timelines whose
    /// history is missing.
    pub problems: Vec<String>,
}

/// The WAL of one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TimelineWal {
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline it came from.
    pub parent: Option<TimelineId>,
    /// Where it began.
    pub forked_at: Option<Lsn>,
    /// Segments that follow each other. Between two runs there is a hole.
    pub runs: Vec<WalRun>,
    /// Its partial segments.
    pub partial: Vec<WalFile>,
    /// Segments of which there is only the beginning that a receiver has made durable. They count in
    /// the runs, and recovery replays them.
    pub open: Vec<WalFile>,
}

/// Segments of one timeline that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WalRun {
    /// The first segment.
    pub first_segment: String,
    /// The last segment.
    pub last_segment: String,
    /// How many there are.
    pub segments: u64,
    /// The first byte.
    pub from_lsn: Lsn,
    /// The end of the last whole record.
    pub to_lsn: Lsn,
    /// The earliest commit.
    pub from_time: Option<Timestamp>,
    /// The latest commit.
    pub to_time: Option<Timestamp>,
    /// Commits in it.
    pub commits: u64,
}

/// What a base backup can be recovered to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackupWindows {
    /// The backup.
    pub backup_key: BackupKey,
    /// Its timeline.
    pub timeline: Option<TimelineId>,
    /// Where its WAL begins.
    pub start_lsn: Option<Lsn>,
    /// Where it is consistent.
    pub stop_lsn: Option<Lsn>,
    /// On its own timeline and on each that came from it later.
    pub windows: Vec<RecoveryWindow>,
    /// Why there is none.
    pub problem: Option<String>,
}

/// An interval of which every moment can be recovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecoveryWindow {
    /// The timeline recovery follows.
    pub timeline: TimelineId,
    /// The first position: where the backup is consistent.
    pub from_lsn: Lsn,
    /// The time of the backup's end.
    pub from_time: Timestamp,
    /// The end of the last whole record.
    pub to_lsn: Lsn,
    /// The last commit; `None` when nothing committed since the backup.
    pub to_time: Option<Timestamp>,
    /// Until when it is certain that no commit is missing.
    pub known_until: Option<Timestamp>,
    /// Why it ends there: `end of the archive`, or what is missing or broken.
    pub ended_by: String,
}

impl Repository {
    /// What the archive of `cluster` can be recovered to, from facts alone.
    ///
    /// # Errors
    /// `NotFound` when there is no such archive; `Corrupt`, `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let windows = repository.wal_windows(ctx, &"main".parse().unwrap()).await?;
    /// for backup in &windows.backups {
    ///     println!("{}: {} windows", backup.backup_key, backup.windows.len());
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %cluster))]
    pub async fn wal_windows(&self, ctx: &Ctx, cluster: &ClusterName) -> Result<WalWindows> {
        let work = async {
            let archive = Archive::load(self, ctx, cluster).await?;
            let root = self.repo.root().await?;
            Ok(windows(&archive, &bases(&root.backups, &archive)))
        };
        cancellable(ctx, work).await
    }
}

/// The base backups of the archive's system, oldest first.
pub(super) fn bases<'a>(backups: &'a [BackupEntry], archive: &Archive) -> Vec<&'a BackupEntry> {
    let own = |entry: &&BackupEntry| {
        entry.key.cluster == archive.cluster
            && entry.kind == BackupKind::Base
            && entry.state == BackupState::Complete
            && entry.system_id == Some(archive.identity.system_id)
    };
    let mut bases: Vec<_> = backups.iter().filter(own).collect();
    bases.sort_by_key(|entry| (entry.stop_lsn, entry.created_at));
    bases
}

fn windows(archive: &Archive, bases: &[&BackupEntry]) -> WalWindows {
    let mut problems: Vec<_> =
        archive.catalog.problems.iter().map(|(object, problem)| format!("{object}: {problem}")).collect();
    problems.extend(
        archive.catalog.conflicts.iter().map(|name| format!("archived with another content, too: {name}")),
    );
    let begins = bases.iter().filter_map(|entry| entry.timeline).min().or(archive.oldest());
    problems.extend(begins.and_then(|begins| archive.hidden_from(begins)).map(|timeline| {
        format!("timeline {timeline} cannot be found by a server: a history file before it is missing")
    }));
    WalWindows {
        cluster: archive.cluster.clone(),
        system_id: archive.identity.system_id,
        segment_size_bytes: archive.segment_size().bytes(),
        timelines: archive.timelines().into_iter().map(|timeline| timeline_wal(archive, timeline)).collect(),
        backups: bases.iter().map(|entry| backup_windows(archive, entry)).collect(),
        problems,
    }
}

fn timeline_wal(archive: &Archive, timeline: TimelineId) -> TimelineWal {
    let parent = archive.history(timeline).ok().and_then(|history| history.ancestors().last().cloned());
    let mut runs: Vec<WalRun> = Vec::new();
    let mut last: Option<SegmentName> = None;
    for (name, facts) in archive.segments_on(timeline) {
        let follows = last.map(SegmentName::next) == Some(*name);
        last = Some(*name);
        let (from, to) = (facts.times.map(|t| t.0), facts.times.map(|t| t.1));
        match runs.last_mut().filter(|_| follows) {
            Some(run) => {
                run.last_segment = name.to_string();
                run.segments += 1;
                run.to_lsn = facts.end;
                run.from_time = run.from_time.into_iter().chain(from).min();
                run.to_time = run.to_time.max(to);
                run.commits += facts.commits;
            }
            None => runs.push(WalRun {
                first_segment: name.to_string(),
                last_segment: name.to_string(),
                segments: 1,
                from_lsn: name.start(),
                to_lsn: facts.end,
                from_time: from,
                to_time: to,
                commits: facts.commits,
            }),
        }
    }
    let files = archive.catalog.files.keys();
    let partial = files
        .filter(|file| file.timeline() == timeline && file.kind() == capy_types::WalFileKind::Partial)
        .cloned()
        .collect();
    let (parent, forked_at) = (parent.as_ref().map(|p| p.timeline), parent.map(|p| p.switch_lsn));
    let open = archive.open_on(timeline).map(WalFile::from).collect();
    TimelineWal { timeline, parent, forked_at, runs, partial, open }
}

fn backup_windows(archive: &Archive, entry: &BackupEntry) -> BackupWindows {
    let mut found = BackupWindows {
        backup_key: entry.key.clone(),
        timeline: entry.timeline,
        start_lsn: entry.start_lsn,
        stop_lsn: entry.stop_lsn,
        windows: Vec::new(),
        problem: None,
    };
    let (Some(timeline), Some(start), Some(stop)) = (entry.timeline, entry.start_lsn, entry.stop_lsn) else {
        found.problem = Some("its record does not say where it begins and ends".to_owned());
        return found;
    };
    let later = archive.timelines().into_iter().filter(|other| *other >= timeline);
    for history in later.filter_map(|other| archive.history_from(timeline, other).ok()) {
        if !history.contains(timeline, start) || !history.contains(timeline, Lsn::from_u64(stop.as_u64() - 1))
        {
            continue;
        }
        let reach = archive.reach(&history, start);
        if reach.covers(stop) {
            found.windows.push(window(&reach, history.timeline(), stop, entry.finished_at));
        } else if found.problem.is_none() {
            found.problem = Some(format!("its own WAL is not whole: {}", ended_by(&reach)));
        }
    }
    if found.windows.is_empty() && found.problem.is_none() {
        found.problem = Some(format!("the archive has no WAL of timeline {timeline}"));
    }
    if !found.windows.is_empty() {
        found.problem = None;
    }
    found
}

fn window(reach: &Reach<'_>, timeline: TimelineId, stop: Lsn, finished: Timestamp) -> RecoveryWindow {
    RecoveryWindow {
        timeline,
        from_lsn: stop,
        from_time: finished,
        to_lsn: reach.end().unwrap_or(stop),
        to_time: reach.last_commit(),
        known_until: reach.known_until(),
        ended_by: ended_by(reach),
    }
}

/// Why a reach ends, for people.
pub(super) fn ended_by(reach: &Reach<'_>) -> String {
    match &reach.ended {
        ReachEnd::Archive => "end of the archive".to_owned(),
        ReachEnd::Fork(missing) => format!("end of the archive: {missing} is not there yet"),
        ReachEnd::Hole(missing) => format!("{missing} is missing"),
        ReachEnd::Broken(segment, why) => format!("the WAL in {segment} ends early: {why}"),
    }
}
