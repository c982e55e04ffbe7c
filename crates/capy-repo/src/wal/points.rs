//! Restore points: small objects of their own, made and deleted one by one.

use capy_format::{ObjectKind, RestorePoint, names};
use capy_objects::StoreErrorKind;
use capy_types::{ClusterName, Nonce};
use futures::{StreamExt, TryStreamExt};

use crate::{RepoError, Repository, sealed};

/// Longest restore point read in bytes.
const POINT_MAX_BYTES: u64 = 64 * 1024;
/// Restore points read at once.
const READS_AT_ONCE: usize = 16;

impl Repository {
    /// Stores a new restore point.
    ///
    /// # Errors
    /// Conflict when its id is taken; Invalid when it points at nothing; store errors.
    ///
    /// # Cancellation
    /// Safe to drop; it is either made or not.
    pub async fn put_restore_point(&self, point: &RestorePoint) -> Result<(), RepoError> {
        point.check().map_err(|problem| RepoError::Invalid { what: format!("restore point: {problem}") })?;
        let name = names::restore_point(&point.cluster, &point.id);
        let json = serde_json::to_vec(point).expect("a restore point is plain data");
        let nonce = Nonce::random(&*self.env().entropy);
        let object = sealed::seal(self.keys(), self.id(), ObjectKind::RestorePoint, &name, nonce, &json)?;
        Ok(self.store().put_new(&name, object).await?)
    }

    /// The restore points of a cluster, oldest first.
    ///
    /// # Errors
    /// Corrupt when one cannot be read; store errors.
    pub async fn restore_points(&self, cluster: &ClusterName) -> Result<Vec<RestorePoint>, RepoError> {
        let prefix = names::restore_points(cluster);
        let listed: Vec<_> = self.store().list(&prefix).try_collect().await?;
        let reads = listed.into_iter().map(|info| async move { self.restore_point(&info.name).await });
        let found: Vec<_> =
            futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE).try_collect().await?;
        let mut points: Vec<_> = found.into_iter().flatten().collect();
        points.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(points)
    }

    /// `None` when it was deleted since it was listed.
    async fn restore_point(&self, name: &str) -> Result<Option<RestorePoint>, RepoError> {
        let object = match self.store().get(name, POINT_MAX_BYTES).await {
            Ok(object) => object,
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (_, json) = sealed::open(self.keys(), self.id(), ObjectKind::RestorePoint, name, &object)?;
        Ok(Some(RestorePoint::from_json(name, &json)?))
    }

    /// Deletes a restore point. The backup or WAL it points at stays.
    ///
    /// # Errors
    /// `NoSuchRestorePoint`; store errors.
    pub async fn delete_restore_point(&self, cluster: &ClusterName, id: &str) -> Result<(), RepoError> {
        let missing = || RepoError::NoSuchRestorePoint { what: format!("{cluster}/{id}") };
        // Only an id that was listed becomes a part of an object name.
        let known = self.restore_points(cluster).await?.into_iter().any(|point| point.id == id);
        if !known {
            return Err(missing());
        }
        Ok(self.store().delete(&names::restore_point(cluster, id)).await?)
    }
}
