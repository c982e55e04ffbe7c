//! `capy-store expire`: backups that no retention rule keeps, shown and then removed.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use capy_store::{
    BackupInfo, ClusterName, ErrorKind, ExpireOptions, ExpireReport, KeepReason, KeptBackup, RetentionPolicy,
    VerificationState,
};
use clap::{Args, value_parser};

use super::list;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::human::bytes;
use crate::output::table;
use crate::session::Session;

/// Remove the backups that no rule keeps
///
/// A backup stays if any rule given wants it. Rules count from the newest, each cluster by itself,
/// and its streams apart for each --database. Damaged backups and those that failed their
/// verification are not counted. Days, weeks, months and years are those of UTC and ISO 8601.
///
/// Never removed, whatever the rules: pinned backups, the newest sound backup of a cluster,
/// damaged ones that no sound one follows, and backups dated in the future.
///
/// What stays, why, and what goes is shown first. On a terminal it is then asked for; elsewhere
/// --yes must have been given. The space is reclaimed by the collector, a command of its own.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store expire --keep-within 30d --dry-run\n  \
    capy-store expire --cluster main --keep-daily 7 --keep-weekly 5 --keep-monthly 12\n  \
    capy-store expire --keep-full 14 --yes --quiet        # in a timer")]
pub(crate) struct ExpireArgs {
    /// Only this cluster's backups
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,

    /// Show what would go, and remove nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,

    #[command(flatten)]
    rules: Rules,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
#[command(next_help_heading = "Rules, at least one")]
struct Rules {
    /// Keep the newest N sound backups
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    keep_full: Option<u32>,

    /// Keep all of the last 36h, 30d, 8w, and the base backup that leads to the beginning of it
    #[arg(long, value_name = "DURATION", value_parser = span)]
    keep_within: Option<Duration>,

    /// Keep the newest of each of the newest N days that have one
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    keep_daily: Option<u32>,

    /// Keep the newest of each of the newest N weeks that have one
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    keep_weekly: Option<u32>,

    /// Keep the newest of each of the newest N months that have one
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    keep_monthly: Option<u32>,

    /// Keep the newest of each of the newest N years that have one
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    keep_yearly: Option<u32>,
}

/// How the removal is agreed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consent {
    /// By an option.
    Given,
    /// By the answer to a question.
    Ask,
}

pub(crate) async fn run(args: ExpireArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let output = session.output;
    let consent = consent(args.yes || args.dry_run, output.json, on_terminal())?;
    let repository = session.open().await?;
    let mut options = ExpireOptions::new(args.rules.policy());
    options.cluster = args.cluster;
    options.dry_run = true;
    let plan = repository.expire(&session.ctx, &options).await?;
    if args.dry_run {
        output.answer(&plan, plan_text)?;
        return Ok(Exit::Success);
    }
    if consent == Consent::Ask {
        output.answer(&plan, plan_text)?;
        if !plan.expired.is_empty() {
            ask(&format!("Remove {}?", backups(plan.expired.len())), session).await?;
        }
    } else if !output.json {
        output.account(&plan, plan_text)?;
    }
    options.dry_run = false;
    // No more goes than was shown, whatever happened meanwhile.
    options.shown = Some(plan.expired.into_iter().map(|expired| expired.backup.backup_key).collect());
    let report = repository.expire(&session.ctx, &options).await?;
    output.account(&report, |report| format!("{} removed\n", backups(report.expired.len())))?;
    Ok(Exit::Success)
}

impl Rules {
    fn policy(&self) -> RetentionPolicy {
        let mut policy = RetentionPolicy::default();
        policy.keep_full = self.keep_full;
        policy.keep_within = self.keep_within;
        policy.keep_daily = self.keep_daily;
        policy.keep_weekly = self.keep_weekly;
        policy.keep_monthly = self.keep_monthly;
        policy.keep_yearly = self.keep_yearly;
        policy
    }
}

/// Whether somebody sees the table and the question, and can answer.
fn on_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()
}

/// Who agrees: an option does, or somebody at a terminal who reads the table.
fn consent(option: bool, json: bool, on_terminal: bool) -> anyhow::Result<Consent> {
    match (option, json, on_terminal) {
        (true, _, _) => Ok(Consent::Given),
        (false, false, true) => Ok(Consent::Ask),
        (false, true, _) => Err(unasked("with --json")),
        (false, false, false) => Err(unasked("without a terminal")),
    }
}

fn unasked(circumstance: &str) -> anyhow::Error {
    Failure::invalid(format!("nobody can be asked {circumstance}: nothing was removed"))
        .with_hint("pass --yes to remove what no rule keeps, or --dry-run to see it")
        .into()
}

/// Asks on the terminal; anything but a yes ends the command.
async fn ask(question: &str, session: &Session) -> anyhow::Result<()> {
    session.finish_progress();
    let mut terminal = std::io::stderr();
    write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush())?;
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = tokio::select! {
        biased;
        () = session.ctx.cancel.cancelled() => String::new(),
        line = line => line??,
    };
    if is_yes(&answer) {
        return Ok(());
    }
    Err(Failure::new(ErrorKind::Cancelled, "not confirmed: nothing was removed").into())
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

/// `36h`, `30d`, `8w`. No unit is guessed, and none that has several lengths is known.
fn span(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with h, d or w, like 36h, 30d or 8w".to_owned();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds: u64 = match unit {
        'h' => 3600,
        'd' => 24 * 3600,
        'w' => 7 * 24 * 3600,
        _ => return Err(expected()),
    };
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(seconds));
    match count {
        Some(0) => Err("nothing would be inside".to_owned()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err("longer than can be counted".to_owned()),
    }
}

fn backups(count: usize) -> String {
    format!("{count} {}", if count == 1 { "backup" } else { "backups" })
}

/// The table of what stays and what goes, cluster by cluster, oldest first.
fn plan_text(plan: &ExpireReport) -> String {
    let mut rows: Vec<(&BackupInfo, &str, String)> = Vec::new();
    rows.extend(plan.kept.iter().map(|kept| (&kept.backup, "keep", why(kept))));
    let gone = plan.expired.iter();
    rows.extend(gone.map(|gone| (&gone.backup, "remove", gone.reason.as_str().to_owned())));
    if rows.is_empty() {
        return "no backups\n".to_owned();
    }
    rows.sort_by_key(|(backup, _, _)| (&backup.cluster, backup.created_at, &backup.backup_key));
    let heading = ["BACKUP KEY", "CREATED", "SIZE", "STORED", "STATE", "PLAN", "WHY"];
    let mut cells = vec![heading.map(str::to_owned).to_vec()];
    cells.extend(rows.into_iter().map(|(backup, plan, why)| row(backup, plan, why)));
    let mut text = table(&cells);
    text.push_str(&format!(
        "{} to keep, {} to remove: {}, stored in {}\n",
        backups(plan.kept.len()),
        plan.expired.len(),
        bytes(plan.expired_bytes),
        bytes(plan.expired_stored_bytes),
    ));
    for wal in &plan.wal {
        text.push_str(&format!(
            "WAL of {}: {} files go, {} to {}\n",
            wal.cluster, wal.files, wal.first, wal.last
        ));
    }
    for notice in &plan.notices {
        text.push_str(&format!("note: {notice}\n"));
    }
    text
}

fn row(backup: &BackupInfo, plan: &str, why: String) -> Vec<String> {
    let has_failed = backup.verification_state == VerificationState::Failed;
    vec![
        backup.backup_key.to_string(),
        list::created(backup),
        bytes(backup.size_bytes),
        bytes(backup.stored_bytes),
        if has_failed { "failed" } else { backup.state.as_str() }.to_owned(),
        plan.to_owned(),
        why,
    ]
}

/// Every reason, the pin's own words among them.
fn why(kept: &KeptBackup) -> String {
    let words = |reason: &KeepReason| match (reason, &kept.backup.pinned) {
        (KeepReason::Pinned, Some(pin)) => format!("pinned: {}", pin.reason),
        _ => reason.as_str().to_owned(),
    };
    kept.reasons.iter().map(words).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_one_unit_and_no_doubt() {
        for (text, hours) in [("36h", 36), ("1d", 24), ("30d", 720), ("8w", 1344)] {
            assert_eq!(span(text), Ok(Duration::from_secs(hours * 3600)), "{text}");
        }
        for text in ["", "30", "d", "30m", "30D", "1.5d", "-1d", "+1d", " 1d", "1d ", "1d12h", "infd", "nand"]
        {
            assert!(span(text).unwrap_err().contains("like 36h"), "{text}");
        }
        assert!(span("0d").unwrap_err().contains("nothing"));
        assert!(span("99999999999999999999w").unwrap_err().contains("longer"));
        assert!(span(&format!("{}w", u64::MAX)).unwrap_err().contains("longer"));
    }

    #[test]
    fn somebody_must_agree() {
        assert_eq!(consent(true, true, false).unwrap(), Consent::Given);
        assert_eq!(consent(true, false, true).unwrap(), Consent::Given);
        assert_eq!(consent(false, false, true).unwrap(), Consent::Ask);
        assert!(consent(false, false, false).is_err());
        assert!(consent(false, true, true).is_err());
    }

    #[test]
    fn only_a_yes_is_one() {
        assert!(["y\n", "yes\n", "Y\n", " YES \n"].iter().all(|answer| is_yes(answer)));
        assert!(["", "\n", "n\n", "yy\n", "ja\n"].iter().all(|answer| !is_yes(answer)));
    }
}
