//! How far archiving is behind, and when that fills the server's disk.
//!
//! Invariant: what waits is counted from the server's own `.ready` files, all of them, never from
//! what a worker still means to do: a file that was refused counts until the server lets go of it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use capy_repo::WalCatalog;
use capy_types::{
    Clock, ClusterName, Ctx, ErrorKind, SegmentSize, SystemClock, SystemId, TimelineId, Timestamp, WalFile,
    WalFileKind,
};
use serde::Serialize;
use tracing::instrument;

use super::{FailingWal, Kind, Spool, queue};
use crate::repository::cancellable;
use crate::{Error, Location, Repository, Result};

/// Rates are counted over this long before now, in seconds.
const RATE_SECONDS: i64 = 300;
/// A disk that is full sooner than this is a problem, in seconds.
const FULL_SOON_SECONDS: u64 = 3600;
/// A file that waits this long while later ones were archived was passed over, in seconds.
const PASSED_OVER_SECONDS: i64 = 60;
/// A file that waits this long is a problem whatever else is archived, in seconds.
const WAITS_LONG_SECONDS: i64 = 900;
/// Names listed of one kind of problem; the rest are counted.
const NAMED_MAX: usize = 5;

/// What to look at besides the archive.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WalStatusOptions {
    /// The server's `pg_wal`.
    pub pgwal: Option<PathBuf>,
    /// The directory of spools.
    pub spool: Option<PathBuf>,
}

/// Where archiving stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WalStatus {
    /// The archive.
    pub cluster: ClusterName,
    /// When this was gathered.
    pub at: Timestamp,
    /// What the repository says; `None` when it was not asked or has no such archive.
    pub archive: Option<ArchiveStatus>,
    /// What the server's directory says.
    pub server: Option<ServerWal>,
    /// What the spool says.
    pub spool: Option<SpoolStatus>,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// An archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ArchiveStatus {
    /// The system whose WAL it is.
    pub system_id: SystemId,
    /// Size of its segments in bytes.
    pub segment_size_bytes: u64,
    /// Its segments.
    pub segments: u64,
    /// Its timelines, oldest first.
    pub timelines: Vec<TimelineStatus>,
    /// Objects that hold another content of a file that is archived.
    pub conflicts: Vec<String>,
}

/// The newest of one timeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TimelineStatus {
    /// The timeline.
    pub timeline: TimelineId,
    /// Its newest segment.
    pub newest_segment: WalFile,
    /// When that was archived; `None` when its object is damaged.
    pub archived_at: Option<Timestamp>,
}

/// A file the server waits to have archived.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WaitingWal {
    /// The file.
    pub file: WalFile,
    /// Since when.
    pub since: Timestamp,
}

/// Segments a minute, over the last five.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SegmentRates {
    /// Finished by the server.
    pub generated_per_minute: f64,
    /// Archived; `None` when the archive was not asked.
    pub drained_per_minute: Option<f64>,
}

/// The server's side.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServerWal {
    /// Its `pg_wal`.
    pub directory: PathBuf,
    /// Files it waits to have archived: all its `.ready` files.
    pub ready: u64,
    /// The one that is next.
    pub oldest_ready: Option<WaitingWal>,
    /// Those of them that are not in the archive; `None` when the archive was not asked.
    pub unarchived: Option<u64>,
    /// The first of those.
    pub oldest_unarchived: Option<WaitingWal>,
    /// How fast it goes.
    pub rates: SegmentRates,
    /// Bytes free for the server on its file system.
    pub free_bytes: u64,
    /// When it is full if things go on like this, in seconds; `None` when they do not.
    pub full_in_seconds: Option<u64>,
}

/// The spool's side.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SpoolStatus {
    /// Its directory.
    pub directory: PathBuf,
    /// The process that works for it now.
    pub worker_pid: Option<u32>,
    /// Files that are archived and that the server has not asked for yet.
    pub ahead: u64,
    /// Files that could not be archived.
    pub failing: Vec<FailingWal>,
}

/// Gathers where archiving of `cluster` stands: from the archive, if the repository could be
/// opened, and from the server's directory and the spool, if they are given. What is wrong is in
/// `problems`.
///
/// # Errors
/// `Invalid` when there is nothing to look at; what the repository answers; when a directory cannot
/// be read.
///
/// # Cancellation
/// Safe to drop; nothing is written that matters.
///
/// # Example
/// ```no_run
/// # use capy_store::*;
/// # async fn example(ctx: &Ctx, location: &Location, repository: &Repository) -> Result<()> {
/// let mut options = WalStatusOptions::default();
/// options.pgwal = Some("/var/lib/postgresql/15/main/pg_wal".into());
/// let status = wal_status(ctx, location, Some(repository), &"main".parse().unwrap(), &options).await?;
/// println!("{} files wait", status.server.map_or(0, |server| server.ready));
/// # Ok(()) }
/// ```
#[instrument(skip_all, fields(cluster = %cluster))]
pub async fn wal_status(
    ctx: &Ctx,
    location: &Location,
    repository: Option<&Repository>,
    cluster: &ClusterName,
    options: &WalStatusOptions,
) -> Result<WalStatus> {
    let now = repository.map_or_else(|| SystemClock.now(), |repository| repository.clock().now());
    let mut problems = Vec::new();
    let mut catalog = None;
    let mut archive = None;
    if let Some(repository) = repository {
        let asked = cancellable(ctx, async {
            let Some(identity) = repository.repo.archive(cluster).await? else { return Ok(None) };
            Ok(Some((identity, repository.repo.wal_catalog(ctx, cluster).await?)))
        });
        match asked.await? {
            Some((identity, found)) => {
                archive = Some(archive_status(identity.system_id, identity.segment_size, &found));
                catalog = Some(found);
            }
            None => problems.push(format!("nothing was ever archived for {cluster}")),
        }
    } else if options.pgwal.is_none() && options.spool.is_none() {
        return Err(Error::invalid("neither a repository nor a server's directory to look at"));
    }
    let ready = options.pgwal.as_deref().map(Ready::read).transpose()?;
    let segment_size = archive.as_ref().map(|archive| archive.segment_size_bytes);
    let server = match &ready {
        Some(ready) => Some(server_wal(ready, catalog.as_ref(), segment_size, now)?),
        None => None,
    };
    let spool = match &options.spool {
        Some(directory) => Some(spool_status(directory, cluster, location, ready.as_ref())?),
        None => None,
    };
    judge(&mut problems, archive.as_ref(), server.as_ref(), spool.as_ref());
    if let (Some(server), Some(catalog)) = (&server, &catalog) {
        problems.extend(passed_over(server, catalog).or_else(|| waits_long(server, now)));
        problems.extend(catalog.problems.iter().map(|(object, problem)| format!("{object}: {problem}")));
    }
    Ok(WalStatus { cluster: cluster.clone(), at: now, archive, server, spool, problems })
}

fn archive_status(system_id: SystemId, segment_size: SegmentSize, catalog: &WalCatalog) -> ArchiveStatus {
    let mut newest = BTreeMap::new();
    let mut segments = 0;
    // In the order of their names: the last of each timeline stays.
    for (file, listed) in catalog.files.iter().filter(|(file, _)| file.kind() == WalFileKind::Segment) {
        segments += 1;
        let archived_at = listed.facts.as_ref().map(|facts| facts.archived_at);
        let timeline = file.timeline();
        newest.insert(timeline, TimelineStatus { timeline, newest_segment: file.clone(), archived_at });
    }
    ArchiveStatus {
        system_id,
        segment_size_bytes: segment_size.bytes(),
        segments,
        timelines: newest.into_values().collect(),
        conflicts: catalog.conflicts.clone(),
    }
}

/// What the server's status files say.
struct Ready {
    directory: PathBuf,
    /// Waiting, in the server's order.
    waiting: Vec<WaitingWal>,
    /// When segments were finished, those that wait and those that do not any more.
    finished: Vec<Timestamp>,
    /// Length of a segment, by looking at one.
    segment_bytes: Option<u64>,
}

impl Ready {
    fn read(pgwal: &Path) -> Result<Self> {
        let status = pgwal.join("archive_status");
        let failed = |error| Error::io(format!("read {}", status.display()), error);
        let mut found = Self {
            directory: pgwal.to_owned(),
            waiting: Vec::new(),
            finished: Vec::new(),
            segment_bytes: None,
        };
        for entry in std::fs::read_dir(&status).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some((name, state)) = name.to_str().and_then(|name| name.rsplit_once('.')) else { continue };
            let Ok(file) = name.parse::<WalFile>() else { continue };
            // Renamed or removed since: the server goes on meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            // Being renamed from ready to done changes no time of the content.
            let since = Timestamp::from_micros(meta.mtime() * 1_000_000 + meta.mtime_nsec() / 1000);
            if file.kind() == WalFileKind::Segment && matches!(state, "ready" | "done") {
                found.finished.push(since);
                if found.segment_bytes.is_none() {
                    found.segment_bytes = std::fs::metadata(pgwal.join(name)).ok().map(|meta| meta.len());
                }
            }
            if state == "ready" {
                found.waiting.push(WaitingWal { file, since });
            }
        }
        found.waiting.sort_by(|a, b| queue::order(&a.file, &b.file));
        Ok(found)
    }
}

fn server_wal(
    ready: &Ready,
    catalog: Option<&WalCatalog>,
    segment_size: Option<u64>,
    now: Timestamp,
) -> Result<ServerWal> {
    let unarchived = catalog.map(|catalog| {
        ready.waiting.iter().filter(|waiting| !catalog.files.contains_key(&waiting.file)).collect::<Vec<_>>()
    });
    let drained = catalog.map(|catalog| {
        let segments = catalog.files.iter().filter(|(file, _)| file.kind() == WalFileKind::Segment);
        per_minute(segments.filter_map(|(_, listed)| Some(listed.facts.as_ref()?.archived_at)), now)
    });
    let rates = SegmentRates {
        generated_per_minute: per_minute(ready.finished.iter().copied(), now),
        drained_per_minute: drained,
    };
    let free_bytes = free_bytes(&ready.directory)?;
    let segment_bytes = segment_size.or(ready.segment_bytes).unwrap_or(SegmentSize::DEFAULT.bytes());
    Ok(ServerWal {
        directory: ready.directory.clone(),
        ready: ready.waiting.len() as u64,
        oldest_ready: ready.waiting.first().cloned(),
        oldest_unarchived: unarchived.as_ref().and_then(|waiting| waiting.first().copied().cloned()),
        unarchived: unarchived.map(|waiting| waiting.len() as u64),
        full_in_seconds: full_in_seconds(rates, segment_bytes, free_bytes),
        rates,
        free_bytes,
    })
}

/// How many of `times` lie in the last minutes, as a rate. Clocks of other machines may be ahead.
fn per_minute(times: impl Iterator<Item = Timestamp>, now: Timestamp) -> f64 {
    let since = now.as_seconds() - RATE_SECONDS;
    let count = times.filter(|time| time.as_seconds() > since).count();
    count as f64 * 60.0 / RATE_SECONDS as f64
}

/// When the disk is full if WAL is finished and archived as in the last minutes. Without an archive
/// to ask, as if nothing were archived.
fn full_in_seconds(rates: SegmentRates, segment_bytes: u64, free_bytes: u64) -> Option<u64> {
    let growth = rates.generated_per_minute - rates.drained_per_minute.unwrap_or(0.0);
    if growth <= 0.0 {
        return None;
    }
    let seconds = free_bytes as f64 / (growth * segment_bytes as f64) * 60.0;
    Some(seconds as u64)
}

/// Bytes a process without privileges may still write.
pub(in crate::wal) fn free_bytes(directory: &Path) -> Result<u64> {
    let space = rustix::fs::statvfs(directory)
        .map_err(|error| Error::io(format!("ask for the space at {}", directory.display()), error.into()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

fn spool_status(
    directory: &Path,
    cluster: &ClusterName,
    location: &Location,
    ready: Option<&Ready>,
) -> Result<SpoolStatus> {
    if !directory.join(cluster.as_str()).is_dir() {
        let what = format!("there is no spool of {cluster} in {}", directory.display());
        return Err(Error::new(ErrorKind::NotFound, what));
    }
    let spool = Spool::open(directory, cluster, location)?;
    let mut failing = spool.failing()?;
    if let Some(ready) = ready {
        // What the server let go of fails no more.
        failing.retain(|failing| ready.waiting.iter().any(|waiting| waiting.file == failing.file));
    }
    let worker_pid = if spool.has_worker()? { spool.holder().map(|holder| holder.pid) } else { None };
    let ahead = spool.noted(Kind::Ok)?.len() as u64;
    Ok(SpoolStatus { directory: spool.directory, worker_pid, ahead, failing })
}

/// What is wrong with these figures.
fn judge(
    problems: &mut Vec<String>,
    archive: Option<&ArchiveStatus>,
    server: Option<&ServerWal>,
    spool: Option<&SpoolStatus>,
) {
    for failing in spool.iter().flat_map(|spool| &spool.failing).take(NAMED_MAX) {
        let (file, attempts, since) = (&failing.file, failing.attempts, failing.since);
        problems.push(format!("{file} fails since {since}, {attempts} attempts: {}", failing.message));
    }
    let failing = spool.map_or(0, |spool| spool.failing.len());
    if failing > NAMED_MAX {
        problems.push(format!("and {} more files fail", failing - NAMED_MAX));
    }
    for conflict in archive.iter().flat_map(|archive| &archive.conflicts).take(NAMED_MAX) {
        problems.push(format!("archived with two contents, the other one is {conflict}"));
    }
    let conflicts = archive.map_or(0, |archive| archive.conflicts.len());
    if conflicts > NAMED_MAX {
        problems.push(format!("and {} more files with two contents", conflicts - NAMED_MAX));
    }
    // Without an archive to ask nothing is known of the drain.
    let known = server.filter(|server| server.rates.drained_per_minute.is_some());
    if let Some(seconds) = known.and_then(|server| server.full_in_seconds)
        && seconds < FULL_SOON_SECONDS
    {
        problems
            .push(format!("archiving is slower than the server: its disk is full in {} min", seconds / 60));
    }
}

/// A file that waits while later ones of its timeline were archived since.
fn passed_over(server: &ServerWal, catalog: &WalCatalog) -> Option<String> {
    let waiting = server.oldest_unarchived.as_ref()?;
    let limit = waiting.since.as_seconds() + PASSED_OVER_SECONDS;
    let later = catalog.files.range(waiting.file.clone()..).find(|(file, listed)| {
        file.timeline() == waiting.file.timeline()
            && file.kind() == WalFileKind::Segment
            && listed.facts.as_ref().is_some_and(|facts| facts.archived_at.as_seconds() > limit)
    });
    let (later, _) = later?;
    Some(format!("{} waits since {} though {later} is archived", waiting.file, waiting.since))
}

fn waits_long(server: &ServerWal, now: Timestamp) -> Option<String> {
    let waiting = server.oldest_unarchived.as_ref()?;
    let waits_long = now.as_seconds() - waiting.since.as_seconds() > WAITS_LONG_SECONDS;
    waits_long.then(|| format!("{} waits since {}", waiting.file, waiting.since))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(generated: f64, drained: Option<f64>) -> SegmentRates {
        SegmentRates { generated_per_minute: generated, drained_per_minute: drained }
    }

    #[test]
    fn a_disk_fills_by_what_is_made_and_not_archived() {
        const SEGMENT: u64 = 16 << 20;
        assert_eq!(full_in_seconds(rates(5.0, Some(5.0)), SEGMENT, 1 << 30), None);
        assert_eq!(full_in_seconds(rates(2.0, Some(9.0)), SEGMENT, 1 << 30), None);
        // 64 segments fit, 8 more a minute.
        assert_eq!(full_in_seconds(rates(10.0, Some(2.0)), SEGMENT, 1 << 30), Some(480));
        assert_eq!(full_in_seconds(rates(8.0, None), SEGMENT, 1 << 30), Some(480));
    }

    #[test]
    fn a_rate_counts_the_last_five_minutes() {
        let now = Timestamp::from_micros(1_000_000_000_000);
        let ago = |seconds: i64| Timestamp::from_micros(now.as_micros() - seconds * 1_000_000);
        assert!((per_minute([ago(1), ago(299), ago(301), ago(9000)].into_iter(), now) - 0.4).abs() < 1e-9);
    }
}
