//! A segment forced to its end, and waited for in the archive.
//!
//! On an idle server a switch does nothing, so something is written first. What the archive must then
//! get is the segment in which the log ended, no other: a later one proves nothing about it.

use std::time::{Duration, Instant};

use capy_objects::{Store, StoreErrorKind};
use capy_postgres::{ArchiveMode, ArchiverState, ArchivingSettings, SqlConnection};
use capy_types::{Ctx, ErrorKind, Lsn, SegmentName, WalFile, WalFileKind};

use super::{CheckOptions, CheckState, Steps};
use crate::wal::archive::Archive;
use crate::{Error, Repository, Result};

/// The name of the step.
pub(super) const STEP: &str = "delivery";

/// What is written before the switch.
const MARK: &str = "capy_store_check";
/// Between two looks, at first and at most: a local archive has a segment within a few milliseconds,
/// and a look costs a request.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Failures after which the archiver rests for a minute: `NUM_ARCHIVE_RETRIES` of `pgarch.c`.
const FAILURES_MAX: u64 = 3;

/// Where a segment is to arrive.
pub(super) struct Place<'a> {
    pub(super) repository: &'a Repository,
    pub(super) ctx: &'a Ctx,
    pub(super) options: &'a CheckOptions,
    /// Whether it is this server's archive.
    pub(super) is_own: bool,
}

/// What was forced to arrive.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) segment: Option<SegmentName>,
    /// The position that the archive reaches for certain.
    pub(super) until: Option<Lsn>,
    pub(super) after: Option<Duration>,
}

/// Forces a segment to its end and waits for it.
pub(super) async fn force(
    place: &Place<'_>,
    connection: &SqlConnection,
    settings: &ArchivingSettings,
    steps: &mut Steps,
) -> Result<Delivered> {
    if let Some((state, why, change)) = obstacle(place, connection, settings).await? {
        steps.add(state, STEP, why, change);
        return Ok(Delivered::default());
    }
    let before = connection.archiver_state().await?;
    let mark = connection.create_restore_point(MARK).await?;
    let segment = connection.switch_wal().await?.segment;
    let since = Instant::now();
    let wait = Wait { place, connection, settings, segment, before, since };
    match wait.run().await? {
        Ok(bytes) => {
            let after = since.elapsed();
            let how = format!("{segment} was archived {:.1} s after its end", after.as_secs_f64());
            steps.ok(STEP, format!("{how}, and reads back: {bytes} bytes"));
            let arrives = "off, but the log arrives all the same: something streams it";
            downgrade(steps, "archive_mode", settings.archive_mode == ArchiveMode::Off, arrives);
            Ok(Delivered { segment: Some(segment), until: Some(mark), after: Some(after) })
        }
        Err((message, change)) => {
            steps.problem(STEP, message, change);
            Ok(Delivered { segment: Some(segment), ..Delivered::default() })
        }
    }
}

/// A setting that does no harm after all.
fn downgrade(steps: &mut Steps, step: &str, applies: bool, message: &str) {
    for known in steps.0.iter_mut().filter(|known| applies && known.step == step) {
        known.state = CheckState::Note;
        message.clone_into(&mut known.message);
        known.change = None;
    }
}

/// Why no segment is forced, and whether that is a problem.
async fn obstacle(
    place: &Place<'_>,
    connection: &SqlConnection,
    settings: &ArchivingSettings,
) -> Result<Option<(CheckState, String, Option<String>)>> {
    let skipped = |why: &str| Ok(Some((CheckState::Skipped, why.to_owned(), None)));
    if !place.options.switch {
        return skipped("no segment was forced, as was asked for");
    }
    if settings.in_recovery {
        return skipped("a standby cannot end a segment: check the primary");
    }
    if !place.is_own {
        return skipped("the archive is another system's");
    }
    if !feeds(place, connection, settings).await? {
        return skipped("nothing archives");
    }
    let (privileges, role) = (&settings.privileges, &settings.privileges.role);
    if !privileges.switch_wal || !privileges.create_restore_point {
        let why = format!("{role} may not end a segment: whether one arrives is not known");
        let change = "grant what is missing (above), or leave it out with --no-switch".to_owned();
        return Ok(Some((CheckState::Problem, why, Some(change))));
    }
    Ok(None)
}

/// Whether anything can be expected to arrive: by the archiver, or, by the look of the archive, over
/// replication.
async fn feeds(place: &Place<'_>, connection: &SqlConnection, settings: &ArchivingSettings) -> Result<bool> {
    let has_command = settings.archive_command.is_some() || settings.archive_library.is_some();
    if settings.archive_mode != ArchiveMode::Off && has_command {
        return Ok(true);
    }
    let (repository, cluster) = (place.repository, &place.options.cluster);
    if repository.repo.archive(cluster).await?.is_none() {
        return Ok(false);
    }
    let archive = Archive::load(repository, place.ctx, cluster).await?;
    let position = connection.wal_position().await?;
    let open = SegmentName::containing(position.timeline, position.insert, settings.segment_size);
    let newest = archive.segments_on(position.timeline).last().map(|(name, _)| name.number());
    Ok(newest.is_some_and(|newest| newest + 1 >= open.number()))
}

/// The wait for a segment.
struct Wait<'a> {
    place: &'a Place<'a>,
    connection: &'a SqlConnection,
    settings: &'a ArchivingSettings,
    segment: SegmentName,
    /// The archiver before the switch.
    before: ArchiverState,
    since: Instant,
}

impl Wait<'_> {
    /// The segment's length once it is there, or what is wrong and what to change.
    async fn run(&self) -> Result<std::result::Result<usize, (String, String)>> {
        let timeout = self.place.options.timeout;
        let mut pause = LOOK_FIRST;
        loop {
            if self.is_there().await? {
                return self.read_back().await;
            }
            let state = self.connection.archiver_state().await?;
            let failures = state.failed_count.saturating_sub(self.before.failed_count);
            // It may have come between the two looks.
            if self.is_archived(&state) && !self.is_there().await? {
                return Ok(Err(self.elsewhere()));
            }
            let waited = self.since.elapsed();
            if waited >= timeout || failures >= FAILURES_MAX {
                return Ok(Err(self.late(&state, failures)));
            }
            tokio::time::sleep(pause.min(timeout.saturating_sub(waited))).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    fn file(&self) -> WalFile {
        WalFile::from(self.segment)
    }

    async fn is_there(&self) -> Result<bool> {
        let name = capy_format::names::wal(&self.place.options.cluster, &self.file());
        match self.place.repository.meter.head(&name).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_back(&self) -> Result<std::result::Result<usize, (String, String)>> {
        let cluster = &self.place.options.cluster;
        let (segment, own) = (self.segment, self.settings.system_id);
        match self.place.repository.repo.get_wal(cluster, &self.file()).await {
            Ok(read) => {
                let found = read.facts.segment.as_ref().map(|facts| facts.system_id);
                Ok(if found == Some(own) {
                    Ok(read.bytes.len())
                } else {
                    let message = format!("{segment} is archived, but it is not of the system {own}");
                    Err((message, "give each system a --cluster of its own".to_owned()))
                })
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let message = format!("{segment} is archived, but does not read back: {error}");
                Ok(Err((message, "look for a fault of the store or of this machine's memory".to_owned())))
            }
            Err(error) => Err(Error::from(error)),
        }
    }

    /// Whether the archiver says that the segment, or a later one, is archived.
    fn is_archived(&self, state: &ArchiverState) -> bool {
        let Some(last) = state.last_archived.as_ref().filter(|_| *state != self.before) else { return false };
        let file = last.file.parse::<WalFile>().ok().filter(|file| file.kind() == WalFileKind::Segment);
        let segment = file.and_then(|file| file.segment(self.settings.segment_size));
        segment.is_some_and(|last| last.timeline() == self.segment.timeline() && last >= self.segment)
    }

    fn elsewhere(&self) -> (String, String) {
        let cluster = &self.place.options.cluster;
        let message = format!("the server says that {} is archived, and it is not here", self.segment);
        let by = match (&self.settings.archive_library, &self.settings.archive_command) {
            (Some(library), _) => format!("archive_library is {library}"),
            (None, Some(command)) => format!("archive_command is {command}"),
            (None, None) => "archive_command is unknown".to_owned(),
        };
        (message, format!("{by}: is it of the archive {cluster} in {}?", self.place.repository.url()))
    }

    fn late(&self, state: &ArchiverState, failures: u64) -> (String, String) {
        let waited = self.since.elapsed().as_secs_f64();
        let mut message = format!("{} is not archived after {waited:.1} s", self.segment);
        if let Some(failed) = state.last_failed.as_ref().filter(|_| failures > 0) {
            message.push_str(&format!(": {} failed {failures} times, last at {}", failed.file, failed.time));
            let change =
                "the server's log has what archive_command said; try it by hand as the server's user";
            return (message, change.to_owned());
        }
        if let Some(waiting) = state.waiting_count {
            message.push_str(&format!(": {waiting} files wait"));
        }
        let change = "raise --timeout, or look into the server's log: an archive_command that ends with \
                      more than 125 or by a signal is not counted as failed";
        (message, change.to_owned())
    }
}
