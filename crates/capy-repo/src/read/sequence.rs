//! A whole manifest as one stream: its entries in order, the bytes of its files between them, read ahead.
//!
//! Contained by: the restore as a tar, which writes everything in its order. Chunks that follow each
//! other are fetched together whatever files they are of, because a backup stored them side by side: a
//! hundred small files are one request. Several such stretches are on their way at once.
//!
//! Invariants: what comes out is proven, and in the order of the manifest; a file's length and CRC are
//! checked before its end is told; what is read ahead is bounded in bytes and in entries.

use std::sync::Arc;

use bytes::Bytes;
use capy_format::{ChunkRef, Content, Entry};
use capy_types::Ctx;
use capy_types::limits::{KIB, MIB};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::{ManifestReader, Reader, RefCursor};
use crate::RepoError;

/// Plaintext of a stretch in bytes. What two workers stored side by side lies in turns of 4 MiB in two
/// packs: a stretch is one or two requests of each.
const STRETCH_BYTES: u64 = 16 * MIB as u64;
/// Entries and chunks of a stretch, for those that are small: about a MiB with what describes them.
const STRETCH_ITEMS: usize = 2048;
/// Plaintext read ahead in bytes, what is being written included: four stretches.
const AHEAD_BYTES: usize = 64 * MIB;
/// Stretches read ahead, where they are short: each is a request at least.
const AHEAD_STRETCHES: usize = 32;

/// The next of a [`SequenceReader`].
#[derive(Debug)]
pub enum Piece {
    /// An entry of the manifest. One of a file is followed by its bytes and its end.
    Entry(Entry),
    /// Bytes of the file, in order.
    Bytes(Bytes),
    /// The end of the file, whose length and checksum are right.
    EndFile,
}

/// Reads the entries of a manifest with the contents of its files. Dropping it stops the reading ahead.
#[derive(Debug)]
pub struct SequenceReader {
    stretches: mpsc::Receiver<Result<Stretch, RepoError>>,
    open: Option<OpenStretch>,
    seen: (u64, u32),
    task: JoinHandle<()>,
}

impl Drop for SequenceReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SequenceReader {
    pub(super) fn new(reader: Reader, manifest: &Content) -> Self {
        // One is waited for beside those that wait here.
        let (sender, stretches) = mpsc::channel(AHEAD_STRETCHES - 1);
        let entries = reader.manifest(manifest);
        let task = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(AHEAD_BYTES / KIB));
            let mut ahead = Ahead { reader, sender, room, next: Next::default() };
            if let Err(error) = ahead.run(entries).await {
                let _ = ahead.sender.send(Err(error)).await;
            }
        });
        Self { stretches, open: None, seen: (0, 0), task }
    }

    /// What comes next, or `None` at the end.
    ///
    /// # Errors
    /// Corrupt when manifest, chunk or node cannot be read as written; store errors.
    ///
    /// # Cancellation
    /// The sequence cannot go on after a dropped call.
    pub async fn next(&mut self) -> Result<Option<Piece>, RepoError> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(item) = open.items.next() {
                    let chunk = matches!(item, Item::Chunk).then(|| open.chunks.next().unwrap_or_default());
                    return self.piece(item, chunk.unwrap_or_default()).map(Some);
                }
                self.open = None;
            }
            match self.stretches.recv().await {
                Some(stretch) => self.open = Some(stretch?.open().await?),
                None => return Ok(None),
            }
        }
    }

    fn piece(&mut self, item: Item, chunk: Bytes) -> Result<Piece, RepoError> {
        match item {
            Item::Entry(entry) => Ok(Piece::Entry(*entry)),
            Item::Chunk => {
                self.seen.0 += chunk.len() as u64;
                self.seen.1 = crc32c::crc32c_append(self.seen.1, &chunk);
                Ok(Piece::Bytes(chunk))
            }
            Item::EndFile { length, crc32c } => {
                let seen = std::mem::take(&mut self.seen);
                check_whole(seen, (length, crc32c))?;
                Ok(Piece::EndFile)
            }
        }
    }
}

/// Refuses a content of another length or checksum than was stored.
pub(super) fn check_whole(seen: (u64, u32), expected: (u64, u32)) -> Result<(), RepoError> {
    if seen == expected {
        return Ok(());
    }
    Err(RepoError::Inconsistent {
        object: "content".to_owned(),
        problem: format!(
            "{} bytes with checksum {:08x} were read, {} with {:08x} were stored",
            seen.0, seen.1, expected.0, expected.1
        ),
    })
}

/// What a stretch consists of, in order.
#[derive(Debug)]
enum Item {
    Entry(Box<Entry>),
    /// The next of its chunks.
    Chunk,
    EndFile {
        length: u64,
        crc32c: u32,
    },
}

/// A part of the sequence whose chunks are on their way.
#[derive(Debug)]
struct Stretch {
    items: Vec<Item>,
    fetching: Fetching,
    room: OwnedSemaphorePermit,
}

/// Chunks being fetched; given up when nobody wants them any more.
#[derive(Debug)]
struct Fetching(JoinHandle<Result<Vec<Bytes>, RepoError>>);

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stretch that has come.
#[derive(Debug)]
struct OpenStretch {
    items: std::vec::IntoIter<Item>,
    chunks: std::vec::IntoIter<Bytes>,
    /// Held as long as its chunks are.
    _room: OwnedSemaphorePermit,
}

impl Stretch {
    async fn open(mut self) -> Result<OpenStretch, RepoError> {
        let chunks = (&mut self.fetching.0).await;
        let chunks = chunks.map_err(|_| RepoError::Internal { what: "a reading task died".to_owned() })??;
        Ok(OpenStretch { items: self.items.into_iter(), chunks: chunks.into_iter(), _room: self.room })
    }
}

/// The stretch in the making.
#[derive(Debug, Default)]
struct Next {
    items: Vec<Item>,
    chunks: Vec<ChunkRef>,
    bytes: u64,
}

/// Reads ahead.
struct Ahead {
    reader: Reader,
    sender: mpsc::Sender<Result<Stretch, RepoError>>,
    /// One for each KiB that may be ahead.
    room: Arc<Semaphore>,
    next: Next,
}

impl Ahead {
    async fn run(&mut self, mut entries: ManifestReader) -> Result<(), RepoError> {
        while let Some(entry) = entries.next().await? {
            let content = match &entry {
                Entry::File(file) => Some(file.content.clone()),
                _ => None,
            };
            self.push(Item::Entry(Box::new(entry))).await?;
            if let Some(content) = content {
                self.file(&content).await?;
            }
        }
        self.send().await
    }

    async fn file(&mut self, content: &Content) -> Result<(), RepoError> {
        let ctx = Ctx::default();
        let mut cursor = RefCursor::new(self.reader.clone(), content);
        loop {
            let refs = cursor.next(&ctx).await?;
            if refs.is_empty() {
                break;
            }
            for chunk in refs {
                self.next.bytes += u64::from(chunk.size);
                self.next.chunks.push(chunk);
                self.push(Item::Chunk).await?;
            }
        }
        self.push(Item::EndFile { length: content.length, crc32c: content.crc32c }).await
    }

    async fn push(&mut self, item: Item) -> Result<(), RepoError> {
        self.next.items.push(item);
        let full = self.next.bytes >= STRETCH_BYTES || self.next.items.len() >= STRETCH_ITEMS;
        if full { self.send().await } else { Ok(()) }
    }

    /// Starts fetching what is gathered, once there is room for it.
    async fn send(&mut self) -> Result<(), RepoError> {
        let Next { items, chunks, bytes } = std::mem::take(&mut self.next);
        if items.is_empty() {
            return Ok(());
        }
        let kib = bytes.div_ceil(KIB as u64).min((AHEAD_BYTES / KIB) as u64);
        let permits = u32::try_from(kib).expect("far below 2^32");
        let closed = |_| RepoError::Internal { what: "reading ahead is over".to_owned() };
        let room = self.room.clone().acquire_many_owned(permits).await.map_err(closed)?;
        let reader = self.reader.clone();
        let fetching = tokio::spawn(async move {
            if chunks.is_empty() {
                return Ok(Vec::new());
            }
            Ok(reader.fetch_all(&Ctx::default(), chunks.iter()).await?)
        });
        let stretch = Stretch { items, fetching: Fetching(fetching), room };
        // Nobody reads any more: this task is ending too.
        let _ = self.sender.send(Ok(stretch)).await;
        Ok(())
    }
}
