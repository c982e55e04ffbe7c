//! A restored data directory's settings, turned into those of a point-in-time recovery.
//!
//! [`RecoveryPlan`] says what shall happen and [`RecoveryPlan::check`] what cannot;
//! [`edit_auto_conf`] writes it into `postgresql.auto.conf`, where [`forbid_archiving`] writes all that a
//! copy needs which does not recover, [`SignalFile`] is the file that makes
//! the server read it, and [`restore_command`] is the line that fetches the log.
//!
//! Contained by: nothing else of this crate. Sources: PostgreSQL documentation, "Archive Recovery"
//! and "Recovery Target"; `guc-file.l`, `xlogrecovery.c` and `xlogarchive.c` of 13 to 18.
//! Invariants: pure functions; no setting of an earlier recovery survives; the copy does not
//! archive.

mod advice;
mod auto_conf;
mod command;
mod conf;
mod plan;
mod signal;

pub use advice::recovery_advice;
pub use auto_conf::{edit_auto_conf, forbid_archiving};
pub use command::{percent_escape, restore_command, shell_quote};
pub use conf::Configuration;
pub use plan::{
    RecoveryPlan, RecoveryPlanError, RecoveryTarget, TargetAction, TargetTimeline, check_restore_point_name,
};
pub use signal::{RECOVERY_CONF, SignalFile};
