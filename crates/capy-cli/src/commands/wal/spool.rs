//! `capy-store wal agent`, and the worker that `wal push --spool` starts when there is none.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use capy_store::{ClusterName, Repository, Spool, SpoolFault, SpoolOptions, SpoolReport, SpoolWorker};
use clap::{Args, value_parser};

use super::detach;
use crate::exit::Exit;
use crate::failure::Shown;
use crate::session::Session;

/// Archive WAL as a service, for `wal push --spool`
///
/// Does what the worker does that `wal push --spool` starts by itself: reads which files the server
/// waits to have archived, uploads several at once, and acknowledges each when it is durable. It
/// never ends by itself, takes no work for another server or repository, and keeps the repository
/// open.
///
/// Use it where PostgreSQL is the first process of a container: that process takes over workers
/// that are started on demand, and takes one that is killed for a crash of the server.
#[derive(Debug, Args)]
#[command(after_help = "Example, and the line in postgresql.conf that goes with it:\n  \
    capy-store wal agent --cluster main --spool /var/spool/capy --pgwal /var/lib/postgresql/15/main/pg_wal\n  \
    archive_command = 'capy-store wal push --cluster main --spool /var/spool/capy %p'")]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    work: WorkArgs,
}

/// The worker started on demand.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    work: WorkArgs,

    /// End after this long without work
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
}

#[derive(Debug, Args)]
struct WorkArgs {
    /// The archive: the name under which the cluster's backups are kept
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The directory where pushes and the worker meet
    #[arg(long, value_name = "DIR")]
    spool: PathBuf,

    /// The server's pg_wal
    #[arg(long, value_name = "DIR")]
    pgwal: PathBuf,

    /// Files uploaded at once, 1 to 8 [default: twice the number of cores]
    #[arg(long, short = 'j', value_name = "N", value_parser = value_parser!(u16).range(1..=8))]
    jobs: Option<u16>,
}

pub(crate) async fn run_agent(args: AgentArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let spool = Spool::open(&args.work.spool, &args.work.cluster, &session.location()?)?;
    let mut options = args.work.options();
    options.resident = true;
    let worker = SpoolWorker::claim(&session.ctx, spool, &args.work.pgwal, options).await?;
    let Some(worker) = worker else { return Ok(Exit::Problems) };
    session.finish_progress();
    let report = worker.run(&session.ctx, async || open(session).await).await?;
    session.output.account(&report, text)?;
    Ok(Exit::Success)
}

pub(crate) async fn run_worker(args: WorkerArgs, session: &mut Session) -> anyhow::Result<Exit> {
    detach::become_detached();
    session.finish_progress();
    let spool = Spool::open(&args.work.spool, &args.work.cluster, &session.location()?)?;
    let mut options = args.work.options();
    options.idle = args.idle.map(std::time::Duration::from_secs);
    let work = async {
        let claimed = SpoolWorker::claim(&session.ctx, spool, &args.work.pgwal, options).await?;
        match claimed {
            Some(worker) => worker.run(&session.ctx, async || open(session).await).await.map(Some),
            None => Ok(None),
        }
    };
    match work.await {
        Ok(report) => {
            tracing::info!(?report, "ends");
            Ok(Exit::Success)
        }
        // Only 0 and 1: see `become_detached`.
        Err(error) => {
            tracing::error!("the worker ends: {}", error.chain());
            Ok(Exit::Problems)
        }
    }
}

/// The words that start a worker for the files beside `path`.
pub(super) fn worker_words(cluster: &ClusterName, spool: &Path, path: &Path) -> Vec<OsString> {
    let pgwal = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let words =
        ["spool-worker".as_ref(), "--cluster".as_ref(), cluster.as_str().as_ref(), "--spool".as_ref()];
    let mut words: Vec<OsString> = words.map(std::ffi::OsStr::to_os_string).to_vec();
    words.extend([spool.into(), "--pgwal".into(), pgwal.into()]);
    words
}

async fn open(session: &Session) -> Result<Repository, SpoolFault> {
    session.open().await.map_err(|error| {
        let shown = Shown::of(&error);
        SpoolFault::new(shown.kind, shown.message, shown.hint)
    })
}

impl WorkArgs {
    fn options(&self) -> SpoolOptions {
        let mut options = SpoolOptions::default();
        options.jobs = self.jobs.map(usize::from);
        options
    }
}

fn text(report: &SpoolReport) -> String {
    format!("{} files archived, {} attempts failed\n", report.archived, report.failures)
}
