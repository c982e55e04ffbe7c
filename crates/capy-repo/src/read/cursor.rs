//! Walking a content tree: its chunks in order, its nodes fetched a few dozen at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use capy_format::limits::DEPTH_MAX;
use capy_format::{ChunkRef, Content, check_refs, decode_node};
use capy_types::Ctx;

use super::{Defect, DefectKind, Reader, Want};
use crate::RepoError;

/// Nodes fetched at once: 64 nodes name 16 384 chunks, 2 GiB of a relation.
const NODES_AT_ONCE: usize = 64;

/// Why the chunks of a content cannot be listed.
#[derive(Debug)]
pub(crate) enum CursorFault {
    /// A node is damaged or lost.
    Defect(Defect),
    /// The store or the caller.
    Error(RepoError),
}

impl From<RepoError> for CursorFault {
    fn from(error: RepoError) -> Self {
        Self::Error(error)
    }
}

impl From<CursorFault> for RepoError {
    fn from(fault: CursorFault) -> Self {
        match fault {
            CursorFault::Defect(defect) => defect.into(),
            CursorFault::Error(error) => error,
        }
    }
}

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
    pub(crate) async fn next(&mut self, ctx: &Ctx) -> Result<Vec<ChunkRef>, CursorFault> {
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

    /// The references in `nodes`, which are lists at `depth`.
    async fn nodes(&self, ctx: &Ctx, nodes: &[ChunkRef], depth: usize) -> Result<Vec<ChunkRef>, CursorFault> {
        let payloads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::new(Mutex::new(vec![Vec::new(); nodes.len()]));
        let wants: Vec<_> =
            (0..).zip(nodes).map(|(token, node)| Want { chunk: node.id, size: node.size, token }).collect();
        let filled = payloads.clone();
        let accept = Arc::new(move |token: u64, plain: &[u8]| {
            let mut payloads = filled.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(payload) = usize::try_from(token).ok().and_then(|at| payloads.get_mut(at)) {
                *payload = plain.to_vec();
            }
            Ok(())
        });
        let defects = self.reader.fetch(ctx, &wants, accept).await?;
        if let Some((_, defect)) = defects.into_iter().next() {
            return Err(CursorFault::Defect(defect));
        }
        let payloads = std::mem::take(&mut *payloads.lock().unwrap_or_else(PoisonError::into_inner));
        let mut children = Vec::new();
        for (node, payload) in nodes.iter().zip(payloads) {
            let object = format!("node {}", node.id);
            let below = decode_node(&object, &payload).map_err(RepoError::from)?;
            let depth = u8::try_from(depth).expect("levels are at most DEPTH_MAX");
            if let Err(problem) = check_refs(&below, node.len, depth) {
                return Err(CursorFault::Defect(Defect::of_object(object, DefectKind::Corrupt, problem)));
            }
            children.extend(below);
        }
        Ok(children)
    }
}
