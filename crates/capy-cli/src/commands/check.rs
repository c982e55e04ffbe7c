//! `capy-store check`: the whole way of a server's WAL, proven.

use std::time::Duration;

use capy_store::{CheckOptions, CheckReport, CheckState, CheckStep, ClusterName, PostgresServer};
use clap::Args;
use serde_json::json;

use crate::environment;
use crate::exit::Exit;
use crate::human::duration;
use crate::output::table;
use crate::session::Session;

/// Check on a live server that its WAL gets into the archive
///
/// Looks at the repository, the server's version and settings, the role's privileges, slots and the
/// archiver; compares the system with the archive's and the backups'; then forces a segment to its
/// end (a restore point named capy_store_check is written first, so that an idle server has something
/// to switch away from), waits until exactly that segment is in the archive, and asks whether a restore
/// to now would be possible. On a standby nothing is forced.
///
/// Each step is ok, a note, skipped or a problem with what to change. Ends with 1 when there are
/// problems.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store check --cluster main --pg \"host=/run/postgresql user=postgres\"\n  \
    capy-store check --cluster main --pg \"$PG\" --json | jq '.check.steps[] | select(.state == \"problem\")'")]
pub(crate) struct CheckArgs {
    /// The server: key=value pairs or a postgresql:// URI, as libpq reads them
    #[arg(long, value_name = "CONNINFO")]
    pg: String,

    /// The name of its backups and its archive
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// How long the forced segment may take to arrive: 30s, 5m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = timeout)]
    timeout: Duration,

    /// Force no segment to its end
    #[arg(long)]
    no_switch: bool,
}

pub(crate) async fn run(args: CheckArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let server = PostgresServer::connect_with(&args.pg, environment::var)?;
    let repository = session.open().await?;
    let mut options = CheckOptions::new(args.cluster, server);
    options.timeout = args.timeout;
    options.switch = !args.no_switch;
    let report = repository.check(&session.ctx, options).await?;
    session.finish_progress();
    if report.ok {
        session.output.account(&json!({ "check": report }), |_| text(&report))?;
        return Ok(Exit::Success);
    }
    // What is wrong is said even when quiet.
    session.output.answer(&json!({ "check": report }), |_| text(&report))?;
    Ok(Exit::Problems)
}

/// `30s`, `5m`.
fn timeout(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with s or m, like 30s or 5m".to_owned();
    let (digits, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 60),
        (None, None) => return Err(expected()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    let count = digits.parse::<u32>().map_err(|_| expected())?;
    Ok(Duration::from_secs(u64::from(count) * unit))
}

fn text(report: &CheckReport) -> String {
    let mut text = table(&report.steps.iter().flat_map(rows).collect::<Vec<_>>());
    let found = match report.problems {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    text.push_str(&format!("{found}, in {}\n", duration(report.elapsed)));
    text
}

/// A line for the step, and one for what to change.
fn rows(step: &CheckStep) -> Vec<Vec<String>> {
    let state = match step.state {
        CheckState::Problem => "PROBLEM",
        other => other.as_str(),
    };
    let mut rows = vec![vec![state.to_owned(), step.step.clone(), step.message.clone()]];
    if let Some(change) = &step.change {
        rows.push(vec![String::new(), String::new(), format!("-> {change}")]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_unit() {
        assert_eq!(timeout("0s"), Ok(Duration::ZERO));
        assert_eq!(timeout("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(timeout("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "5", "s", "1h", "-1s", "+1s", "1.5s", "1 s", "99999999999s"] {
            assert!(timeout(bad).unwrap_err().contains("like 30s"), "{bad}");
        }
    }
}
