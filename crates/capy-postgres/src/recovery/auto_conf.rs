//! `postgresql.auto.conf` of a copy that is to recover.
//!
//! Invariants: every line that is not ours to replace stays byte for byte; editing twice is editing
//! once; of the five targets all but one are set to nothing, and that one comes last, because the
//! server refuses to see a second one set even before it is taken back.

use capy_types::Timestamp;

use super::conf::{self, Configuration, Setting};
use super::plan::{RecoveryPlan, RecoveryPlanError, RecoveryTarget, TargetAction, TargetTimeline, short_xid};

#[cfg(test)]
mod tests;

/// The lines around what is written.
const FIRST_LINE: &str = "# capy-store: settings of a restored copy, replaced by the next restore. The copy does not \
                          archive; to let it, give it an archive of its own.";
const LAST_LINE: &str = "# capy-store: end of the settings of a restored copy";

/// What every target's setting begins with.
const TARGET_PREFIX: &[u8] = b"recovery_target";

/// Besides the targets, what belongs to the parent or to an earlier recovery. That much is removed
/// also where nothing is written in its place.
const REMOVED: [&str; 10] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "archive_mode",
    "archive_command",
    "archive_library",
    "hot_standby",
];

/// What is removed only when an earlier restore wrote it.
const REMOVED_IF_OURS: [&str; 7] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
    "recovery_min_apply_delay",
];

/// The settings of which each names a target.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// Finds nothing, which sends the server to `pg_wal`. It insists on a command.
const NOTHING_TO_FETCH: &str = "false";

/// The file's new content: earlier settings of a recovery removed, those of the plan appended.
///
/// A limit that is lower than the plan's minimum is raised: a line of this file goes, and where
/// `postgresql.conf` does not suffice either, the minimum is written. What these files include is
/// not seen; what is written here comes after it and wins.
///
/// # Errors
/// [`RecoveryPlanError`], what [`RecoveryPlan::check`] says.
pub fn edit_auto_conf(
    existing: Configuration<'_>,
    plan: &RecoveryPlan,
) -> Result<Vec<u8>, RecoveryPlanError> {
    plan.check()?;
    let foreign = without_ours(existing.auto_conf);
    let mut block = Block::default();
    block.set_recovery(plan);
    block.set_limits(Configuration { auto_conf: &foreign, ..existing }, plan);
    if conf::last_value(existing.postgresql_conf, "promote_trigger_file").is_some() {
        // A server of 16 or later does not know it, and would not start with it.
        block.set("promote_trigger_file", "");
    }
    block.set_target(plan);
    let kept = conf::lines(&foreign)
        .filter(|line| !Setting::of(line).is_some_and(|setting| block.replaces(setting)));
    Ok(with_block(kept, &block))
}

/// These lines, and the block behind them.
fn with_block<'a>(lines: impl Iterator<Item = &'a [u8]>, block: &Block) -> Vec<u8> {
    let mut file: Vec<u8> = lines.flatten().copied().collect();
    if file.last().is_some_and(|last| *last != b'\n') {
        file.push(b'\n');
    }
    file.extend(block.text().bytes());
    file
}

/// The file's new content for a copy that does not recover but starts as its parent would, on the same
/// timeline: it must not push into the parent's archive either. `None` when it does not archive anyway.
///
/// Where `postgresql.conf` lies elsewhere or includes other files, nobody knows whether it would.
#[must_use]
pub fn forbid_archiving(existing: Configuration<'_>) -> Option<Vec<u8>> {
    const MODE: &str = "archive_mode";
    let is_off = |value: Vec<u8>| {
        ["off", "false", "no", "0"].iter().any(|off| value.eq_ignore_ascii_case(off.as_bytes()))
    };
    let archives = match conf::last_value(existing.auto_conf, MODE).map(is_off) {
        Some(off) => !off,
        None if existing.postgresql_conf.is_empty() || existing.includes().next().is_some() => true,
        None => conf::last_value(existing.postgresql_conf, MODE).is_some_and(|value| !is_off(value)),
    };
    archives.then(|| {
        let mut block = Block::default();
        block.set(MODE, "off");
        let others = conf::lines(existing.auto_conf)
            .filter(|line| !Setting::of(line).is_some_and(|setting| setting.is(MODE)));
        with_block(others, &block)
    })
}

/// The file as it was before an earlier restore wrote into it, but for what that removed.
fn without_ours(auto_conf: &[u8]) -> Vec<u8> {
    let mut inside = false;
    let is_foreign = |line: &&[u8]| {
        let text = line.trim_ascii_end();
        let (first, last) = (text == FIRST_LINE.as_bytes(), text == LAST_LINE.as_bytes());
        inside = first || (inside && !last);
        let ours = |setting: Setting<'_>| REMOVED_IF_OURS.iter().any(|name| setting.is(name));
        !(first || last || inside && Setting::of(line).is_some_and(ours))
    };
    conf::lines(auto_conf).filter(is_foreign).flatten().copied().collect()
}

/// What is written, in this order, and which further lines it replaces.
#[derive(Default)]
struct Block {
    settings: Vec<(&'static str, String)>,
    lowered: Vec<&'static str>,
}

impl Block {
    fn set(&mut self, name: &'static str, value: &str) {
        self.settings.push((name, value.to_owned()));
    }

    fn set_recovery(&mut self, plan: &RecoveryPlan) {
        self.set("archive_mode", "off");
        let no_command = if plan.standby { "" } else { NOTHING_TO_FETCH };
        self.set("restore_command", plan.restore_command.as_deref().unwrap_or(no_command));
        self.set("recovery_end_command", "");
        self.set("archive_cleanup_command", "");
        self.set("primary_conninfo", plan.primary_conninfo.as_deref().unwrap_or_default());
        self.set("primary_slot_name", "");
        self.set("hot_standby", on_off(plan.hot_standby));
        if !plan.standby {
            // A delayed standby's delay would hold up the recovery of its latest transactions.
            self.set("recovery_min_apply_delay", "0");
        }
    }

    fn set_target(&mut self, plan: &RecoveryPlan) {
        let timeline = match plan.timeline {
            TargetTimeline::Latest => "latest".to_owned(),
            TargetTimeline::Current => "current".to_owned(),
            TargetTimeline::Id(id) => id.to_string(),
        };
        let action = match plan.action {
            TargetAction::Promote => "promote",
            TargetAction::Pause => "pause",
            TargetAction::Shutdown => "shutdown",
        };
        self.set("recovery_target_timeline", &timeline);
        self.set("recovery_target_inclusive", on_off(plan.inclusive));
        self.set("recovery_target_action", action);
        let target = target_of(&plan.target);
        let others = TARGETS.iter().filter(|name| target.as_ref().is_none_or(|(set, _)| set != *name));
        others.for_each(|name| self.set(name, ""));
        target.iter().for_each(|(name, value)| self.set(name, value));
    }

    /// Limits below which a server in hot standby would not replay this log.
    fn set_limits(&mut self, existing: Configuration<'_>, plan: &RecoveryPlan) {
        let Some(minimum) = plan.minimum else { return };
        // With what the server takes when nothing is said: the same in 13 to 18.
        let limits = [
            ("max_connections", 100, minimum.max_connections),
            ("max_worker_processes", 8, minimum.max_worker_processes),
            ("max_wal_senders", 10, minimum.max_wal_senders),
            ("max_prepared_transactions", 0, minimum.max_prepared_transactions),
            ("max_locks_per_transaction", 64, minimum.max_locks_per_transaction),
        ];
        for (name, default, needed) in limits {
            // A value that is no number keeps the server from starting, unless it is replaced.
            let suffices = |value: &[u8]| conf::whole_number(value).is_some_and(|n| n >= i64::from(needed));
            self.raise(existing, name, suffices, default >= needed, &needed.to_string());
        }
        if minimum.max_wal_senders > 0 {
            // At the level `minimal` the server refuses to have WAL senders.
            let suffices = |value: &[u8]| !value.eq_ignore_ascii_case(b"minimal");
            self.raise(existing, "wal_level", suffices, true, "replica");
        }
    }

    fn raise(
        &mut self,
        existing: Configuration<'_>,
        name: &'static str,
        suffices: impl Fn(&[u8]) -> bool,
        default_suffices: bool,
        needed: &str,
    ) {
        let of = |file| conf::last_value(file, name).map(|value| suffices(&value));
        match of(existing.auto_conf) {
            Some(true) => return,
            Some(false) => self.lowered.push(name),
            None => {}
        }
        if !of(existing.postgresql_conf).unwrap_or(default_suffices) {
            self.set(name, needed);
        }
    }

    /// Whether another line of the file has to go.
    fn replaces(&self, setting: Setting<'_>) -> bool {
        let prefix = setting.name().get(..TARGET_PREFIX.len());
        prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(TARGET_PREFIX))
            || REMOVED.iter().chain(&self.lowered).any(|name| setting.is(name))
            || self.settings.iter().any(|(name, _)| setting.is(name))
    }

    fn text(&self) -> String {
        let lines = self.settings.iter().map(|(name, value)| format!("{name} = {}\n", conf::quote(value)));
        format!("{FIRST_LINE}\n{}{LAST_LINE}\n", lines.collect::<String>())
    }
}

/// The setting that names the target.
fn target_of(target: &RecoveryTarget) -> Option<(&'static str, String)> {
    Some(match target {
        RecoveryTarget::Time(time) => ("recovery_target_time", time_text(*time)),
        RecoveryTarget::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
        RecoveryTarget::Xid(xid) => ("recovery_target_xid", short_xid(*xid).to_string()),
        RecoveryTarget::Name(name) => ("recovery_target_name", name.clone()),
        RecoveryTarget::Immediate => ("recovery_target", "immediate".to_owned()),
        RecoveryTarget::Latest => return None,
    })
}

/// A time as PostgreSQL itself prints it, in UTC and whatever its DateStyle.
fn time_text(time: Timestamp) -> String {
    time.to_string().replace('T', " ").replace('Z', "+00")
}

const fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
