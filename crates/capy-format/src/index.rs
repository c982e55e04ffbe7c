//! Index objects: which frames are in which packs.
//!
//! An index repeats the footers of packs, so that finding a chunk does not need a request per
//! pack. It can always be made again from the packs themselves.

use std::collections::HashSet;

use capy_types::PackId;

use crate::bytes::Reader;
use crate::limits::{FRAME_BYTES, INDEX_PACK_MIN_BYTES, INDEX_PACKS_MAX};
use crate::pack::{pack_len, put_frames, read_frames};
use crate::{FormatError, FrameInfo};

/// One pack in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// Length of the pack object in bytes; always what its frames add up to.
    pub size: u32,
    /// Its frames, in order: at least one.
    pub frames: Vec<FrameInfo>,
}

/// The content of an index object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexObject {
    /// The packs, each once.
    pub packs: Vec<IndexedPack>,
}

impl IndexObject {
    /// The plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.packs.len()).expect("an index lists at most 2^20 packs");
        let frames: usize = self.packs.iter().map(|pack| pack.frames.len()).sum();
        let mut out = Vec::with_capacity(4 + self.packs.len() * 32 + frames * FRAME_BYTES);
        out.extend_from_slice(&count.to_le_bytes());
        for pack in &self.packs {
            out.extend_from_slice(pack.id.as_bytes());
            out.extend_from_slice(&pack.size.to_le_bytes());
            put_frames(&mut out, &pack.frames);
        }
        out
    }

    /// Reads an index.
    ///
    /// # Errors
    /// Truncated, beyond the limits, a pack listed twice, frames that do not follow each other or
    /// do not add up to their pack.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, 0);
        let count = reader.count_u32("pack count", INDEX_PACKS_MAX, INDEX_PACK_MIN_BYTES)?;
        let mut packs = Vec::with_capacity(count);
        let mut seen = HashSet::with_capacity(count);
        for _ in 0..count {
            let start = reader.offset();
            let pack = read_pack(&mut reader)?;
            if !seen.insert(pack.id) {
                return Err(reader.fail_at(start, format!("pack {} is listed twice", pack.id)));
            }
            packs.push(pack);
        }
        reader.finish()?;
        Ok(Self { packs })
    }
}

fn read_pack(reader: &mut Reader<'_>) -> Result<IndexedPack, FormatError> {
    let start = reader.offset();
    let id = PackId::from_bytes(reader.array()?);
    let size = reader.u32()?;
    let frames = read_frames(reader)?;
    let expected = pack_len(&frames);
    if u64::from(size) != expected {
        return Err(reader.fail_at(start, format!("pack of {size} bytes whose frames make {expected}")));
    }
    Ok(IndexedPack { id, size, frames })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    fn refused(change: impl FnOnce(&mut IndexObject)) -> String {
        let mut index = samples::index();
        change(&mut index);
        IndexObject::decode("index/x", &index.encode()).unwrap_err().to_string()
    }

    #[test]
    fn a_pack_listed_twice_or_of_a_wrong_size_is_refused() {
        assert!(refused(|index| index.packs[1].id = index.packs[0].id).contains("is listed twice"));
        assert!(refused(|index| index.packs[0].size += 1).contains("whose frames make"));
        assert!(refused(|index| index.packs[1].frames.clear()).contains("a pack without frames"));
    }

    #[test]
    fn an_announced_count_does_not_allocate() {
        let mut bytes = 1_000_000u32.to_le_bytes().to_vec();
        bytes.resize(100, 0);
        let error = IndexObject::decode("index/x", &bytes).unwrap_err().to_string();
        assert!(error.contains("truncated: 80000000 bytes expected, 96 found"), "{error}");
    }
}
