//! A store in memory, for tests and trials: gone with its last user.
//!
//! Contained by: [`crate::open_store`] for `memory://`. Bodies are shared, never copied. Nothing
//! happens before a returned future is polled.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::name::{check_name, check_prefix, check_range};
use crate::{ObjectInfo, Store, StoreError, StoreErrorKind, StoreOp};

/// Objects in memory.
#[derive(Debug)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
    url: String,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new("memory://")
    }
}

impl MemoryStore {
    /// An empty store that calls itself `url` in messages.
    pub(crate) fn new(url: &str) -> Self {
        Self { objects: Mutex::default(), url: url.to_owned() }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, op: StoreOp, name: &str, kind: StoreErrorKind) -> StoreError {
        StoreError::new(op, name, &self.url, kind)
    }

    fn read(&self, op: StoreOp, name: &str) -> Result<Bytes, StoreError> {
        check_name(op, name, &self.url)?;
        self.objects().get(name).cloned().ok_or_else(|| self.error(op, name, StoreErrorKind::NotFound))
    }

    fn insert(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        check_name(StoreOp::PutNew, name, &self.url)?;
        match self.objects().entry(name.to_owned()) {
            Entry::Vacant(place) => {
                place.insert(body);
                Ok(())
            }
            Entry::Occupied(there) if *there.get() == body => Ok(()),
            Entry::Occupied(_) => Err(self.error(StoreOp::PutNew, name, StoreErrorKind::AlreadyExists)),
        }
    }

    fn whole(&self, name: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        let body = self.read(StoreOp::Get, name)?;
        let size = body.len() as u64;
        if size > max_bytes {
            return Err(self.error(StoreOp::Get, name, StoreErrorKind::TooLarge { size, max: max_bytes }));
        }
        Ok(body)
    }

    fn part(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        check_name(StoreOp::GetRange, name, &self.url)?;
        let expected = check_range(name, &range, &self.url)?;
        if expected == 0 {
            return Ok(Bytes::new());
        }
        let body = self.read(StoreOp::GetRange, name)?;
        let size = body.len() as u64;
        if range.end > size {
            let found = size.saturating_sub(range.start);
            return Err(self.error(StoreOp::GetRange, name, StoreErrorKind::Truncated { expected, found }));
        }
        let at = |offset| usize::try_from(offset).expect("it is at most the body's length");
        Ok(body.slice(at(range.start)..at(range.end)))
    }

    fn listed(&self, prefix: &str) -> Result<Vec<Result<ObjectInfo, StoreError>>, StoreError> {
        check_prefix(StoreOp::List, prefix, &self.url)?;
        let objects = self.objects();
        let below = objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        Ok(below.map(|entry| Ok(info(entry))).collect())
    }

    fn smallest(&self, prefix: &str) -> Result<Option<ObjectInfo>, StoreError> {
        check_prefix(StoreOp::First, prefix, &self.url)?;
        let objects = self.objects();
        Ok(objects.range(prefix.to_owned()..).next().filter(|(name, _)| name.starts_with(prefix)).map(info))
    }
}

fn info((name, body): (&String, &Bytes)) -> ObjectInfo {
    ObjectInfo { name: name.clone(), size: body.len() as u64 }
}

impl Store for MemoryStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.insert(name, body) })
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.whole(name, max_bytes) })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move { self.part(name, range) })
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        Box::pin(async move {
            let body = self.read(StoreOp::Head, name)?;
            Ok(ObjectInfo { name: name.to_owned(), size: body.len() as u64 })
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        stream::once(async move { self.listed(prefix).map(stream::iter) }).try_flatten().boxed()
    }

    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move { self.smallest(prefix) })
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check_name(StoreOp::Delete, name, &self.url)?;
            self.objects().remove(name);
            Ok(())
        })
    }

    fn url(&self) -> String {
        self.url.clone()
    }
}
