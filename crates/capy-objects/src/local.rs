//! A directory as a store: the embedded default.
//!
//! Contained by: [`crate::open_store`]. An object is a file, its name the path below the root.
//! Files are 0600, directories 0700.
//!
//! Invariants: an object appears under its name whole or not at all, and never replaces another
//! one; `put_new` answers `Ok` only after the file, its directory and every directory made for it
//! are on disk. See [`write`] for how.

mod buffers;
mod read;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use rustix::io::Errno;

use crate::name::{check_name, check_prefix, check_range};
use crate::{ObjectInfo, Store, StoreError, StoreErrorKind, StoreOp};

/// Listed objects handed over at once, and how many such batches may wait: 4 x 512 names of
/// about 100 bytes keep a listing of any length under 256 KiB.
const LIST_BATCH: usize = 512;
const LIST_BATCHES_WAITING: usize = 4;

/// A store in a directory of this machine.
#[derive(Debug, Clone)]
pub struct LocalStore {
    place: Arc<Place>,
}

/// The directory, and what this process knows of it.
#[derive(Debug)]
struct Place {
    root: PathBuf,
    /// The root as text, for messages.
    url: String,
    writer: write::Writer,
    buffers: Arc<buffers::Buffers>,
}

impl LocalStore {
    /// Opens the directory `root`; with `create` it is made when absent, its parents too.
    ///
    /// # Errors
    /// `NotFound` without `create` when it does not exist; `Denied`, `NoSpace`, `Unavailable`;
    /// `Invalid` when it is not a directory.
    ///
    /// # Cancellation
    /// Safe to drop; an empty directory may be left.
    pub async fn open(root: impl AsRef<Path>, create: bool) -> Result<Self, StoreError> {
        let given = root.as_ref();
        let url = given.display().to_string();
        let root = std::path::absolute(given).map_err(|error| local_error(StoreOp::Open, "", &url, error))?;
        let url = root.display().to_string();
        let (writer, buffers) = (write::Writer::default(), Arc::default());
        let store = Self { place: Arc::new(Place { root, url, writer, buffers }) };
        let opened = store.clone();
        store.blocking(StoreOp::Open, "", move |place| place.open_root(create)).await?;
        Ok(opened)
    }

    /// Runs `work` where blocking is allowed, and says what it was about when it fails.
    async fn blocking<T: Send + 'static>(
        &self,
        op: StoreOp,
        object: &str,
        work: impl FnOnce(&Place) -> Result<T, LocalFault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = self.place.clone();
        match tokio::task::spawn_blocking(move || work(&place)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(LocalFault::Io(error))) => Err(local_error(op, object, &self.place.url, error)),
            Ok(Err(LocalFault::Kind(kind))) => Err(StoreError::new(op, object, &self.place.url, kind)),
            Err(error) => {
                Err(StoreError::new(op, object, &self.place.url, StoreErrorKind::Unavailable).because(error))
            }
        }
    }
}

impl Place {
    fn open_root(&self, create: bool) -> Result<(), LocalFault> {
        match fs::metadata(&self.root) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(LocalFault::Kind(StoreErrorKind::invalid("it is not a directory"))),
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => Ok(create_root(&self.root)?),
            Err(error) => Err(error.into()),
        }
    }

    /// The path of an object, or of the directory of a prefix. Names are checked before.
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn delete(&self, name: &str) -> Result<(), LocalFault> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(write::sync_parent(&path)?),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Makes the root and its missing parents, each durable before the next.
fn create_root(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        create_root(parent)?;
    }
    make_directory(root)?;
    write::sync_parent(root)
}

/// Makes one directory, 0700; one that exists is fine.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

impl Store for LocalStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check_name(StoreOp::PutNew, name, &self.place.url)?;
            let owned = name.to_owned();
            self.blocking(StoreOp::PutNew, name, move |place| {
                place.writer.put_new(&place.root, &owned, &body)
            })
            .await
        })
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            check_name(StoreOp::Get, name, &self.place.url)?;
            let owned = name.to_owned();
            self.blocking(StoreOp::Get, name, move |place| read::whole(&place.path(&owned), max_bytes)).await
        })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            check_name(StoreOp::GetRange, name, &self.place.url)?;
            if check_range(name, &range, &self.place.url)? == 0 {
                return Ok(Bytes::new());
            }
            let owned = name.to_owned();
            self.blocking(StoreOp::GetRange, name, move |place| {
                read::range(&place.buffers, &place.path(&owned), range)
            })
            .await
        })
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        Box::pin(async move {
            check_name(StoreOp::Head, name, &self.place.url)?;
            let owned = name.to_owned();
            self.blocking(StoreOp::Head, name, move |place| {
                let size = read::size(&place.path(&owned))?;
                Ok(ObjectInfo { name: owned, size })
            })
            .await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        if let Err(error) = check_prefix(StoreOp::List, prefix, &self.place.url) {
            return stream::iter([Err(error)]).boxed();
        }
        stream::once(async move { self.walk(prefix, "") }).flatten().boxed()
    }

    fn list_after<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        if let Err(error) = check_prefix(StoreOp::List, prefix, &self.place.url) {
            return stream::iter([Err(error)]).boxed();
        }
        stream::once(async move {
            let mut found: Vec<_> = self.walk(prefix, after).try_collect().await?;
            found.retain(|info: &ObjectInfo| *info.name > *after);
            found.sort_unstable();
            Ok(stream::iter(found.into_iter().map(Ok)))
        })
        .try_flatten()
        .boxed()
    }

    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(async move {
            check_prefix(StoreOp::First, prefix, &self.place.url)?;
            let owned = prefix.to_owned();
            self.blocking(StoreOp::First, prefix, move |place| Ok(walk::first(&place.root, &owned)?)).await
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            check_name(StoreOp::Delete, name, &self.place.url)?;
            let owned = name.to_owned();
            self.blocking(StoreOp::Delete, name, move |place| place.delete(&owned)).await
        })
    }

    fn url(&self) -> String {
        self.place.url.clone()
    }
}

impl LocalStore {
    /// Walks the tree on a blocking thread, a few batches ahead of the reader.
    fn walk(&self, prefix: &str, after: &str) -> BoxStream<'static, Result<ObjectInfo, StoreError>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(LIST_BATCHES_WAITING);
        let place = self.place.clone();
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut batch = Vec::with_capacity(LIST_BATCH);
            // A reader that went away ends the walk.
            let outcome = walk::every(&place.root, &prefix, &after, &mut |info| {
                batch.push(Ok(info));
                batch.len() < LIST_BATCH || sender.blocking_send(std::mem::take(&mut batch)).is_ok()
            });
            if let Err(error) = outcome {
                batch.push(Err(local_error(StoreOp::List, &prefix, &place.url, error)));
            }
            let _ = sender.blocking_send(batch);
        });
        stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|batch| (stream::iter(batch), receiver))
        })
        .flatten()
        .boxed()
    }
}

/// What went wrong on the blocking thread.
#[derive(Debug)]
enum LocalFault {
    Io(io::Error),
    Kind(StoreErrorKind),
}

impl From<io::Error> for LocalFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether the operating system says that there is nothing under this name.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

fn local_error(op: StoreOp, object: &str, url: &str, error: io::Error) -> StoreError {
    StoreError::new(op, object, url, classify(&error)).because(error)
}

/// The kind of an error of the operating system.
fn classify(error: &io::Error) -> StoreErrorKind {
    match Errno::from_io_error(error) {
        // Over the file size limit is a full disk to whoever set the limit.
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => return StoreErrorKind::NoSpace,
        Some(Errno::ROFS) => return StoreErrorKind::Denied,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::NotFound => StoreErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => StoreErrorKind::Denied,
        io::ErrorKind::WriteZero => StoreErrorKind::NoSpace,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => StoreErrorKind::invalid(
            "a part of the path is a file where a directory must be, or the other way round",
        ),
        _ => StoreErrorKind::Unavailable,
    }
}
