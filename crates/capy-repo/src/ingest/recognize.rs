//! Cells of the grid that are stored already, known by whoever reads them.
//!
//! A reader of files names each cell while it lies in the processor's cache, asks whether that is
//! known, and hands on the name instead of the bytes. So of a file that has not changed nothing is
//! copied into batches, and no worker sees it.
//!
//! Invariant: what is known here is what a worker would have found known ([`super::dedup`]): chunks in
//! packs that new backups may build on, and this one then does.

use std::fmt;
use std::sync::Arc;

use capy_codec::ChunkNamer;
use capy_types::ChunkId;

use super::Ingest;
use super::worker::{ChunkResult, Shared};
use crate::RepoError;

/// Chunks taken over that may wait for the results of others: 3 MiB of names.
const KNOWN_WAITING_MAX: usize = 1 << 16;

/// Names cells, and knows those that are stored; for many threads.
#[derive(Clone)]
pub struct Recognizer {
    shared: Arc<Shared>,
    namer: ChunkNamer,
    cell_bytes: usize,
}

impl fmt::Debug for Recognizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recognizer").field("cell_bytes", &self.cell_bytes).finish_non_exhaustive()
    }
}

impl Recognizer {
    /// Bytes of a cell.
    #[must_use]
    pub const fn cell_bytes(&self) -> usize {
        self.cell_bytes
    }

    /// The name of a cell with this content.
    #[must_use]
    pub fn name(&self, cell: &[u8]) -> ChunkId {
        self.namer.name(cell)
    }

    /// Whether a chunk of this name is stored where new backups may build on it; then this one does.
    #[must_use]
    pub fn is_known(&self, name: &ChunkId) -> bool {
        let known = self.shared.dedup().is_known(name);
        known.unwrap_or_else(|error| {
            // Whoever feeds the ingest is told next; meanwhile nothing is left out.
            self.shared.fail(error);
            false
        })
    }
}

impl Ingest {
    /// For whoever reads files itself: knows cells of files on the grid. `None` when the repository
    /// cuts everything by content.
    #[must_use]
    pub fn recognizer(&self) -> Option<Recognizer> {
        let cell_bytes = self.grid(super::Strategy::Grid)?;
        Some(Recognizer { shared: self.shared.clone(), namer: self.namer.clone(), cell_bytes })
    }

    /// The next cells of the open file: bytes that were named already, each cell as long as its name
    /// says. `inspect`: the inspector shall see them.
    ///
    /// # Errors
    /// Invalid when the lengths are not those of the bytes; as [`write`](Self::write).
    ///
    /// # Cancellation
    /// As [`write`](Self::write).
    pub async fn write_named(
        &mut self,
        cells: &[(ChunkId, usize)],
        mut data: &[u8],
        inspect: bool,
    ) -> Result<(), RepoError> {
        for (name, length) in cells {
            let cell;
            (cell, data) = data.split_at_checked(*length).ok_or_else(other_lengths)?;
            if let Some(file) = &mut self.file {
                file.name_next(*name, *length);
            }
            self.append(cell, inspect, None).await?;
        }
        if data.is_empty() { Ok(()) } else { Err(other_lengths()) }
    }

    /// The next cells of the open file are chunks that a [`Recognizer`] of this ingest knows. Nobody
    /// inspects them. `crc32c` is that of all their bytes.
    ///
    /// # Errors
    /// Invalid without an open file, or where no cell of the grid begins; as [`write`](Self::write).
    ///
    /// # Cancellation
    /// As [`write`](Self::write).
    pub async fn write_known(&mut self, cells: &[(ChunkId, usize)], crc32c: u32) -> Result<(), RepoError> {
        let Some(file) = self.file.as_mut().filter(|_| self.patched.is_none()) else {
            return Err(RepoError::Invalid { what: "known cells came where none can be".to_owned() });
        };
        let mut chunks = Vec::with_capacity(cells.len());
        for (id, length) in cells {
            if !file.skip_cell(*length) {
                return Err(RepoError::Invalid { what: "known cells are not those of the grid".to_owned() });
            }
            let size = u32::try_from(*length).expect("a cell of the grid fits a batch");
            chunks.push(ChunkResult { id: *id, size, crc32c: 0 });
        }
        // Joining is linear: zeros and then that of all is the same as each its own.
        if let Some(last) = chunks.last_mut() {
            last.crc32c = crc32c;
        }
        self.take_over(chunks).await
    }

    /// Adds chunks to the open file that need not be stored.
    pub(super) async fn take_over(&mut self, chunks: Vec<ChunkResult>) -> Result<(), RepoError> {
        self.ctx.check()?;
        self.shared.check()?;
        let bytes = chunks.iter().map(|chunk| u64::from(chunk.size)).sum();
        self.shared.count_known(chunks.len() as u64, bytes);
        self.assembler.known(chunks, &self.shared)?;
        self.store_full_meta_packs().await?;
        if self.assembler.known_waiting() > KNOWN_WAITING_MAX {
            if let Some(batch) = self.batch.take() {
                self.send(batch).await?;
            }
            while self.received < self.sent && self.assembler.known_waiting() > KNOWN_WAITING_MAX / 2 {
                self.next_result().await?;
            }
        }
        Ok(())
    }
}

fn other_lengths() -> RepoError {
    RepoError::Invalid { what: "named cells are not as long as their bytes".to_owned() }
}
