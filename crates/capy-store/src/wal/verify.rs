//! Verify: every file of an archive, read as a recovery would read it.
//!
//! Invariant: the answer that all is well is given only when every file that was listed was opened,
//! decompressed and hashed again. What is missing between them is [`windows`](super::windows)' to say.

use std::time::{Duration, Instant};

use capy_types::{ClusterName, Ctx, ErrorKind, Phase, WalFile};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tracing::instrument;

use crate::report::FINDINGS_MAX;
use crate::repository::cancellable;
use crate::{Error, Repository, Result};

/// Bytes of objects in memory at once; one may always be.
const AT_ONCE_MAX_BYTES: u64 = 512 << 20;

/// A file of an archive that a recovery could not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DamagedWal {
    /// The file.
    pub file: WalFile,
    /// What is wrong with it.
    pub what: String,
}

/// What the reading of an archive found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WalVerifyReport {
    /// The archive.
    pub cluster: ClusterName,
    /// Whether nothing is damaged.
    pub ok: bool,
    /// The outcome in a line.
    pub verdict: String,
    /// Files read, those included of which there is only the beginning, in parts.
    pub files: u64,
    /// Bytes of objects read.
    pub read_bytes: u64,
    /// Bytes of WAL hashed.
    pub hashed_bytes: u64,
    /// Damaged files, in order, the first 1000 of them.
    pub damaged: Vec<DamagedWal>,
    /// All of them, counted.
    pub damaged_total: u64,
    /// How long it took.
    #[serde(rename = "elapsed_seconds", serialize_with = "crate::report::seconds")]
    pub elapsed: Duration,
}

/// What one file came to.
struct Read {
    file: WalFile,
    bytes: std::result::Result<u64, String>,
}

impl Repository {
    /// Reads every file of the archive of `cluster` and hashes it again, several at once. Nothing is
    /// written.
    ///
    /// Damage is the report's, not an error's: an error means that the reading did not get to its end.
    ///
    /// # Errors
    /// `NotFound` when there is no such archive; `Denied`, `Unavailable`; `Cancelled`.
    ///
    /// # Cancellation
    /// Safe to drop.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let report = repository.verify_wal(ctx, &"main".parse().unwrap()).await?;
    /// assert!(report.ok, "{}", report.verdict);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %cluster))]
    pub async fn verify_wal(&self, ctx: &Ctx, cluster: &ClusterName) -> Result<WalVerifyReport> {
        cancellable(ctx, self.verify_archive(ctx, cluster)).await
    }

    async fn verify_archive(&self, ctx: &Ctx, cluster: &ClusterName) -> Result<WalVerifyReport> {
        let (begun, read_before) = (Instant::now(), self.meter.read_bytes());
        if self.repo.archive(cluster).await?.is_none() {
            let what = format!("there is no WAL archive {cluster}");
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        // Before the whole ones: what becomes whole meanwhile is among those.
        let in_parts = self.repo.segments_in_parts(cluster).await?;
        let listed = self.repo.list_wal(cluster).await?;
        ctx.progress.phase(Phase::Verify, Some(listed.iter().map(|(_, size)| size).sum()));
        let largest = listed.iter().map(|(_, size)| *size).max().unwrap_or(1).max(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = cores.min(usize::try_from(AT_ONCE_MAX_BYTES / largest).unwrap_or(cores)).max(1);
        let whole = listed.into_iter().map(|(file, size)| async move {
            let read = self.read_whole(cluster, file).await;
            ctx.progress.advance(size);
            read
        });
        let begun_only = in_parts.into_iter().map(|(file, _)| self.read_begun(cluster, file));
        // One after the other: there is one of them, or a few.
        let begun_only = futures::stream::iter(begun_only).buffered(1).try_filter_map(async |read| Ok(read));
        let whole = futures::stream::iter(whole).buffered(at_once).try_filter_map(async |read| Ok(read));
        let mut report = WalVerifyReport {
            cluster: cluster.clone(),
            ok: true,
            verdict: String::new(),
            files: 0,
            read_bytes: 0,
            hashed_bytes: 0,
            damaged: Vec::new(),
            damaged_total: 0,
            elapsed: Duration::ZERO,
        };
        let mut reads = std::pin::pin!(whole.chain(begun_only));
        while let Some(read) = reads.try_next().await? {
            ctx.check()?;
            report.take(read);
        }
        report.read_bytes = self.meter.read_bytes() - read_before;
        report.elapsed = begun.elapsed();
        Ok(report.concluded())
    }

    /// `None` when it has expired since it was listed.
    async fn read_whole(&self, cluster: &ClusterName, file: WalFile) -> Result<Option<Read>> {
        let opened = match self.repo.open_wal(cluster, &file).await {
            Ok(opened) => opened,
            Err(error) if error.is_missing_object() => return Ok(None),
            Err(error) => return damage(file, error).map(Some),
        };
        let hashing = tokio::task::spawn_blocking(move || {
            let unpacked = opened.unpack(|_| Ok(()));
            unpacked.map(|()| opened.size_bytes())
        });
        match hashing.await.map_err(|_| Error::new(ErrorKind::Internal, "a thread panicked"))? {
            Ok(bytes) => Ok(Some(Read { file, bytes: Ok(bytes) })),
            Err(error) => damage(file, error).map(Some),
        }
    }

    /// `None` when it has become whole since it was listed.
    async fn read_begun(&self, cluster: &ClusterName, file: WalFile) -> Result<Option<Read>> {
        let parts = self.repo.read_wal_parts(cluster, &file).await?;
        if parts.changed {
            return Ok(None);
        }
        let bytes = match parts.damage {
            Some(damage) => Err(damage.to_string()),
            None => Ok(parts.bytes.len() as u64),
        };
        Ok(Some(Read { file, bytes }))
    }
}

/// What is wrong with a file is a finding, what is wrong with the store an error.
fn damage(file: WalFile, error: capy_repo::RepoError) -> Result<Read> {
    match error.kind() {
        ErrorKind::Corrupt => Ok(Read { file, bytes: Err(error.to_string()) }),
        _ => Err(error.into()),
    }
}

impl WalVerifyReport {
    fn take(&mut self, read: Read) {
        self.files += 1;
        match read.bytes {
            Ok(bytes) => self.hashed_bytes += bytes,
            Err(what) => {
                self.damaged_total += 1;
                if self.damaged.len() < FINDINGS_MAX {
                    self.damaged.push(DamagedWal { file: read.file, what });
                }
            }
        }
    }

    fn concluded(mut self) -> Self {
        let (files, cluster) = (self.files, &self.cluster);
        self.ok = self.damaged_total == 0;
        self.verdict = match self.damaged_total {
            0 => format!("all {files} files of the archive {cluster} are what was archived"),
            damaged => format!(
                "{damaged} of {files} files of the archive {cluster} are damaged: no recovery gets past them"
            ),
        };
        self
    }
}
