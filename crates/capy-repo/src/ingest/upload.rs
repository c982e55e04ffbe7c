//! Uploads: packs on their way to the store, and the index objects that make them findable.
//!
//! Invariants: what is on its way is bounded in bytes, so that it is few packs of full size or many
//! small ones; a pack is offered for deduplication and listed in an index only after the
//! store has confirmed it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use capy_format::{IndexObject, IndexedPack, ObjectKind, names, version_of};
use capy_objects::{ReadCache, Store};
use capy_types::limits::KIB;
use capy_types::{IndexId, Nonce};
use tokio::sync::Semaphore;

use super::worker::Shared;
use crate::pack::SealedPack;
use crate::read::BLOCK_BYTES;
use crate::{RepoError, Repository, sealed};

/// Frames that one index object lists, if more than one pack has to share it. A pack of deltas can have
/// as many frames as a hundred others; the objects, about 10 MiB, are read whole and decoded whole.
const INDEX_FRAMES_MAX: usize = 1 << 17;

/// Packs on their way.
pub(super) struct Uploads {
    store: Arc<dyn Store>,
    cache: Option<Arc<ReadCache>>,
    /// One for each KiB that may be on its way.
    room: Arc<Semaphore>,
    room_kib: u32,
    unindexed: Mutex<Vec<IndexedPack>>,
    stored_bytes: AtomicU64,
}

impl Uploads {
    /// At most `max_bytes` are on their way; a larger pack goes alone.
    pub(super) fn new(store: Arc<dyn Store>, cache: Option<Arc<ReadCache>>, max_bytes: usize) -> Self {
        // The semaphore's own limit is above 2^28 on every platform.
        let room_kib = (max_bytes / KIB).clamp(1, 1 << 28);
        Self {
            store,
            cache,
            room: Arc::new(Semaphore::new(room_kib)),
            room_kib: u32::try_from(room_kib).expect("at most 2^28"),
            unindexed: Mutex::new(Vec::new()),
            stored_bytes: AtomicU64::new(0),
        }
    }

    /// Waits for room, then stores the pack in the background.
    pub(super) async fn submit(&self, shared: &Arc<Shared>, pack: SealedPack) -> Result<(), RepoError> {
        let kib = u32::try_from(pack.bytes.len().div_ceil(KIB)).unwrap_or(u32::MAX);
        let permit = self
            .room
            .clone()
            .acquire_many_owned(kib.min(self.room_kib))
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
        let name = names::pack(&pack.id);
        self.store.put_new(&name, pack.bytes.clone()).await?;
        self.keep(&name, &pack).await;
        self.stored_bytes.fetch_add(u64::from(size), Ordering::Relaxed);
        shared.dedup().stored(pack.id, &pack.frames)?;
        self.unindexed.lock().unwrap_or_else(PoisonError::into_inner).push(IndexedPack {
            id: pack.id,
            size,
            frames: pack.frames,
        });
        Ok(())
    }

    /// Keeps a small pack: a day's manifest and differences, all of which the next backup asks for. Of
    /// large ones it may want little, and fetches that.
    async fn keep(&self, name: &str, pack: &SealedPack) {
        let end = pack.frames.iter().map(|frame| frame.offset.saturating_add(frame.stored_len)).max();
        let end = usize::try_from(end.unwrap_or(0)).unwrap_or(usize::MAX).min(pack.bytes.len());
        if let Some(cache) = self.cache.as_ref().filter(|_| end <= BLOCK_BYTES as usize) {
            cache.keep(name, pack.bytes.slice(..end)).await;
        }
    }

    /// Waits until every upload has ended.
    pub(super) async fn drain(&self, shared: &Shared) -> Result<(), RepoError> {
        let all = self.room.acquire_many(self.room_kib).await;
        drop(all);
        shared.check()
    }

    /// Whether `packs` of them are stored but not listed in an index object yet, or enough to fill one.
    pub(super) fn fill_an_index(&self, packs: usize) -> bool {
        let unindexed = self.unindexed.lock().unwrap_or_else(PoisonError::into_inner);
        unindexed.len() >= packs || frames_in(&unindexed) >= INDEX_FRAMES_MAX
    }

    /// Bytes of the objects stored so far.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    fn take_unindexed(&self) -> Vec<IndexedPack> {
        let mut unindexed = self.unindexed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = fitting(&unindexed);
        let rest = unindexed.split_off(count);
        std::mem::replace(&mut *unindexed, rest)
    }
}

fn frames_in(packs: &[IndexedPack]) -> usize {
    packs.iter().map(|pack| pack.frames.len()).sum()
}

/// How many of the packs go into one index object: one at least.
fn fitting(packs: &[IndexedPack]) -> usize {
    let mut frames = 0;
    let fits = |pack: &&IndexedPack| {
        frames += pack.frames.len();
        frames <= INDEX_FRAMES_MAX
    };
    packs.iter().take_while(fits).count().max(1).min(packs.len())
}

/// Lists stored packs in a new index object, as many as go into one; returns its id and their number.
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
    let object = sealed::seal_as(repo.keys(), repo.id(), ObjectKind::Index, &name, nonce, &body, version)?;
    let size = object.len() as u64;
    repo.store().put_new(&name, object.clone()).await?;
    if let Some(cache) = repo.cache() {
        cache.keep(&name, object).await;
    }
    shared.uploads.stored_bytes.fetch_add(size, Ordering::Relaxed);
    let ids: Vec<_> = index.packs.iter().map(|pack| pack.id).collect();
    shared.dedup().indexed(&ids, id);
    Ok(Some((id, ids.len())))
}

#[cfg(test)]
mod tests {
    use capy_format::{ChunkClass, FrameInfo, FrameKind};
    use capy_types::{ChunkId, PackId};

    use super::*;

    fn pack(frames: usize) -> IndexedPack {
        let frame = FrameInfo {
            chunk: ChunkId::from_bytes([1; 32]),
            kind: FrameKind::Full,
            class: ChunkClass::Data,
            compression: 1,
            offset: 64,
            stored_len: 1000,
            plain_len: 4096,
            base: None,
        };
        IndexedPack { id: PackId::from_bytes([2; 24]), size: 1, frames: vec![frame; frames] }
    }

    #[test]
    fn an_index_object_takes_packs_until_it_has_enough_frames_and_always_one() {
        let of = |frames: &[usize]| fitting(&frames.iter().map(|count| pack(*count)).collect::<Vec<_>>());
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[500; 100]), 100);
        assert_eq!(of(&[65_536; 3]), 2, "two full packs of tiny deltas");
        assert_eq!(of(&[65_536, 65_537, 1]), 1);
        assert_eq!(of(&[INDEX_FRAMES_MAX + 1, 1]), 1);
    }
}
