//! `capy-store wal push`: what archive_command calls.

use std::path::{Path, PathBuf};
use std::time::Duration;

use capy_store::{ClusterName, PushOutcome, PushedWal, Spool};
use clap::{Args, value_parser};

use super::{detach, spool};

use crate::exit::Exit;
use crate::human::bytes;
use crate::session::Session;

/// Archive one WAL file (for archive_command)
///
/// Ends with 0 only when the file is durable in the archive. A file that is there already with the
/// same content is fine; with another content the command fails, both copies are kept, and the
/// message says how they differ. Exit codes are 1 to 125, so that PostgreSQL counts a failure and
/// tries again.
///
/// The file's header is checked: system identifier, timeline, address, segment size.
///
/// Opening a repository by passphrase takes a tenth of a second each time by design; a key file
/// opens at once.
///
/// With --spool the work is handed to a worker in the background, which is started when there is
/// none and ends when it has nothing to do. It uploads several files at once, ahead of the server's
/// asking; this command only takes its word that the very file is durable, in a few milliseconds.
/// What fails is retried, reported here when the server asks for it, and shown by `wal status`.
#[derive(Debug, Args)]
#[command(after_help = "Example, in postgresql.conf:\n  \
    archive_command = 'capy-store --repo /backup/repo --key-file /etc/capy.key wal push --cluster main %p'\n  \
    archive_command = 'capy-store --repo s3://bucket/pg --key-file /etc/capy.key wal push --cluster main --spool /var/spool/capy %p'")]
pub(crate) struct PushArgs {
    /// The archive: the name under which the cluster's backups are kept
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// Hand over to a worker in the background, which meets this command in this directory
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,

    /// With --spool: fail when the file is not durable after this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    timeout: u64,

    /// The file, relative to the data directory as PostgreSQL gives it: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

impl PushArgs {
    /// Whether the work is a worker's.
    pub(super) const fn hands_over(&self) -> bool {
        self.spool.is_some()
    }
}

pub(crate) async fn run(args: PushArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let pushed = match &args.spool {
        Some(directory) => hand_over(&args, directory, session).await?,
        None => {
            let repository = session.open().await?;
            repository.push_wal(&session.ctx, &args.cluster, args.path).await?
        }
    };
    session.finish_progress();
    session.output.account(&pushed, text)?;
    Ok(Exit::Success)
}

/// Waits for the worker's word, and starts a worker when there is none.
async fn hand_over(args: &PushArgs, directory: &Path, session: &Session) -> anyhow::Result<PushedWal> {
    let meeting = Spool::open(directory, &args.cluster, &session.location()?)?;
    let start = || {
        let words = spool::worker_words(&args.cluster, directory, &args.path);
        detach::start(&session.global, words, &meeting.log())
    };
    let timeout = Duration::from_secs(args.timeout);
    Ok(meeting.push(&session.ctx, &args.path, timeout, start).await?)
}

fn text(pushed: &PushedWal) -> String {
    let mut text = match pushed.outcome {
        PushOutcome::AlreadyThere => format!("{} is archived already, with the same content\n", pushed.file),
        _ => format!("{} archived in {}\n", pushed.file, bytes(pushed.stored_bytes)),
    };
    for notice in &pushed.notices {
        text.push_str(&format!("note: {notice}\n"));
    }
    text
}
