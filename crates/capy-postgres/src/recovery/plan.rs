//! What a recovery shall do, and what PostgreSQL could not do of it.

use capy_types::{ErrorKind, Lsn, TimelineId, Timestamp};

use super::command;
use super::signal::SignalFile;
use crate::control::RecoveryLimits;

/// The moments PostgreSQL is asked for: years 1 to 9999, whose text needs no sign and no era.
const TIME_RANGE_MICROS: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_207_200_000_000;

/// The first transaction id that a transaction has: `FirstNormalTransactionId`.
const XID_FIRST: u32 = 3;

/// Where recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// Before the first commit or abort later than this moment.
    Time(Timestamp),
    /// At the record that begins here.
    Lsn(Lsn),
    /// At the end of this transaction, with its epoch (`pg_current_xact_id()`) or without.
    Xid(u64),
    /// At the first restore point of this name.
    Name(String),
    /// As soon as the base backup is consistent.
    Immediate,
    /// At the end of the archive.
    Latest,
}

/// Which branch of history recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest that the archive knows.
    Latest,
    /// The base backup's.
    Current,
    /// This one.
    Id(TimelineId),
}

/// What the server does at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// Begin a new timeline and take writes.
    Promote,
    /// Wait, answering queries, for `pg_wal_replay_resume()` or another target.
    Pause,
    /// Stop, ready to be started with another target.
    Shutdown,
}

/// One recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Where it ends.
    pub target: RecoveryTarget,
    /// Which history it follows.
    pub timeline: TargetTimeline,
    /// What happens then.
    pub action: TargetAction,
    /// Whether the target itself is still part of the result.
    pub inclusive: bool,
    /// Fetches one file of the archive, see [`super::restore_command`]. None: all of the log that
    /// is needed lies in `pg_wal`, or, for a standby, comes from the primary.
    pub restore_command: Option<String>,
    /// Whether the copy is to follow a primary or an archive for ever.
    pub standby: bool,
    /// Where a standby finds its primary.
    pub primary_conninfo: Option<String>,
    /// What the log asks of the server's settings.
    pub minimum: Option<RecoveryLimits>,
    /// Whether queries are answered before the end of recovery. Without it the log asks nothing of
    /// the server's settings.
    pub hot_standby: bool,
}

/// A plan that PostgreSQL refuses, or would carry out otherwise than it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryPlanError {
    /// A restore point's name is empty or too long.
    #[error("a restore point's name has 1 to 63 bytes, not {found_bytes}")]
    NameLength {
        /// How long it is.
        found_bytes: usize,
    },
    /// A value has a character that a line of the configuration cannot hold.
    #[error("{setting} contains a line break or a zero byte")]
    Character {
        /// The setting it is for.
        setting: &'static str,
    },
    /// A time that PostgreSQL does not read.
    #[error("the target time is not in the years 1 to 9999")]
    Time,
    /// A position that no record has.
    #[error("the target position 0/0 is no record's")]
    Lsn,
    /// A transaction id that no transaction has.
    #[error("the target transaction {xid} is none: ids begin at 3, in each epoch again")]
    Xid {
        /// The id.
        xid: u64,
    },
    /// A timeline that no cluster has.
    #[error("the target timeline 0 is none: they begin at 1")]
    Timeline,
    /// `immediate` on another timeline than the backup's.
    #[error(
        "the target `immediate` is the base backup's end, which is only on its own timeline: use `current`"
    )]
    ImmediateTimeline,
    /// Exclusive of something that has no other side.
    #[error("only the targets time, lsn and xid can be exclusive")]
    Exclusive,
    /// Pausing where no query could be asked.
    #[error("the action `pause` needs hot_standby: without it the server shuts down instead")]
    PauseWithoutHotStandby,
    /// Waiting at the end of the archive, which PostgreSQL does not do.
    #[error("at the end of the archive the server always promotes: name a target, or make a standby")]
    LatestAction,
    /// A standby that would become a primary by itself.
    #[error("a standby does not promote itself at a target: use the action `pause` or `shutdown`")]
    StandbyPromotes,
    /// A standby with nothing to follow.
    #[error("a standby needs a primary_conninfo, a restore_command or both")]
    StandbyAlone,
    /// A primary for what is no standby.
    #[error("primary_conninfo is for a standby only")]
    PrimaryWithoutStandby,
    /// A command that PostgreSQL would not run as it is meant.
    #[error("restore_command: {problem}")]
    RestoreCommand {
        /// One fact.
        problem: String,
    },
}

impl RecoveryPlanError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl RecoveryPlan {
    /// Recovers up to a target and promotes.
    #[must_use]
    pub fn to(target: RecoveryTarget) -> Self {
        let timeline = match target {
            RecoveryTarget::Immediate => TargetTimeline::Current,
            _ => TargetTimeline::Latest,
        };
        Self {
            target,
            timeline,
            action: TargetAction::Promote,
            inclusive: true,
            restore_command: None,
            standby: false,
            primary_conninfo: None,
            minimum: None,
            hot_standby: true,
        }
    }

    /// Follows a primary, an archive or both; at least one has to be given before the check.
    #[must_use]
    pub fn standby() -> Self {
        Self { standby: true, action: TargetAction::Pause, ..Self::to(RecoveryTarget::Latest) }
    }

    /// The file that makes the server carry it out.
    #[must_use]
    pub const fn signal_file(&self) -> SignalFile {
        if self.standby { SignalFile::Standby } else { SignalFile::Recovery }
    }

    /// Names the first thing about it that cannot be. What depends on the archive (is the target
    /// ever reached?) is not asked here.
    ///
    /// # Errors
    /// [`RecoveryPlanError`].
    pub fn check(&self) -> Result<(), RecoveryPlanError> {
        self.check_target()?;
        self.check_action()?;
        if let Some(command) = &self.restore_command {
            one_line("restore_command", command)?;
            if let Some(problem) = command::fault_of(command) {
                return Err(RecoveryPlanError::RestoreCommand { problem });
            }
        }
        match &self.primary_conninfo {
            Some(_) if !self.standby => Err(RecoveryPlanError::PrimaryWithoutStandby),
            Some(conninfo) => one_line("primary_conninfo", conninfo),
            None if self.standby && self.restore_command.is_none() => Err(RecoveryPlanError::StandbyAlone),
            None => Ok(()),
        }
    }

    fn check_target(&self) -> Result<(), RecoveryPlanError> {
        let two_sided = match &self.target {
            RecoveryTarget::Time(time) if !TIME_RANGE_MICROS.contains(&time.as_micros()) => {
                return Err(RecoveryPlanError::Time);
            }
            RecoveryTarget::Lsn(Lsn::INVALID) => return Err(RecoveryPlanError::Lsn),
            RecoveryTarget::Xid(xid) if short_xid(*xid) < XID_FIRST => {
                return Err(RecoveryPlanError::Xid { xid: *xid });
            }
            RecoveryTarget::Name(name) => {
                check_restore_point_name(name)?;
                false
            }
            RecoveryTarget::Immediate if self.timeline != TargetTimeline::Current => {
                return Err(RecoveryPlanError::ImmediateTimeline);
            }
            RecoveryTarget::Immediate | RecoveryTarget::Latest => false,
            RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) | RecoveryTarget::Xid(_) => true,
        };
        if !self.inclusive && !two_sided {
            return Err(RecoveryPlanError::Exclusive);
        }
        match self.timeline {
            TargetTimeline::Id(id) if id.as_u32() == 0 => Err(RecoveryPlanError::Timeline),
            _ => Ok(()),
        }
    }

    fn check_action(&self) -> Result<(), RecoveryPlanError> {
        let latest = self.target == RecoveryTarget::Latest;
        match self.action {
            TargetAction::Promote if self.standby => Err(RecoveryPlanError::StandbyPromotes),
            TargetAction::Promote => Ok(()),
            // A standby that has no target reaches none, and so never acts.
            _ if latest && self.standby => Ok(()),
            _ if latest => Err(RecoveryPlanError::LatestAction),
            TargetAction::Pause if !self.hot_standby => Err(RecoveryPlanError::PauseWithoutHotStandby),
            TargetAction::Pause | TargetAction::Shutdown => Ok(()),
        }
    }
}

/// Whether recovery could end at a restore point of this name. The server lets one be created with
/// an empty name, at which it cannot.
///
/// # Errors
/// [`RecoveryPlanError::NameLength`] or [`RecoveryPlanError::Character`].
pub fn check_restore_point_name(name: &str) -> Result<(), RecoveryPlanError> {
    if !(1..=command::FILE_NAME_MAX_BYTES).contains(&name.len()) {
        return Err(RecoveryPlanError::NameLength { found_bytes: name.len() });
    }
    one_line("recovery_target_name", name)
}

/// A transaction id as the log has it, without its epoch. PostgreSQL cuts a longer one silently.
pub(super) const fn short_xid(xid: u64) -> u32 {
    (xid & 0xffff_ffff) as u32
}

/// `ALTER SYSTEM` writes every value of the file again, a line break as it is: the server would
/// not start any more.
fn one_line(setting: &'static str, value: &str) -> Result<(), RecoveryPlanError> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(RecoveryPlanError::Character { setting });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(target: RecoveryTarget) -> RecoveryPlan {
        RecoveryPlan { restore_command: Some("fetch %f %p".to_owned()), ..RecoveryPlan::to(target) }
    }

    fn check(plan: &RecoveryPlan, expected: &str) {
        let found = plan.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(expected.is_empty() == found.is_empty() && found.contains(expected), "{plan:?}: {found:?}");
    }

    fn all_targets() -> [RecoveryTarget; 6] {
        [
            RecoveryTarget::Time(Timestamp::from_micros(1_800_000_000_000_000)),
            RecoveryTarget::Lsn(Lsn::from_u64(0x1_0000_0028)),
            RecoveryTarget::Xid(750),
            RecoveryTarget::Name("before".to_owned()),
            RecoveryTarget::Immediate,
            RecoveryTarget::Latest,
        ]
    }

    #[test]
    fn every_target_can_be_promoted_at_and_immediate_stays_on_the_backups_timeline() {
        for target in all_targets() {
            check(&plan(target.clone()), "");
            // Without a command the log is in pg_wal.
            check(&RecoveryPlan::to(target), "");
        }
        let immediate = plan(RecoveryTarget::Immediate);
        assert_eq!(immediate.timeline, TargetTimeline::Current);
        for timeline in [TargetTimeline::Latest, TargetTimeline::Id(TimelineId::from_u32(1))] {
            check(&RecoveryPlan { timeline, ..immediate.clone() }, "use `current`");
        }
    }

    #[test]
    fn targets_that_are_nothing_are_refused() {
        check(&plan(RecoveryTarget::Name(String::new())), "1 to 63 bytes, not 0");
        check(&plan(RecoveryTarget::Name("é".repeat(31) + "x")), "");
        check(&plan(RecoveryTarget::Name("é".repeat(32))), "1 to 63 bytes, not 64");
        check(&plan(RecoveryTarget::Name("a\nb".to_owned())), "recovery_target_name contains a line break");
        check(&plan(RecoveryTarget::Lsn(Lsn::INVALID)), "0/0");
        check(&plan(RecoveryTarget::Xid(2)), "transaction 2 is none");
        check(&plan(RecoveryTarget::Xid(7 << 32)), "transaction 30064771072 is none");
        check(&plan(RecoveryTarget::Xid(7 << 32 | 3)), "");
        for micros in [i64::MIN, i64::MAX] {
            check(&plan(RecoveryTarget::Time(Timestamp::from_micros(micros))), "years 1 to 9999");
        }
        let timeline = TargetTimeline::Id(TimelineId::from_u32(0));
        check(&RecoveryPlan { timeline, ..plan(RecoveryTarget::Latest) }, "timeline 0");
    }

    #[test]
    fn only_what_has_two_sides_can_be_exclusive() {
        for target in all_targets() {
            let two_sided =
                matches!(target, RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) | RecoveryTarget::Xid(_));
            let expected = if two_sided { "" } else { "can be exclusive" };
            check(&RecoveryPlan { inclusive: false, ..plan(target) }, expected);
        }
    }

    #[test]
    fn actions_that_the_server_would_not_take_are_refused() {
        let named = plan(RecoveryTarget::Name("before".to_owned()));
        let pause = RecoveryPlan { action: TargetAction::Pause, ..named.clone() };
        check(&pause, "");
        check(&RecoveryPlan { hot_standby: false, ..pause }, "needs hot_standby");
        check(&RecoveryPlan { hot_standby: false, action: TargetAction::Shutdown, ..named }, "");
        for action in [TargetAction::Pause, TargetAction::Shutdown] {
            check(&RecoveryPlan { action, ..plan(RecoveryTarget::Latest) }, "always promotes");
        }
    }

    #[test]
    fn a_standby_follows_something_and_never_promotes_itself() {
        let standby = RecoveryPlan::standby();
        check(&standby, "needs a primary_conninfo");
        let follows = RecoveryPlan { primary_conninfo: Some("host=primary".to_owned()), ..standby };
        check(&follows, "");
        check(&RecoveryPlan { action: TargetAction::Promote, ..follows.clone() }, "does not promote itself");
        check(
            &RecoveryPlan { standby: false, action: TargetAction::Promote, ..follows.clone() },
            "standby only",
        );
        check(&RecoveryPlan { primary_conninfo: Some("host=a\n".to_owned()), ..follows }, "a line break");
        let archive =
            RecoveryPlan { restore_command: Some("fetch %f %p".to_owned()), ..RecoveryPlan::standby() };
        check(&archive, "");
        assert_eq!(archive.signal_file().name(), "standby.signal");
        assert_eq!(archive.signal_file().must_be_absent(), ["recovery.signal", "recovery.conf"]);
        assert_eq!(plan(RecoveryTarget::Latest).signal_file().name(), "recovery.signal");
    }

    #[test]
    fn a_command_is_what_postgresql_will_run() {
        let with = |command: &str| RecoveryPlan {
            restore_command: Some(command.to_owned()),
            ..RecoveryPlan::to(RecoveryTarget::Latest)
        };
        check(&with("fetch %f"), "restore_command: it lacks");
        check(&with("fetch\n%f %p"), "restore_command contains a line break");
    }
}
