//! Any bytes as a source: one archive of kind [`crate::ArchiveKind::Stream`].
use crate::{PostgresError, SourceEvent};

/// A stream of bytes that is no base backup.
#[derive(Debug)]
pub struct StreamSource {}

impl StreamSource {
    pub(super) async fn next(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        Ok(None)
    }

    pub(super) fn total_bytes(&self) -> Option<u64> {
        None
    }
}
