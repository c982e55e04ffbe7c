//! `capy-store wal windows`: what can be recovered.

use capy_store::{ClusterName, WalWindows};
use clap::Args;

use crate::exit::Exit;
use crate::session::Session;

/// Show what can be recovered: WAL by timeline, its holes, and up to where each backup goes
///
/// Answered from facts that were gathered when the WAL was archived; no WAL is read but what `wal
/// receive` has of the segment that is being written. A window's
/// `known until` is the moment up to which it is certain that no commit is missing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store wal windows --cluster main\n  \
    capy-store wal windows --cluster main --json | jq '.backups[-1].windows'")]
pub(crate) struct WindowsArgs {
    /// The archive
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,
}

pub(crate) async fn run(args: WindowsArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let windows = repository.wal_windows(&session.ctx, &args.cluster).await?;
    session.finish_progress();
    session.output.answer(&windows, text)?;
    Ok(if windows.problems.is_empty() { Exit::Success } else { Exit::Problems })
}

fn text(windows: &WalWindows) -> String {
    let mut text = format!(
        "archive {} of system {}, segments of {} MiB\n",
        windows.cluster,
        windows.system_id,
        windows.segment_size_bytes >> 20
    );
    for timeline in &windows.timelines {
        let origin = match (timeline.parent, timeline.forked_at) {
            (Some(parent), Some(at)) => format!(", from timeline {parent} at {at}"),
            _ => String::new(),
        };
        text.push_str(&format!("timeline {}{origin}\n", timeline.timeline));
        for (n, run) in timeline.runs.iter().enumerate() {
            let hole = if n > 0 { "  HOLE before this\n" } else { "" };
            let times = match (run.from_time, run.to_time) {
                (Some(from), Some(to)) => format!("commits {from} to {to}"),
                _ => "no commits".to_owned(),
            };
            text.push_str(&format!(
                "{hole}  {} to {}: {} segments up to {}, {times}\n",
                run.first_segment, run.last_segment, run.segments, run.to_lsn
            ));
        }
        for open in &timeline.open {
            text.push_str(&format!("  {open} is being received: as far as it is durable it counts above\n"));
        }
    }
    for backup in &windows.backups {
        text.push_str(&format!("backup {}\n", backup.backup_key));
        for window in &backup.windows {
            let until = window.known_until.map_or_else(|| "?".to_owned(), |time| time.to_string());
            text.push_str(&format!(
                "  timeline {}: from {} ({}) to {}, known until {until}; {}\n",
                window.timeline, window.from_lsn, window.from_time, window.to_lsn, window.ended_by
            ));
        }
        if let Some(problem) = &backup.problem {
            text.push_str(&format!("  cannot be recovered: {problem}\n"));
        }
    }
    for problem in &windows.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
    text
}
