//! From a chunk over its bases to a full frame.
//!
//! A delta's base was known to the session that stored it, in a pack that it could build on. So as
//! long as no pack is lost or damaged, following bases goes back in time and ends, whichever frame
//! of a base is found: had two sessions each stored a chunk against the other's, each would have
//! begun after the other's chunk was indexed, and before its own was. Where packs are lost, a chain
//! can break or, in theory, come back to itself; that is damage, and reported as such.

use std::ops::ControlFlow;

use capy_format::limits::DELTA_CHAIN_MAX;
use capy_types::ChunkId;

use super::{ChunkIndex, Location};
use crate::RepoError;

/// One frame on the way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    pub(crate) chunk: ChunkId,
    pub(crate) location: Location,
    /// The chunk it is a difference to; `None` at the end of a chain.
    pub(crate) base: Option<ChunkId>,
}

/// Why a chunk leads to no full frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokenChain {
    /// This chunk is in no index.
    Unknown(ChunkId),
    /// There are more bases than a reader follows, or they come back to themselves.
    Endless,
}

impl ChunkIndex {
    /// Visits the frames from `chunk` to the full one it rests on, as long as `visit` goes on;
    /// returns `false` when it was stopped.
    pub(crate) fn follow(
        &self,
        chunk: &ChunkId,
        mut visit: impl FnMut(Link) -> ControlFlow<()>,
    ) -> Result<Result<bool, BrokenChain>, RepoError> {
        let mut chunk = *chunk;
        for _ in 0..=DELTA_CHAIN_MAX {
            let Some(location) = self.get(&chunk)? else { return Ok(Err(BrokenChain::Unknown(chunk))) };
            let base = self.base(location)?;
            if visit(Link { chunk, location, base }).is_break() {
                return Ok(Ok(false));
            }
            match base {
                None => return Ok(Ok(true)),
                Some(base) => chunk = base,
            }
        }
        Ok(Err(BrokenChain::Endless))
    }
}
