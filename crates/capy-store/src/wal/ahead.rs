//! Fetching ahead: recovery replays one segment while the next ones are brought in.
//!
//! restore_command is one process per file. Files that were fetched ahead lie in a hidden directory
//! beside the target, on the same file system, so that the process only renames one into place and
//! opens no repository ([`FetchAhead::take`]). A worker ([`FetchAhead::run`]) follows the requests
//! and keeps a budget of bytes of the segments behind the last one there.
//!
//! `<dir of %p>/.capy-fetch/<cluster>-<digest of the repository's place>/` holds
//!
//! | file | says |
//! |---|---|
//! | `lock` | held while a worker runs |
//! | `wanted` | the last segment that was asked for and found |
//! | `.SEGMENT.part` | the worker is at this one |
//! | `SEGMENT.SUM` | fetched whole, checked against its content id, of this sum |
//!
//! Invariants: a segment is there whole or not at all, and only under the directory of its cluster
//! and repository; before it is used its header must say the same timeline, address and size as its
//! name and length, and its bytes must still be of the sum it had. That a file is absent is
//! never written down and never said from here: that is the archive's own word, asked anew each time.

mod follow;
mod shelf;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capy_types::{ClusterName, Ctx, SegmentSize, WalFile, WalFileKind};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tracing::instrument;

use super::fetch::FetchedWal;
use super::spool::place;
use crate::{Error, Location, Repository, Result};

/// Name of the directory beside the target.
const DIRECTORY: &str = ".capy-fetch";
/// Where a server wants the segment that it recovers.
const RECOVERED_SEGMENT: &str = "RECOVERYXLOG";
/// Hex digits of the place's digest in a directory's name.
const DIGEST_DIGITS: usize = 16;
/// How long a file is waited for that the worker is fetching: for longer than that it is fetched
/// twice, once by each.
const IN_FLIGHT_PATIENCE: Duration = Duration::from_secs(3);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// A worker ends after this long without a request: recovery waits for its end, or has come to it.
const IDLE: Duration = Duration::from_secs(30);

/// How much is fetched ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AheadBudget {
    /// So many bytes, at least one segment.
    Bytes(u64),
    /// So many segments.
    Segments(u32),
}

/// The segments fetched ahead for one recovery.
#[derive(Debug, Clone)]
pub struct FetchAhead {
    /// Where the server wants its files.
    target: PathBuf,
    /// The hidden directory of this cluster and repository.
    directory: PathBuf,
    cluster: ClusterName,
    idle: Duration,
}

/// What a worker did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AheadReport {
    /// Segments fetched.
    pub fetched: u64,
    /// Files removed that nobody had used.
    pub removed: u64,
}

impl AheadBudget {
    /// The number of segments it allows, at least one.
    pub(super) fn segments(self, size: SegmentSize) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes / size.bytes(),
            Self::Segments(count) => u64::from(count),
        }
        .max(1)
    }
}

impl FetchAhead {
    /// What is fetched ahead of the archive of `cluster` at `location` for a server that wants its
    /// files in `directory`. Nothing is made yet.
    ///
    /// # Errors
    /// `Invalid` when the directory cannot be told from the root of the file system.
    pub fn beside(directory: impl AsRef<Path>, cluster: &ClusterName, location: &Location) -> Result<Self> {
        let directory = directory.as_ref();
        let given = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        // Not by its one name: pg_wal may be a link, and what is beside it tells of the recovery.
        let target = std::path::absolute(given)
            .map_err(|error| Error::io(format!("find {}", given.display()), error))?;
        let mut digest = hex::encode(Sha256::digest(place(location).as_bytes()));
        digest.truncate(DIGEST_DIGITS);
        let directory = target.join(DIRECTORY).join(format!("{cluster}-{digest}"));
        Ok(Self { target, directory, cluster: cluster.clone(), idle: IDLE })
    }

    /// Lets a worker end after this long without a request, instead of half a minute.
    #[must_use]
    pub const fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Whether `target` is where a server wants the segment that it recovers. It flushes that itself before
    /// it keeps it (`KeepFileRestoredFromArchive`), and asks for it again when it did not come to that.
    #[must_use]
    pub fn is_for_recovery(target: &Path) -> bool {
        target.file_name().is_some_and(|name| name == RECOVERED_SEGMENT)
    }

    /// Where a worker's log goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("worker.log")
    }

    /// Moves a segment that was fetched ahead to `target`, which is in the directory given to
    /// [`beside`](Self::beside); waits a little for one that is being fetched. `None` when it is
    /// not there, for whatever reason: then it must be fetched. It is flushed to disk first, unless it
    /// [is for recovery](Self::is_for_recovery).
    ///
    /// # Cancellation
    /// Safe to drop; the segment is in one of the two places.
    #[instrument(skip_all, fields(file = %file))]
    pub async fn take(&self, ctx: &Ctx, file: &WalFile, target: &Path) -> Option<FetchedWal> {
        let begun = Instant::now();
        if file.kind() != WalFileKind::Segment {
            return None;
        }
        loop {
            if let Some(size_bytes) = self.move_into_place(file, target) {
                let (cluster, file) = (self.cluster.clone(), file.clone());
                return Some(FetchedWal { cluster, file, size_bytes, elapsed: begun.elapsed() });
            }
            let is_coming = self.part(file).exists() && self.has_worker();
            if !is_coming || begun.elapsed() >= IN_FLIGHT_PATIENCE || ctx.cancel.is_cancelled() {
                // It may have come between the two looks.
                let size_bytes = self.move_into_place(file, target)?;
                let (cluster, file) = (self.cluster.clone(), file.clone());
                return Some(FetchedWal { cluster, file, size_bytes, elapsed: begun.elapsed() });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tells the worker that `file` was asked for and found elsewhere: it goes on from there.
    ///
    /// # Errors
    /// When the hidden directory cannot be made or written.
    pub fn follow(&self, file: &WalFile) -> Result<()> {
        if file.kind() != WalFileKind::Segment {
            return Ok(());
        }
        self.make_directory()?;
        self.want(file).map_err(|error| self.failed("write", error))
    }

    /// Fetches the segments behind the one that is wanted, as long as there are requests. Returns
    /// at once when another worker does.
    ///
    /// A fault ends it: the next request starts it anew, and meets the fault itself when it comes
    /// to that segment.
    ///
    /// # Errors
    /// What the repository answers, but never that a segment is absent; `Conflict` when the archive is
    /// another system's than the server's; when the directory cannot be written.
    ///
    /// # Cancellation
    /// Safe to drop; files may be left for the next worker.
    #[instrument(skip_all, fields(cluster = %self.cluster))]
    pub async fn run(&self, ctx: &Ctx, repository: &Repository, budget: AheadBudget) -> Result<AheadReport> {
        repository.check_recovers_its_own(&self.cluster, &self.target.join(RECOVERED_SEGMENT)).await?;
        follow::run(self, ctx, repository, budget).await
    }

    /// Whether a worker runs: it holds the lock.
    #[must_use]
    pub fn has_worker(&self) -> bool {
        let Ok(lock) = std::fs::File::open(self.directory.join("lock")) else { return false };
        flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    }

    fn failed(&self, doing: &str, error: std::io::Error) -> Error {
        Error::io(format!("{doing} {}", self.directory.display()), error)
    }
}
