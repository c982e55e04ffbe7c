//! A store that counts what passes through it, so that reports can say what an operation read and
//! wrote, and lets it pass no faster than it shall.
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

use crate::StoreRates;
use crate::rate::Pace;

/// Counts bytes on their way to and from a store.
#[derive(Debug)]
pub(crate) struct MeteredStore {
    inner: Arc<dyn Store>,
    read_bytes: AtomicU64,
    read_pace: Option<Pace>,
    upload_pace: Option<Pace>,
}

impl MeteredStore {
    pub(crate) fn over(inner: Arc<dyn Store>, rates: StoreRates) -> Arc<Self> {
        Arc::new(Self {
            inner,
            read_bytes: AtomicU64::new(0),
            read_pace: rates.read.map(Pace::new),
            upload_pace: rates.upload.map(Pace::new),
        })
    }

    /// Bytes read so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Counts what was read. How much it is is known only then: the wait comes after.
    async fn taken(&self, body: Bytes) -> Bytes {
        self.read_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        if let Some(pace) = &self.read_pace {
            pace.pass(body.len() as u64).await;
        }
        body
    }
}

impl Store for MeteredStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            if let Some(pace) = &self.upload_pace {
                pace.pass(body.len() as u64).await;
            }
            self.inner.put_new(name, body).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { Ok(self.taken(self.inner.get(name, max_bytes).await?).await) })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { Ok(self.taken(self.inner.get_range(name, range).await?).await) })
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use capy_objects::open_store;

    use super::*;

    /// Fast enough that nobody waits, and slow enough that what was booked can be told.
    const BYTES_PER_SECOND: u64 = 1_000_000_000;

    #[tokio::test]
    async fn every_byte_there_and_back_is_booked_once_and_on_its_own_account() {
        let rate = NonZeroU64::new(BYTES_PER_SECOND);
        let inner = open_store("memory://", &capy_objects::StoreOptions::default(), true).await.unwrap();
        let store = MeteredStore::over(inner, StoreRates { read: rate, upload: rate });
        let body = Bytes::from(vec![7; 1_000_000]);
        for name in ["a", "b", "c"] {
            store.put_new(name, body.clone()).await.unwrap();
        }
        store.get("a", u64::MAX).await.unwrap();
        store.get_range("b", 0..500_000).await.unwrap();
        assert!(store.get("nothing", u64::MAX).await.is_err());
        let booked = |pace: &Option<Pace>| pace.as_ref().unwrap().booked();
        assert_eq!(booked(&store.upload_pace), Duration::from_millis(3));
        assert_eq!(booked(&store.read_pace), Duration::from_micros(1500));
        assert_eq!(store.read_bytes(), 1_500_000);
    }
}
