//! What a repository knows of cells, for a source that reads files itself.

use std::sync::Arc;

use capy_postgres::source::Recognizer;
use capy_types::ChunkId;

/// The repository's knowledge, as the source asks for it.
#[derive(Debug)]
struct Known(capy_repo::Recognizer);

impl Recognizer for Known {
    fn cell_bytes(&self) -> usize {
        self.0.cell_bytes()
    }

    fn name(&self, cell: &[u8]) -> ChunkId {
        self.0.name(cell)
    }

    fn is_known(&self, name: &ChunkId) -> bool {
        self.0.is_known(name)
    }
}

pub(super) fn for_source(recognizer: capy_repo::Recognizer) -> Arc<dyn Recognizer> {
    Arc::new(Known(recognizer))
}
