//! The outcome of a verification, recorded on the backups.
//!
//! Contained by: verify. A backup deleted in the meantime is not an error: there is nothing left
//! to record on.

use std::collections::BTreeMap;

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

async fn set(repository: &Repository, entry: &BackupEntry, verification: Verification) -> Result<()> {
    match repository.repo.set_verification(&entry.key, verification).await {
        Err(RepoError::NoSuchBackup { .. }) => Ok(()),
        other => Ok(other?),
    }
}
