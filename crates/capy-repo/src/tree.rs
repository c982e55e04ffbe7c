//! Content trees: the list of a file's chunks, however long, as a small value.
//!
//! Up to 256 references are kept as they are. Beyond that every 256 consecutive references become
//! a node, itself stored as a chunk, and the list of nodes takes their place, level by level.
//! Nodes start at multiples of 256 chunks, so a change inside a file rewrites only the nodes on
//! its path and the rest is deduplicated.

use capy_codec::join_crc32c;
use capy_format::{ChunkRef, Content, FANOUT, encode_node};
use capy_types::ChunkId;

use crate::RepoError;

/// Stores a node and names it.
pub(crate) trait NodeStore {
    /// Stores `node` as a meta chunk unless it is known, and returns its id.
    fn store_node(&mut self, node: &[u8]) -> Result<ChunkId, RepoError>;
}

/// Builds the content tree of one file from its chunks in order.
#[derive(Debug, Default)]
pub(crate) struct TreeBuilder {
    levels: Vec<Vec<ChunkRef>>,
    length: u64,
    crc32c: u32,
}

impl TreeBuilder {
    /// Appends a chunk of `size` plaintext bytes whose CRC-32C is `crc32c`.
    pub(crate) fn push(
        &mut self,
        id: ChunkId,
        size: u32,
        crc32c: u32,
        nodes: &mut impl NodeStore,
    ) -> Result<(), RepoError> {
        self.crc32c = join_crc32c(self.crc32c, crc32c, u64::from(size));
        self.length += u64::from(size);
        self.push_at(0, ChunkRef { id, len: u64::from(size), size }, nodes)
    }

    fn push_at(
        &mut self,
        level: usize,
        child: ChunkRef,
        nodes: &mut impl NodeStore,
    ) -> Result<(), RepoError> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        // A full level becomes a node only when one more reference arrives, so that a list of
        // exactly 256 stays flat.
        let full = self.levels.get(level).is_some_and(|refs| refs.len() == FANOUT);
        if full {
            self.close(level, nodes)?;
        }
        self.levels.get_mut(level).expect("pushed above").push(child);
        Ok(())
    }

    fn close(&mut self, level: usize, nodes: &mut impl NodeStore) -> Result<(), RepoError> {
        let refs = std::mem::take(self.levels.get_mut(level).expect("an existing level"));
        let node = encode_node(&refs);
        let parent = ChunkRef {
            id: nodes.store_node(&node)?,
            len: refs.iter().map(|child| child.len).sum(),
            size: u32::try_from(node.len()).expect("256 references are a few KiB"),
        };
        self.push_at(level + 1, parent, nodes)
    }

    /// The finished content.
    pub(crate) fn finish(mut self, nodes: &mut impl NodeStore) -> Result<Content, RepoError> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            self.close(level, nodes)?;
            level += 1;
        }
        Ok(Content {
            length: self.length,
            crc32c: self.crc32c,
            depth: u8::try_from(level).expect("256^8 chunks are more than 2^64 bytes"),
            refs: self.levels.pop().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use capy_format::decode_node;

    use super::*;

    #[derive(Default)]
    struct Nodes(HashMap<ChunkId, Vec<u8>>);

    impl NodeStore for Nodes {
        fn store_node(&mut self, node: &[u8]) -> Result<ChunkId, RepoError> {
            let id = ChunkId::from_bytes(*blake3::hash(node).as_bytes());
            self.0.insert(id, node.to_vec());
            Ok(id)
        }
    }

    fn chunk(n: u32) -> ChunkId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        ChunkId::from_bytes(bytes)
    }

    fn leaves(nodes: &Nodes, depth: u8, refs: &[ChunkRef]) -> Vec<ChunkId> {
        if depth == 0 {
            return refs.iter().map(|r| r.id).collect();
        }
        refs.iter()
            .flat_map(|r| {
                let children = decode_node("node", &nodes.0[&r.id]).unwrap();
                assert_eq!(children.iter().map(|c| c.len).sum::<u64>(), r.len);
                leaves(nodes, depth - 1, &children)
            })
            .collect()
    }

    #[test]
    fn every_length_around_the_fan_out_reads_back_in_order() {
        for count in [0, 1, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 70_000] {
            let (mut builder, mut nodes) = (TreeBuilder::default(), Nodes::default());
            for n in 0..count {
                builder.push(chunk(n), 10, crc32c::crc32c(&[7; 10]), &mut nodes).unwrap();
            }
            let content = builder.finish(&mut nodes).unwrap();
            assert!(content.refs.len() <= FANOUT, "{count}");
            assert_eq!(content.length, u64::from(count) * 10);
            let expected: Vec<_> = (0..count).map(chunk).collect();
            assert_eq!(leaves(&nodes, content.depth, &content.refs), expected, "{count}");
        }
    }

    #[test]
    fn the_crc_is_that_of_the_joined_bytes() {
        let (mut builder, mut nodes) = (TreeBuilder::default(), Nodes::default());
        builder.push(chunk(1), 3, crc32c::crc32c(b"abc"), &mut nodes).unwrap();
        builder.push(chunk(2), 4, crc32c::crc32c(b"defg"), &mut nodes).unwrap();
        assert_eq!(builder.finish(&mut nodes).unwrap().crc32c, crc32c::crc32c(b"abcdefg"));
    }
}
