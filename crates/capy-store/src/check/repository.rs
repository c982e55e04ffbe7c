//! The repository's side: it takes new objects, and holds what is of this server.

use bytes::Bytes;
use capy_format::BackupKind;
use capy_objects::{Store, StoreErrorKind};
use capy_postgres::ArchivingSettings;
use capy_types::{BackupId, ClusterName, ErrorKind};

use super::Steps;
use crate::{Repository, Result};

/// Writes one small object, tries to write it again otherwise, and removes it: a repository relies
/// on the second being refused. `probe` tests more.
pub(super) async fn takes_objects(repository: &Repository, steps: &mut Steps) -> Result<()> {
    let step = "repository";
    let store = &*repository.meter;
    let name = format!("probe/{}", BackupId::generate(repository.clock().now(), repository.entropy()));
    let (first, second) = (Bytes::from_static(b"the first"), Bytes::from_static(b"another"));
    if let Err(error) = store.put_new(&name, first).await {
        if error.kind() == ErrorKind::Unavailable {
            return Err(error.into());
        }
        let message = format!("{} takes no new objects: {error}", repository.url());
        steps.problem(step, message, "give this user or key the right to create objects");
        return Ok(());
    }
    let again = store.put_new(&name, second).await;
    store.delete(&name).await?;
    match again {
        Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {
            steps.ok(step, format!("{} opens, and takes new objects", repository.url()));
        }
        Ok(()) => {
            let message = "the store replaces objects that exist: two writers could lose each other's work";
            steps.problem(step, message, "run `capy-store probe`");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Whether the server is the one whose WAL and backups are stored; it is when there are none.
pub(super) async fn is_of_system(
    repository: &Repository,
    cluster: &ClusterName,
    settings: &ArchivingSettings,
    steps: &mut Steps,
) -> Result<bool> {
    let step = "system";
    let own = settings.system_id;
    let archive = repository.repo.archive(cluster).await?;
    let root = repository.repo.root().await?;
    let mut bases: Vec<_> = root
        .backups
        .iter()
        .filter(|entry| entry.key.cluster == *cluster && entry.kind == BackupKind::Base)
        .collect();
    bases.sort_by_key(|entry| entry.finished_at);
    if let Some(archive) = &archive {
        if archive.system_id != own {
            let other = archive.system_id;
            let message = format!("the server is {own}; the archive {cluster} takes the WAL of {other}");
            steps.problem(step, message, "give each system a --cluster of its own");
            return Ok(false);
        }
        if archive.segment_size != settings.segment_size {
            let (here, there) = (settings.segment_size.bytes(), archive.segment_size.bytes());
            let message = format!("segments of {here} bytes; the archive {cluster} has such of {there}");
            steps.problem(step, message, "archive to a --cluster of its own");
            return Ok(false);
        }
    }
    let newest = bases.last().and_then(|entry| entry.system_id);
    match newest.filter(|newest| *newest != own) {
        Some(other) => {
            let message = format!("the server is {own}; the newest backup of {cluster} is of {other}");
            steps.problem(step, message, "take a base backup of this server, or name its own cluster");
        }
        None => {
            let known = match (archive.is_some(), bases.is_empty()) {
                (true, false) => "as in the archive and the newest backup",
                (true, true) => "as in the archive",
                (false, false) => "as in the newest backup; there is no archive yet",
                (false, true) => "of which nothing is stored yet",
            };
            steps.ok(step, format!("{own}, {known}"));
        }
    }
    Ok(archive.is_some() || newest.is_none_or(|newest| newest == own))
}
