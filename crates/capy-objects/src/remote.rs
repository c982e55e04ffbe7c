//! A store over the network (S3 and compatibles, Google, Azure), or in memory, through
//! `object_store`.
//!
//! Contained by: [`crate::open_store`]. Requests are repeated below, inside `object_store`, within
//! the limits of [`crate::StoreOptions`]; this layer bounds the whole operation and decides what an
//! unclear answer meant.
//!
//! Invariants: a write whose answer was lost, refused or late is read back and compared before
//! anything is said about it; a body shorter than announced is an error.

mod classify;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::time::{Instant, timeout, timeout_at};

use self::classify::{Answer, classify_write, fault_of};
use crate::name::{check_name, check_prefix, check_range};
use crate::{BucketSettings, ObjectInfo, Store, StoreError, StoreErrorKind, StoreOp};

/// Writes of one object tried in one operation. Only a store that first refuses a name and then
/// shows nothing under it (S3 does, when a competing write was withdrawn) needs more than one.
const WRITES_MAX: u32 = 4;

/// Pause before the next write, times its ordinal.
const WRITE_PAUSE: Duration = Duration::from_millis(200);

/// Longest time to read back a write, beyond the operation's own: a store that let the write time
/// out gets this much to say what became of it.
const READ_BACK_TIME: Duration = Duration::from_secs(15);

/// Asks a bucket how it is set up.
pub(crate) type AskSettings = Arc<dyn Fn() -> BoxFuture<'static, BucketSettings> + Send + Sync>;

/// A store served by `object_store`.
#[derive(Clone)]
pub(crate) struct RemoteStore {
    inner: Arc<dyn ObjectStore>,
    /// Lists a page of a wanted size, where the store can.
    paged: Option<Arc<dyn PaginatedListStore>>,
    settings: Option<AskSettings>,
    /// What comes before every name: empty, or ends in `/`.
    base: String,
    url: String,
    operation_timeout: Duration,
}

impl std::fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteStore").field("url", &self.url).finish_non_exhaustive()
    }
}

impl RemoteStore {
    /// A store that keeps its objects below `base` (empty, or ending in `/`) of `inner`.
    pub(crate) fn new(
        inner: Arc<dyn ObjectStore>,
        base: String,
        url: String,
        operation_timeout: Duration,
    ) -> Self {
        Self { inner, paged: None, settings: None, base, url, operation_timeout }
    }

    #[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
    pub(crate) fn with_pages(mut self, paged: Arc<dyn PaginatedListStore>) -> Self {
        self.paged = Some(paged);
        self
    }

    #[cfg(feature = "s3")]
    pub(crate) fn with_settings(mut self, settings: AskSettings) -> Self {
        self.settings = Some(settings);
        self
    }

    fn path(&self, op: StoreOp, name: &str) -> Result<Path, StoreError> {
        check_name(op, name, &self.url)?;
        self.parse(op, name)
    }

    fn parse(&self, op: StoreOp, name: &str) -> Result<Path, StoreError> {
        Path::parse(format!("{}{name}", self.base))
            .map_err(|error| self.error(op, name, StoreErrorKind::invalid("not a name here")).because(error))
    }

    fn error(&self, op: StoreOp, object: &str, kind: StoreErrorKind) -> StoreError {
        StoreError::new(op, object, &self.url, kind)
    }

    fn fault(&self, op: StoreOp, object: &str, error: object_store::Error) -> StoreError {
        self.error(op, object, fault_of(&error)).because(error)
    }

    /// Ends `work` when the time of one operation is over.
    async fn bounded<T>(
        &self,
        op: StoreOp,
        object: &str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match timeout(self.operation_timeout, work).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(self.error(op, object, StoreErrorKind::Unavailable).because(elapsed)),
        }
    }

    async fn write(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let path = self.path(StoreOp::PutNew, name)?;
        let deadline = Instant::now() + self.operation_timeout;
        for attempt in 1..=WRITES_MAX {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.inner.put_opts(&path, body.clone().into(), options);
            let (kind, source): (_, Box<dyn std::error::Error + Send + Sync>) =
                match timeout_at(deadline, put).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => match classify_write(&error) {
                        Answer::Refused(kind) => {
                            return Err(self.error(StoreOp::PutNew, name, kind).because(error));
                        }
                        Answer::Unclear(kind) => (kind, Box::new(error)),
                    },
                    Err(elapsed) => (StoreErrorKind::Unavailable, Box::new(elapsed)),
                };
            match self.read_back(&path, &body).await {
                Some(Seen::Same) => return Ok(()),
                Some(Seen::Other) => {
                    return Err(self.error(StoreOp::PutNew, name, StoreErrorKind::AlreadyExists));
                }
                Some(Seen::Nothing) if attempt < WRITES_MAX && Instant::now() < deadline => {
                    tracing::debug!(object = name, attempt, "a refused write left nothing: writing again");
                    tokio::time::sleep(WRITE_PAUSE * attempt).await;
                }
                // "Taken" without anything there, again and again, is a fault of the store.
                Some(Seen::Nothing) | None => {
                    let kind = if kind == StoreErrorKind::AlreadyExists {
                        StoreErrorKind::Unavailable
                    } else {
                        kind
                    };
                    return Err(self.error(StoreOp::PutNew, name, kind).because(source));
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// What is under the name now. `None` when the store does not say.
    async fn read_back(&self, path: &Path, body: &Bytes) -> Option<Seen> {
        let look = async {
            let answer = self.inner.get(path).await?;
            if answer.meta.size != body.len() as u64 {
                return Ok(Seen::Other);
            }
            let found = answer.bytes().await?;
            Ok(if found == *body { Seen::Same } else { Seen::Other })
        };
        match timeout(READ_BACK_TIME, look).await {
            Ok(Ok(seen)) => Some(seen),
            Ok(Err(error)) if fault_of(&error) == StoreErrorKind::NotFound => Some(Seen::Nothing),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    async fn read(&self, name: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        let path = self.path(StoreOp::Get, name)?;
        let fault = |error| self.fault(StoreOp::Get, name, error);
        let answer = self.inner.get(&path).await.map_err(fault)?;
        let size = answer.meta.size;
        if size > max_bytes {
            return Err(self.error(StoreOp::Get, name, StoreErrorKind::TooLarge { size, max: max_bytes }));
        }
        let body = answer.bytes().await.map_err(fault)?;
        self.check_length(StoreOp::Get, name, size, body)
    }

    async fn read_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(StoreOp::GetRange, name)?;
        let expected = check_range(name, &range, &self.url)?;
        if expected == 0 {
            return Ok(Bytes::new());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let error = match self.inner.get_opts(&path, options).await {
            // A range that ends past the object is answered with what there is.
            Ok(answer) => match answer.bytes().await {
                Ok(body) => return self.check_length(StoreOp::GetRange, name, expected, body),
                Err(error) => error,
            },
            Err(error) => error,
        };
        // One that starts past it is refused, in words that differ from store to store.
        let error = self.fault(StoreOp::GetRange, name, error);
        if error.kind != StoreErrorKind::Unavailable {
            return Err(error);
        }
        match self.inner.head(&path).await {
            Ok(found) if found.size < range.end => {
                let found = found.size.saturating_sub(range.start);
                Err(self.error(StoreOp::GetRange, name, StoreErrorKind::Truncated { expected, found }))
            }
            _ => Err(error),
        }
    }

    fn check_length(&self, op: StoreOp, name: &str, expected: u64, body: Bytes) -> Result<Bytes, StoreError> {
        let found = body.len() as u64;
        if found == expected {
            return Ok(body);
        }
        Err(self.error(op, name, StoreErrorKind::Truncated { expected, found }))
    }

    /// The object as its reader names it. `None` for what lies outside `base`.
    fn info(&self, meta: &ObjectMeta) -> Option<ObjectInfo> {
        let name = meta.location.as_ref().strip_prefix(&self.base)?;
        Some(ObjectInfo { name: name.to_owned(), size: meta.size })
    }

    fn listing(
        &self,
        op: StoreOp,
        prefix: &str,
    ) -> Result<BoxStream<'_, Result<ObjectInfo, StoreError>>, StoreError> {
        check_prefix(op, prefix, &self.url)?;
        let path = self.parse(op, prefix)?;
        let owned = prefix.to_owned();
        let listed = self.inner.list(Some(&path)).map_err(move |error| self.fault(op, &owned, error));
        Ok(listed.try_filter_map(|meta| std::future::ready(Ok(self.info(&meta)))).boxed())
    }

    async fn smallest(&self, prefix: &str) -> Result<Option<ObjectInfo>, StoreError> {
        check_prefix(StoreOp::First, prefix, &self.url)?;
        let Some(paged) = &self.paged else {
            return self.listing(StoreOp::First, prefix)?.try_fold(None, smaller).await;
        };
        let mut options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        let full = format!("{}{prefix}", self.base);
        // A page may be empty and not the last one.
        for _ in 0..EMPTY_PAGES_MAX {
            let page = paged
                .list_paginated(Some(&full), std::mem::take(&mut options))
                .await
                .map_err(|error| self.fault(StoreOp::First, prefix, error))?;
            let found = page.result.objects.iter().find_map(|meta| self.info(meta));
            match page.page_token {
                Some(token) if found.is_none() => {
                    options.page_token = Some(token);
                    options.max_keys = Some(1);
                }
                _ => return Ok(found),
            }
        }
        let kind = StoreErrorKind::invalid(format!("the store sent {EMPTY_PAGES_MAX} empty pages of names"));
        Err(self.error(StoreOp::First, prefix, kind))
    }
}

/// Empty pages of names accepted in a row. None is usual; without a limit a store could keep us
/// asking for ever.
const EMPTY_PAGES_MAX: usize = 100;

/// What a write left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Same,
    Other,
    Nothing,
}

async fn smaller(least: Option<ObjectInfo>, next: ObjectInfo) -> Result<Option<ObjectInfo>, StoreError> {
    Ok(Some(match least {
        Some(least) if least.name < next.name => least,
        _ => next,
    }))
}

impl Store for RemoteStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write(name, body))
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.bounded(StoreOp::Get, name, self.read(name, max_bytes)))
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.bounded(StoreOp::GetRange, name, self.read_range(name, range)))
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        Box::pin(self.bounded(StoreOp::Head, name, async move {
            let path = self.path(StoreOp::Head, name)?;
            let meta =
                self.inner.head(&path).await.map_err(|error| self.fault(StoreOp::Head, name, error))?;
            Ok(ObjectInfo { name: name.to_owned(), size: meta.size })
        }))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let listing = match self.listing(StoreOp::List, prefix) {
            Ok(listing) => listing,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        // The bound is on the wait for the next name: a listing of any length may take its time.
        stream::try_unfold(listing, move |mut listing| async move {
            let next = self.bounded(StoreOp::List, prefix, async { listing.try_next().await }).await?;
            Ok(next.map(|info| (info, listing)))
        })
        .boxed()
    }

    fn list_after<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let path = check_prefix(StoreOp::List, prefix, &self.url)
            .and_then(|()| self.parse(StoreOp::List, prefix))
            .and_then(|path| Ok((path, self.parse(StoreOp::List, after)?)));
        let (path, offset) = match path {
            Ok(paths) => paths,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let listed = self.inner.list_with_offset(Some(&path), &offset);
        let listed = listed.map_err(move |error| self.fault(StoreOp::List, prefix, error));
        let names = listed.try_filter_map(|meta| std::future::ready(Ok(self.info(&meta)))).boxed();
        stream::try_unfold(names, move |mut names| async move {
            let next = self.bounded(StoreOp::List, prefix, async { names.try_next().await }).await?;
            Ok(next.map(|info| (info, names)))
        })
        .boxed()
    }

    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(self.bounded(StoreOp::First, prefix, self.smallest(prefix)))
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.bounded(StoreOp::Delete, name, async move {
            let path = self.path(StoreOp::Delete, name)?;
            match self.inner.delete(&path).await {
                Ok(()) => Ok(()),
                Err(error) if fault_of(&error) == StoreErrorKind::NotFound => Ok(()),
                Err(error) => Err(self.fault(StoreOp::Delete, name, error)),
            }
        }))
    }

    fn url(&self) -> String {
        self.url.clone()
    }

    fn bucket_settings(&self) -> BoxFuture<'_, BucketSettings> {
        match &self.settings {
            Some(ask) => ask(),
            None => Box::pin(std::future::ready(BucketSettings::default())),
        }
    }
}
