//! Push: one file of the server's into the archive.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use capy_postgres::wal::{self, Stopped};
use capy_repo::{ReadWal, StoredWal};
use capy_types::{ClusterName, Ctx, ErrorKind, Lsn, WalFile, WalFileKind};
use serde::Serialize;
use tracing::instrument;

use super::beside::ServerBeside;
use super::facts::facts_of;
use crate::repository::cancellable;
use crate::{Error, Repository, Result};

/// Largest file read in bytes: the largest segment PostgreSQL can be built for.
const FILE_MAX_BYTES: u64 = 1 << 30;
/// Length in bytes of the record that closes a segment early: a header and nothing else.
const SWITCH_RECORD_BYTES: u64 = 24;

/// What became of a pushed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PushOutcome {
    /// It is archived now.
    Archived,
    /// It was archived before, with the same content, which was read back.
    AlreadyThere,
}

/// A file that is in the archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PushedWal {
    /// The archive.
    pub cluster: ClusterName,
    /// The file.
    pub file: WalFile,
    /// New, or there already.
    pub outcome: PushOutcome,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The size of its object in bytes; 0 when it was there already.
    pub stored_bytes: u64,
    /// How long it took.
    #[serde(rename = "elapsed_seconds", serialize_with = "crate::report::seconds")]
    pub elapsed: Duration,
    /// What is odd about it, though it was stored.
    pub notices: Vec<String>,
}

impl Repository {
    /// Archives a WAL file: a segment, partial segment, timeline history or backup label, named as
    /// PostgreSQL names it. Returns when it is durable.
    ///
    /// The first file decides whose WAL the archive of `cluster` takes. A segment says whose it is; a
    /// history or label that is in a server's `pg_wal` is that server's, by the `global/pg_control` above.
    ///
    /// # Errors
    /// `NotFound` when there is no such file; `Invalid` when it is not what its name says;
    /// `Conflict` when the archive is another system's, or holds another content under this name:
    /// both are kept then, and the message says how they differ; `Corrupt` when the archived copy
    /// cannot be read; `Denied`, `Unavailable`. After any error the server must keep the file.
    ///
    /// # Cancellation
    /// Safe to drop: the file is either archived or not, and may be pushed again.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let segment = "/var/lib/postgresql/15/main/pg_wal/000000010000000000000003";
    /// let pushed = repository.push_wal(ctx, &"main".parse().unwrap(), segment).await?;
    /// println!("{} in {} bytes", pushed.file, pushed.stored_bytes);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %cluster))]
    pub async fn push_wal(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        path: impl Into<PathBuf>,
    ) -> Result<PushedWal> {
        let path = path.into();
        let work = async {
            let file = file_name(&path)?;
            let kind = file.kind();
            let reading = tokio::task::spawn_blocking(move || Ok((read_file(&path)?, owner(kind, &path))));
            let read: Result<_> =
                reading.await.map_err(|_| Error::new(ErrorKind::Internal, "a thread panicked"))?;
            let (bytes, owner) = read?;
            self.push_wal_of(owner.as_ref(), cluster, file, bytes).await
        };
        cancellable(ctx, work).await
    }

    /// Archives a WAL file that is in memory.
    pub(crate) async fn push_wal_bytes(
        &self,
        cluster: &ClusterName,
        file: WalFile,
        bytes: Bytes,
    ) -> Result<PushedWal> {
        self.push_wal_of(None, cluster, file, bytes).await
    }

    /// Archives a WAL file that is in memory, and that is this server's if it does not say itself.
    pub(super) async fn push_wal_of(
        &self,
        owner: Option<&ServerBeside>,
        cluster: &ClusterName,
        file: WalFile,
        bytes: Bytes,
    ) -> Result<PushedWal> {
        let begun = Instant::now();
        let facts = facts_of(&file, &bytes, self.clock().now())?;
        let size_bytes = facts.size;
        let mut notices = Vec::new();
        if let Some(segment) = &facts.segment {
            self.repo.claim_archive(cluster, segment.system_id, segment.segment_size).await?;
            notices.extend(segment.stopped.iter().map(|why| format!("its valid WAL ends early: {why}")));
        } else if let Some(owner) = owner {
            self.repo.claim_archive(cluster, owner.system_id, owner.segment_size).await?;
        }
        let (outcome, stored_bytes) = match self.repo.put_wal(cluster, facts, bytes.clone()).await? {
            StoredWal::New { stored_bytes } => (PushOutcome::Archived, stored_bytes),
            StoredWal::Same => (PushOutcome::AlreadyThere, 0),
            StoredWal::Conflict { first, kept_as } => {
                return Err(conflict(&file, first.as_deref(), &bytes, &kept_as));
            }
        };
        let (cluster, elapsed) = (cluster.clone(), begun.elapsed());
        Ok(PushedWal { cluster, file, outcome, size_bytes, stored_bytes, elapsed, notices })
    }
}

/// What a file is, by its name.
pub(super) fn file_name(path: &Path) -> Result<WalFile> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.parse().map_err(|error| {
        Error::invalid(format!("{}: {error}", path.display()))
            .with_hint("pass the path of a file in pg_wal: %p in archive_command")
    })
}

/// Whose a file is that does not say so itself: a history decides where a recovery goes. Blocks.
pub(super) fn owner(kind: WalFileKind, path: &Path) -> Option<ServerBeside> {
    match kind {
        WalFileKind::Segment | WalFileKind::Partial => None,
        WalFileKind::History | WalFileKind::BackupLabel => ServerBeside::of(path),
    }
}

fn read_file(path: &Path) -> Result<Bytes> {
    use std::io::Read;
    let failed = |error| Error::io(format!("read {}", path.display()), error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length > FILE_MAX_BYTES {
        let what = format!("{}: {length} bytes are more than the largest segment", path.display());
        return Err(Error::invalid(what));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes.into())
}

/// Two contents under one name: what differs decides what to do.
fn conflict(file: &WalFile, first: Option<&ReadWal>, new: &[u8], kept_as: &str) -> Error {
    let Some(first) = first else {
        let what = format!("{file} is archived already, but its object is damaged; this copy is {kept_as}");
        return Error::new(ErrorKind::Corrupt, what)
            .with_hint("delete the damaged object in the store, and push the file again");
    };
    let what = format!(
        "{file} is archived already with another content: {}; both are kept, this one as {kept_as}",
        difference(first, new)
    );
    Error::new(ErrorKind::Conflict, what)
        .with_hint("two servers write one archive, or one was rewound: give the other a --cluster of its own")
}

/// How two files of one name differ.
fn difference(first: &ReadWal, new: &[u8]) -> String {
    let length = first.bytes.len();
    if length != new.len() {
        return format!("{length} bytes there, {} here", new.len());
    }
    let at = first.bytes.iter().zip(new).position(|(a, b)| a != b).unwrap_or(length);
    let name = first.facts.segment.as_ref().and_then(|s| first.facts.file.segment(s.segment_size));
    let (Some(name), Some(there), Some(here)) = (name, valid_end(&first.bytes), valid_end(new)) else {
        return format!("they differ from byte {at} on");
    };
    let position = Lsn::from_u64(name.start().as_u64() + at as u64);
    if position < there.min(here) {
        return format!("the WAL differs from {position} on");
    }
    match there.cmp(&here) {
        Ordering::Equal => {
            format!("only behind the last valid record, which ends at {there}: the WAL in them is the same")
        }
        Ordering::Less => format!("the WAL is the same up to {there}, where the archived one ends"),
        Ordering::Greater => format!("the WAL is the same up to {here}, where this one ends"),
    }
}

/// The end of a segment's last valid record. Behind a switch nothing is read any more.
fn valid_end(bytes: &[u8]) -> Option<Lsn> {
    let read = wal::SegmentFacts::read(bytes).ok()?;
    Some(match read.scan.stopped {
        Stopped::Switched { at } => Lsn::from_u64(at.as_u64() + SWITCH_RECORD_BYTES),
        _ => read.scan.end,
    })
}
