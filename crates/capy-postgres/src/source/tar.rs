//! Tar files as a source: one file, standard input, or a directory of tars.
use crate::{PostgresError, SourceEvent, SourceFacts};

/// Tar files, a directory of them, or tar on standard input.
#[derive(Debug)]
pub struct TarSource {}

impl TarSource {
    pub(super) async fn next(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        Ok(None)
    }

    pub(super) fn total_bytes(&self) -> Option<u64> {
        None
    }

    pub(super) fn facts(&self) -> SourceFacts {
        SourceFacts::default()
    }
}
