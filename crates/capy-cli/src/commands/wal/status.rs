//! `capy-store wal status`: how far archiving is behind.

use std::path::PathBuf;

use capy_store::{ClusterName, ServerWal, SpoolStatus, WalStatus, WalStatusOptions, wal_status};
use clap::Args;

use crate::exit::Exit;
use crate::failure::Shown;
use crate::human::{bytes, duration};
use crate::session::Session;

/// Show how far archiving is behind, and when that fills the server's disk
///
/// What waits is counted from the server's own list, all of it, whatever the worker still means to
/// do. Rates are of the last five minutes. When the repository cannot be opened, the server's side
/// is shown all the same.
///
/// Ends with 1 when something is wrong: a file that fails or is passed over, files archived with
/// two contents, a disk that is full within the hour, a repository that cannot be opened.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store wal status --cluster main\n  \
    capy-store wal status --cluster main --pgwal /var/lib/postgresql/15/main/pg_wal --spool /var/spool/capy --json")]
pub(crate) struct StatusArgs {
    /// The archive
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// Also look at the server: its pg_wal
    #[arg(long, value_name = "DIR")]
    pgwal: Option<PathBuf>,

    /// Also look at the spool of `wal push --spool`
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
}

pub(crate) async fn run(args: StatusArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let mut options = WalStatusOptions::default();
    (options.pgwal, options.spool) = (args.pgwal, args.spool);
    let location = session.location()?;
    let opened = session.open().await;
    let (repository, problem) = match opened {
        Ok(repository) => (Some(repository), None),
        Err(error) if options.pgwal.is_none() && options.spool.is_none() => return Err(error),
        Err(error) => (None, Some(Shown::of(&error).message)),
    };
    let gathered = wal_status(&session.ctx, &location, repository.as_ref(), &args.cluster, &options).await;
    let mut status = match gathered {
        Err(error) if error.is_transient() && (options.pgwal.is_some() || options.spool.is_some()) => {
            // It was opened and then gone: the server's side is what is needed now.
            let mut local = wal_status(&session.ctx, &location, None, &args.cluster, &options).await?;
            local.problems.insert(0, error.chain());
            local
        }
        gathered => gathered?,
    };
    if let Some(problem) = problem {
        status.problems.insert(0, format!("the repository cannot be opened: {problem}"));
    }
    session.finish_progress();
    session.output.answer(&status, text)?;
    Ok(if status.problems.is_empty() { Exit::Success } else { Exit::Problems })
}

fn text(status: &WalStatus) -> String {
    let mut text = String::new();
    if let Some(archive) = &status.archive {
        text.push_str(&format!(
            "archive {} of system {}: {} segments of {} MiB\n",
            status.cluster,
            archive.system_id,
            archive.segments,
            archive.segment_size_bytes >> 20
        ));
        for timeline in &archive.timelines {
            let when = timeline.archived_at.map_or_else(|| "?".to_owned(), |time| time.to_string());
            text.push_str(&format!(
                "timeline {}: newest {}, archived {when}\n",
                timeline.timeline, timeline.newest_segment
            ));
        }
    }
    if let Some(server) = &status.server {
        text.push_str(&server_text(server));
    }
    if let Some(spool) = &status.spool {
        text.push_str(&spool_text(spool));
    }
    for problem in &status.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
    text
}

fn server_text(server: &ServerWal) -> String {
    let mut text = format!("{}: {} files wait", server.directory.display(), server.ready);
    if let Some(unarchived) = server.unarchived {
        text.push_str(&format!(", {unarchived} of them not archived"));
    }
    text.push('\n');
    if let Some(oldest) = server.oldest_unarchived.as_ref().or(server.oldest_ready.as_ref()) {
        text.push_str(&format!("oldest {}, since {}\n", oldest.file, oldest.since));
    }
    let drained = server.rates.drained_per_minute.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}"));
    text.push_str(&format!(
        "{:.1} segments a minute are finished, {drained} archived\n",
        server.rates.generated_per_minute
    ));
    let full = match server.full_in_seconds {
        Some(seconds) => format!("full in {}", duration(std::time::Duration::from_secs(seconds))),
        None => "not filling".to_owned(),
    };
    text.push_str(&format!("{} free, {full}\n", bytes(server.free_bytes)));
    text
}

fn spool_text(spool: &SpoolStatus) -> String {
    let worker = spool.worker_pid.map_or_else(|| "no worker".to_owned(), |pid| format!("worker {pid}"));
    let (directory, failing) = (spool.directory.display(), spool.failing.len());
    format!("{directory}: {worker}, {} files ahead, {failing} failing\n", spool.ahead)
}
