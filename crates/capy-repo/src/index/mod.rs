//! Where every chunk is: an in-memory table over sorted runs, spilled to a local file beyond a
//! budget.
//!
//! Contained by: ingest (is this chunk known?) and reading (where is it?). Invariants: of several
//! frames of a chunk the best is found: one that new backups may build on before one that they may
//! not, a full one before a delta, of two deltas that of the smaller pack id, else the one inserted
//! last; memory stays within [`MEMORY_RUNS_MAX_BYTES`], the table of bases and the open table,
//! however many chunks there are.
//!
//! Keys are the first 16 bytes of the chunk id. The id is a keyed hash nobody outside can aim at,
//! so two of n chunks share 128 bits with probability n²/2¹²⁹ (10⁹ chunks: 10⁻²¹), and the full
//! id is checked again whenever a chunk is read.

mod bases;
mod chain;
mod load;
mod run;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use capy_format::{ChunkClass, FrameInfo, FrameKind};
use capy_types::{ChunkId, IndexId, PackId};

use bases::BaseTable;
pub(crate) use chain::{BrokenChain, Link};
pub(crate) use load::{INDEX_MAX_BYTES, list_indexes, list_packs, load_indexes};
use run::{DiskRun, MemoryRun, RunEntry};

use crate::RepoError;

/// Chunks held in the open table before it is frozen: what a hash table of 2^18 places holds before it
/// doubles, 10.5 MiB.
const TABLE_MAX: usize = (1 << 18) / 8 * 7;
/// Bytes of sorted runs in memory before they are merged into one on disk.
const MEMORY_RUNS_MAX_BYTES: usize = 48 << 20;
/// Runs on disk before they are merged into one: bounds the reads of one lookup.
const DISK_RUNS_MAX: usize = 6;

/// The part of a chunk id the index keeps.
pub(crate) type Key = [u8; 16];

/// The index's key of a chunk.
pub(crate) fn key_of(chunk: &ChunkId) -> Key {
    *chunk.as_bytes().first_chunk().expect("32 bytes hold 16")
}

/// Where one frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// Number of the pack in this index's table.
    pub(crate) pack: u32,
    /// Which frame of the pack; below 2^16 (`limits::PACK_FRAMES_MAX`).
    pub(crate) ordinal: u32,
    /// Offset of the sealed frame in the pack in bytes; below 2^26 (`limits::PACK_MAX_BYTES`).
    pub(crate) offset: u32,
    /// Its stored length in bytes; below 2^24 (`limits::CHUNK_MAX_BYTES` and a tag).
    pub(crate) stored_len: u32,
    /// Length of its chunk in bytes; below 2^24.
    pub(crate) plain_len: u32,
    /// Compression (two bits), kind and class, packed.
    flags: u8,
}

impl Location {
    pub(crate) fn new(pack: u32, ordinal: u32, frame: &FrameInfo) -> Self {
        let flags = frame.compression & 0b11 | (frame.kind as u8) << 2 | (frame.class as u8) << 3;
        let (offset, stored_len, plain_len) = (frame.offset, frame.stored_len, frame.plain_len);
        Self { pack, ordinal, offset, stored_len, plain_len, flags }
    }

    pub(crate) fn is_delta(self) -> bool {
        self.flags & 0b100 != 0
    }

    /// The frame as it was sealed. `plain_len` comes from whoever asks for the chunk, `base` from
    /// [`ChunkIndex::base`].
    pub(crate) fn frame(self, chunk: ChunkId, plain_len: u32, base: Option<ChunkId>) -> FrameInfo {
        FrameInfo {
            chunk,
            kind: if self.is_delta() { FrameKind::Delta } else { FrameKind::Full },
            class: if self.flags & 0b1000 == 0 { ChunkClass::Data } else { ChunkClass::Meta },
            compression: self.flags & 0b11,
            offset: self.offset,
            stored_len: self.stored_len,
            plain_len,
            base,
        }
    }
}

/// One pack the index knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownPack {
    pub(crate) id: PackId,
    /// The index object that lists it; `None` for a pack of this session not indexed yet.
    pub(crate) index: Option<IndexId>,
    /// Whether new backups may build on it.
    pub(crate) usable: bool,
}

/// Where every chunk is.
#[derive(Debug)]
pub(crate) struct ChunkIndex {
    packs: Vec<KnownPack>,
    /// Where the last frame of each pack ends.
    ends: Vec<u32>,
    numbers: HashMap<PackId, u32>,
    table: HashMap<Key, Location>,
    memory: Vec<MemoryRun>,
    disk: Vec<DiskRun>,
    bases: BaseTable,
    spill_dir: PathBuf,
}

/// An index that readers look into while an ingest adds to it.
#[derive(Debug, Clone)]
pub(crate) struct SharedIndex(Arc<RwLock<ChunkIndex>>);

impl SharedIndex {
    pub(crate) fn new(index: ChunkIndex) -> Self {
        Self(Arc::new(RwLock::new(index)))
    }

    /// For a few lookups; nothing is awaited meanwhile.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ChunkIndex> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, ChunkIndex> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkIndex {
    /// An empty index that spills into unnamed files in `spill_dir`.
    pub(crate) fn new(spill_dir: PathBuf) -> Self {
        Self {
            packs: Vec::new(),
            ends: Vec::new(),
            numbers: HashMap::new(),
            table: HashMap::new(),
            memory: Vec::new(),
            disk: Vec::new(),
            bases: BaseTable::default(),
            spill_dir,
        }
    }

    /// Adds a pack and its frames; a pack known already keeps its number.
    pub(crate) fn insert_pack(&mut self, pack: KnownPack, frames: &[FrameInfo]) -> Result<u32, RepoError> {
        let next = u32::try_from(self.packs.len()).expect("fewer than 2^32 packs");
        let number = *self.numbers.entry(pack.id).or_insert(next);
        if number == next {
            self.packs.push(pack);
            let ends = frames.iter().map(|frame| frame.offset.saturating_add(frame.stored_len));
            self.ends.push(ends.max().unwrap_or(0));
            self.bases.add_pack(number, frames, &self.spill_dir)?;
        } else if let Some(known) = self.packs.get_mut(number as usize) {
            *known = pack;
        }
        for (ordinal, frame) in (0..).zip(frames) {
            let location = Location::new(number, ordinal, frame);
            if (location.is_delta() || !pack.usable) && self.has_better(&frame.chunk, location)? {
                continue;
            }
            self.table.insert(key_of(&frame.chunk), location);
            if self.table.len() >= TABLE_MAX {
                self.freeze()?;
            }
        }
        Ok(number)
    }

    /// Whether the chunk is known at a place that one prefers to `other`. A good full frame is
    /// never worse than another: for those nobody asks.
    fn has_better(&self, chunk: &ChunkId, other: Location) -> Result<bool, RepoError> {
        let rank = |at: Location| {
            let pack = self.pack(at.pack);
            (pack.is_none_or(|pack| !pack.usable), at.is_delta(), pack.map(|pack| pack.id))
        };
        Ok(self.get(chunk)?.is_some_and(|known| rank(known) < rank(other)))
    }

    /// The chunk that the delta at `location` is against; `None` for a full frame.
    pub(crate) fn base(&self, location: Location) -> Result<Option<ChunkId>, RepoError> {
        if location.is_delta() { self.bases.get(location.pack, location.ordinal) } else { Ok(None) }
    }

    /// Where the chunk is.
    pub(crate) fn get(&self, chunk: &ChunkId) -> Result<Option<Location>, RepoError> {
        let key = key_of(chunk);
        if let Some(location) = self.table.get(&key) {
            return Ok(Some(*location));
        }
        if let Some(found) = self.memory.iter().rev().find_map(|run| run.get(&key)) {
            return Ok(Some(found));
        }
        for run in self.disk.iter().rev() {
            if let Some(found) = run.get(&key)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The pack with this number.
    pub(crate) fn pack(&self, number: u32) -> Option<&KnownPack> {
        self.packs.get(number as usize)
    }

    /// Where the last frame of a pack ends, in bytes.
    pub(crate) fn frames_end(&self, number: u32) -> u32 {
        self.ends.get(number as usize).copied().unwrap_or(0)
    }

    /// All packs, in the order of their numbers.
    pub(crate) fn packs(&self) -> &[KnownPack] {
        &self.packs
    }

    /// Notes that `packs` are listed in the index object `index`.
    pub(crate) fn set_index(&mut self, packs: &[PackId], index: IndexId) {
        for pack in packs {
            if let Some(known) =
                self.numbers.get(pack).copied().and_then(|number| self.packs.get_mut(number as usize))
            {
                known.index = Some(index);
            }
        }
    }

    /// Sorts the open table into a run; merges and spills runs beyond the budget.
    fn freeze(&mut self) -> Result<(), RepoError> {
        let entries = self.table.drain().map(|(key, location)| RunEntry::new(key, location));
        self.memory.push(MemoryRun::from_unsorted(entries.collect()));
        if self.memory.iter().map(MemoryRun::bytes).sum::<usize>() > MEMORY_RUNS_MAX_BYTES {
            let runs = self.memory.iter().map(MemoryRun::entries).collect();
            self.disk.push(DiskRun::merge(runs, &self.spill_dir)?);
            self.memory.clear();
        }
        if self.disk.len() > DISK_RUNS_MAX {
            let runs = self.disk.iter().map(DiskRun::entries).collect();
            self.disk = vec![DiskRun::merge(runs, &self.spill_dir)?];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
