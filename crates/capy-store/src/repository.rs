//! The repository as callers hold it: made, opened, listed, and asked for one backup.
//!
//! Contained by: the façade; backup, restore, verify, keys and inspection are further `impl`
//! blocks in their own files. A `Repository` is cheap to clone and holds nothing that goes stale:
//! every call reads the newest root.

use std::future::Future;
use std::sync::Arc;

use capy_objects::{CacheOptions, Store, open_store};
use capy_repo::Env;
use capy_types::{
    BackupKey, BackupSelector, Clock, ClusterName, Ctx, Entropy, ErrorKind, Phase, RepositoryId,
};
use futures::StreamExt;
use tracing::instrument;

use crate::metered::MeteredStore;
use crate::{BackupDetails, BackupInfo, Error, Key, Location, Result, convert};

/// How long chunks are, in bytes. Fixed when a repository is made: what is cut otherwise is stored anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkSizes {
    /// Cells of the grid on which files of tables and indexes are cut: a multiple of 8 KiB, up to 2 MiB,
    /// since a batch of 4 MiB holds two.
    pub grid_bytes: u32,
    /// Shortest chunk cut by content: even, as the other two, and from 64 bytes.
    pub min_bytes: u32,
    /// From here on a chunk ends more easily; up to 4 MiB.
    pub avg_bytes: u32,
    /// Longest chunk cut by content; up to 2 MiB.
    pub max_bytes: u32,
}

impl Default for ChunkSizes {
    fn default() -> Self {
        let policy = capy_format::ChunkingPolicy::default();
        Self {
            grid_bytes: policy.grid_bytes,
            min_bytes: policy.data_min,
            avg_bytes: policy.data_avg,
            max_bytes: policy.data_max,
        }
    }
}

/// How a new repository is made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InitOptions {
    /// zstd level of stored chunks, 1 to 19. The default is 3. Level 1 is faster, and stored
    /// 6 % more on mixed data, the same within 2 % on pgbench's pages.
    pub compression_level: i32,
    /// Cut every file by content, the files of tables and indexes too.
    pub content_defined: bool,
    /// How long chunks are.
    pub chunk_sizes: ChunkSizes,
    /// Memory in KiB that opening a passphrase slot takes; `None` for the default of 64 MiB. Less
    /// makes guessing cheaper: only tests should want it.
    pub kdf_memory_kib: Option<u32>,
}

impl Default for InitOptions {
    fn default() -> Self {
        let chunk_sizes = ChunkSizes::default();
        Self { compression_level: 3, content_defined: false, chunk_sizes, kdf_memory_kib: None }
    }
}

/// An open repository.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) repo: capy_repo::Repository,
    pub(crate) meter: Arc<MeteredStore>,
}

impl Repository {
    /// Creates a repository in an empty place, with one key slot for each of `keys`, and opens it.
    ///
    /// The store is probed first: it must refuse to create an object that exists, because every
    /// commit relies on that.
    ///
    /// # Errors
    /// `Conflict` when something is there already; `Invalid` when the store cannot hold a
    /// repository (the message names its fault), when no key, an empty passphrase or a short key file
    /// is given, or when chunk sizes make no sense; `Denied`, `Unavailable` from the store.
    ///
    /// # Cancellation
    /// Safe to drop. What may be left are a few small objects of a repository that never came to
    /// be; they are in the way of the next `init`, which names them.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// let key = Key::passphrase("correct horse battery staple");
    /// let place = Location::new("memory://");
    /// let repository = Repository::init(&Ctx::default(), &place, &[key], InitOptions::default()).await?;
    /// println!("{} at {}", repository.id(), repository.url());
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(url = location.url()))]
    pub async fn init(ctx: &Ctx, location: &Location, keys: &[Key], options: InitOptions) -> Result<Self> {
        ctx.progress.phase(Phase::Prepare, None);
        let Some((first, others)) = keys.split_first() else {
            return Err(Error::invalid("a repository needs at least one passphrase or key file"));
        };
        for key in keys {
            key.check_strength()?;
        }
        check_cache(location)?;
        let work = async {
            let meter =
                MeteredStore::over(open_store(&location.url, &location.store, true).await?, location.rates);
            let env = Env::default();
            // A place that is taken is left alone: the repository says what is in the way.
            if meter.list("").next().await.is_none() {
                crate::probe::require_safe(&*meter, &*env.entropy).await?;
            }
            let kdf = crate::keys::kdf(options.kdf_memory_kib);
            let mut chosen = capy_repo::InitOptions {
                compression_level: options.compression_level,
                kdf,
                ..capy_repo::InitOptions::default()
            };
            let sizes = options.chunk_sizes;
            chosen.chunking = capy_format::ChunkingPolicy {
                data_min: sizes.min_bytes,
                data_avg: sizes.avg_bytes,
                data_max: sizes.max_bytes,
                grid_bytes: sizes.grid_bytes,
                force_cdc: options.content_defined,
            };
            let store = Arc::clone(&meter) as Arc<dyn Store>;
            let repo = capy_repo::Repository::init(store, env, chosen, first.as_slot_secret()).await?;
            for key in others {
                repo.add_key_slot(key.as_slot_secret(), kdf, "initial").await?;
            }
            Ok(Self { repo, meter }.with_cache(location))
        };
        cancellable(ctx, work).await
    }

    /// Opens the repository at `location`.
    ///
    /// # Errors
    /// `NotFound` ("not a capy-store repository"); `Denied` when no key slot opens with this key;
    /// `Invalid` when it was written by a newer version, or the location makes no sense; `Corrupt`;
    /// `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// let place = Location::new("/backup/repo");
    /// let repository = Repository::open(&Ctx::default(), &place, &Key::passphrase("secret")).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(url = location.url()))]
    pub async fn open(ctx: &Ctx, location: &Location, key: &Key) -> Result<Self> {
        ctx.progress.phase(Phase::Prepare, None);
        check_cache(location)?;
        let work = async {
            let meter =
                MeteredStore::over(open_store(&location.url, &location.store, false).await?, location.rates);
            let store = Arc::clone(&meter) as Arc<dyn Store>;
            let repo = capy_repo::Repository::open(store, Env::default(), key.as_slot_secret()).await?;
            Ok(Self { repo, meter }.with_cache(location))
        };
        cancellable(ctx, work).await
    }

    /// The repository's identity, chosen at `init`.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.repo.id()
    }

    /// Where it is, without secrets.
    #[must_use]
    pub fn url(&self) -> String {
        self.repo.store().url()
    }

    /// The version of its format.
    #[must_use]
    pub fn format_version(&self) -> u16 {
        self.repo.config().format_version
    }

    /// All backups, or those of one cluster, oldest first.
    ///
    /// # Errors
    /// `Corrupt` when the root cannot be read; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let ctx = Ctx::default();
    /// # let repository = Repository::init(&ctx, &Location::new("memory://"), &[Key::passphrase("x")], InitOptions::default()).await?;
    /// for backup in repository.list_backups(&ctx, None).await? {
    ///     println!("{} {} bytes", backup.backup_key, backup.size_bytes);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all)]
    pub async fn list_backups(&self, ctx: &Ctx, cluster: Option<&ClusterName>) -> Result<Vec<BackupInfo>> {
        let root = cancellable(ctx, async { Ok(self.repo.root().await?) }).await?;
        let wanted =
            root.backups.iter().filter(|entry| cluster.is_none_or(|name| entry.key.cluster == *name));
        let mut backups: Vec<_> = wanted.map(convert::info).collect();
        backups.sort_by(|a, b| (a.created_at, &a.backup_key).cmp(&(b.created_at, &b.backup_key)));
        Ok(backups)
    }

    /// One backup with everything its record holds.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when its record is damaged; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let newest = repository.get_backup(ctx, &"main/latest".parse().unwrap()).await?;
    /// println!("{} of {} files", newest.info.backup_key, newest.stats.files);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(backup = %backup))]
    pub async fn get_backup(&self, ctx: &Ctx, backup: &BackupSelector) -> Result<BackupDetails> {
        let work = async {
            let entry = self.repo.resolve(backup).await?;
            let record = self.repo.record(&entry).await?;
            Ok(convert::details(&entry, &record))
        };
        cancellable(ctx, work).await
    }

    /// Takes a backup out of the repository's list and returns what it was. Its space is reclaimed
    /// by the collector.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is pinned; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop: the backup is either listed or not.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository, backup: &BackupInfo) -> Result<()> {
    /// repository.delete_backup(ctx, &backup.backup_key).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(backup = %key))]
    pub async fn delete_backup(&self, ctx: &Ctx, key: &BackupKey) -> Result<BackupInfo> {
        let entry = cancellable(ctx, async { Ok(self.repo.unlink_backup(key).await?) }).await?;
        Ok(convert::info(&entry))
    }

    fn with_cache(self, location: &Location) -> Self {
        if let Some(options) = &location.cache {
            self.repo.use_cache(options);
        }
        self
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.repo.env().clock
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.repo.env().entropy
    }
}

/// Refuses a cache that could keep nothing.
fn check_cache(location: &Location) -> Result<()> {
    let least = CacheOptions::LEAST_MAX_BYTES;
    match &location.cache {
        Some(cache) if cache.max_bytes < least => {
            Err(Error::invalid(format!("a cache of {} bytes is below the least of {least}", cache.max_bytes)))
        }
        Some(cache) if cache.directory.as_os_str().is_empty() => {
            Err(Error::invalid("the path of the cache is empty"))
        }
        _ => Ok(()),
    }
}

/// Runs `work` unless and until the caller cancels; then drops it.
pub(crate) async fn cancellable<T>(ctx: &Ctx, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
        outcome = work => outcome,
    }
}

impl From<capy_objects::StoreError> for Error {
    fn from(error: capy_objects::StoreError) -> Self {
        Self::wrap(error.kind(), error)
    }
}
