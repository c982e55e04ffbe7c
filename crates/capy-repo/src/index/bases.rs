//! Which chunk each delta is against, 32 bytes a frame of the packs that hold deltas.
//!
//! Contained by: the index. Invariant: memory stays within [`MEMORY_MAX_BYTES`]; what is beyond
//! lies in an unnamed local file and is read one base at a time.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use capy_format::FrameInfo;
use capy_types::ChunkId;

use crate::RepoError;

const BASE_BYTES: usize = ChunkId::LEN;
/// Bases held in memory before they are written out: 262 144 of them.
const MEMORY_MAX_BYTES: usize = 8 << 20;

/// The bases of all deltas, addressed by pack and ordinal.
#[derive(Debug, Default)]
pub(super) struct BaseTable {
    /// Where the bases of a pack start, counted in bases; packs without deltas have none.
    starts: HashMap<u32, u64>,
    /// Bases written out already.
    spilled: u64,
    file: Option<File>,
    memory: Vec<u8>,
}

fn local(what: &'static str) -> impl Fn(std::io::Error) -> RepoError {
    move |source| RepoError::Local { what, source }
}

impl BaseTable {
    /// Notes the bases of a pack; full frames among deltas take the place of one.
    pub(super) fn add_pack(&mut self, pack: u32, frames: &[FrameInfo], dir: &Path) -> Result<(), RepoError> {
        if frames.iter().all(|frame| frame.base.is_none()) {
            return Ok(());
        }
        self.starts.insert(pack, self.spilled + (self.memory.len() / BASE_BYTES) as u64);
        for frame in frames {
            self.memory
                .extend_from_slice(frame.base.map_or([0; BASE_BYTES], |base| *base.as_bytes()).as_slice());
        }
        if self.memory.len() > MEMORY_MAX_BYTES { self.spill(dir) } else { Ok(()) }
    }

    fn spill(&mut self, dir: &Path) -> Result<(), RepoError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(dir).map_err(local("create the spilled bases"))?,
        };
        let at = self.spilled * BASE_BYTES as u64;
        file.write_all_at(&self.memory, at).map_err(local("write the spilled bases"))?;
        self.spilled += (self.memory.len() / BASE_BYTES) as u64;
        self.file = Some(file);
        self.memory.clear();
        Ok(())
    }

    /// The base of a delta.
    pub(super) fn get(&self, pack: u32, ordinal: u32) -> Result<Option<ChunkId>, RepoError> {
        let Some(start) = self.starts.get(&pack) else { return Ok(None) };
        let at = start + u64::from(ordinal);
        let mut base = [0; BASE_BYTES];
        if let Some(in_memory) = at.checked_sub(self.spilled) {
            let from = usize::try_from(in_memory).unwrap_or(usize::MAX).saturating_mul(BASE_BYTES);
            match self.memory.get(from..from.saturating_add(BASE_BYTES)) {
                Some(bytes) => base.copy_from_slice(bytes),
                None => return Ok(None),
            }
        } else if let Some(file) = &self.file {
            file.read_exact_at(&mut base, at * BASE_BYTES as u64).map_err(local("read the spilled bases"))?;
        }
        Ok(Some(ChunkId::from_bytes(base)))
    }
}
