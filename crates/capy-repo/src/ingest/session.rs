//! Sessions: a writer's registration in the root, and the checks of its commit.
//!
//! The rules are those of the commit protocol (FORMAT.md, "Sessions"): a session that is no
//! longer in the root must not commit, and neither must a backup that refers to a tombstoned
//! pack. No clock takes part.

use std::collections::HashSet;

use capy_format::{BackupEntry, Root, SessionEntry, VERSION_1, VERSION_DELTA};
use capy_types::{BackupKey, IndexId, PackId, SessionId};

use crate::index::KnownPack;
use crate::{RepoError, Repository};

/// What a backup builds on.
#[derive(Debug)]
pub(super) struct UsedPacks {
    pub(super) packs: Vec<KnownPack>,
    /// Some of its chunks are deltas.
    pub(super) deltas: bool,
}

/// Registers a new session; refuses a key that is taken.
pub(super) async fn register(repo: &Repository, key: &BackupKey) -> Result<(SessionId, Root), RepoError> {
    let id = SessionId::random(&*repo.env().entropy);
    let started_at = repo.env().clock.now();
    let change = |root: &mut Root| {
        refuse_taken(root, key)?;
        root.sessions.push(SessionEntry { id, base_generation: root.generation, started_at });
        Ok(())
    };
    let ((), root) = repo.chain().commit(change).await?;
    Ok((id, root))
}

/// Removes a session that ends without a backup.
pub(super) async fn remove(repo: &Repository, session: SessionId) -> Result<(), RepoError> {
    let change = |root: &mut Root| {
        root.sessions.retain(|entry| entry.id != session);
        Ok(())
    };
    repo.chain().commit(change).await.map(|_| ())
}

/// Commits a backup and ends its session.
pub(super) async fn commit(
    repo: &Repository,
    session: SessionId,
    entry: BackupEntry,
    own_indexes: &[IndexId],
    used: &UsedPacks,
) -> Result<BackupEntry, RepoError> {
    let used_ids: HashSet<PackId> = used.packs.iter().map(|pack| pack.id).collect();
    let change = |root: &mut Root| {
        check(root, session, &entry.key, &used_ids)?;
        root.sessions.retain(|other| other.id != session);
        root.condemned.retain(|pack| !used_ids.contains(pack));
        root.indexes
            .extend(own_indexes.iter().copied().chain(used.packs.iter().filter_map(|pack| pack.index)));
        root.indexes.sort_unstable();
        root.indexes.dedup();
        root.backups.push(entry.clone());
        Ok(())
    };
    let version = if used.deltas { VERSION_DELTA } else { VERSION_1 };
    repo.chain().commit_as(version, change).await?;
    Ok(entry)
}

/// The invariants of a commit against the root it extends.
fn check(root: &Root, session: SessionId, key: &BackupKey, used: &HashSet<PackId>) -> Result<(), RepoError> {
    refuse_taken(root, key)?;
    if !root.sessions.iter().any(|entry| entry.id == session) {
        return Err(RepoError::Fenced);
    }
    match root.tombstones.iter().find(|tombstone| used.contains(&tombstone.pack)) {
        Some(tombstone) => Err(RepoError::PackRemoved { pack: tombstone.pack.to_string() }),
        None => Ok(()),
    }
}

fn refuse_taken(root: &Root, key: &BackupKey) -> Result<(), RepoError> {
    if root.backups.iter().any(|entry| entry.key == *key) {
        return Err(RepoError::BackupExists { key: key.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
