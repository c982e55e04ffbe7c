//! `capy-store wal when`: a time in the log.

use capy_store::{ClusterName, TimelineId, Timestamp, TransactionMoment, WalMoment};
use clap::Args;

use crate::exit::Exit;
use crate::session::Session;

/// Show where a time is in the WAL: its position, the last transaction before, the first after
///
/// A recovery to the time stops at that position. Whether a backup leads there says
/// `capy-store restore CLUSTER/latest --target-time TIME --dry-run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store wal when --cluster main --time 2026-11-21T06:54:52Z\n  \
    capy-store wal when --cluster main --time 2026-11-21T07:54:52.5+01:00 --timeline 2 --json")]
pub(crate) struct WhenArgs {
    /// The archive
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The time, RFC 3339 with its zone
    #[arg(long, value_name = "TIME")]
    time: Timestamp,

    /// Follow this timeline's history instead of the newest one's
    #[arg(long, value_name = "N")]
    timeline: Option<TimelineId>,
}

pub(crate) async fn run(args: WhenArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let found = repository.wal_moment(&session.ctx, &args.cluster, args.time, args.timeline).await?;
    session.finish_progress();
    session.output.answer(&found, text)?;
    Ok(Exit::Success)
}

fn text(moment: &WalMoment) -> String {
    let end = |end: Option<TransactionMoment>| {
        end.map_or_else(|| "none in the archive".to_owned(), |end| format!("{} at {}", end.time, end.lsn))
    };
    let mut text = format!(
        "{} is at {} of timeline {}, in {}\nlast transaction before: {}\nfirst transaction after: {}\n",
        moment.time,
        moment.lsn,
        moment.timeline,
        moment.segment,
        end(moment.last_before),
        end(moment.first_after)
    );
    for doubt in &moment.doubts {
        text.push_str(&format!("uncertain: {doubt}\n"));
    }
    text
}
