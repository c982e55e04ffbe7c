//! Where every chunk is: an in-memory table over sorted runs, spilled to a local file beyond a
//! budget.
//!
//! Contained by: ingest (is this chunk known?) and reading (where is it?). Invariants: a chunk
//! inserted later hides an earlier one; memory stays within [`MEMORY_RUNS_MAX_BYTES`] plus the
//! open table however many chunks there are.
//!
//! Keys are the first 16 bytes of the chunk id. The id is a keyed hash nobody outside can aim at,
//! so two of n chunks share 128 bits with probability n²/2¹²⁹ (10⁹ chunks: 10⁻²¹), and the full
//! id is checked again whenever a chunk is read.

mod load;
mod run;

use std::collections::HashMap;
use std::path::PathBuf;

use capy_format::{ChunkClass, FrameInfo, FrameKind};
use capy_types::{ChunkId, IndexId, PackId};

pub(crate) use load::{INDEX_MAX_BYTES, list_packs, load_indexes};
use run::{DiskRun, MemoryRun, RunEntry};

use crate::RepoError;

/// Chunks held in the open table before it is frozen: about 12 MiB.
const TABLE_MAX: usize = 1 << 18;
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
    /// Which frame of the pack.
    pub(crate) ordinal: u32,
    /// Offset of the sealed frame in the pack in bytes.
    pub(crate) offset: u32,
    /// Its stored length in bytes.
    pub(crate) stored_len: u32,
    /// Compression, kind and class, packed.
    flags: u8,
}

impl Location {
    pub(crate) fn new(pack: u32, ordinal: u32, frame: &FrameInfo) -> Self {
        let flags = frame.compression & 0x0f | (frame.kind as u8) << 4 | (frame.class as u8) << 6;
        Self { pack, ordinal, offset: frame.offset, stored_len: frame.stored_len, flags }
    }

    /// The frame as it was sealed. `plain_len` comes from whoever asks for the chunk.
    pub(crate) fn frame(self, chunk: ChunkId, plain_len: u32) -> FrameInfo {
        FrameInfo {
            chunk,
            kind: if self.flags >> 4 & 0x03 == 0 { FrameKind::Full } else { FrameKind::Delta },
            class: if self.flags >> 6 == 0 { ChunkClass::Data } else { ChunkClass::Meta },
            compression: self.flags & 0x0f,
            offset: self.offset,
            stored_len: self.stored_len,
            plain_len,
            base: None,
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
    numbers: HashMap<PackId, u32>,
    table: HashMap<Key, Location>,
    memory: Vec<MemoryRun>,
    disk: Vec<DiskRun>,
    spill_dir: PathBuf,
}

impl ChunkIndex {
    /// An empty index that spills into unnamed files in `spill_dir`.
    pub(crate) fn new(spill_dir: PathBuf) -> Self {
        Self {
            packs: Vec::new(),
            numbers: HashMap::new(),
            table: HashMap::new(),
            memory: Vec::new(),
            disk: Vec::new(),
            spill_dir,
        }
    }

    /// Adds a pack and its frames; a pack known already keeps its number.
    pub(crate) fn insert_pack(&mut self, pack: KnownPack, frames: &[FrameInfo]) -> Result<u32, RepoError> {
        let next = u32::try_from(self.packs.len()).expect("fewer than 2^32 packs");
        let number = *self.numbers.entry(pack.id).or_insert(next);
        if number == next {
            self.packs.push(pack);
        } else if let Some(known) = self.packs.get_mut(number as usize) {
            *known = pack;
        }
        for (ordinal, frame) in (0..).zip(frames) {
            self.table.insert(key_of(&frame.chunk), Location::new(number, ordinal, frame));
            if self.table.len() >= TABLE_MAX {
                self.freeze()?;
            }
        }
        Ok(number)
    }

    /// Puts a location back that a later insertion hid.
    pub(crate) fn restore(&mut self, chunk: ChunkId, location: Location) {
        self.table.insert(key_of(&chunk), location);
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
            let merged = MemoryRun::merge(std::mem::take(&mut self.memory));
            self.disk.push(DiskRun::write(&merged, &self.spill_dir)?);
        }
        if self.disk.len() > DISK_RUNS_MAX {
            let merged = DiskRun::merge(&self.disk, &self.spill_dir)?;
            self.disk = vec![merged];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
