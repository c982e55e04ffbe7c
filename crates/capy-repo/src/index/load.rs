//! Filling the index from the store: the index objects the root names, and those that
//! interrupted or running sessions have left.
//!
//! Invariant: a chunk that a good pack holds is never hidden by a pack that new backups must not
//! build on, whatever the order in which they are met.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;

use bytes::Bytes;
use capy_format::{IndexObject, ObjectKind, Root, VerificationState, names};
use capy_objects::{Store, StoreError};
use capy_types::{IndexId, PackId};
use futures::{StreamExt, TryStreamExt};

use super::{ChunkIndex, KnownPack};
use crate::{RepoError, Repository, sealed};

/// Largest index object accepted in bytes.
pub(crate) const INDEX_MAX_BYTES: u64 = 256 << 20;
/// Index objects fetched at once.
const INDEX_FETCHES: usize = 4;

/// An index object that could not be used.
#[derive(Debug)]
pub(crate) struct IndexProblem {
    pub(crate) index: IndexId,
    /// Whether a committed backup relies on it.
    pub(crate) committed: bool,
    pub(crate) error: RepoError,
}

/// What was loaded.
#[derive(Debug, Default)]
pub(crate) struct LoadedIndexes {
    pub(crate) problems: Vec<IndexProblem>,
    /// Packs that an index lists but the store lacks, or holds with another size.
    pub(crate) lost_packs: Vec<(PackId, Option<u64>)>,
}

fn open_index(repo: &Repository, id: IndexId, object: &[u8]) -> Result<IndexObject, RepoError> {
    let name = names::index(&id);
    let (header, body) = sealed::open(repo.keys(), repo.id(), ObjectKind::Index, &name, object)?;
    if header.nonce.as_bytes() != id.as_bytes() {
        return Err(RepoError::Unauthentic { object: name });
    }
    Ok(IndexObject::decode(&name, &body)?)
}

/// Sizes of all index objects in the store.
pub(crate) async fn list_indexes(store: &dyn Store) -> Result<HashMap<IndexId, u64>, RepoError> {
    let mut indexes = HashMap::new();
    let mut listed = store.list(names::INDEX_PREFIX);
    while let Some(info) = listed.try_next().await? {
        indexes.extend(names::parse_index(&info.name).map(|id| (id, info.size)));
    }
    Ok(indexes)
}

/// Sizes of all packs in the store.
pub(crate) async fn list_packs(store: &dyn Store) -> Result<HashMap<PackId, u64>, RepoError> {
    let mut packs = HashMap::new();
    let mut listed = store.list(names::PACKS_PREFIX);
    while let Some(info) = listed.try_next().await? {
        if let Some(id) = names::parse_pack(&info.name) {
            packs.insert(id, info.size);
        }
    }
    Ok(packs)
}

/// The index objects the store lists, by length, as far as the local cache may answer for them.
///
/// It may not for one that is committed and not there, whose loss a cached copy would hide. Nor for any
/// once a verification has found something wrong: it may be an index object that is damaged in its
/// place, of which a cached copy would go on to be relied on.
fn cacheable(root: &Root, listed: &HashMap<IndexId, u64>) -> HashMap<IndexId, u64> {
    let doubted = root.backups.iter().any(|b| b.verification.state == VerificationState::Failed);
    let fits = |size: &u64| !doubted && *size <= INDEX_MAX_BYTES;
    listed.iter().filter(|(_, size)| fits(size)).map(|(id, size)| (*id, *size)).collect()
}

/// Reads an index object, through the cache when it is known to be `cached` bytes long.
async fn read_index(repo: &Repository, id: IndexId, cached: Option<u64>) -> Result<Bytes, StoreError> {
    let name = names::index(&id);
    match (repo.cache(), cached) {
        (Some(cache), Some(size)) => cache.get_range(&name, 0..size, size).await,
        _ => repo.store().get(&name, INDEX_MAX_BYTES).await,
    }
}

/// What came through the cache does not open: what the store itself says of it.
async fn read_again(repo: &Repository, id: IndexId, cached: u64) -> Result<IndexObject, RepoError> {
    if let Some(cache) = repo.cache() {
        cache.forget(&names::index(&id), 0..cached).await;
    }
    open_index(repo, id, &read_index(repo, id, None).await?)
}

/// Loads every index object of `listed`, and those that the root names, into `index`; where `cached`
/// allows it, through the local cache.
///
/// Packs the root condemns, packs that are gone and packs of a wrong size are not usable for new
/// backups; they stay readable as far as they go.
pub(crate) async fn load_indexes(
    repo: &Repository,
    root: &Root,
    listed: HashMap<IndexId, u64>,
    index: &mut ChunkIndex,
    cached: bool,
) -> Result<LoadedIndexes, RepoError> {
    let mut loaded = LoadedIndexes::default();
    let committed: HashSet<IndexId> = root.indexes.iter().copied().collect();
    let ids: HashSet<IndexId> = committed.iter().chain(listed.keys()).copied().collect();
    let sizes = if cached { cacheable(root, &listed) } else { HashMap::new() };
    let sizes = &sizes;
    let refused: HashSet<PackId> = root
        .condemned
        .iter()
        .chain(&root.damaged)
        .copied()
        .chain(root.tombstones.iter().map(|tombstone| tombstone.pack))
        .collect();
    let mut fetched = futures::stream::iter(ids)
        .map(|id| async move { (id, read_index(repo, id, sizes.get(&id).copied()).await) })
        .buffer_unordered(INDEX_FETCHES)
        .peekable();
    // The first are on their way while the packs are listed. These are listed after the index objects: a
    // pack is there before an index object says so.
    let (present, _) = futures::join!(list_packs(&**repo.store()), Pin::new(&mut fetched).peek());
    let present = present?;
    while let Some((id, object)) = fetched.next().await {
        // Decoded here, one at a time: they take several times the room then.
        let object = object.map_err(RepoError::from).and_then(|object| open_index(repo, id, &object));
        let object = match (object, sizes.get(&id)) {
            (Err(error), Some(size)) if !error.kind().is_transient() => read_again(repo, id, *size).await,
            (object, _) => object,
        };
        let object = match object {
            Ok(object) => object,
            Err(error) if error.kind().is_transient() => return Err(error),
            Err(error) => {
                loaded.problems.push(IndexProblem { index: id, committed: committed.contains(&id), error });
                continue;
            }
        };
        for pack in object.packs {
            let size = present.get(&pack.id).copied();
            let whole = size == Some(u64::from(pack.size));
            if !whole {
                loaded.lost_packs.push((pack.id, size));
            }
            let usable = whole && !refused.contains(&pack.id);
            index.insert_pack(KnownPack { id: pack.id, index: Some(id), usable }, &pack.frames)?;
        }
    }
    // They came in any order; reports of the same repository say the same.
    loaded.problems.sort_by_key(|problem| problem.index);
    Ok(loaded)
}
