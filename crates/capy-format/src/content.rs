//! Contents: a file's chunks as a tree of references.

use capy_types::ChunkId;
use capy_types::limits::CHUNK_MAX_BYTES;

use crate::FormatError;
use crate::bytes::{Reader, put_varint};

/// Most references in one node or at the top of a content.
pub const FANOUT: usize = 256;
/// Deepest tree: 256^8 chunks are more than 2^64 bytes.
const DEPTH_MAX: u8 = 7;

/// One chunk or node of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChunkRef {
    /// The chunk, or the chunk that holds the node.
    pub id: ChunkId,
    /// Bytes of the file it covers.
    pub len: u64,
    /// Length of the chunk itself in bytes; equal to `len` for data.
    pub size: u32,
}

/// The bytes of a file or stream: its length, its CRC-32C and where its chunks are named.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Content {
    /// Length in bytes.
    pub length: u64,
    /// CRC-32C (Castagnoli) of all bytes.
    pub crc32c: u32,
    /// 0: `refs` are chunks of data. d: they are nodes that hold references of depth d − 1.
    pub depth: u8,
    /// At most [`FANOUT`] references, in order.
    pub refs: Vec<ChunkRef>,
}

impl Content {
    /// Whether lengths and limits agree.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        if self.refs.len() > FANOUT || self.depth > DEPTH_MAX {
            return Err(format!("{} references at depth {}", self.refs.len(), self.depth));
        }
        let sum = self.refs.iter().try_fold(0u64, |sum, child| sum.checked_add(child.len));
        if sum != Some(self.length) {
            return Err(format!("the references do not add up to {} bytes", self.length));
        }
        let sound = |child: &ChunkRef| {
            child.size > 0
                && child.size as usize <= CHUNK_MAX_BYTES
                && (self.depth > 0 || child.len == u64::from(child.size))
        };
        if self.refs.iter().all(sound) { Ok(()) } else { Err("a reference of impossible size".to_owned()) }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.length);
        out.extend_from_slice(&self.crc32c.to_le_bytes());
        out.push(self.depth);
        put_refs(out, &self.refs);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let length = reader.varint()?;
        let crc32c = reader.u32()?;
        let depth = reader.u8()?;
        let refs = read_refs(reader)?;
        let content = Self { length, crc32c, depth, refs };
        content.check().map_err(|problem| reader.fail(problem))?;
        Ok(content)
    }
}

fn put_refs(out: &mut Vec<u8>, refs: &[ChunkRef]) {
    put_varint(out, refs.len() as u64);
    for child in refs {
        out.extend_from_slice(child.id.as_bytes());
        put_varint(out, u64::from(child.size));
        put_varint(out, child.len);
    }
}

fn read_refs(reader: &mut Reader<'_>) -> Result<Vec<ChunkRef>, FormatError> {
    let count = reader.bounded("references", FANOUT as u64)?;
    (0..count)
        .map(|_| {
            let id = ChunkId::from_bytes(reader.array()?);
            let size = reader.bounded_u32("chunk size", u32::try_from(CHUNK_MAX_BYTES).expect("8 MiB fit"))?;
            Ok(ChunkRef { id, len: reader.varint()?, size })
        })
        .collect()
}

/// The plaintext of a node.
#[must_use]
pub fn encode_node(refs: &[ChunkRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + refs.len() * 40);
    put_refs(&mut out, refs);
    out
}

/// Reads a node.
///
/// # Errors
/// Truncated, or beyond the limits.
pub fn decode_node(object: &str, bytes: &[u8]) -> Result<Vec<ChunkRef>, FormatError> {
    let mut reader = Reader::new(object, bytes, 0);
    let refs = read_refs(&mut reader)?;
    reader.finish()?;
    Ok(refs)
}
