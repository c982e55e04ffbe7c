//! Point-in-time recovery: the settings that make PostgreSQL replay the archive up to a target.
//!
//! Contained by: the restore. The settings are on disk before `pg_control` is, so that a directory
//! that starts at all goes where it was meant to go.

use std::path::Path;

use capy_format::WalParameters;
use capy_postgres::control::{ControlFile, RecoveryLimits};
use capy_postgres::recovery::{
    Configuration, RecoveryPlan, RecoveryTarget, SignalFile, TargetAction, TargetTimeline, edit_auto_conf,
    forbid_archiving, recovery_advice,
};
use capy_types::{BackupSelector, ClusterName, Ctx, ErrorKind, WalFile};

use super::durable;
use crate::repository::cancellable;
use crate::wal::RecoveryChoice;
use crate::wal::borders::CUT_LOCATION;
use crate::wal::target::Wish;
use crate::{Error, Repository, Result};

/// What a restored directory is to recover to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recovery {
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// Which branch of history it follows.
    pub timeline: TargetTimeline,
    /// Whether the target itself is still part of the result.
    pub inclusive: bool,
    /// What the server does there.
    pub action: TargetAction,
    /// Follow the archive, and the primary if one is given, for ever instead.
    pub standby: bool,
    /// Where a standby finds its primary.
    pub primary_conninfo: Option<String>,
    /// The command that fetches one file of the archive; not needed with `wal_into`.
    pub restore_command: Option<String>,
    /// Copy the WAL that is needed into the directory, which then needs no archive.
    pub wal_into: bool,
}

impl Recovery {
    /// Recover to `target` and promote.
    #[must_use]
    pub fn to(target: RecoveryTarget) -> Self {
        let plan = RecoveryPlan::to(target);
        Self {
            target: plan.target,
            timeline: plan.timeline,
            inclusive: plan.inclusive,
            action: plan.action,
            standby: false,
            primary_conninfo: None,
            restore_command: None,
            wal_into: false,
        }
    }
}

/// A recovery that was found to be possible, and how it is set up.
pub(crate) struct Prepared {
    cluster: ClusterName,
    choice: RecoveryChoice,
    plan: RecoveryPlan,
    wal_into: bool,
}

/// What is restored, and how it is to recover.
pub(super) struct Aimed {
    pub(super) backup: BackupSelector,
    /// None for a backup as it is.
    pub(super) prepared: Option<Prepared>,
    /// What a label was resolved to.
    pub(super) notice: Option<String>,
}

impl Prepared {
    /// Makes the directories of tablespaces that replay makes: the server insists that they are
    /// there.
    pub(super) fn make_tablespaces(&self, owner: Option<(u32, u32)>) -> Result<()> {
        for location in self.choice.tablespaces.iter().map(Path::new).filter(|path| path.is_absolute()) {
            super::full::make_root(location, owner)?;
        }
        Ok(())
    }

    pub(super) fn into_choice(self) -> RecoveryChoice {
        self.choice
    }
}

impl Repository {
    /// What a recovery would do: which backup, timeline and WAL, or why its target cannot be reached
    /// and what can instead. `None` when the target is the label of a backup, which is restored as
    /// it is. Writes nothing.
    ///
    /// # Errors
    /// As [`restore`](Self::restore) answers before it writes.
    ///
    /// # Cancellation
    /// Safe to drop.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let mut recovery = Recovery::to(RecoveryTarget::Time("2026-11-21T06:54:52Z".parse().unwrap()));
    /// recovery.wal_into = true;
    /// if let Some(plan) = repository.plan_recovery(ctx, &"main/latest".parse().unwrap(), recovery).await? {
    ///     println!("from {}, {} to {}", plan.backup_key, plan.first_segment, plan.last_segment);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn plan_recovery(
        &self,
        ctx: &Ctx,
        backup: &BackupSelector,
        recovery: Recovery,
    ) -> Result<Option<RecoveryChoice>> {
        let work = async {
            let aimed = self.aim_recovery(ctx, backup, recovery).await?;
            Ok(aimed.prepared.map(Prepared::into_choice))
        };
        cancellable(ctx, work).await
    }

    /// Finds what a recovery restores. A name may be a label that only the repository knows.
    pub(super) async fn aim_recovery(
        &self,
        ctx: &Ctx,
        backup: &BackupSelector,
        recovery: Recovery,
    ) -> Result<Aimed> {
        let labelled = self.resolve_label(ctx, backup, recovery).await?;
        let prepared = match &labelled.recovery {
            Some(recovery) => {
                let prepared = self.prepare_recovery(ctx, &labelled.backup, recovery).await;
                Some(prepared.map_err(|error| labelled.explain(error))?)
            }
            None => None,
        };
        let chosen = prepared.as_ref().map(|prepared| prepared.choice.backup_key.clone().into());
        Ok(Aimed { backup: chosen.unwrap_or(labelled.backup), prepared, notice: labelled.resolved })
    }

    /// Finds the backup for a recovery and checks that its target can be reached.
    pub(crate) async fn prepare_recovery(
        &self,
        ctx: &Ctx,
        backup: &BackupSelector,
        recovery: &Recovery,
    ) -> Result<Prepared> {
        let key = match backup {
            BackupSelector::Key(key) => Some(key),
            BackupSelector::Latest(_) => None,
        };
        let wish = Wish {
            cluster: backup.cluster(),
            backup: key,
            target: &recovery.target,
            timeline: recovery.timeline,
            inclusive: recovery.inclusive,
            standby: recovery.standby,
        };
        let choice = self.choose_recovery(ctx, &wish).await?;
        refuse_foreign_tablespaces(&choice)?;
        if recovery.restore_command.is_none() && !recovery.wal_into {
            return Err(Error::invalid(
                "recovery needs a restore command, or the WAL copied into the directory",
            ));
        }
        // A time after the last commit has become a position, as has the end of the archive where a server
        // would go on behind it: what comes at it is part of the result.
        let inclusive = recovery.inclusive || choice.plan_target != recovery.target;
        let plan = RecoveryPlan {
            target: choice.plan_target.clone(),
            timeline: match choice.plan_target {
                RecoveryTarget::Immediate => TargetTimeline::Current,
                _ if recovery.standby => TargetTimeline::Latest,
                // A server that is given a number insists on the history.
                _ if !choice.has_history => TargetTimeline::Current,
                _ => TargetTimeline::Id(choice.timeline),
            },
            action: recovery.action,
            inclusive,
            restore_command: if recovery.wal_into { None } else { recovery.restore_command.clone() },
            standby: recovery.standby,
            primary_conninfo: recovery.primary_conninfo.clone(),
            minimum: None,
            hot_standby: true,
        };
        plan.check().map_err(|error| Error::wrap(error.kind(), error))?;
        Ok(Prepared { cluster: backup.cluster().clone(), choice, plan, wal_into: recovery.wal_into })
    }

    /// Writes everything that recovery needs into the restored directory. `control` is the content
    /// of its `pg_control`.
    pub(super) async fn set_up_recovery(
        &self,
        ctx: &Ctx,
        prepared: &Prepared,
        target: &Path,
        control: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Result<()> {
        if prepared.wal_into {
            self.copy_wal(ctx, prepared, &target.join("pg_wal"), owner).await?;
        }
        let limits = ControlFile::parse(control).ok().map(|control| control.limits);
        let mut plan = prepared.plan.clone();
        plan.minimum = highest(limits, prepared.choice.parameters);
        write_settings(target, &plan, owner)
    }

    /// The segments, and the history files on the way to the target's timeline.
    async fn copy_wal(
        &self,
        ctx: &Ctx,
        prepared: &Prepared,
        directory: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<()> {
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::io(format!("make {}", directory.display()), error))?;
        let histories = (2..=prepared.choice.timeline.as_u32())
            .map(|timeline| WalFile::history(capy_types::TimelineId::from_u32(timeline)));
        for file in prepared.choice.segments.iter().cloned().chain(histories) {
            ctx.check()?;
            let path = directory.join(file.as_str());
            match self.fetch_wal(ctx, &prepared.cluster, &file, &path).await {
                Ok(_) => give(&path, owner)?,
                // Not every timeline up to the target's is an ancestor of it.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && file.kind() == capy_types::WalFileKind::History => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Replay makes tablespaces at their old places: on a machine where something is there already it
/// would write into that.
fn refuse_foreign_tablespaces(choice: &RecoveryChoice) -> Result<()> {
    for location in &choice.tablespaces {
        if let Some(known) = location.strip_suffix(CUT_LOCATION) {
            let what = format!("replay would make a tablespace at a place of which only {known} is known");
            return Err(
                Error::new(ErrorKind::Conflict, what).with_hint("recover to a target before it was made")
            );
        }
        let occupied = std::fs::read_dir(location).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            let what =
                format!("replay would make a tablespace at {location}, and that directory is not empty here");
            return Err(Error::new(ErrorKind::Conflict, what)
                .with_hint("recover to a target before it was made, or on another machine"));
        }
    }
    Ok(())
}

/// The settings, then the signal file.
fn write_settings(target: &Path, plan: &RecoveryPlan, owner: Option<(u32, u32)>) -> Result<()> {
    let auto = target.join("postgresql.auto.conf");
    let (main_conf, auto_conf) = (read_or_empty(&target.join("postgresql.conf"))?, read_or_empty(&auto)?);
    let files = Configuration { postgresql_conf: &main_conf, auto_conf: &auto_conf };
    let edited = edit_auto_conf(files, plan).map_err(|error| Error::wrap(error.kind(), error))?;
    let signal: SignalFile = plan.signal_file();
    for stale in signal.must_be_absent() {
        remove(&target.join(stale))?;
    }
    write(&auto, &edited, owner)?;
    write(&target.join(signal.name()), b"", owner)
}

/// Looks at the settings of a restored cluster, after those of a recovery were written: what would surprise
/// whoever starts it is answered. A copy that does not recover is kept from archiving as its parent does.
pub(super) fn keep_apart(target: &Path, is_recovery: bool, owner: Option<(u32, u32)>) -> Result<Vec<String>> {
    let auto = target.join("postgresql.auto.conf");
    let (main_conf, auto_conf) = (read_or_empty(&target.join("postgresql.conf"))?, read_or_empty(&auto)?);
    let files = Configuration { postgresql_conf: &main_conf, auto_conf: &auto_conf };
    let advice = recovery_advice(files).into_iter();
    let mut notices: Vec<_> = advice.map(|one| format!("{}: {}", one.subject, one.message)).collect();
    if !is_recovery && let Some(edited) = forbid_archiving(files) {
        write(&auto, &edited, owner)?;
        notices.push(
            "archive_mode is off in its postgresql.auto.conf: what it archives would be taken for its parent's"
                .to_owned(),
        );
    }
    Ok(notices)
}

fn read_or_empty(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(content) => Ok(content),
        // It may lie outside the data directory.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, content: &[u8], owner: Option<(u32, u32)>) -> Result<()> {
    remove(path)?;
    durable::write_last(path, content, 0o600, owner)
        .map_err(|error| Error::io(format!("write {}", path.display()), error))
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    super::files::set_owner(path, owner)
        .map_err(|error| Error::io(format!("give {} to its owner", path.display()), error))
}

fn highest(control: Option<RecoveryLimits>, wal: Option<WalParameters>) -> Option<RecoveryLimits> {
    let unsigned = |value: i32| u32::try_from(value).unwrap_or(0);
    let from_wal = wal.map(|wal| RecoveryLimits {
        max_connections: unsigned(wal.max_connections),
        max_worker_processes: unsigned(wal.max_worker_processes),
        max_wal_senders: unsigned(wal.max_wal_senders),
        max_prepared_transactions: unsigned(wal.max_prepared_transactions),
        max_locks_per_transaction: unsigned(wal.max_locks_per_transaction),
    });
    control.into_iter().chain(from_wal).reduce(|a, b| RecoveryLimits {
        max_connections: a.max_connections.max(b.max_connections),
        max_worker_processes: a.max_worker_processes.max(b.max_worker_processes),
        max_wal_senders: a.max_wal_senders.max(b.max_wal_senders),
        max_prepared_transactions: a.max_prepared_transactions.max(b.max_prepared_transactions),
        max_locks_per_transaction: a.max_locks_per_transaction.max(b.max_locks_per_transaction),
    })
}
