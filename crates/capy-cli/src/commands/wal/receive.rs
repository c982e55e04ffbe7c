//! `capy-store wal receive`: a receiver that runs beside the server.

use std::io::Write;
use std::time::Duration;

use capy_store::{
    ClusterName, Lsn, PostgresServer, PushOutcome, ReceiveEnd, ReceiveEvent, ReceiveOptions, ReceiveReport,
};
use clap::Args;

use crate::environment;
use crate::exit::Exit;
use crate::human::{bytes, duration};
use crate::session::Session;

/// Receive WAL from a running server as it is written
///
/// Streams over the replication protocol straight into the archive, until it is ended by Ctrl-C or
/// SIGTERM, when it makes durable what it has received and ends with 0. It connects again by itself,
/// follows the server to new timelines, and can run beside `wal push` of the same cluster.
///
/// With a slot the server keeps WAL until it is durable here. When synchronous_standby_names names
/// it (as '"capy-store"', or the application_name of CONNINFO), commits wait until their WAL is
/// durable in the repository: nothing that was committed is ever lost. While no receiver runs,
/// such commits wait.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store wal receive --cluster main --pg 'host=/run/postgresql user=postgres' --slot capy_store --create-slot\n  \
    alter system set synchronous_standby_names = '\"capy-store\"'    # then reload: no commit is ever lost")]
pub(crate) struct ReceiveArgs {
    /// The archive: the name under which the cluster's backups are kept
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// Connect to this server: key=value pairs or a postgresql:// URI, as libpq reads them; the role
    /// needs REPLICATION
    #[arg(long, value_name = "CONNINFO")]
    pg: String,

    /// The physical replication slot that makes the server keep what is not received yet
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,

    /// Make the slot where there is none
    #[arg(long, requires = "slot")]
    create_slot: bool,

    /// How long WAL may wait to be archived until its segment is full, like 500ms, 10s or 5m; 0s:
    /// not at all. Where commits wait for it, it never waits
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = interval)]
    partial_interval: Duration,

    /// Connect again when the server has said nothing for this long, asked or not
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = silence)]
    silence_timeout: Duration,

    /// Go on where the server has removed WAL that was not received; no recovery passes the gap
    #[arg(long)]
    accept_gap: bool,

    /// End once everything before this position is durable
    #[arg(long, value_name = "LSN")]
    until_lsn: Option<Lsn>,

    /// End at the first error, also one that may pass
    #[arg(long)]
    no_reconnect: bool,
}

pub(crate) async fn run(args: ReceiveArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let server = PostgresServer::connect_with(&args.pg, environment::var)?;
    let mut options = ReceiveOptions::new(args.cluster, server);
    (options.slot, options.create_slot) = (args.slot, args.create_slot);
    options.partial_interval = Some(args.partial_interval);
    (options.accept_gap, options.until) = (args.accept_gap, args.until_lsn);
    options.reconnect = !args.no_reconnect;
    options.silence_timeout = args.silence_timeout;
    let repository = session.open().await?;
    session.finish_progress();
    let quiet = session.global.quiet;
    let report = repository.receive_wal(&session.ctx, options, |event| tell(&event, quiet)).await?;
    session.output.account(&report, text)?;
    Ok(Exit::Success)
}

/// One line on standard error for each thing that happens. What went wrong is said even when quiet.
fn tell(event: &ReceiveEvent, quiet: bool) {
    let (line, matters) = match event {
        ReceiveEvent::Streaming { timeline, from, synchronous } => {
            let how = if *synchronous { ", commits wait for it" } else { "" };
            (format!("streaming timeline {timeline} from {from}{how}"), false)
        }
        ReceiveEvent::Synchronous(true) => ("commits wait for it from now on".to_owned(), false),
        ReceiveEvent::Synchronous(false) => ("commits no longer wait for it".to_owned(), false),
        ReceiveEvent::Archived(pushed) if pushed.outcome == PushOutcome::AlreadyThere => {
            (format!("{} is archived already, with the same content", pushed.file), false)
        }
        ReceiveEvent::Archived(pushed) => {
            (format!("{} archived in {}", pushed.file, bytes(pushed.stored_bytes)), false)
        }
        ReceiveEvent::TimelineSwitch { from, to, at } => {
            (format!("timeline {from} has ended at {at}; timeline {to} follows"), false)
        }
        ReceiveEvent::Gap(gap) => {
            (format!("warning: no WAL of timeline {} from {} to {}", gap.timeline, gap.from, gap.to), true)
        }
        ReceiveEvent::Retry { problem, wait } => {
            (format!("warning: {problem}; trying again in {}", duration(*wait)), true)
        }
        ReceiveEvent::Notice(text) => (format!("note: {text}"), true),
        _ => return,
    };
    if matters || !quiet {
        // Nobody reads: no reason to stop.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

fn text(report: &ReceiveReport) -> String {
    let end = match report.ended {
        ReceiveEnd::ReachedPosition => "reached the position",
        _ => "stopped",
    };
    let durable = report
        .durable_lsn
        .map_or_else(|| "nothing was received".to_owned(), |at| format!("durable up to {at}"));
    let (received, stored) = (bytes(report.received_bytes), bytes(report.stored_bytes));
    format!("{end}: {durable}, {} segments, {received} received, {stored} stored\n", report.segments)
}

/// `500ms`, `10s`, `5m`, `1h`.
fn interval(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with ms, s, m or h, like 500ms, 10s or 5m".to_owned();
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let (digits, unit) = text.split_at(unit);
    let count: u64 = digits.parse().map_err(|_| expected())?;
    let seconds = |each: u64| count.checked_mul(each).map(Duration::from_secs);
    let length = match unit {
        "ms" => Some(Duration::from_millis(count)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => return Err(expected()),
    };
    // Longer than a day is no interval any more, and a day is far from what can be counted.
    length.filter(|length| *length <= Duration::from_secs(86_400)).ok_or_else(|| "at most 24h".to_owned())
}

/// As an interval, and long enough for a question and its answer.
fn silence(text: &str) -> Result<Duration, String> {
    let length = interval(text)?;
    if length < Duration::from_secs(1) {
        return Err("at least 1s".to_owned());
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_unit() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000)]
        {
            assert_eq!(interval(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "1d", "25h", "99999999999999999999s"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
        assert!(silence("0s").is_err() && silence("999ms").is_err());
        assert_eq!(silence("1s"), Ok(Duration::from_secs(1)));
    }
}
