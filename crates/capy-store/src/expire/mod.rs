//! Retention: pins, and the removal of backups that no rule keeps.
//!
//! Contained by: the façade. The rules are in `policy`; here they are applied to the newest root,
//! inside the commit, so that a backup pinned or added by somebody else at the same moment counts.
//! Invariant: all removals of one call are one commit, and [`ExpirePlan::check`] has passed on
//! exactly the backups it removes from.

mod calendar;
mod pin;
mod policy;
#[cfg(test)]
mod properties;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use capy_format::BackupEntry;
use capy_repo::RepoError;
use capy_types::{BackupKey, ClusterName, Ctx, ErrorKind, Timestamp};
use tracing::instrument;

use crate::repository::cancellable;
use crate::wal::UnneededWal;
use crate::{BackupInfo, BackupKind, Error, Repository, Result, convert};
use policy::{ExpirePlan, is_from_the_future, plan};

pub use policy::RetentionPolicy;
pub use report::{ExpireReason, ExpireReport, ExpiredBackup, ExpiredWal, KeepReason, KeptBackup, OldestKept};

/// How long a backup may run before its session is taken for one that crashed: a week.
const RUNNING_MAX_MICROS: i64 = 7 * 24 * 3600 * 1_000_000;

/// What to expire.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ExpireOptions {
    /// Only this cluster's backups; all clusters, each by itself, without.
    pub cluster: Option<ClusterName>,
    /// What is kept.
    pub policy: RetentionPolicy,
    /// Only say what would go.
    pub dry_run: bool,
    /// Of what no rule keeps, remove these only: those that somebody was shown and agreed to,
    /// from the report of a dry run. Without it, all.
    pub shown: Option<BTreeSet<BackupKey>>,
}

impl ExpireOptions {
    /// Expires what `policy` does not keep, in all clusters.
    #[must_use]
    pub fn new(policy: RetentionPolicy) -> Self {
        Self { policy, ..Self::default() }
    }
}

impl Repository {
    /// Removes the backups that the policy does not keep, all in one commit, and then the WAL that
    /// no kept base backup can be recovered with. The backups' space is reclaimed by the collector.
    ///
    /// Never removed are: pinned backups; the newest sound backup of each series (the base backups
    /// of a cluster, its streams of each database); damaged ones that no sound one follows;
    /// backups dated in the future; and, where nothing else that is kept does, the newest base backup
    /// that leads to the newest timeline of the cluster's archive.
    ///
    /// # Errors
    /// `Invalid` when the policy has no rule or a rule of zero; `NotFound` when the cluster that is
    /// named has no backups; `Corrupt` when an archive's histories cannot be read; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop: all backups that go are gone, or none; of their WAL the oldest is gone first.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let ctx = Ctx::default();
    /// # let repository = Repository::init(&ctx, &Location::new("memory://"), &[Key::passphrase("x")], InitOptions::default()).await?;
    /// let mut policy = RetentionPolicy::default();
    /// (policy.keep_full, policy.keep_weekly) = (Some(7), Some(8));
    /// let report = repository.expire(&ctx, &ExpireOptions::new(policy)).await?;
    /// println!("{} kept, {} expired", report.kept.len(), report.expired.len());
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all)]
    pub async fn expire(&self, ctx: &Ctx, options: &ExpireOptions) -> Result<ExpireReport> {
        options.policy.check()?;
        let leading = cancellable(ctx, self.leading_backups(ctx, options)).await?;
        let mut report = cancellable(ctx, self.decide_and_remove(options, &leading)).await?;
        if let (Some(cluster), [], []) = (&options.cluster, &*report.kept, &*report.expired) {
            return Err(Error::new(ErrorKind::NotFound, format!("no backups of cluster {cluster}")));
        }
        // After the backups: WAL that is gone before its backup would leave a backup without it.
        cancellable(ctx, self.expire_wal(ctx, &mut report, options.dry_run)).await?;
        if !options.dry_run {
            for gone in &report.expired {
                tracing::info!(backup = %gone.backup.backup_key, "expired");
            }
        }
        Ok(report)
    }

    /// Removes the WAL that only expired backups could use.
    async fn expire_wal(&self, ctx: &Ctx, report: &mut ExpireReport, dry_run: bool) -> Result<()> {
        // One root: a backup that ends meanwhile is either among its sessions or among its backups.
        let root = self.repo.root().await?;
        let gone: BTreeSet<_> = report.expired.iter().map(|gone| gone.backup.backup_key.clone()).collect();
        let clusters: BTreeSet<_> = report.kept.iter().map(|kept| kept.backup.cluster.clone()).collect();
        for cluster in clusters {
            let Some(identity) = self.repo.archive(&cluster).await? else { continue };
            let is_kept_base = |entry: &&BackupEntry| {
                entry.key.cluster == cluster
                    && !gone.contains(&entry.key)
                    && entry.kind == capy_format::BackupKind::Base
                    && entry.system_id == Some(identity.system_id)
            };
            let bases: Vec<_> = root.backups.iter().filter(is_kept_base).map(convert::info).collect();
            // A backup that still runs may have begun before all that are kept, and needs its WAL.
            let oldest = bases.iter().map(|backup| backup.created_at).min();
            let since = Timestamp::from_micros(self.clock().now().as_micros() - RUNNING_MAX_MICROS);
            let earlier =
                root.sessions.iter().find(|s| s.started_at >= since && Some(s.started_at) <= oldest);
            if let Some(session) = earlier {
                report.notices.push(format!(
                    "the WAL of {cluster} stays: a backup that began at {} may still run and need it",
                    session.started_at
                ));
                continue;
            }
            let UnneededWal { files, in_parts, without_base } =
                self.unneeded_wal(ctx, &cluster, &bases).await?;
            if let Some(timeline) = without_base {
                report.notices.push(format!(
                    "the WAL of timeline {timeline} of {cluster} stays, though no base backup that is kept \
                     leads to it: take one"
                ));
            }
            if !in_parts.is_empty() {
                let count = in_parts.len();
                report
                    .notices
                    .push(format!("beginnings of {count} segments of {cluster} that never became whole"));
            }
            for segment in in_parts.iter().filter(|_| !dry_run) {
                self.repo.remove_wal_parts(&cluster, segment).await?;
            }
            let (Some(first), Some(last)) = (files.first(), files.last()) else { continue };
            let (first, last, count) = (first.to_string(), last.to_string(), files.len() as u64);
            if !dry_run {
                self.repo.remove_wal(&cluster, &files).await?;
            }
            report.wal.push(ExpiredWal { cluster, files: count, first, last });
        }
        Ok(())
    }

    /// For each archive, the base backups from which a recovery can follow its newest timeline.
    async fn leading_backups(&self, ctx: &Ctx, options: &ExpireOptions) -> Result<Vec<BTreeSet<BackupKey>>> {
        let root = self.repo.root().await?;
        let clusters: BTreeSet<_> = root.backups.iter().map(|entry| &entry.key.cluster).collect();
        let mut leading = Vec::new();
        for cluster in clusters.into_iter().filter(|name| options.cluster.as_ref().is_none_or(|c| c == *name))
        {
            ctx.check()?;
            leading.push(self.leading_to_newest(ctx, cluster, &root.backups).await?);
        }
        Ok(leading)
    }

    async fn decide_and_remove(
        &self,
        options: &ExpireOptions,
        leading: &[BTreeSet<BackupKey>],
    ) -> Result<ExpireReport> {
        if options.dry_run {
            return Ok(decide(&self.repo.root().await?.backups, options, leading, self.clock().now())?);
        }
        let choose = |entries: &[BackupEntry]| {
            let report = decide(entries, options, leading, self.clock().now())?;
            let keys = report.expired.iter().map(|expired| expired.backup.backup_key.clone()).collect();
            Ok((keys, report))
        };
        Ok(self.repo.unlink_backups(choose).await?)
    }
}

/// The whole decision, on the backups of one root.
fn decide(
    entries: &[BackupEntry],
    options: &ExpireOptions,
    leading: &[BTreeSet<BackupKey>],
    now: Timestamp,
) -> std::result::Result<ExpireReport, RepoError> {
    let asked = |entry: &&BackupEntry| options.cluster.as_ref().is_none_or(|name| entry.key.cluster == *name);
    let backups: Vec<_> = entries.iter().filter(asked).map(convert::info).collect();
    let decided = plan(&backups, &options.policy, now);
    let mut plan = decided.map_err(|error| RepoError::Invalid { what: error.to_string() })?;
    leading.iter().for_each(|leading| plan.keep_one_of(leading));
    if let Some(shown) = &options.shown {
        plan.limit_to(shown);
    }
    plan.check(now).map_err(|what| RepoError::Internal { what })?;
    Ok(report(plan, options.dry_run, now))
}

fn report(plan: ExpirePlan, dry_run: bool, now: Timestamp) -> ExpireReport {
    let ExpirePlan { kept, expired } = plan;
    let sum = |bytes: fn(&BackupInfo) -> u64| {
        expired.iter().fold(0_u64, |sum, expired| sum.saturating_add(bytes(&expired.backup)))
    };
    ExpireReport {
        dry_run,
        expired_bytes: sum(|backup| backup.size_bytes),
        expired_stored_bytes: sum(|backup| backup.stored_bytes),
        oldest_kept: oldest_kept(&kept),
        notices: notices(&kept, &expired, now),
        wal: Vec::new(),
        kept,
        expired,
    }
}

/// The kept base backup of each server's timeline whose recovery starts first, sound or not: as
/// long as it is kept, its WAL is too.
fn oldest_kept(kept: &[KeptBackup]) -> Vec<OldestKept> {
    let mut oldest = BTreeMap::new();
    for KeptBackup { backup, .. } in kept {
        let (Some(timeline), Some(start_lsn)) = (backup.timeline, backup.start_lsn) else { continue };
        let found = OldestKept {
            cluster: backup.cluster.clone(),
            system_id: backup.system_id,
            timeline,
            start_lsn,
            backup_key: backup.backup_key.clone(),
        };
        let server = backup.system_id.map(|id| id.as_u64());
        let first = oldest.entry((backup.cluster.clone(), server, timeline)).or_insert_with(|| found.clone());
        if start_lsn < first.start_lsn {
            *first = found;
        }
    }
    oldest.into_values().collect()
}

fn notices(kept: &[KeptBackup], expired: &[ExpiredBackup], now: Timestamp) -> Vec<String> {
    let mut notices = Vec::new();
    let mut future = kept.iter().filter(|kept| is_from_the_future(&kept.backup, now));
    if let Some(first) = future.next() {
        notices.push(format!(
            "{} is dated after now ({now}), as are {} others: they are kept; check the clocks",
            first.backup.backup_key,
            future.count()
        ));
    }
    let nameless = |expired: &&ExpiredBackup| {
        expired.backup.kind == BackupKind::Stream && expired.backup.database.is_none()
    };
    if let Some(first) = expired.iter().find(nameless) {
        notices.push(format!(
            "streams of cluster {} without a database count as one series, {} among them: give each a \
             database of its own when backing up, if they are not of the same",
            first.backup.cluster, first.backup.backup_key
        ));
    }
    notices
}
