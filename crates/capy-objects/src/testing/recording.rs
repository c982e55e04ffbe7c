//! A store that counts what is asked of the one below.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{BucketSettings, ObjectInfo, Store, StoreError};

/// How often each operation was asked for, and how many bytes went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls of `put_new`.
    pub put_new: u64,
    /// Calls of `get`.
    pub get: u64,
    /// Calls of `get_range`.
    pub get_range: u64,
    /// Calls of `head`.
    pub head: u64,
    /// Calls of `list`.
    pub list: u64,
    /// Calls of `first`.
    pub first: u64,
    /// Calls of `delete`.
    pub delete: u64,
    /// Bytes handed to `put_new`, accepted or not.
    pub written_bytes: u64,
    /// Bytes that `get` and `get_range` answered with.
    pub read_bytes: u64,
}

/// Counts the calls to a store. A call counts when it is made, whatever becomes of it.
#[derive(Debug)]
pub struct RecordingStore {
    inner: Arc<dyn Store>,
    counts: Mutex<Counts>,
}

impl RecordingStore {
    /// Counts calls to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, counts: Mutex::default() }
    }

    /// The counts since the last reset.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.lock()
    }

    /// Counts from zero again; answers with the counts until now.
    pub fn reset(&self) -> Counts {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_read(&self, body: &Bytes) {
        self.lock().read_bytes += body.len() as u64;
    }
}

impl Store for RecordingStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        let mut counts = self.lock();
        counts.put_new += 1;
        counts.written_bytes += body.len() as u64;
        self.inner.put_new(name, body)
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.lock().get += 1;
        Box::pin(async move { self.inner.get(name, max_bytes).await.inspect(|body| self.count_read(body)) })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        self.lock().get_range += 1;
        Box::pin(async move { self.inner.get_range(name, range).await.inspect(|body| self.count_read(body)) })
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        self.lock().head += 1;
        self.inner.head(name)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.lock().list += 1;
        self.inner.list(prefix)
    }

    fn list_after<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.lock().list += 1;
        self.inner.list_after(prefix, after)
    }

    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        self.lock().first += 1;
        self.inner.first(prefix)
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.lock().delete += 1;
        self.inner.delete(name)
    }

    fn url(&self) -> String {
        self.inner.url()
    }

    fn bucket_settings(&self) -> BoxFuture<'_, BucketSettings> {
        self.inner.bucket_settings()
    }
}
