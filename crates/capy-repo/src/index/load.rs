//! Filling the index from the store: the index objects the root names, and those that
//! interrupted or running sessions have left.
//!
//! Invariant: a chunk that a good pack holds is never hidden by a pack that new backups must not
//! build on, whatever the order in which they are met.

use std::collections::{HashMap, HashSet};

use capy_format::{IndexObject, ObjectKind, Root, names};
use capy_objects::Store;
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

/// Loads every index object the store has into `index`.
///
/// Packs the root condemns, packs that are gone and packs of a wrong size are not usable for new
/// backups; they stay readable as far as they go.
pub(crate) async fn load_indexes(
    repo: &Repository,
    root: &Root,
    index: &mut ChunkIndex,
) -> Result<LoadedIndexes, RepoError> {
    let mut loaded = LoadedIndexes::default();
    let committed: HashSet<IndexId> = root.indexes.iter().copied().collect();
    let mut ids = committed.clone();
    let mut listed = repo.store().list(names::INDEX_PREFIX);
    while let Some(info) = listed.try_next().await? {
        ids.extend(names::parse_index(&info.name));
    }
    let present = list_packs(&**repo.store()).await?;
    let refused: HashSet<PackId> = root
        .condemned
        .iter()
        .chain(&root.damaged)
        .copied()
        .chain(root.tombstones.iter().map(|tombstone| tombstone.pack))
        .collect();
    let mut fetched = futures::stream::iter(ids)
        .map(|id| async move { (id, repo.store().get(&names::index(&id), INDEX_MAX_BYTES).await) })
        .buffer_unordered(INDEX_FETCHES);
    while let Some((id, object)) = fetched.next().await {
        // Decoded here, one at a time: they take several times the room then.
        let object = object.map_err(RepoError::from).and_then(|object| open_index(repo, id, &object));
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
    Ok(loaded)
}
