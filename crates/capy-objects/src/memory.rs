//! A store in memory, for tests and trials: gone with the process.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{self, BoxStream, StreamExt};

use crate::{ObjectInfo, Store, StoreError, StoreErrorKind, StoreOp};

/// Objects in memory.
#[derive(Debug)]
pub struct MemoryStore {
    url: String,
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new("memory://")
    }
}

impl MemoryStore {
    /// An empty store that calls itself `url`.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), objects: Mutex::default() }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, op: StoreOp, name: &str, kind: StoreErrorKind) -> StoreError {
        StoreError::new(op, name, self.url(), kind)
    }

    fn read(&self, op: StoreOp, name: &str) -> Result<Bytes, StoreError> {
        self.objects().get(name).cloned().ok_or_else(|| self.error(op, name, StoreErrorKind::NotFound))
    }

    fn insert(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        match self.objects().entry(name.to_owned()) {
            Entry::Vacant(place) => {
                place.insert(body);
                Ok(())
            }
            Entry::Occupied(there) if *there.get() == body => Ok(()),
            Entry::Occupied(_) => Err(self.error(StoreOp::PutNew, name, StoreErrorKind::AlreadyExists)),
        }
    }

    fn listed(&self, prefix: &str) -> Vec<ObjectInfo> {
        self.objects()
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, body)| ObjectInfo { name: name.clone(), size: body.len() as u64 })
            .collect()
    }
}

impl Store for MemoryStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.insert(name, body) }.boxed()
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        async move {
            let body = self.read(StoreOp::Get, name)?;
            let size = body.len() as u64;
            if size > max_bytes {
                return Err(self.error(
                    StoreOp::Get,
                    name,
                    StoreErrorKind::TooLarge { size, max: max_bytes },
                ));
            }
            Ok(body)
        }
        .boxed()
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        async move {
            let body = self.read(StoreOp::Get, name)?;
            let size = body.len() as u64;
            if range.end > size || range.start > range.end {
                let kind = StoreErrorKind::Truncated {
                    expected: range.end.saturating_sub(range.start),
                    found: size.saturating_sub(range.start),
                };
                return Err(self.error(StoreOp::Get, name, kind));
            }
            let at = |offset| usize::try_from(offset).expect("within an object in memory");
            Ok(body.slice(at(range.start)..at(range.end)))
        }
        .boxed()
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        let info = self
            .read(StoreOp::Head, name)
            .map(|body| ObjectInfo { name: name.to_owned(), size: body.len() as u64 });
        ready(info).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        stream::iter(self.listed(prefix).into_iter().map(Ok)).boxed()
    }

    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        ready(Ok(self.listed(prefix).into_iter().next())).boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        self.objects().remove(name);
        ready(Ok(())).boxed()
    }

    fn url(&self) -> String {
        self.url.clone()
    }
}
