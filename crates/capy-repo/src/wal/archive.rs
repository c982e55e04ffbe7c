//! Whose WAL an archive takes, decided by its first segment.

use capy_format::{ArchiveIdentity, ObjectKind, names};
use capy_objects::StoreErrorKind;
use capy_types::{ClusterName, Nonce, SegmentSize, SystemId};
use futures::TryStreamExt;

use crate::{RepoError, Repository, sealed};

/// Longest identity read in bytes: a few hundred in practice.
const IDENTITY_MAX_BYTES: u64 = 64 * 1024;

impl Repository {
    /// Whose WAL the archive of `cluster` takes; `None` before its first segment.
    ///
    /// # Errors
    /// Corrupt when it cannot be read; store errors.
    pub async fn archive(&self, cluster: &ClusterName) -> Result<Option<ArchiveIdentity>, RepoError> {
        let name = names::archive(cluster);
        let object = match self.store().get(&name, IDENTITY_MAX_BYTES).await {
            Ok(object) => object,
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (_, json) = sealed::open(self.keys(), self.id(), ObjectKind::Archive, &name, &object)?;
        let identity = ArchiveIdentity::from_json(&name, &json)?;
        if identity.cluster != *cluster {
            return Err(RepoError::Unauthentic { object: name });
        }
        Ok(Some(identity))
    }

    /// The archive of `cluster`, made for this system if there is none yet.
    ///
    /// # Errors
    /// `WrongArchive` (Conflict) when it takes the WAL of another system or segment size; what
    /// [`archive`](Self::archive) answers.
    ///
    /// # Cancellation
    /// Safe to drop; the archive is either made or not.
    pub async fn claim_archive(
        &self,
        cluster: &ClusterName,
        system_id: SystemId,
        segment_size: SegmentSize,
    ) -> Result<ArchiveIdentity, RepoError> {
        if let Some(identity) = self.archive(cluster).await? {
            return check(identity, system_id, segment_size);
        }
        let created_at = self.env().clock.now();
        let identity = ArchiveIdentity { cluster: cluster.clone(), system_id, segment_size, created_at };
        let name = names::archive(cluster);
        let json = serde_json::to_vec(&identity).expect("an identity is plain data");
        let nonce = Nonce::random(&*self.env().entropy);
        let object = sealed::seal(self.keys(), self.id(), ObjectKind::Archive, &name, nonce, &json)?;
        match self.store().put_new(&name, object).await {
            Ok(()) => Ok(identity),
            // Another process was first: its word counts.
            Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {
                let first = self.archive(cluster).await?;
                check(first.ok_or(error)?, system_id, segment_size)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The clusters that have an archive.
    ///
    /// # Errors
    /// Store errors.
    pub async fn archives(&self) -> Result<Vec<ClusterName>, RepoError> {
        let listed: Vec<_> = self.store().list(names::ARCHIVES_PREFIX).try_collect().await?;
        let name = |info: &capy_objects::ObjectInfo| {
            info.name.strip_prefix(names::ARCHIVES_PREFIX).and_then(|name| name.parse().ok())
        };
        let mut clusters: Vec<ClusterName> = listed.iter().filter_map(name).collect();
        clusters.sort();
        Ok(clusters)
    }
}

fn check(
    identity: ArchiveIdentity,
    system_id: SystemId,
    segment_size: SegmentSize,
) -> Result<ArchiveIdentity, RepoError> {
    let differs = |what: &'static str, expected: String, found: String| {
        Err(RepoError::WrongArchive { cluster: identity.cluster.clone(), what, expected, found })
    };
    if identity.system_id != system_id {
        return differs("system identifier", identity.system_id.to_string(), system_id.to_string());
    }
    if identity.segment_size != segment_size {
        let bytes = |size: SegmentSize| format!("{} bytes", size.bytes());
        return differs("WAL segment size", bytes(identity.segment_size), bytes(segment_size));
    }
    Ok(identity)
}
