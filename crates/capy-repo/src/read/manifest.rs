//! The entries of a manifest, one after the other, however many there are.

use capy_format::{Entry, decode_entry};

use super::ContentReader;
use crate::RepoError;

/// Reads a manifest's entries in order; holds one window of its bytes.
#[derive(Debug)]
pub struct ManifestReader {
    content: ContentReader,
    buffer: Vec<u8>,
    at: usize,
    position: u64,
}

impl ManifestReader {
    pub(super) fn new(content: ContentReader) -> Self {
        Self { content, buffer: Vec::new(), at: 0, position: 0 }
    }

    /// Where in the manifest the next entry starts, in bytes.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or `None` at the end.
    ///
    /// # Errors
    /// Corrupt when the manifest cannot be read or decoded; store errors.
    ///
    /// # Cancellation
    /// Safe: no entry is lost.
    pub async fn next(&mut self) -> Result<Option<Entry>, RepoError> {
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            if let Some((entry, length)) = decode_entry("manifest", rest)? {
                self.at += length;
                self.position += length as u64;
                return Ok(Some(entry));
            }
            match self.content.next().await? {
                Some(bytes) => {
                    self.buffer.drain(..self.at);
                    self.at = 0;
                    self.buffer.extend_from_slice(&bytes);
                }
                None if rest.is_empty() => return Ok(None),
                None => {
                    return Err(RepoError::Inconsistent {
                        object: "manifest".to_owned(),
                        problem: format!(
                            "it ends inside an entry, {} bytes over",
                            self.buffer.len() - self.at
                        ),
                    });
                }
            }
        }
    }
}
