//! Walking a content tree: its chunks in order, its nodes fetched a few dozen at a time.

use std::collections::VecDeque;

use capy_format::limits::DEPTH_MAX;
use capy_format::{ChunkRef, Content, check_refs, decode_node};
use capy_types::Ctx;

use super::{Defect, DefectKind, ReadFault, Reader};
use crate::RepoError;

/// Nodes fetched at once: 64 nodes name 16 384 chunks, 2 GiB of a relation.
const NODES_AT_ONCE: usize = 64;

/// The chunks of one content, in order.
#[derive(Debug)]
pub(crate) struct RefCursor {
    reader: Reader,
    /// References still to be visited, by level above the chunks.
    levels: Vec<VecDeque<ChunkRef>>,
}

impl RefCursor {
    pub(crate) fn new(reader: Reader, content: &Content) -> Self {
        let mut levels = vec![VecDeque::new(); usize::from(content.depth.min(DEPTH_MAX)) + 1];
        if let Some(top) = levels.last_mut() {
            top.extend(content.refs.iter().copied());
        }
        Self { reader, levels }
    }

    /// The next chunks: some, or none at the end.
    pub(crate) async fn next(&mut self, ctx: &Ctx) -> Result<Vec<ChunkRef>, ReadFault> {
        loop {
            let Some(level) = self.levels.iter().position(|level| !level.is_empty()) else {
                return Ok(Vec::new());
            };
            let take = if level == 0 { usize::MAX } else { NODES_AT_ONCE };
            let queue = self.levels.get_mut(level).expect("found just above");
            let refs: Vec<_> = queue.drain(..take.min(queue.len())).collect();
            if level == 0 {
                return Ok(refs);
            }
            let children = self.nodes(ctx, &refs, level - 1).await?;
            self.levels.get_mut(level - 1).expect("below a level above 0").extend(children);
        }
    }

    /// All the chunks that are left, each with where it starts, counted from the first of them.
    pub(crate) async fn placed(mut self, ctx: &Ctx) -> Result<Vec<(u64, ChunkRef)>, ReadFault> {
        let (mut placed, mut start) = (Vec::new(), 0);
        loop {
            let refs = self.next(ctx).await?;
            if refs.is_empty() {
                return Ok(placed);
            }
            for chunk in refs {
                placed.push((start, chunk));
                start += chunk.len;
            }
        }
    }

    /// The references in `nodes`, which are lists at `depth`.
    async fn nodes(&self, ctx: &Ctx, nodes: &[ChunkRef], depth: usize) -> Result<Vec<ChunkRef>, ReadFault> {
        let payloads = self.reader.fetch_all(ctx, nodes.iter()).await?;
        let mut children = Vec::new();
        for (node, payload) in nodes.iter().zip(payloads) {
            let object = format!("node {}", node.id);
            let below = decode_node(&object, &payload).map_err(RepoError::from)?;
            let depth = u8::try_from(depth).expect("levels are at most DEPTH_MAX");
            if let Err(problem) = check_refs(&below, node.len, depth) {
                return Err(ReadFault::Defect(Defect::of_object(object, DefectKind::Corrupt, problem)));
            }
            children.extend(below);
        }
        Ok(children)
    }
}
