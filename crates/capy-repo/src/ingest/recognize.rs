//! Cells of the grid that are stored already, known by whoever reads them.
//!
//! A reader of files names each cell while it lies in the processor's cache, asks whether that is
//! known, and hands on the name instead of the bytes. So of a file that has not changed nothing is
//! copied into batches, and no worker sees it. The feeder does the same for bytes that come by
//! themselves, as long as it keeps meeting what is known and there are few workers to leave it to.
//!
//! Invariant: what is known here is what a worker would have found known ([`super::dedup`]): chunks in
//! packs that new backups may build on, and this one then does.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use capy_codec::ChunkNamer;
use capy_types::ChunkId;

use super::Ingest;
use super::batch::FileCut;
use super::worker::{ChunkResult, Shared};
use crate::RepoError;

/// Chunks taken over that may wait for the results of others: 3 MiB of names.
const KNOWN_WAITING_MAX: usize = 1 << 16;

/// Workers up to which the feeder looks for known cells itself: it is one thread, and more of them hash
/// more together than it can. Fewer it saves the way through memory.
const FEW_JOBS: usize = 4;
/// Cells that go the way of all bytes after one that was not known.
const CELLS_PASSED: usize = 7;

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

/// What the feeder knows of the cell that is coming.
#[derive(Default)]
pub(super) struct Gathering {
    /// Its bytes so far, when they came in pieces.
    cell: Vec<u8>,
    /// The inspector shall see it.
    inspect: bool,
    /// Bytes that pass before another cell is looked at.
    passing: usize,
}

impl Ingest {
    /// For whoever reads files itself: knows cells of files on the grid. `None` when the repository
    /// cuts everything by content.
    #[must_use]
    pub fn recognizer(&self) -> Option<Recognizer> {
        let cell_bytes = self.grid(super::Strategy::Grid)?;
        Some(Recognizer { shared: self.shared.clone(), namer: self.namer, cell_bytes })
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
            match &mut self.file {
                Some(file) if self.gathering.cell.is_empty() => {
                    file.name_next(*name, *length);
                    self.append(cell, inspect, None).await?;
                }
                _ => self.append_cells(cell, inspect).await?,
            }
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
        let between = self.patched.is_none() && self.gathering.cell.is_empty();
        let Some(file) = self.file.as_mut().filter(|_| between) else {
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

    /// Bytes of a file on the grid: known cells are done with here, the others go to the workers.
    pub(super) async fn append_cells(&mut self, mut data: &[u8], inspect: bool) -> Result<(), RepoError> {
        while !data.is_empty() {
            let begins = self.file.as_ref().and_then(FileCut::cell_begins);
            let Some(cell_bytes) = begins.filter(|_| self.options.jobs <= FEW_JOBS) else {
                let (open, rest) = data.split_at(self.rest_of_cell(data.len()));
                self.append(open, inspect, None).await?;
                data = rest;
                continue;
            };
            let gathered = self.gathering.cell.len();
            if gathered == 0 && self.gathering.passing > 0 {
                let (passing, rest) = data.split_at(self.gathering.passing.min(data.len()));
                self.gathering.passing -= passing.len();
                self.append(passing, inspect, None).await?;
                data = rest;
                continue;
            }
            let (piece, rest) = data.split_at((cell_bytes - gathered).min(data.len()));
            data = rest;
            if piece.len() == cell_bytes {
                self.whole_cell(piece, inspect).await?;
                continue;
            }
            self.gathering.cell.extend_from_slice(piece);
            self.gathering.inspect |= inspect;
            if self.gathering.cell.len() == cell_bytes {
                self.gathered_cell().await?;
            }
        }
        Ok(())
    }

    /// How many of `bytes` bytes belong to the cell that is open in the batch; all, where there are none.
    fn rest_of_cell(&self, bytes: usize) -> usize {
        match self.file.as_ref().filter(|_| self.options.jobs <= FEW_JOBS) {
            Some(file) => file.room_in_cell().unwrap_or(bytes).min(bytes),
            None => bytes,
        }
    }

    /// The cell that came in pieces is whole, or its file ends.
    pub(super) async fn gathered_cell(&mut self) -> Result<(), RepoError> {
        let mut cell = std::mem::take(&mut self.gathering.cell);
        let inspect = std::mem::take(&mut self.gathering.inspect);
        if !cell.is_empty() {
            self.whole_cell(&cell, inspect).await?;
            cell.clear();
        }
        self.gathering.cell = cell;
        Ok(())
    }

    async fn whole_cell(&mut self, cell: &[u8], inspect: bool) -> Result<(), RepoError> {
        let Some(file) = &mut self.file else { return self.append(cell, inspect, None).await };
        let started = Instant::now();
        let name = self.namer.name(cell);
        self.cutting += started.elapsed();
        if !self.shared.dedup().is_known(&name)? {
            self.gathering.passing = CELLS_PASSED * cell.len();
            file.name_next(name, cell.len());
            return self.append(cell, inspect, None).await;
        }
        if inspect && let Some((tag, offset)) = file.tag_here() {
            self.shared.inspect(tag, offset, cell);
        }
        if !file.skip_cell(cell.len()) {
            return Err(RepoError::Internal { what: "a cell was gathered beside the grid".to_owned() });
        }
        let size = u32::try_from(cell.len()).expect("a cell of the grid fits a batch");
        self.take_over(vec![ChunkResult { id: name, size, crc32c: crc32c::crc32c(cell) }]).await
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
