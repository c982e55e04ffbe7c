//! Uploads: a bounded number of packs on their way to the store, and the index objects that make
//! them findable.
//!
//! Invariant: a pack is offered for deduplication and listed in an index only after the store has
//! confirmed it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use capy_format::{IndexObject, IndexedPack, ObjectKind, names, version_of};
use capy_objects::Store;
use capy_types::{IndexId, Nonce};
use tokio::sync::Semaphore;

use super::worker::Shared;
use crate::pack::SealedPack;
use crate::{RepoError, Repository, sealed};

/// Packs on their way.
pub(super) struct Uploads {
    store: Arc<dyn Store>,
    permits: Arc<Semaphore>,
    width: u32,
    unindexed: Mutex<Vec<IndexedPack>>,
    stored_bytes: AtomicU64,
}

impl Uploads {
    pub(super) fn new(store: Arc<dyn Store>, width: usize) -> Self {
        Self {
            store,
            permits: Arc::new(Semaphore::new(width)),
            width: u32::try_from(width).unwrap_or(u32::MAX),
            unindexed: Mutex::new(Vec::new()),
            stored_bytes: AtomicU64::new(0),
        }
    }

    /// Waits for a free place, then stores the pack in the background.
    pub(super) async fn submit(&self, shared: &Arc<Shared>, pack: SealedPack) -> Result<(), RepoError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| RepoError::Internal { what: "uploads are closed".to_owned() })?;
        shared.check()?;
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = shared.uploads.store(&shared, pack).await {
                shared.fail(error);
            }
            drop(permit);
        });
        Ok(())
    }

    async fn store(&self, shared: &Shared, pack: SealedPack) -> Result<(), RepoError> {
        let size = u32::try_from(pack.bytes.len()).expect("packs stay far below 4 GiB");
        self.store.put_new(&names::pack(&pack.id), pack.bytes).await?;
        self.stored_bytes.fetch_add(u64::from(size), Ordering::Relaxed);
        shared.dedup().stored(pack.id, &pack.frames)?;
        self.unindexed.lock().unwrap_or_else(PoisonError::into_inner).push(IndexedPack {
            id: pack.id,
            size,
            frames: pack.frames,
        });
        Ok(())
    }

    /// Waits until every upload has ended.
    pub(super) async fn drain(&self, shared: &Shared) -> Result<(), RepoError> {
        let all = self.permits.acquire_many(self.width).await;
        drop(all);
        shared.check()
    }

    /// Packs stored but not listed in an index object yet.
    pub(super) fn unindexed(&self) -> usize {
        self.unindexed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Bytes of the objects stored so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    fn take_unindexed(&self) -> Vec<IndexedPack> {
        std::mem::take(&mut *self.unindexed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Lists the stored packs in a new index object; returns its id and how many packs it lists.
pub(super) async fn write_index(
    repo: &Repository,
    shared: &Shared,
) -> Result<Option<(IndexId, usize)>, RepoError> {
    let packs = shared.uploads.take_unindexed();
    if packs.is_empty() {
        return Ok(None);
    }
    let id = IndexId::random(&*shared.entropy);
    let name = names::index(&id);
    let index = IndexObject { packs };
    let body = index.encode();
    // What is read back is what the next backup and every restore will rely on.
    if IndexObject::decode(&name, &body)? != index {
        return Err(RepoError::Internal { what: format!("{name}: the index read back differs") });
    }
    let nonce = Nonce::from_bytes(*id.as_bytes());
    let version = version_of(index.packs.iter().flat_map(|pack| &pack.frames));
    let form = sealed::Form::of_version(version);
    let object = sealed::seal_as(repo.keys(), repo.id(), ObjectKind::Index, &name, nonce, &body, form)?;
    let size = object.len() as u64;
    repo.store().put_new(&name, object).await?;
    shared.uploads.stored_bytes.fetch_add(size, Ordering::Relaxed);
    let ids: Vec<_> = index.packs.iter().map(|pack| pack.id).collect();
    shared.dedup().indexed(&ids, id);
    Ok(Some((id, ids.len())))
}
