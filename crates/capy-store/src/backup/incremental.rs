//! Which backup an incremental one is built on, or why none is.
//!
//! Contained by: the backup. The server sends the blocks that changed since an earlier backup began;
//! they are put together with that backup while they come in ([`super::changed`]). Invariant: it is of
//! the same cluster and on the way to the server's present timeline, its pages have checksums if the
//! server's have, it passed its own checks, and its `backup_manifest` was stored; whether it can be read
//! to the last byte shows only when it is read.

use bytes::{Bytes, BytesMut};
use capy_format::{BackupEntry, BackupKind, BackupState, VerificationState};
use capy_postgres::IncrementalServer;
use capy_repo::{ReadOptions, Reader};
use capy_types::{BackupKey, ClusterName, Ctx, ErrorKind, Lsn, PackId};
use serde::Serialize;

use super::postgres::PostgresSource;
use crate::{Error, Repository, Result, manifest};

/// Whether the server may send only what changed since an earlier backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Incremental {
    /// It sends everything.
    #[default]
    Off,
    /// Where that is possible; otherwise it sends everything, and the report says why.
    Auto,
    /// Where it is not possible, the backup fails.
    Require,
}

/// How a backup that was to be incremental went. The backup is whole in any case: it restores without
/// the one it was built on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct IncrementalReport {
    /// The backup it was built on; absent when everything was sent.
    pub from: Option<BackupKey>,
    /// Why everything was sent.
    pub reason: Option<String>,
    /// Files of which only the changed blocks were sent.
    pub files: u64,
    /// Those among them that had any.
    pub changed_files: u64,
    /// Bytes of changed blocks.
    pub changed_bytes: u64,
    /// Bytes taken over from the earlier backup without being read.
    pub known_bytes: u64,
}

/// Earlier backups looked at before it is given up.
const CANDIDATES_MAX: usize = 8;
/// Longest `backup_manifest` given to a server, which holds it in memory as this process does: three
/// million files.
const MANIFEST_MAX_BYTES: usize = 512 << 20;

/// A backup to build on.
pub(super) struct Earlier {
    pub(super) key: BackupKey,
    /// Its `backup_manifest`.
    pub(super) manifest: Bytes,
    /// Packs that were found damaged on the way to it.
    pub(super) damaged_packs: Vec<PackId>,
}

/// Why a backup is not incremental.
#[derive(Debug, Default)]
pub(super) struct NotPossible {
    pub(super) reason: String,
    /// Packs found damaged: what they hold is stored anew.
    pub(super) damaged_packs: Vec<PackId>,
}

impl From<String> for NotPossible {
    fn from(reason: String) -> Self {
        Self { reason, damaged_packs: Vec::new() }
    }
}

/// Finds the newest backup to build on; where there is none, says why.
pub(super) async fn choose(
    repository: &Repository,
    ctx: &Ctx,
    source: &PostgresSource,
    cluster: &ClusterName,
) -> Result<std::result::Result<Earlier, NotPossible>> {
    if source.data_directory.is_some() {
        return Ok(Err("the server's files are read in place".to_owned().into()));
    }
    let server = IncrementalServer::ask(source.settings()).await?;
    if let Err(reason) = server.check() {
        return Ok(Err(reason.into()));
    }
    let root = repository.repo.root().await?;
    let mut alike: Vec<_> = root
        .backups
        .iter()
        .filter(|entry| entry.key.cluster == *cluster && entry.kind == BackupKind::Base)
        .collect();
    alike.sort_by(|a, b| b.order().cmp(&a.order()));
    let mut not = NotPossible::from(format!("{cluster} has no backup to build on"));
    let mut reader = None;
    for entry in alike.into_iter().take(CANDIDATES_MAX) {
        if reader.is_none() {
            let options = ReadOptions { cached: true, ..ReadOptions::default() };
            reader = Some(repository.repo.reader(ctx, options).await?);
        }
        let Some(reader) = &reader else { break };
        match candidate(repository, ctx, reader, &server, entry).await {
            Ok(Ok(manifest)) => {
                let (key, damaged_packs) = (entry.key.clone(), not.damaged_packs);
                return Ok(Ok(Earlier { key, manifest, damaged_packs }));
            }
            Ok(Err(why)) => not.reason = format!("{} is none to build on: {why}", entry.key),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                not.reason = format!("{} is none to build on: {}", entry.key, error.chain());
                not.damaged_packs.extend(error.damaged_pack());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Err(not))
}

/// The `backup_manifest` of a backup, if it can be built on.
async fn candidate(
    repository: &Repository,
    ctx: &Ctx,
    reader: &Reader,
    server: &IncrementalServer,
    entry: &BackupEntry,
) -> Result<std::result::Result<Bytes, String>> {
    if entry.state != BackupState::Complete || entry.verification.state == VerificationState::Failed {
        return Ok(Err("it is damaged".to_owned()));
    }
    let record = repository.repo.record(entry).await?;
    let Some(facts) = &record.postgres else { return Ok(Err("it is of no cluster".to_owned())) };
    if facts.system_id != server.system_id {
        return Ok(Err(format!("it is of the system {}, this is {}", facts.system_id, server.system_id)));
    }
    if facts.version_num / 10_000 != server.version_num / 10_000 {
        return Ok(Err(format!("it is of PostgreSQL {}", facts.version_num / 10_000)));
    }
    if facts.data_checksums != Some(server.data_checksums) {
        let pages = if server.data_checksums {
            "no checksums, the server's have"
        } else {
            "checksums, the server's have none"
        };
        return Ok(Err(format!("its pages have {pages}")));
    }
    let last = facts.stop_lsn.map_or(facts.start_lsn, |stop| Lsn::from_u64(stop.as_u64().saturating_sub(1)));
    if !server.history.contains(facts.timeline, last) {
        return Ok(Err(format!("the server did not come by {last} of timeline {}", facts.timeline)));
    }
    if facts.backup_manifest.is_none() {
        return Ok(Err("it has no backup_manifest".to_owned()));
    }
    let Some(content) = manifest::find_manifest(ctx, reader, &record.manifest).await? else {
        return Ok(Err("it has no backup_manifest".to_owned()));
    };
    if content.length > MANIFEST_MAX_BYTES as u64 {
        return Ok(Err(format!("its backup_manifest has {} bytes", content.length)));
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(content.length).unwrap_or(0));
    let mut bytes = reader.content(&content);
    while let Some(piece) = bytes.next().await? {
        ctx.check()?;
        whole.extend_from_slice(&piece);
    }
    Ok(Ok(whole.freeze()))
}

/// The error of a backup that had to be incremental and cannot be.
pub(super) fn refused(reason: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("an incremental backup is not possible: {reason}"))
        .with_hint("--incremental auto receives everything then")
}
