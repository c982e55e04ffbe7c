//! Entries in order, the contents of the next files already on their way.
//!
//! Contained by: the restore as a stream, which must write files in their order. Reading each file
//! only when its turn comes would cost one round trip to the store for every small file.
//! Invariant: at most [`FILES_AHEAD`] files and about [`BYTES_AHEAD`] bytes are read ahead.

use std::collections::VecDeque;

use capy_format::Entry;
use capy_repo::{ContentReader, ManifestReader, Reader};

use crate::Result;

/// Files read ahead: as many requests in flight.
const FILES_AHEAD: usize = 32;
/// Bytes read ahead, counting no file above what its own reader buffers.
const BYTES_AHEAD: u64 = 32 << 20;
/// What a content's reader buffers of a large file: three windows of 4 MiB.
const BUFFERED_MAX_BYTES: u64 = 12 << 20;

/// An entry, with its content when it is a file.
pub(super) type Opened = (Entry, Option<ContentReader>);

/// Reads a manifest and the contents it names.
pub(super) struct Ahead {
    reader: Reader,
    manifest: ManifestReader,
    waiting: VecDeque<Opened>,
    files: usize,
    bytes: u64,
    ended: bool,
}

impl Ahead {
    pub(super) const fn new(reader: Reader, manifest: ManifestReader) -> Self {
        Self { reader, manifest, waiting: VecDeque::new(), files: 0, bytes: 0, ended: false }
    }

    /// The next entry.
    pub(super) async fn next(&mut self) -> Result<Option<Opened>> {
        while !self.ended && self.files < FILES_AHEAD && self.bytes < BYTES_AHEAD {
            match self.manifest.next().await? {
                Some(entry) => self.open(entry),
                None => self.ended = true,
            }
        }
        let next = self.waiting.pop_front();
        if let Some((entry, Some(_))) = &next {
            self.files -= 1;
            self.bytes -= buffered(entry);
        }
        Ok(next)
    }

    fn open(&mut self, entry: Entry) {
        let content = match &entry {
            Entry::File(file) => {
                self.files += 1;
                self.bytes += buffered(&entry);
                Some(self.reader.content(&file.content))
            }
            _ => None,
        };
        self.waiting.push_back((entry, content));
    }
}

fn buffered(entry: &Entry) -> u64 {
    match entry {
        Entry::File(file) => file.content.length.min(BUFFERED_MAX_BYTES),
        _ => 0,
    }
}
