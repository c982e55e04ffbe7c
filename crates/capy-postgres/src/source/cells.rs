//! Cells: pieces of a relation's file of one length, which whoever stores them knows by name.
//!
//! A source that reads files itself can name their cells while it has them at hand, and keep those
//! that are stored already to itself. It is told how, and knows nothing of where they are stored.

use std::fmt::Debug;

use capy_types::ChunkId;

/// Names cells, and knows those that are stored. Called by reading threads, many at once.
pub trait Recognizer: Debug + Send + Sync {
    /// Bytes of a cell: they lie at multiples of it from the start of their file, the last may be
    /// shorter.
    fn cell_bytes(&self) -> usize;

    /// The name of a cell with this content.
    fn name(&self, cell: &[u8]) -> ChunkId;

    /// Whether a cell of this name need not be handed on. Whoever asks hands its name on instead.
    fn is_known(&self, name: &ChunkId) -> bool;
}

/// Cells that follow each other in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    /// Name and length in bytes of each.
    pub cells: Vec<(ChunkId, usize)>,
    /// The CRC-32C of all their bytes.
    pub crc32c: u32,
}

impl Cells {
    /// Their bytes together.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.cells.iter().map(|(_, length)| *length as u64).sum()
    }
}
