//! The options of a point-in-time recovery, and the command that fetches its WAL.

use std::path::Path;

use anyhow::Context;
use capy_store::{
    ClusterName, Lsn, Recovery, RecoveryTarget, TargetAction, TargetTimeline, TimelineId, Timestamp,
    restore_command,
};
use clap::{Args, ValueEnum};

use crate::args::Global;
use crate::environment::path_var;
use crate::failure::Failure;

/// Where recovery ends, and what happens then.
#[derive(Debug, Args)]
#[command(next_help_heading = "Point-in-time recovery")]
pub(crate) struct RecoveryArgs {
    /// Recover to just before the first transaction that ended after this moment (RFC 3339, with a
    /// zone: 2026-11-21T06:54:52Z)
    #[arg(long, value_name = "TIME", group = "recovery_target")]
    target_time: Option<Timestamp>,

    /// Recover to the WAL record at this position
    #[arg(long, value_name = "LSN", group = "recovery_target")]
    target_lsn: Option<Lsn>,

    /// Recover to the end of this transaction
    #[arg(long, value_name = "XID", group = "recovery_target")]
    target_xid: Option<u64>,

    /// Recover to this restore point
    #[arg(long, value_name = "NAME", group = "recovery_target")]
    target_name: Option<String>,

    /// Recover to the end of the backup, where it is consistent
    #[arg(long, group = "recovery_target")]
    target_immediate: bool,

    /// `latest`: recover to the end of the archive
    #[arg(long, value_name = "latest", group = "recovery_target", value_parser = ["latest"])]
    target: Option<String>,

    /// Follow this timeline: a number, `latest` (the default) or `current` (the backup's)
    #[arg(long, value_name = "TIMELINE", requires = "recovery_target", value_parser = timeline)]
    target_timeline: Option<TargetTimeline>,

    /// Stop just before the target, where it can be excluded (time, lsn, xid)
    #[arg(long, requires = "recovery_target")]
    exclusive: bool,

    /// What the server does at the target
    #[arg(long, value_name = "ACTION", requires = "recovery_target", default_value = "promote")]
    action: Action,

    /// Make a standby that follows the archive, and the primary if --primary-conninfo names one
    #[arg(long, conflicts_with_all = ["recovery_target", "wal_into"])]
    standby: bool,

    /// Where a standby finds its primary
    #[arg(long, value_name = "CONNINFO", requires = "standby")]
    primary_conninfo: Option<String>,

    /// Copy the WAL that is needed into the directory: it then needs no archive to recover
    #[arg(long, requires = "recovery_target")]
    wal_into: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Begin a new timeline and take writes
    Promote,
    /// Wait, answering queries
    Pause,
    /// Stop
    Shutdown,
}

fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => match number.parse() {
            Ok(0) | Err(_) => Err("expected a number, latest or current".to_owned()),
            Ok(id) => Ok(TargetTimeline::Id(TimelineId::from_u32(id))),
        },
    }
}

impl RecoveryArgs {
    /// The recovery that was asked for, if one was.
    pub(super) fn recovery(self, global: &Global, cluster: &ClusterName) -> anyhow::Result<Option<Recovery>> {
        let target = if let Some(time) = self.target_time {
            RecoveryTarget::Time(time)
        } else if let Some(lsn) = self.target_lsn {
            RecoveryTarget::Lsn(lsn)
        } else if let Some(xid) = self.target_xid {
            RecoveryTarget::Xid(xid)
        } else if let Some(name) = self.target_name {
            RecoveryTarget::Name(name)
        } else if self.target_immediate {
            RecoveryTarget::Immediate
        } else if self.target.is_some() || self.standby {
            RecoveryTarget::Latest
        } else {
            return Ok(None);
        };
        let mut recovery = Recovery::to(target);
        if let Some(timeline) = self.target_timeline {
            recovery.timeline = timeline;
        }
        recovery.inclusive = !self.exclusive;
        recovery.action = match self.action {
            // A standby does not promote itself.
            Action::Promote if self.standby => TargetAction::Pause,
            Action::Promote => TargetAction::Promote,
            Action::Pause => TargetAction::Pause,
            Action::Shutdown => TargetAction::Shutdown,
        };
        recovery.standby = self.standby;
        recovery.primary_conninfo = self.primary_conninfo;
        recovery.wal_into = self.wal_into;
        recovery.restore_command = Some(fetch_command(global, cluster)?);
        Ok(Some(recovery))
    }
}

/// The command line by which the server fetches WAL: this program, with what it needs to open the
/// repository from anywhere, secrets excepted.
fn fetch_command(global: &Global, cluster: &ClusterName) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    let mut words = vec![text(&program)?];
    let repo = global.repo.as_deref().unwrap_or_default();
    words.extend(["--repo".to_owned(), from_anywhere(repo)?]);
    let passphrase_file = global.passphrase_file.clone().or_else(|| path_var("CAPY_PASSPHRASE_FILE"));
    let key_file = global.key_file.clone().or_else(|| path_var("CAPY_KEY_FILE"));
    for (option, file) in [("--passphrase-file", passphrase_file), ("--key-file", key_file)] {
        if let Some(file) = file {
            words.extend([option.to_owned(), text(&std::path::absolute(file)?)?]);
        }
    }
    for (option, value) in [("--endpoint", &global.endpoint), ("--region", &global.region)] {
        if let Some(value) = value {
            words.extend([option.to_owned(), value.clone()]);
        }
    }
    if global.path_style {
        words.push("--path-style".to_owned());
    }
    words.extend(["wal", "fetch", "--cluster", cluster.as_str()].map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(restore_command(&words))
}

/// A URL as it is; a path made absolute, since the server runs in its data directory.
fn from_anywhere(repo: &str) -> anyhow::Result<String> {
    if repo.contains("://") {
        return Ok(repo.to_owned());
    }
    text(&std::path::absolute(repo).context("find the repository")?)
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().ok_or_else(|| Failure::invalid(format!("not UTF-8: {}", path.display())))?;
    Ok(text.to_owned())
}
