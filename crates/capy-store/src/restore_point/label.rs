//! A restore to a label: what the stored restore point of that name stands for.
//!
//! Contained by: the restore, whose target may be a name that the log does not know.

use capy_format::{RestorePoint, RestorePointKind};
use capy_postgres::recovery::{RecoveryTarget, TargetTimeline};
use capy_types::{BackupSelector, ClusterName, Ctx, ErrorKind, Problem};

use super::aim::{aim, newest};
use super::create::load_archive;
use super::in_log::NamedPoints;
use crate::wal::archive::Archive;
use crate::wal::target::{Wish, in_words};
use crate::{Error, Recovery, Repository, Result};

/// A recovery to a name, once it is resolved.
#[derive(Debug)]
pub(crate) struct Labelled {
    /// The backup, or the choice of one.
    pub(crate) backup: BackupSelector,
    /// The recovery; none for a backup as it is.
    pub(crate) recovery: Option<Recovery>,
    /// What the label was resolved to, in words; none when nothing was.
    pub(crate) resolved: Option<String>,
}

impl Labelled {
    /// Says of a target that the user did not name where it comes from.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let Some(resolved) = &self.resolved else { return error };
        let hint = error.hint().map(str::to_owned);
        let explained = Error::new(error.kind(), format!("{resolved}: {}", error.chain()));
        match hint {
            Some(hint) => explained.with_hint(hint),
            None => explained,
        }
    }
}

impl Repository {
    /// Turns a recovery to a name that the log does not know, or has elsewhere first, into one to
    /// what the stored restore point of that name stands for.
    pub(crate) async fn resolve_label(
        &self,
        ctx: &Ctx,
        backup: &BackupSelector,
        recovery: Recovery,
    ) -> Result<Labelled> {
        let cluster = backup.cluster();
        let point = match &recovery.target {
            RecoveryTarget::Name(label) => self.labelled_point(ctx, cluster, label).await?,
            _ => None,
        };
        let archive = match &point {
            Some(_) => load_archive(self, ctx, cluster).await?,
            None => None,
        };
        let resolved = match (&point, &archive) {
            (Some(point), Some(archive)) if point.kind == RestorePointKind::Pitr => {
                resolve_moment(archive, point, &recovery)?
                    .map(|(recovery, words)| (backup.clone(), Some(recovery), words))
            }
            (Some(point), archive) if point.kind == RestorePointKind::Backup => {
                self.resolve_backup(ctx, archive.as_ref(), backup, point, &recovery).await?
            }
            // Without an archive the restore says what is missing.
            _ => None,
        };
        Ok(match resolved {
            Some((backup, recovery, words)) => Labelled { backup, recovery, resolved: Some(words) },
            None => Labelled { backup: backup.clone(), recovery: Some(recovery), resolved: None },
        })
    }

    /// The stored point of a label. A moment goes before a backup, which has a key to be named by.
    async fn labelled_point(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        label: &str,
    ) -> Result<Option<RestorePoint>> {
        let points = match self.repo.restore_points(cluster).await {
            // A recovery by a name that the log has needs none of them.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let subject = format!("the restore points of {cluster}");
                ctx.progress.problem(Problem { subject, message: error.to_string() });
                return Ok(None);
            }
            points => points?.into_iter(),
        };
        let own = points.filter(|point| point.label == label);
        Ok(own.min_by_key(|point| point.kind == RestorePointKind::Backup))
    }

    /// With an archive the copy gets a timeline of its own at the backup's end; without, the backup
    /// is restored as it is.
    async fn resolve_backup(
        &self,
        ctx: &Ctx,
        archive: Option<&Archive>,
        selector: &BackupSelector,
        point: &RestorePoint,
        recovery: &Recovery,
    ) -> Result<Option<(BackupSelector, Option<Recovery>, String)>> {
        let Some(key) = &point.backup_key else { return Ok(None) };
        if archive.is_some_and(|archive| !NamedPoints::of(archive).named(&point.label).is_empty()) {
            return Ok(None);
        }
        let words = format!("restore point {:?} is the backup {key}", point.label);
        if matches!(selector, BackupSelector::Key(other) if other != key) {
            return Err(Error::new(ErrorKind::Conflict, format!("{words}, not {selector}"))
                .with_hint(format!("name {key}, or {}/latest", key.cluster)));
        }
        let to_its_end = Recovery { target: RecoveryTarget::Immediate, ..recovery.clone() };
        let wish = Wish {
            cluster: &key.cluster,
            backup: Some(key),
            target: &to_its_end.target,
            timeline: to_its_end.timeline,
            inclusive: to_its_end.inclusive,
            standby: to_its_end.standby,
        };
        let root = self.repo.root().await?;
        let recovers = match archive {
            Some(archive) => self.choose_from(ctx, archive, &root.backups, &wish).await?.is_ok(),
            None => false,
        };
        let words = if recovers { words } else { format!("{words}, restored as it is, without recovery") };
        Ok(Some((key.clone().into(), recovers.then_some(to_its_end), words)))
    }
}

/// The recovery that is meant by a point's label, and what it is in words; none when it is the one
/// that was asked for.
fn resolve_moment(
    archive: &Archive,
    point: &RestorePoint,
    asked: &Recovery,
) -> Result<Option<(Recovery, String)>> {
    let named = NamedPoints::of(archive);
    // The log's word goes before that of a label made elsewhere.
    if !point.in_wal && !named.named(&point.label).is_empty() {
        return Ok(None);
    }
    let aim = aim(archive, &named, point).map_err(|why| {
        let what = format!("restore point {:?} cannot be reached: {why}", point.label);
        Error::new(ErrorKind::NotFound, what).with_hint("`restore-point list` shows which can be")
    })?;
    // Whoever names a timeline means what is on it.
    let is_elsewhere = match asked.timeline {
        TargetTimeline::Latest => false,
        TargetTimeline::Current => true,
        TargetTimeline::Id(id) => id != aim.timeline,
    };
    let is_asked = aim.target == asked.target && aim.timeline == newest(archive);
    if is_asked || (point.in_wal && is_elsewhere) {
        return Ok(None);
    }
    let mut words = format!("restore point {:?} is {}", point.label, in_words(&aim.target));
    let mut recovery =
        Recovery { target: aim.target, inclusive: aim.inclusive && asked.inclusive, ..asked.clone() };
    if !is_elsewhere {
        recovery.timeline = TargetTimeline::Id(aim.timeline);
        words.push_str(&format!(" on timeline {}", aim.timeline));
    }
    Ok(Some((recovery, words)))
}
