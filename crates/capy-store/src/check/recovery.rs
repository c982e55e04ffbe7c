//! What is stored, as a restore would see it.

use capy_format::{BackupEntry, BackupKind, BackupState};
use capy_postgres::recovery::{RecoveryTarget, TargetTimeline};
use capy_postgres::{ArchivingSettings, WalPosition};
use capy_types::{ClusterName, Ctx, ErrorKind, Timestamp};

use super::Steps;
use super::delivery::Delivered;
use crate::wal::target::Wish;
use crate::{Repository, Result};

/// Looks at the newest base backup, and asks for a restore to the moment of the check.
pub(super) async fn to_now(
    repository: &Repository,
    ctx: &Ctx,
    cluster: &ClusterName,
    settings: &ArchivingSettings,
    position: WalPosition,
    delivered: &Delivered,
    steps: &mut Steps,
) -> Result<()> {
    let root = repository.repo.root().await?;
    let own = |entry: &&BackupEntry| {
        entry.key.cluster == *cluster
            && entry.kind == BackupKind::Base
            && entry.state == BackupState::Complete
            && entry.system_id == Some(settings.system_id)
    };
    let Some(newest) = root.backups.iter().filter(own).max_by_key(|entry| entry.finished_at) else {
        let take = format!("capy-store backup --cluster {cluster} --pg …");
        steps.problem("backup", "there is no base backup of this server", take);
        steps.skipped("recovery", "there is nothing to restore");
        return Ok(());
    };
    let age = age(newest.finished_at, repository.clock().now());
    steps.ok("backup", format!("the newest is {}, {age} old", newest.key));
    // The forced segment's mark is in the archive for certain; otherwise as far as it goes.
    let target = delivered.until.map_or(RecoveryTarget::Latest, RecoveryTarget::Lsn);
    let wish = Wish {
        cluster,
        backup: None,
        target: &target,
        timeline: TargetTimeline::Latest,
        inclusive: delivered.until.is_none(),
        standby: false,
    };
    let step = "recovery";
    match repository.choose_recovery(ctx, &wish).await {
        Ok(choice) if delivered.until.is_some() => {
            let message = format!(
                "a restore to now is possible: {}, and WAL from {} to {} on timeline {}",
                choice.backup_key, choice.first_segment, choice.last_segment, choice.timeline
            );
            steps.ok(step, message);
        }
        Ok(choice) => {
            let message = format!(
                "a restore is possible up to {}, from {}; the server is at {}",
                choice.end_lsn, choice.backup_key, position.insert
            );
            steps.ok(step, message);
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            let change = "`wal windows` shows what is missing; a base backup taken now begins anew";
            steps.problem(step, error.chain(), change);
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// In the largest whole unit.
fn age(since: Timestamp, now: Timestamp) -> String {
    let minutes = now.as_seconds().saturating_sub(since.as_seconds()).max(0) / 60;
    match minutes {
        0..=119 => format!("{minutes} min"),
        120..=2879 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / (60 * 24)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_the_unit_that_fits() {
        let minutes = |count: i64| Timestamp::from_micros(count * 60_000_000);
        for (count, text) in [(-5, "0 min"), (119, "119 min"), (120, "2 h"), (2880, "2 days")] {
            assert_eq!(age(minutes(0), minutes(count)), text);
        }
    }
}
