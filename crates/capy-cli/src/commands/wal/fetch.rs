//! `capy-store wal fetch`: what restore_command calls.

use std::path::PathBuf;

use capy_store::{ClusterName, ErrorKind, FetchedWal, WalFile};
use clap::Args;

use crate::exit::Exit;
use crate::human::bytes;
use crate::session::Session;

/// Fetch one WAL file from the archive (for restore_command)
///
/// The file appears whole and flushed, or not at all. Ends with 1 only when the archive, asked
/// itself, lacks the file: PostgreSQL then takes it that the WAL ends here. Every fault (store,
/// network, key, a damaged file, a mistake in this very line) ends with 126 or above, at which
/// PostgreSQL stops instead of going on with less than there is.
#[derive(Debug, Args)]
#[command(after_help = "Example, in postgresql.conf (`restore` writes such a line itself):\n  \
    restore_command = 'capy-store --repo /backup/repo --key-file /etc/capy.key wal fetch --cluster main %f %p'")]
pub(crate) struct FetchArgs {
    /// The archive: the name under which the cluster's backups are kept
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The name of the file: %f
    #[arg(value_name = "FILE")]
    file: WalFile,

    /// Where to put it: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(crate) async fn run(args: FetchArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await.map_err(never_absent)?;
    match repository.fetch_wal(&session.ctx, &args.cluster, &args.file, args.path).await {
        Ok(fetched) => {
            session.finish_progress();
            session.output.account(&fetched, text)?;
            Ok(Exit::Success)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            session.finish_progress();
            eprintln!("{error}");
            Ok(Exit::Absent)
        }
        Err(error) => Err(error.into()),
    }
}

/// A repository that is not there says nothing about a file.
fn never_absent(error: anyhow::Error) -> anyhow::Error {
    error.context("cannot open the repository")
}

fn text(fetched: &FetchedWal) -> String {
    format!("{} fetched, {}\n", fetched.file, bytes(fetched.size_bytes))
}
