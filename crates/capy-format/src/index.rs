//! Index objects: which frames are in which packs.

use capy_types::PackId;
use capy_types::limits::PACK_MAX_BYTES;

use crate::bytes::Reader;
use crate::pack::{put_frames, read_frames};
use crate::{FormatError, FrameInfo};

/// Shortest entry of a pack in bytes: id, size, frame count.
const PACK_ENTRY_MIN_BYTES: usize = 24 + 4 + 4;

/// One pack in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// Length of the pack object in bytes.
    pub size: u32,
    /// Its frames, in order.
    pub frames: Vec<FrameInfo>,
}

/// The content of an index object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexObject {
    /// The packs.
    pub packs: Vec<IndexedPack>,
}

impl IndexObject {
    /// The plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.packs.len()).expect("an index lists at most a few hundred packs");
        let mut out = count.to_le_bytes().to_vec();
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
    /// Truncated, beyond the limits, or frames that do not follow each other.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, 0);
        let count = reader.u32()? as usize;
        if count > reader.remaining() / PACK_ENTRY_MIN_BYTES {
            return Err(reader.fail(format!("{count} packs announced, {} bytes left", reader.remaining())));
        }
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            let id = PackId::from_bytes(reader.array()?);
            let size = reader.u32()?;
            if size as usize > PACK_MAX_BYTES {
                return Err(reader.fail(format!("pack of {size} bytes")));
            }
            packs.push(IndexedPack { id, size, frames: read_frames(&mut reader)? });
        }
        reader.finish()?;
        Ok(Self { packs })
    }
}
