//! A local cache of parts of immutable objects, as sealed as they are in the store.
//!
//! Contained by: a repository, for reads that may be answered by what was read before. It is no
//! [`Store`] on purpose: who wants to know what the store has (verification, restores, whatever lists,
//! looks up, writes or deletes) holds the store and cannot get an answer from here by mistake.
//!
//! Invariants: only objects that are written once under names never used again are asked for; a block
//! is believed when its file says which repository, object and place it is of and its checksum holds, and
//! no more than the store is; nothing that happens to the directory, its removal at any moment included,
//! makes a read fail or a wrong byte come out; what is kept stays within its bound.

mod block;
mod room;
mod shelf;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::{Store, StoreError, StoreErrorKind};
use block::Span;
use shelf::Shelf;

/// Where a cache is and how large it may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// The directory. Made when it is first written to, readable by its owner alone. Several
    /// repositories and any number of processes may share it; what is theirs lies in
    /// `capy-store-*` below it, and nothing else in it is touched.
    pub directory: PathBuf,
    /// Most bytes it takes, of all repositories. Processes that fill it at the same time may each be a
    /// tenth of this beyond it for a moment.
    pub max_bytes: u64,
}

impl CacheOptions {
    /// A GiB: the blocks around the chunks that change in a day of a cluster of some 50 GB.
    pub const DEFAULT_MAX_BYTES: u64 = 1 << 30;
    /// The least that makes sense, 8 MiB: below it a cache is filled and emptied all the time, and
    /// below some 300 KiB it keeps nothing at all.
    pub const LEAST_MAX_BYTES: u64 = 8 << 20;

    /// A cache of the default size.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), max_bytes: Self::DEFAULT_MAX_BYTES }
    }
}

/// What a cache was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Reads that needed no request to the store.
    pub hits: u64,
    /// Reads that did.
    pub misses: u64,
    /// Bytes that came out of the cache and not from the store.
    pub hit_bytes: u64,
    /// Files that were damaged or foreign, and removed.
    pub damaged: u64,
}

/// Reads parts of objects from a local directory, or from the store and keeps them.
#[derive(Debug)]
pub struct ReadCache {
    store: Arc<dyn Store>,
    shelf: Arc<Shelf>,
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
}

impl ReadCache {
    /// A cache of objects of `store`, which is the one repository `scope`: a word of letters, digits and
    /// `-`. Nothing is done on the disk before something is asked for.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, options: &CacheOptions, scope: &str) -> Self {
        let shelf = Arc::new(Shelf::new(&options.directory, scope, options.max_bytes));
        Self { store, shelf, hits: 0.into(), misses: 0.into(), hit_bytes: 0.into() }
    }

    /// Reads exactly the bytes `range` of an immutable object that is known to have `end` bytes or more.
    /// What the cache lacks is read in one request, in whole blocks as far as `end`, and kept.
    ///
    /// That it answers does not say that the store still has the object.
    ///
    /// # Errors
    /// Those of [`Store::get_range`], of the one request it may make. The directory adds none.
    ///
    /// # Cancellation
    /// Safe to drop.
    pub async fn get_range(&self, name: &str, range: Range<u64>, end: u64) -> Result<Bytes, StoreError> {
        let Some(span) = Span::over(&range, end) else {
            return self.store.get_range(name, range).await;
        };
        let (found, missing) = self.look(name, &span).await;
        let Some(missing) = missing else {
            self.hits.fetch_add(1, Ordering::Relaxed);
            self.hit_bytes.fetch_add(range.end - range.start, Ordering::Relaxed);
            return Ok(Bytes::from(found).slice(span.within(&range)));
        };
        self.misses.fetch_add(1, Ordering::Relaxed);
        if self.shelf.fault().is_some() {
            return self.store.get_range(name, range).await;
        }
        let fetched = match self.store.get_range(name, missing.start..missing.end).await {
            // It is shorter than it was said to be: what was asked for may be there all the same.
            Err(error) if matches!(error.kind, StoreErrorKind::Truncated { .. }) => {
                return self.store.get_range(name, range).await;
            }
            fetched => fetched?,
        };
        self.keep_at(name, missing.start, fetched.clone()).await;
        if missing.start <= range.start && range.end <= missing.end {
            return Ok(fetched.slice(missing.within(&range)));
        }
        let mut found = found;
        found[span.within(&(missing.start..missing.end))].copy_from_slice(&fetched);
        let fetched_of_range = range.end.min(missing.end).saturating_sub(range.start.max(missing.start));
        self.hit_bytes.fetch_add(range.end - range.start - fetched_of_range, Ordering::Relaxed);
        Ok(Bytes::from(found).slice(span.within(&range)))
    }

    /// Keeps the first bytes of an object that the store has just acknowledged: what readers will ask for
    /// with an `end` of `bytes.len()`.
    ///
    /// # Cancellation
    /// Safe to drop.
    pub async fn keep(&self, name: &str, bytes: Bytes) {
        self.keep_at(name, 0, bytes).await;
    }

    /// Forgets the blocks of `range`: what they hold did not open.
    ///
    /// # Cancellation
    /// Safe to drop.
    pub async fn forget(&self, name: &str, range: Range<u64>) {
        let Some(span) = Span::over(&range, range.end) else { return };
        let (shelf, name) = (self.shelf.clone(), name.to_owned());
        blocking(move || span.blocks().for_each(|block| shelf.remove(&name, block.start))).await;
    }

    /// What it was good for so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        CacheCounts {
            hits: of(&self.hits),
            misses: of(&self.misses),
            hit_bytes: of(&self.hit_bytes),
            damaged: self.shelf.damaged(),
        }
    }

    /// Why nothing more is kept, if so: the first thing that the directory refused.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.shelf.fault()
    }

    /// The bytes of a span, as far as they are here, and the part that has to be fetched: from the first
    /// block that is not here to the last.
    async fn look(&self, name: &str, span: &Span) -> (Vec<u8>, Option<Span>) {
        let (shelf, name, wanted) = (self.shelf.clone(), name.to_owned(), span.clone());
        let looked = blocking(move || {
            let mut bytes = vec![0; wanted.length()];
            let mut missing: Option<Span> = None;
            for block in wanted.blocks() {
                let content = bytes.get_mut(wanted.within(&block)).unwrap_or_default();
                if !shelf.read(&name, block.start, content) {
                    let start = missing.map_or(block.start, |first| first.start);
                    missing = Some(Span { start, end: block.end });
                }
            }
            (bytes, missing)
        });
        looked.await.unwrap_or_else(|| (vec![0; span.length()], Some(span.clone())))
    }

    /// Keeps bytes that begin where a block does.
    async fn keep_at(&self, name: &str, start: u64, bytes: Bytes) {
        let Some(span) = Span::over(&(start..start + bytes.len() as u64), 0) else { return };
        let (shelf, name) = (self.shelf.clone(), name.to_owned());
        blocking(move || {
            for block in span.blocks() {
                shelf.write(&name, block.start, bytes.get(span.within(&block)).unwrap_or_default());
            }
        })
        .await;
    }
}

/// Runs what touches the disk where it may block; `None` when the process is ending.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
