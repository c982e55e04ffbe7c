//! One content as a stream of bytes, in order, read a few MiB ahead.
//!
//! Whoever takes the bytes is one thread, and often the slowest: so windows are read side by side,
//! and their checksums computed where they are opened; here they are only joined.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use capy_codec::join_crc32c;
use capy_format::{ChunkRef, Content};
use capy_types::Ctx;
use capy_types::limits::MIB;
use futures::{Stream, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Reader, RefCursor, Want};
use crate::RepoError;

/// Plaintext gathered per step in bytes. Four steps are in memory: those being read, one that waits,
/// and the one being consumed.
const WINDOW_BYTES: u64 = 2 * MIB as u64;
/// Steps being read at once.
const WINDOWS_AHEAD: usize = 2;

/// A proven chunk, and its CRC-32C.
type Piece = (Bytes, u32);

/// Reads one content in order. Dropping it stops the reading ahead.
#[derive(Debug)]
pub struct ContentReader {
    chunks: mpsc::Receiver<Result<Vec<Piece>, RepoError>>,
    ready: std::vec::IntoIter<Piece>,
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
            if let Some((bytes, crc)) = self.ready.next() {
                self.seen.0 += bytes.len() as u64;
                self.seen.1 = join_crc32c(self.seen.1, crc, bytes.len() as u64);
                return Ok(Some(bytes));
            }
            if self.done {
                return Ok(None);
            }
            match self.chunks.recv().await {
                Some(window) => self.ready = window?.into_iter(),
                None if self.seen == self.expected => self.done = true,
                None => {
                    return Err(RepoError::Inconsistent {
                        object: "content".to_owned(),
                        problem: format!(
                            "{} bytes with checksum {:08x} were read, {} with {:08x} were stored",
                            self.seen.0, self.seen.1, self.expected.0, self.expected.1
                        ),
                    });
                }
            }
        }
    }
}

async fn read_ahead(
    reader: &Reader,
    cursor: RefCursor,
    sender: &mpsc::Sender<Result<Vec<Piece>, RepoError>>,
) -> Result<(), RepoError> {
    let ctx = Ctx::default();
    let windows = windows(cursor, &ctx).map_ok(|refs| read_window(reader, &ctx, refs));
    let mut read = std::pin::pin!(windows.try_buffered(WINDOWS_AHEAD));
    while let Some(window) = read.try_next().await? {
        if sender.send(Ok(window)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The chunks of a content by windows: as many as fit, at least one.
fn windows(cursor: RefCursor, ctx: &Ctx) -> impl Stream<Item = Result<Vec<ChunkRef>, RepoError>> {
    let refs = stream::try_unfold(cursor, async |mut cursor| {
        let refs = cursor.next(ctx).await?;
        Ok::<_, RepoError>((!refs.is_empty()).then_some((refs, cursor)))
    });
    refs.map_ok(|refs| stream::iter(by_windows(&refs).into_iter().map(Ok::<_, RepoError>))).try_flatten()
}

fn by_windows(refs: &[ChunkRef]) -> Vec<Vec<ChunkRef>> {
    let mut windows: Vec<Vec<ChunkRef>> = Vec::new();
    let mut bytes = 0;
    for chunk in refs {
        match windows.last_mut() {
            Some(open) if bytes + chunk.len <= WINDOW_BYTES => open.push(*chunk),
            _ => {
                bytes = 0;
                windows.push(vec![*chunk]);
            }
        }
        bytes += chunk.len;
    }
    windows
}

async fn read_window(reader: &Reader, ctx: &Ctx, refs: Vec<ChunkRef>) -> Result<Vec<Piece>, RepoError> {
    let wants: Vec<_> =
        (0..).zip(&refs).map(|(token, r)| Want { chunk: r.id, size: r.size, token }).collect();
    let slots: Arc<Mutex<Vec<Piece>>> = Arc::new(Mutex::new(vec![(Bytes::new(), 0); refs.len()]));
    let filled = slots.clone();
    let accept = Arc::new(move |token: u64, plain: &[u8]| {
        let piece = (Bytes::copy_from_slice(plain), crc32c::crc32c(plain));
        let mut slots = filled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = usize::try_from(token).ok().and_then(|at| slots.get_mut(at)) {
            *slot = piece;
        }
        Ok(())
    });
    match reader.fetch(ctx, &wants, accept).await?.into_iter().next() {
        Some((_, defect)) => Err(defect.into()),
        None => Ok(std::mem::take(&mut *slots.lock().unwrap_or_else(PoisonError::into_inner))),
    }
}
