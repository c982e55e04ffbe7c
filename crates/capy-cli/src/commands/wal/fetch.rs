//! `capy-store wal fetch`: what restore_command calls.

use std::path::{Path, PathBuf};

use capy_store::{AheadBudget, ClusterName, ErrorKind, FetchAhead, FetchedWal, WalFile};
use clap::Args;

use super::{detach, prefetch};

use crate::exit::Exit;
use crate::human::bytes;
use crate::session::Session;

/// Fetch one WAL file from the archive (for restore_command)
///
/// The file appears whole and flushed, or not at all. (One that was fetched ahead for the server's own
/// request is not flushed here: the server does that before it keeps it.) Ends with 1 only when the
/// archive, asked itself, lacks the file: PostgreSQL then takes it that the WAL ends here. Every
/// fault (store, network, key, a damaged file, a mistake in this very line) ends with 126 or above,
/// at which PostgreSQL stops instead of going on with less than there is.
///
/// While the server replays one segment, a worker in the background fetches the next ones into a
/// hidden directory beside PATH, up to the budget of --prefetch; they are then only moved into
/// place. It is started for the server's own requests (PATH ends in RECOVERYXLOG), or when
/// --prefetch is given, and ends half a minute after the last one.
#[derive(Debug, Args)]
#[command(after_help = "Example, in postgresql.conf (`restore` writes such a line itself):\n  \
    restore_command = 'capy-store --repo /backup/repo --key-file /etc/capy.key wal fetch --cluster main %f %p'")]
pub(crate) struct FetchArgs {
    /// The archive: the name under which the cluster's backups are kept
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// Fetch so many segments ahead, or so many bytes (512MiB) [default: 256MiB]
    #[arg(long, value_name = "N|BYTES", value_parser = prefetch::budget)]
    prefetch: Option<AheadBudget>,

    /// Fetch nothing ahead
    #[arg(long, conflicts_with = "prefetch")]
    no_prefetch: bool,

    /// The name of the file: %f
    #[arg(value_name = "FILE")]
    file: WalFile,

    /// Where to put it: %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(crate) async fn run(args: FetchArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let ahead = ahead(&args, session)?;
    let taken = match &ahead {
        Some((ahead, _)) => ahead.take(&session.ctx, &args.file, &args.path).await,
        None => None,
    };
    let fetched = match taken {
        Some(fetched) => fetched,
        None => {
            let repository = session.open().await.map_err(never_absent)?;
            match repository.fetch_wal(&session.ctx, &args.cluster, &args.file, &args.path).await {
                Ok(fetched) => {
                    if let Some((ahead, _)) = &ahead
                        && let Err(error) = ahead.follow(&args.file)
                    {
                        tracing::warn!("nothing is fetched ahead: {}", error.chain());
                    }
                    fetched
                }
                // The archive's own word, asked for just now.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    session.finish_progress();
                    eprintln!("{error}");
                    return Ok(Exit::Absent);
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    if let Some((ahead, budget)) = &ahead {
        keep_worker(&args, ahead, *budget, session);
    }
    session.finish_progress();
    session.output.account(&fetched, text)?;
    Ok(Exit::Success)
}

/// What is fetched ahead, if anything shall be.
fn ahead(args: &FetchArgs, session: &Session) -> anyhow::Result<Option<(FetchAhead, AheadBudget)>> {
    // Others who fetch a segment want only that one.
    let is_recovery = FetchAhead::is_for_recovery(&args.path);
    if args.no_prefetch || !(is_recovery || args.prefetch.is_some()) {
        return Ok(None);
    }
    let budget = args.prefetch.unwrap_or(AheadBudget::Bytes(prefetch::BUDGET_BYTES));
    let ahead = FetchAhead::beside(directory_of(&args.path), &args.cluster, &session.location()?)?;
    Ok(Some((ahead, budget)))
}

/// Starts a worker when none runs. That it cannot be started is no fault of the fetch.
fn keep_worker(args: &FetchArgs, ahead: &FetchAhead, budget: AheadBudget, session: &Session) {
    if ahead.has_worker() || !ahead.log().parent().is_some_and(Path::is_dir) {
        return;
    }
    let words = prefetch::worker_words(&args.cluster, directory_of(&args.path), budget);
    if let Err(error) = detach::start(&session.global, words, &ahead.log()) {
        tracing::warn!("nothing is fetched ahead: {error}");
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A repository that is not there says nothing about a file.
fn never_absent(error: anyhow::Error) -> anyhow::Error {
    error.context("cannot open the repository")
}

fn text(fetched: &FetchedWal) -> String {
    format!("{} fetched, {}\n", fetched.file, bytes(fetched.size_bytes))
}
