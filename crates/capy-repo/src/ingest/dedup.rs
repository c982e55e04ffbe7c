//! Is this chunk stored already? The index of what is committed, what this session has stored,
//! and what is on its way.

use std::collections::HashSet;
use std::path::PathBuf;

use capy_format::FrameInfo;
use capy_types::{ChunkId, IndexId, PackId};

use crate::RepoError;
use crate::index::{ChunkIndex, Key, KnownPack, key_of};

/// Knows which chunks need not be stored.
#[derive(Debug)]
pub(super) struct Dedup {
    index: ChunkIndex,
    /// Claimed by a worker, in a pack that is not stored yet.
    pending: HashSet<Key>,
    /// Packs of earlier sessions that this backup builds on, by number.
    used: HashSet<u32>,
}

impl Dedup {
    pub(super) fn new(index: ChunkIndex) -> Self {
        Self { index, pending: HashSet::new(), used: HashSet::new() }
    }

    /// For each chunk, whether the caller is the one to store it. Chunks answered `true` are
    /// claimed: everybody else is told they are known.
    pub(super) fn claim<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a ChunkId>,
        new: &mut Vec<bool>,
    ) -> Result<(), RepoError> {
        new.clear();
        for chunk in chunks {
            let known = match self.index.get(chunk)? {
                Some(location) if self.index.pack(location.pack).is_some_and(|pack| pack.usable) => {
                    self.used.insert(location.pack);
                    true
                }
                _ => !self.pending.insert(key_of(chunk)),
            };
            new.push(!known);
        }
        Ok(())
    }

    /// The pack is durable: its chunks can be found.
    pub(super) fn stored(&mut self, pack: PackId, frames: &[FrameInfo]) -> Result<(), RepoError> {
        let number = self.index.insert_pack(KnownPack { id: pack, index: None, usable: true }, frames)?;
        self.used.insert(number);
        for frame in frames {
            self.pending.remove(&key_of(&frame.chunk));
        }
        Ok(())
    }

    /// The packs are listed in `index`.
    pub(super) fn indexed(&mut self, packs: &[PackId], index: IndexId) {
        self.index.set_index(packs, index);
    }

    /// The packs this backup builds on, its own included.
    pub(super) fn used_packs(&self) -> Vec<KnownPack> {
        self.used.iter().filter_map(|number| self.index.pack(*number)).copied().collect()
    }

    /// Hands the index over to a reader; nothing can be claimed afterwards.
    pub(super) fn take_index(&mut self) -> ChunkIndex {
        std::mem::replace(&mut self.index, ChunkIndex::new(PathBuf::new()))
    }
}
