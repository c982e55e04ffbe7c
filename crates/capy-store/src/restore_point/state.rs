//! Whether restore points can be reached now, and the list of them.

use capy_format::{BackupEntry, BackupKind, RestorePoint, RestorePointKind, Root};
use capy_postgres::recovery::{RecoveryTarget, TargetTimeline};
use capy_types::{BackupKey, ClusterName, Ctx, ErrorKind, TimelineId};
use futures::TryStreamExt;
use tracing::instrument;

use super::aim::{aim, newest};
use super::create::load_archive;
use super::in_log::{NamedPoint, NamedPoints};
use super::{RestorePointInfo, RestorePointState};
use crate::repository::cancellable;
use crate::wal::archive::Archive;
use crate::wal::target::Wish;
use crate::{Error, Repository, Result, convert};

impl Repository {
    /// The restore points of a cluster, or of all, oldest first within each; with what is true of
    /// them now.
    ///
    /// # Errors
    /// `Corrupt` when a restore point or the root cannot be read; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let ctx = Ctx::default();
    /// # let repository = Repository::init(&ctx, &Location::new("memory://"), &[Key::passphrase("x")], InitOptions::default()).await?;
    /// for point in repository.list_restore_points(&ctx, None).await? {
    ///     println!("{}/{} {}: {}", point.cluster, point.id, point.label, point.state.as_str());
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all)]
    pub async fn list_restore_points(
        &self,
        ctx: &Ctx,
        cluster: Option<&ClusterName>,
    ) -> Result<Vec<RestorePointInfo>> {
        let work = async {
            let clusters = match cluster {
                Some(cluster) => vec![cluster.clone()],
                None => self.clusters_with_points().await?,
            };
            let mut found = Vec::new();
            for cluster in &clusters {
                let points = self.repo.restore_points(cluster).await?;
                if points.is_empty() {
                    continue;
                }
                let judge = Judge::load(self, ctx, cluster).await?;
                for point in points {
                    found.push(judge.info(ctx, point).await?);
                }
            }
            Ok(found)
        };
        cancellable(ctx, work).await
    }

    async fn clusters_with_points(&self) -> Result<Vec<ClusterName>> {
        let prefix = capy_format::names::RESTORE_POINTS_PREFIX;
        let listed: Vec<_> = self.repo.store().list(prefix).try_collect().await?;
        let cluster = |name: &str| name.strip_prefix(prefix)?.split_once('/')?.0.parse().ok();
        let mut clusters: Vec<ClusterName> = listed.iter().filter_map(|info| cluster(&info.name)).collect();
        clusters.sort();
        clusters.dedup();
        Ok(clusters)
    }
}

/// What is known of a cluster: enough to judge all its restore points.
pub(super) struct Judge<'a> {
    repository: &'a Repository,
    cluster: &'a ClusterName,
    archive: Option<Archive>,
    named: NamedPoints,
    root: Root,
}

/// What is true of a restore point now.
struct Verdict {
    state: RestorePointState,
    reason: Option<String>,
    backup: Option<BackupKey>,
    timeline: Option<TimelineId>,
}

impl Verdict {
    fn unreachable(reason: impl Into<String>) -> Self {
        let reason = Some(reason.into());
        Self { state: RestorePointState::Unreachable, reason, backup: None, timeline: None }
    }
}

impl<'a> Judge<'a> {
    pub(super) async fn load(
        repository: &'a Repository,
        ctx: &Ctx,
        cluster: &'a ClusterName,
    ) -> Result<Self> {
        let archive = load_archive(repository, ctx, cluster).await?;
        let named = archive.as_ref().map(NamedPoints::of).unwrap_or_default();
        let root = repository.repo.root().await?;
        Ok(Self { repository, cluster, archive, named, root })
    }

    pub(super) fn archive(&self) -> Option<&Archive> {
        self.archive.as_ref()
    }

    pub(super) fn named(&self, label: &str) -> &[NamedPoint] {
        self.named.named(label)
    }

    /// The cluster's backups.
    pub(super) fn backups(&self) -> impl Iterator<Item = &BackupEntry> {
        self.root.backups.iter().filter(|entry| entry.key.cluster == *self.cluster)
    }

    /// A restore point as callers see it.
    pub(super) async fn info(&self, ctx: &Ctx, point: RestorePoint) -> Result<RestorePointInfo> {
        let verdict = match point.kind {
            RestorePointKind::Backup => self.of_backup(ctx, &point).await?,
            RestorePointKind::Pitr => self.of_moment(ctx, &point).await?,
        };
        let id = point.id.parse().map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("a restore point of {}: {error}", self.cluster))
        })?;
        Ok(RestorePointInfo {
            id,
            cluster: point.cluster,
            kind: convert::restore_point_kind(point.kind),
            label: point.label,
            note: point.note,
            created_by: point.created_by,
            created_at: point.created_at,
            state: verdict.state,
            reason: verdict.reason,
            pitr_time: point.pitr_time,
            lsn: point.lsn,
            timeline: verdict.timeline,
            backup_id: verdict.backup.as_ref().map(|key| key.id.clone()),
            backup_key: verdict.backup,
            in_wal: point.in_wal,
        })
    }

    /// A backup is there or not; if its WAL is not inside, that must be there as well.
    async fn of_backup(&self, ctx: &Ctx, point: &RestorePoint) -> Result<Verdict> {
        let Some(key) = &point.backup_key else {
            return Ok(Verdict::unreachable("it points at no backup"));
        };
        let Some(entry) = self.backups().find(|entry| entry.key == *key) else {
            let reason = format!("the repository has no backup {key} any more");
            return Ok(Verdict { backup: Some(key.clone()), ..Verdict::unreachable(reason) });
        };
        let reachable = Verdict {
            state: RestorePointState::Reachable,
            reason: None,
            backup: Some(key.clone()),
            timeline: entry.timeline,
        };
        if entry.kind != BackupKind::Base {
            return Ok(reachable);
        }
        let record = self.repository.repo.record(entry).await?;
        if record.postgres.as_ref().and_then(convert::wal_needed).is_none() {
            return Ok(reachable);
        }
        let wish = Wish {
            cluster: self.cluster,
            backup: Some(key),
            target: &RecoveryTarget::Immediate,
            timeline: TargetTimeline::Current,
            inclusive: true,
            standby: false,
        };
        let verdict = self.of_wish(ctx, &wish, entry.timeline).await?;
        Ok(Verdict { backup: Some(key.clone()), ..verdict })
    }

    async fn of_moment(&self, ctx: &Ctx, point: &RestorePoint) -> Result<Verdict> {
        let Some(archive) = &self.archive else { return Ok(self.without_archive()) };
        let aim = match aim(archive, &self.named, point) {
            Ok(aim) => aim,
            Err(why) => return Ok(Verdict::unreachable(why)),
        };
        let wish = Wish {
            cluster: self.cluster,
            backup: None,
            target: &aim.target,
            timeline: TargetTimeline::Id(aim.timeline),
            inclusive: aim.inclusive,
            standby: false,
        };
        self.of_wish(ctx, &wish, Some(aim.timeline)).await
    }

    /// Asks as a restore would.
    async fn of_wish(&self, ctx: &Ctx, wish: &Wish<'_>, timeline: Option<TimelineId>) -> Result<Verdict> {
        let Some(archive) = &self.archive else { return Ok(self.without_archive()) };
        let chosen = self.repository.choose_from(ctx, archive, &self.root.backups, wish).await;
        let refused = match chosen {
            Ok(Ok(choice)) => {
                return Ok(Verdict {
                    state: RestorePointState::Reachable,
                    reason: None,
                    backup: Some(choice.backup_key),
                    timeline: Some(choice.timeline),
                });
            }
            Ok(Err(refused)) => refused,
            // One damaged segment or lost history is that point's fault, not the list's.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                return Ok(Verdict { timeline, ..Verdict::unreachable(error.chain()) });
            }
            Err(error) => return Err(error),
        };
        // An older timeline gets no more WAL.
        let may_come = timeline.is_none_or(|timeline| timeline == newest(archive));
        let awaited_by = refused.awaited_by.filter(|_| may_come);
        let state = match awaited_by {
            Some(_) => RestorePointState::Pending,
            None => RestorePointState::Unreachable,
        };
        Ok(Verdict { state, reason: Some(refused.why), backup: awaited_by, timeline })
    }

    fn without_archive(&self) -> Verdict {
        let reason = format!("there is no WAL archive {} yet", self.cluster);
        Verdict { state: RestorePointState::Pending, ..Verdict::unreachable(reason) }
    }
}
