//! A store that counts what passes through it, so that reports can say what an operation read and
//! wrote.
//!
//! Contained by: an open repository, which puts it over the real store. Counts are of the handle:
//! two operations at once on one handle see each other's bytes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use capy_objects::{BucketSettings, ObjectInfo, Store, StoreError};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// Counts bytes on their way to and from a store.
#[derive(Debug)]
pub(crate) struct MeteredStore {
    inner: Arc<dyn Store>,
    read_bytes: AtomicU64,
}

impl MeteredStore {
    pub(crate) fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, read_bytes: AtomicU64::new(0) })
    }

    /// Bytes read so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    fn count(&self, body: &Bytes) {
        self.read_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    }
}

impl Store for MeteredStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.put_new(name, body)
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.inner.get(name, max_bytes).await.inspect(|body| self.count(body)) })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.inner.get_range(name, range).await.inspect(|body| self.count(body)) })
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        self.inner.head(name)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.inner.list(prefix)
    }

    fn list_after<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        self.inner.list_after(prefix, after)
    }

    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        self.inner.first(prefix)
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.delete(name)
    }

    fn url(&self) -> String {
        self.inner.url()
    }

    fn bucket_settings(&self) -> BoxFuture<'_, BucketSettings> {
        self.inner.bucket_settings()
    }
}
