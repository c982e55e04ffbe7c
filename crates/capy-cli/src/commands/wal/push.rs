//! `capy-store wal push`: what archive_command calls.

use std::path::PathBuf;

use capy_store::{ClusterName, PushOutcome, PushedWal};
use clap::Args;

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
#[derive(Debug, Args)]
#[command(after_help = "Example, in postgresql.conf:\n  \
    archive_command = 'capy-store --repo /backup/repo --key-file /etc/capy.key wal push --cluster main %p'")]
pub(crate) struct PushArgs {
    /// The archive: the name under which the cluster's backups are kept
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The file, relative to the data directory as PostgreSQL gives it: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(crate) async fn run(args: PushArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let pushed = repository.push_wal(&session.ctx, &args.cluster, args.path).await?;
    session.finish_progress();
    session.output.account(&pushed, text)?;
    Ok(Exit::Success)
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
