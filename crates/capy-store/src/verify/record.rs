//! The outcome of a verification, recorded on the backups.
//!
//! Contained by: verify. A backup deleted in the meantime is not an error: there is nothing left
//! to record on.

use std::collections::BTreeMap;
use std::time::Duration;

use capy_format::{BackupEntry, Verification, VerificationState};
use capy_repo::RepoError;
use capy_types::BackupKey;

use crate::{Repository, Result, VerifyLevel};

/// Marks the backups as being verified.
pub(super) async fn running(
    repository: &Repository,
    backups: &[BackupEntry],
    level: VerifyLevel,
) -> Result<()> {
    for entry in backups {
        let verification = Verification {
            state: VerificationState::Running,
            level: Some(level.as_str().to_owned()),
            at: Some(repository.clock().now()),
            error: None,
        };
        set(repository, entry, verification).await?;
    }
    Ok(())
}

/// Records what was found.
pub(super) async fn outcome(
    repository: &Repository,
    backups: &[BackupEntry],
    failed: &BTreeMap<BackupKey, (String, u64)>,
    level: VerifyLevel,
) -> Result<()> {
    for entry in backups {
        let error = failed.get(&entry.key).map(|(first, count)| match count {
            0 | 1 => first.clone(),
            more => format!("{first} (and {} more)", more - 1),
        });
        let state = if error.is_some() { VerificationState::Failed } else { VerificationState::Verified };
        let at = Some(repository.clock().now());
        let verification = Verification { state, level: Some(level.as_str().to_owned()), at, error };
        set(repository, entry, verification).await?;
    }
    Ok(())
}

/// Longest wait for the store to take back a mark in seconds: the caller has given up already.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Gives the backups back what was recorded of them before an unfinished run, as far as the store
/// lets us: what is left is `running`, which the next verification replaces.
pub(super) async fn as_before(repository: &Repository, backups: &[BackupEntry]) {
    let all = async {
        for entry in backups {
            set(repository, entry, entry.verification.clone()).await?;
        }
        Ok::<_, crate::Error>(())
    };
    match tokio::time::timeout(TAKE_BACK_TIMEOUT, all).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the backups stay recorded as being verified"),
        Err(_) => tracing::warn!("the store is slow: the backups stay recorded as being verified"),
    }
}

async fn set(repository: &Repository, entry: &BackupEntry, verification: Verification) -> Result<()> {
    match repository.repo.set_verification(&entry.key, verification).await {
        Err(RepoError::NoSuchBackup { .. }) => Ok(()),
        other => Ok(other?),
    }
}
