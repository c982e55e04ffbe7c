//! The interface every store serves, and what it says about objects.
//!
//! Contained by: everything that reads or writes a repository. Narrow on purpose: create-only
//! writes, whole and ranged reads, listing, deletion. No overwrite, no append, no rename.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::StoreError;

/// What a store says of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectInfo {
    /// Its name, relative to the store's root, with `/` between components.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// How the bucket behind a store is set up, as far as the store tells. `None` is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketSettings {
    /// Whether deleted and replaced objects are kept as versions.
    pub versioning: Option<bool>,
    /// Whether objects can be locked against deletion.
    pub object_lock: Option<bool>,
    /// Whether a lifecycle rule removes abandoned multipart uploads.
    pub aborts_multipart: Option<bool>,
    /// What could not be asked, and why.
    pub problems: Vec<String>,
}

/// A place that keeps objects under names.
///
/// Names are one or more components joined by `/`; a component is 1 to 255 of the characters
/// `A-Z a-z 0-9 . _ - + = @` and starts with a letter, a digit or `_`. A name is at most
/// [`crate::NAME_MAX_BYTES`] long. Anything else is `Invalid`, in every store alike. A prefix is
/// empty (everything) or a name followed by `/`.
///
/// Every operation ends within a bounded time, whatever the network does. Errors are
/// [`StoreError`]; its kinds say what to do next.
///
/// # Cancellation
/// Every returned future and stream may be dropped at any moment. A dropped `put_new` or
/// `delete` may still take effect; a dropped `put_new` never leaves a part of an object under its
/// name.
pub trait Store: Send + Sync + fmt::Debug {
    /// Creates the object `name` with `body`, if the name is free. When this returns `Ok` the
    /// object is durable and visible to every reader.
    ///
    /// A name that already holds exactly `body` is `Ok` too: it is how a repeated attempt, whose
    /// first answer was lost, succeeds.
    ///
    /// # Errors
    /// `AlreadyExists` when the name holds something else; `NoSpace`, `Denied`, `Unavailable`,
    /// `Invalid`. After `Unavailable` the object may or may not exist.
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Reads a whole object of at most `max_bytes`.
    ///
    /// # Errors
    /// `NotFound`; `TooLarge` beyond `max_bytes`, without having read it; `Truncated` when the
    /// store sends less than it announced; `Denied`, `Unavailable`, `Invalid`.
    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>>;

    /// Reads exactly the bytes `range` of an object. An empty range is answered without asking.
    ///
    /// # Errors
    /// `NotFound`; `Truncated` when the object ends before the range does; `Denied`,
    /// `Unavailable`, `Invalid`.
    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>>;

    /// Says how large an object is.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, `Invalid`.
    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>>;

    /// Lists every object whose name starts with `prefix`, at any depth, in any order. Objects in
    /// the making are never shown. Objects made or removed meanwhile may or may not be.
    ///
    /// # Errors
    /// The stream ends after its first error: `Denied`, `Unavailable`, `Invalid`. A prefix that
    /// holds nothing is an empty listing.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>>;

    /// Lists as [`list`](Self::list), but only names after `after` in byte order, and in that
    /// order, with the exception [`first`](Self::first) makes. A store that can begin in the middle does; others list everything and sort it out.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    fn list_after<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let all = self.list(prefix).try_filter(move |info| std::future::ready(*info.name > *after));
        futures::stream::once(async move {
            let mut found: Vec<_> = all.try_collect().await?;
            found.sort_unstable();
            Ok(futures::stream::iter(found.into_iter().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    /// The smallest name that starts with `prefix`, in as few requests as the store allows.
    ///
    /// Byte order, as long as no name continues with `/` where another continues with a character
    /// before it (`a/b` beside `a-b`): some stores (SeaweedFS) sort by component there.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, `Invalid`. Nothing there is `None`.
    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>>;

    /// Removes an object. An absent one is `Ok`.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, `Invalid`.
    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Where this store is, without secrets.
    fn url(&self) -> String;

    /// How the bucket is set up. A store that has no bucket, or does not tell, answers with what
    /// is unknown.
    ///
    /// # Errors
    /// None: what could not be asked is in [`BucketSettings::problems`].
    fn bucket_settings(&self) -> BoxFuture<'_, BucketSettings> {
        Box::pin(std::future::ready(BucketSettings::default()))
    }
}
