//! Contents: a file's chunks as a tree of references.
//!
//! Invariants, checked at every level a reader sees: references cover at least one byte each and
//! add up to what their parent says, so a reader's work is bounded by the file's length; no list
//! is longer than [`FANOUT`]; no tree is deeper than 7.

use capy_types::ChunkId;
use capy_types::limits::CHUNK_MAX_BYTES;

use crate::FormatError;
use crate::bytes::{Reader, put_varint};
use crate::limits::{DEPTH_MAX, FANOUT, NODE_MAX_BYTES, NODE_MIN_BYTES, REF_MAX_BYTES};

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

impl ChunkRef {
    /// Whether it can stand in a list at `depth`: 0 for chunks of data, more for nodes.
    ///
    /// # Errors
    /// One fact about what cannot be.
    pub fn check(&self, depth: u8) -> Result<(), String> {
        let sound = if depth == 0 {
            (1..=CHUNK_MAX_BYTES).contains(&(self.size as usize)) && self.len == u64::from(self.size)
        } else {
            (NODE_MIN_BYTES..=NODE_MAX_BYTES).contains(&(self.size as usize)) && self.len > 0
        };
        if sound {
            return Ok(());
        }
        let Self { id, len, size } = self;
        Err(format!("reference {id} of {size} bytes for {len} at depth {depth} is impossible"))
    }
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
    /// At most [`FANOUT`] references, in order; none exactly when the content is empty.
    pub refs: Vec<ChunkRef>,
}

impl Content {
    /// Whether lengths and limits agree.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        if self.depth > DEPTH_MAX {
            return Err(format!("a content of depth {}", self.depth));
        }
        if self.refs.is_empty() && self.depth > 0 {
            return Err("an empty content with nodes".to_owned());
        }
        check_refs(&self.refs, self.length, self.depth)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.length);
        out.extend_from_slice(&self.crc32c.to_le_bytes());
        out.push(self.depth);
        put_refs(out, &self.refs);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let start = reader.offset();
        let length = reader.varint()?;
        let crc32c = reader.u32()?;
        let depth = reader.u8()?;
        let refs = read_refs(reader)?;
        let content = Self { length, crc32c, depth, refs };
        content.check().map_err(|problem| reader.fail_at(start, problem))?;
        Ok(content)
    }
}

/// Whether `refs` can be the list at `depth` that covers `length` bytes. A reader calls it for
/// every node it opens, with the length its parent gave and the parent's depth less one.
///
/// # Errors
/// One fact about what cannot be.
pub fn check_refs(refs: &[ChunkRef], length: u64, depth: u8) -> Result<(), String> {
    if refs.len() > FANOUT {
        return Err(format!("{} references in one list, {FANOUT} at most", refs.len()));
    }
    refs.iter().try_for_each(|child| child.check(depth))?;
    let sum = refs.iter().try_fold(0u64, |sum, child| sum.checked_add(child.len));
    if sum == Some(length) {
        return Ok(());
    }
    Err(format!("the references do not add up to {length} bytes"))
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
    let size_max = u32::try_from(CHUNK_MAX_BYTES).expect("8 MiB fit");
    let count = reader.bounded("reference count", FANOUT as u64)?;
    // Grows as references are read: at most 256 of 48 bytes.
    (0..count)
        .map(|_| {
            let id = ChunkId::from_bytes(reader.array()?);
            let size = reader.bounded_u32("chunk size", size_max)?;
            Ok(ChunkRef { id, size, len: reader.varint()? })
        })
        .collect()
}

/// The plaintext of a node.
#[must_use]
pub fn encode_node(refs: &[ChunkRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + refs.len() * REF_MAX_BYTES);
    put_refs(&mut out, refs);
    out
}

/// Reads a node. What its place in the tree demands of it, [`check_refs`] tells.
///
/// # Errors
/// Truncated, empty, or beyond the limits.
pub fn decode_node(object: &str, bytes: &[u8]) -> Result<Vec<ChunkRef>, FormatError> {
    let mut reader = Reader::new(object, bytes, 0);
    let refs = read_refs(&mut reader)?;
    reader.finish()?;
    if refs.is_empty() {
        return Err(FormatError::value(object, 0, "a node without references"));
    }
    Ok(refs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    fn refused(change: impl FnOnce(&mut Content)) -> String {
        let mut content = samples::deep_content();
        change(&mut content);
        content.check().unwrap_err()
    }

    #[test]
    fn a_tree_that_does_not_add_up_is_refused() {
        assert_eq!(samples::deep_content().check(), Ok(()));
        assert_eq!(Content::default().check(), Ok(()));
        assert!(refused(|content| content.length += 1).contains("do not add up"));
        assert!(refused(|content| content.refs[0].len = u64::MAX).contains("do not add up"));
        assert!(refused(|content| content.refs[0].len = 0).contains("is impossible"));
        assert!(refused(|content| content.refs[0].size = 34).contains("is impossible"));
        assert!(refused(|content| content.depth = 0).contains("is impossible"), "nodes taken for data");
        assert!(refused(|content| content.depth = 8).contains("a content of depth 8"));
        assert!(refused(|content| content.refs.clear()).contains("an empty content with nodes"));
        assert!(refused(|content| content.refs = vec![content.refs[0]; 257]).contains("257 references"));
    }

    #[test]
    fn the_largest_node_is_as_long_as_its_limit_says() {
        let size = u32::try_from(CHUNK_MAX_BYTES).unwrap();
        let widest = ChunkRef { id: samples::chunk_id(1), len: u64::MAX, size };
        let node = encode_node(&vec![widest; FANOUT]);
        assert_eq!(node.len(), NODE_MAX_BYTES);
        assert_eq!(decode_node("node", &node).unwrap().len(), FANOUT);
        let narrowest = ChunkRef { len: 1, size: 1, ..widest };
        assert_eq!(encode_node(&[narrowest]).len(), NODE_MIN_BYTES);
        assert!(decode_node("node", &[0]).is_err(), "a node without references");
        assert!(decode_node("node", &encode_node(&vec![widest; 257])).is_err());
    }
}
