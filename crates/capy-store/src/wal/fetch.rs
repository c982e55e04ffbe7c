//! Fetch: one file of the archive onto the disk of a server that recovers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use capy_format::names;
use capy_types::{ClusterName, Ctx, ErrorKind, WalFile};
use futures::future::join;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use tracing::instrument;

use super::ahead::FetchAhead;
use super::beside::ServerBeside;
use super::tail::Found;
use crate::repository::cancellable;
use crate::{Error, Repository, Result};

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FetchedWal {
    /// The archive.
    pub cluster: ClusterName,
    /// The file.
    pub file: WalFile,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// How long it took.
    #[serde(rename = "elapsed_seconds", serialize_with = "crate::report::seconds")]
    pub elapsed: Duration,
}

impl Repository {
    /// Brings a file of the archive to `target`, whole and on disk or not at all. What was there is
    /// replaced. A segment that is not whole comes as far as a receiver has made it durable, the rest
    /// zeros: a recovery finds the end of WAL there, behind the last commit that was acknowledged.
    ///
    /// # Errors
    /// `NotFound` only when the store says that the archive lacks the file: recovery may take it
    /// for the end of WAL. Everything else is a fault, after which recovery must not go on:
    /// `Conflict` when the target is a server's own request and the archive is another system's;
    /// `Corrupt` when the archived file is not what was archived; `Denied`, `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop; at worst a file `.NAME.fetching` is left beside the target.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let (cluster, file) = ("main".parse().unwrap(), "000000010000000000000003".parse().unwrap());
    /// repository.fetch_wal(ctx, &cluster, &file, "pg_wal/RECOVERYXLOG").await?;
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %cluster, file = %file))]
    pub async fn fetch_wal(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        file: &WalFile,
        target: impl Into<PathBuf>,
    ) -> Result<FetchedWal> {
        let (begun, target) = (Instant::now(), target.into());
        let work = async {
            // At once: recovery waits.
            let (found, whose) =
                join(self.find_wal(cluster, file), self.check_recovers_its_own(cluster, &target)).await;
            whose?;
            let Some(found) = found.map_err(fault)? else {
                return Err(self.absent(cluster, file).await);
            };
            let size_bytes = found.size_bytes();
            let writing = tokio::task::spawn_blocking(move || write_file(&target, &found));
            let written = writing.await.map_err(|_| Error::new(ErrorKind::Internal, "a thread panicked"))?;
            written.map_err(fault)?;
            let (cluster, file) = (cluster.clone(), file.clone());
            Ok(FetchedWal { cluster, file, size_bytes, elapsed: begun.elapsed() })
        };
        cancellable(ctx, work).await
    }

    /// Refuses to hand a server the WAL of another system. It would take the first foreign segment, or the
    /// first one that the other's archive lacks, for the end of its own, and be promoted there.
    pub(super) async fn check_recovers_its_own(&self, cluster: &ClusterName, target: &Path) -> Result<()> {
        if !is_a_servers_request(target) {
            return Ok(());
        }
        let Some(server) = ServerBeside::find(target).await else { return Ok(()) };
        let archive = match self.repo.archive(cluster).await.map_err(Error::from) {
            Ok(archive) => archive,
            // Its files are not damaged by that.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(()),
            Err(error) => return Err(fault(error)),
        };
        let Some(archive) = archive.filter(|archive| archive.system_id != server.system_id) else {
            return Ok(());
        };
        let what = format!(
            "the archive {cluster} has the WAL of system {}, and the server in {} is system {}",
            archive.system_id,
            server.directory.display(),
            server.system_id
        );
        Err(Error::new(ErrorKind::Conflict, what)
            .with_hint("name this server's own archive and repository in restore_command: --cluster, --repo"))
    }

    /// That a file is absent, if that can be believed: a store that was unmounted or emptied lacks
    /// everything, also what every repository has; and an archive that nobody ever wrote to has no
    /// word on any file: its name may be mistyped.
    async fn absent(&self, cluster: &ClusterName, file: &WalFile) -> Error {
        // Both are asked for after the file was, and at once: recovery waits.
        let (config, archive) = join(self.repo.store().head(names::CONFIG), self.repo.archive(cluster)).await;
        if let Err(error) = config {
            let what = format!("the repository at {} is gone or does not answer: {error}", self.url());
            return Error::new(ErrorKind::Unavailable, what);
        }
        match archive {
            Ok(Some(_)) => Error::new(ErrorKind::NotFound, format!("the archive {cluster} has no {file}")),
            Ok(None) => Error::new(ErrorKind::Unavailable, format!("there is no WAL archive {cluster}"))
                .with_hint("no segment was ever pushed to it: is the name right?"),
            Err(error) => fault(error.into()),
        }
    }
}

/// Whether a server that recovers wants a file there: PostgreSQL's names for what it is about to read.
fn is_a_servers_request(target: &Path) -> bool {
    FetchAhead::is_for_recovery(target) || target.file_name().is_some_and(|name| name == "RECOVERYHISTORY")
}

/// Something else is missing than the file in the archive: the repository itself, or the directory
/// to write into. That is no word on the file.
fn fault(error: Error) -> Error {
    if error.kind() == ErrorKind::NotFound { Error::wrap(ErrorKind::Unavailable, error) } else { error }
}

/// Writes beside the target, flushes, renames.
fn write_file(target: &Path, found: &Found) -> Result<()> {
    let failed = |error| Error::io(format!("write {}", target.display()), error);
    let name = target.file_name().ok_or_else(|| Error::invalid("the target is no file name"))?;
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let beside = directory.join(format!(".{}.fetching", name.to_string_lossy()));
    let mut file = only_ours(&beside).map_err(failed)?;
    let mut write = || {
        make_room(&file, found.size_bytes());
        found.unpack(|block| file.write_all(block))?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&beside, target).map_err(failed)?;
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

/// Opens a file that others may be writing too, empties it, and holds it: another fetch to the same
/// target waits, and never writes into what this one has renamed and reported. What a killed one left
/// is taken over, so that no more than one such file is ever left.
fn only_ours(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    loop {
        let file = options.open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        // Who held it has renamed or removed it since it was opened.
        let meta = file.metadata()?;
        if std::fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (meta.dev(), meta.ino())) {
            file.set_len(0)?;
            return Ok(file);
        }
    }
}

/// Gives a file that will be written its blocks at once, which costs less than one by one. Where the
/// file system cannot, or is full, the writing will tell.
pub(super) fn make_room(file: &std::fs::File, size_bytes: u64) {
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, size_bytes);
}
