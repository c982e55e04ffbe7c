//! Check: the whole way of a server's log, from its settings to a restore, proven on the live server.
//!
//! The parts, in order: the [`repository`] takes new objects; the [`server`]'s settings and the role's
//! privileges; the system is the one the archive and the backups are of; a segment that is forced to
//! its end arrives ([`delivery`]); and from what is stored a restore to now is possible
//! ([`recovery`]).
//!
//! Invariants: what is found wrong is a step of the report, with what to change; an error means that
//! the check itself could not go on. Nothing is left behind but a few bytes of log.

mod delivery;
mod recovery;
mod repository;
mod server;

use std::time::{Duration, Instant};

use capy_postgres::ArchiveMode;
use capy_types::{ClusterName, Ctx, Phase};
use serde::Serialize;
use tracing::instrument;

use crate::report::seconds;
use crate::repository::cancellable;
use crate::{PostgresServer, Repository, Result};

/// How a server is checked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckOptions {
    /// The name of its backups and its archive.
    pub cluster: ClusterName,
    /// The server.
    pub server: PostgresServer,
    /// How long the forced segment may take to arrive.
    pub timeout: Duration,
    /// Force a segment to its end, and wait for it.
    pub switch: bool,
}

impl CheckOptions {
    /// With a switch, and a minute for it to arrive.
    #[must_use]
    pub const fn new(cluster: ClusterName, server: PostgresServer) -> Self {
        Self { cluster, server, timeout: Duration::from_secs(60), switch: true }
    }
}

/// How a step of a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// It works, but may surprise.
    Note,
    /// It was not looked at.
    Skipped,
    /// It does not work.
    Problem,
}

impl CheckState {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Skipped => "skipped",
            Self::Problem => "problem",
        }
    }
}

/// One step of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckStep {
    /// What was looked at: a setting, a role, a part of the way.
    pub step: String,
    /// How it went.
    pub state: CheckState,
    /// What was found: one fact.
    pub message: String,
    /// What to change, or to look at.
    pub change: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether there is no problem.
    pub ok: bool,
    /// How many problems there are.
    pub problems: u64,
    /// Everything that was looked at, in order.
    pub steps: Vec<CheckStep>,
    /// The segment that was forced to its end.
    pub segment: Option<String>,
    /// How long it took from there until the archive had it.
    #[serde(rename = "archived_after_seconds", serialize_with = "optional_seconds")]
    pub archived_after: Option<Duration>,
    /// From start to end.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

fn optional_seconds<S: serde::Serializer>(
    duration: &Option<Duration>,
    s: S,
) -> std::result::Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, s),
        None => s.serialize_none(),
    }
}

/// The steps so far.
#[derive(Debug, Default)]
struct Steps(Vec<CheckStep>);

impl Steps {
    fn add(&mut self, state: CheckState, step: &str, message: impl Into<String>, change: Option<String>) {
        self.0.push(CheckStep { step: step.to_owned(), state, message: message.into(), change });
    }

    fn ok(&mut self, step: &str, message: impl Into<String>) {
        self.add(CheckState::Ok, step, message, None);
    }

    fn skipped(&mut self, step: &str, message: impl Into<String>) {
        self.add(CheckState::Skipped, step, message, None);
    }

    fn problem(&mut self, step: &str, message: impl Into<String>, change: impl Into<String>) {
        self.add(CheckState::Problem, step, message, Some(change.into()));
    }

    fn has_problem(&self, step: &str) -> bool {
        self.0.iter().any(|known| known.step == step && known.state == CheckState::Problem)
    }
}

impl Repository {
    /// Checks on a live server whether its log gets into the archive, and whether a restore to now
    /// would be possible. With a switch, a restore point named `capy_store_check` and the end of a
    /// segment are written into the log.
    ///
    /// # Errors
    /// `Unavailable`, `Denied` when server or store cannot be asked at all; `Corrupt` when the root
    /// cannot be read. What is found wrong is in the report.
    ///
    /// # Cancellation
    /// Safe to drop; a small object under `probe/` may be left, which nothing reads.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let server = PostgresServer::connect_with("host=/run/postgresql user=postgres", |_| None)?;
    /// let report = repository.check(ctx, CheckOptions::new("main".parse().unwrap(), server)).await?;
    /// for step in report.steps.iter().filter(|step| step.state == CheckState::Problem) {
    ///     println!("{}: {}", step.step, step.message);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %options.cluster))]
    pub async fn check(&self, ctx: &Ctx, options: CheckOptions) -> Result<CheckReport> {
        ctx.progress.phase(Phase::Prepare, None);
        let begun = Instant::now();
        cancellable(ctx, async {
            let mut steps = Steps::default();
            repository::takes_objects(self, &mut steps).await?;
            let connection = options.server.open().await?;
            let settings = connection.archiving_settings().await?;
            server::settings(&connection, &settings, &mut steps).await?;
            server::replication(&options.server, &settings, &mut steps).await;
            let is_own = repository::is_of_system(self, &options.cluster, &settings, &mut steps).await?;
            let place = delivery::Place { repository: self, ctx, options: &options, is_own };
            let delivered = delivery::force(&place, &connection, &settings, &mut steps).await?;
            if settings.archive_mode != ArchiveMode::Off && !steps.has_problem(delivery::STEP) {
                server::archiver(&connection.archiver_state().await?, &mut steps);
            }
            let position = connection.wal_position().await?;
            recovery::to_now(self, ctx, &options.cluster, &settings, position, &delivered, &mut steps)
                .await?;
            let problems = steps.0.iter().filter(|step| step.state == CheckState::Problem).count() as u64;
            Ok(CheckReport {
                cluster: options.cluster.clone(),
                ok: problems == 0,
                problems,
                steps: steps.0,
                segment: delivered.segment.map(|segment| segment.to_string()),
                archived_after: delivered.after,
                elapsed: begun.elapsed(),
            })
        })
        .await
    }
}
