//! Any bytes as a source: one archive of kind [`ArchiveKind::Stream`].

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::buffer::BufferPool;
use super::reader::{Input, Reader};
use super::{ArchiveKind, ArchiveStart, STDIN, SourceEvent};
use crate::PostgresError;

/// A stream of bytes that is no base backup: a dump, an import file.
#[derive(Debug)]
pub struct StreamSource {
    /// `Some` until the archive was announced.
    start: Option<ArchiveStart>,
    /// `None` after the end and after an error.
    reader: Option<Reader>,
    what: String,
    total_bytes: Option<u64>,
    /// A pipe that gives nothing was most likely left by a producer that failed.
    refuse_empty: bool,
}

impl StreamSource {
    /// Reads a file.
    /// # Errors
    /// [`PostgresError::Read`] when it cannot be opened.
    pub fn open(path: &Path, name: impl Into<String>) -> Result<Self, PostgresError> {
        let what = path.display().to_string();
        let file = File::open(path).map_err(|e| PostgresError::read(&what, e))?;
        let refuse_empty = file.metadata().is_ok_and(|m| !m.is_file());
        Self::start(Input::File(file), what, name.into(), refuse_empty)
    }

    /// Reads standard input; nothing else may read it meanwhile. Empty input is an error.
    /// # Errors
    /// [`PostgresError::Read`] when it is closed.
    pub fn from_stdin(name: impl Into<String>) -> Result<Self, PostgresError> {
        let input = Input::stdin().map_err(|e| PostgresError::read(STDIN, e))?;
        Self::start(input, STDIN.to_owned(), name.into(), true)
    }

    /// Reads anything that reads, in a thread of its own. A read that blocks for ever keeps that
    /// thread alive after the source was dropped.
    /// # Errors
    /// [`PostgresError::Read`] when the thread cannot be started.
    pub fn from_reader(
        reader: impl Read + Send + 'static,
        name: impl Into<String>,
    ) -> Result<Self, PostgresError> {
        let name = name.into();
        Self::start(Input::Reader(Box::new(reader)), name.clone(), name, false)
    }

    fn start(input: Input, what: String, name: String, refuse_empty: bool) -> Result<Self, PostgresError> {
        let total_bytes = input.size_bytes();
        let failed = |e: io::Error| PostgresError::read(&what, e);
        let reader = Reader::start(input, BufferPool::default()).map_err(failed)?;
        let start = Some(ArchiveStart { kind: ArchiveKind::Stream { name } });
        Ok(Self { start, reader: Some(reader), what, total_bytes, refuse_empty })
    }

    pub(super) async fn next(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        if let Some(start) = self.start.take() {
            return Ok(Some(SourceEvent::Archive(start)));
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        match reader.next().await {
            Ok(Some(bytes)) => {
                self.refuse_empty = false;
                Ok(Some(SourceEvent::Data(bytes)))
            }
            Ok(None) => {
                self.reader = None;
                if self.refuse_empty {
                    return Err(PostgresError::Empty {
                        what: self.what.clone(),
                        producer: "the command that writes it",
                    });
                }
                Ok(Some(SourceEvent::EndArchive))
            }
            Err(error) => {
                self.reader = None;
                Err(PostgresError::read(&self.what, error))
            }
        }
    }

    pub(super) const fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }
}
