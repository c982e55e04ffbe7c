//! One content as a stream of bytes, in order, read a few MiB ahead.

use bytes::Bytes;
use capy_format::Content;
use capy_types::Ctx;
use capy_types::limits::MIB;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::sequence::check_whole;
use super::{Reader, RefCursor};
use crate::RepoError;

/// Plaintext gathered per step in bytes; two steps are in memory beside the one being consumed.
const WINDOW_BYTES: u64 = 4 * MIB as u64;

/// Reads one content in order. Dropping it stops the reading ahead.
#[derive(Debug)]
pub struct ContentReader {
    chunks: mpsc::Receiver<Result<Vec<Bytes>, RepoError>>,
    ready: std::vec::IntoIter<Bytes>,
    task: JoinHandle<()>,
    expected: (u64, u32),
    seen: (u64, u32),
    done: bool,
}

impl Drop for ContentReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ContentReader {
    pub(super) fn new(reader: Reader, content: &Content) -> Self {
        let (sender, chunks) = mpsc::channel(1);
        let cursor = RefCursor::new(reader.clone(), content);
        let task = tokio::spawn(async move {
            if let Err(error) = read_ahead(&reader, cursor, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Self {
            chunks,
            ready: Vec::new().into_iter(),
            task,
            expected: (content.length, content.crc32c),
            seen: (0, 0),
            done: false,
        }
    }

    /// The next bytes, or `None` at the end, once length and CRC of the whole have been checked.
    ///
    /// # Errors
    /// Corrupt when a chunk or node cannot be read as written; store errors.
    ///
    /// # Cancellation
    /// Safe: no bytes are lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RepoError> {
        loop {
            if let Some(bytes) = self.ready.next() {
                self.seen.0 += bytes.len() as u64;
                self.seen.1 = crc32c::crc32c_append(self.seen.1, &bytes);
                return Ok(Some(bytes));
            }
            if self.done {
                return Ok(None);
            }
            match self.chunks.recv().await {
                Some(window) => self.ready = window?.into_iter(),
                None => {
                    check_whole(self.seen, self.expected)?;
                    self.done = true;
                }
            }
        }
    }
}

async fn read_ahead(
    reader: &Reader,
    mut cursor: RefCursor,
    sender: &mpsc::Sender<Result<Vec<Bytes>, RepoError>>,
) -> Result<(), RepoError> {
    let ctx = Ctx::default();
    loop {
        let refs = cursor.next(&ctx).await?;
        if refs.is_empty() {
            return Ok(());
        }
        let mut rest = refs.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest.iter().take_while(|r| {
                let fits = bytes == 0 || bytes + r.len <= WINDOW_BYTES;
                bytes += r.len;
                fits
            });
            let (window, after) = rest.split_at(count.count());
            rest = after;
            let window = reader.fetch_all(&ctx, window.iter()).await?;
            if sender.send(Ok(window)).await.is_err() {
                return Ok(());
            }
        }
    }
}
