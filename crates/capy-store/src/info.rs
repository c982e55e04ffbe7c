//! What callers see of a backup: the fields of the API, stable in JSON.
//!
//! Contained by: the façade's answers and the command's `--json` documents.
//! Invariant: these are the façade's own types. The stored format may change without changing
//! them; a field is added here, never renamed or given another unit.

use capy_types::{BackupId, BackupKey, ClusterName, Lsn, SegmentSize, SystemId, TimelineId, Timestamp};
use serde::Serialize;

/// What a backup is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackupKind {
    /// A base backup of a whole PostgreSQL cluster.
    Base,
    /// One byte stream under one name: a dump, an import.
    Stream,
}

/// Whether a stored backup can be trusted, as known when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackupState {
    /// Every check made while it was taken passed.
    Complete,
    /// It is stored as received, but page checksums or its `backup_manifest` did not agree.
    Damaged,
}

/// How far the stored bytes of a backup have been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VerificationState {
    /// Not yet.
    Pending,
    /// A verification is running, or was interrupted.
    Running,
    /// The last verification found no defect.
    Verified,
    /// The last verification found defects.
    Failed,
}

impl VerificationState {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Verified => "verified",
            Self::Failed => "failed",
        }
    }
}

impl BackupState {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Damaged => "damaged",
        }
    }
}

impl BackupKind {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Stream => "stream",
        }
    }
}

/// Why a backup must not be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PinInfo {
    /// The reason in one line.
    pub reason: String,
    /// Who pinned it, if they said.
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// One backup, as `list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackupInfo {
    /// The part of the key that names it inside its cluster.
    pub id: BackupId,
    /// `<cluster>/<id>`, unique in the repository.
    pub backup_key: BackupKey,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// What the caller named it.
    pub label: Option<String>,
    /// The database the caller says it is of.
    pub database: Option<String>,
    /// What it is made of.
    pub kind: BackupKind,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it was committed.
    pub finished_at: Timestamp,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Bytes it added to the repository when it was taken.
    pub stored_bytes: u64,
    /// Whether its own checks passed.
    pub state: BackupState,
    /// How far the stored bytes have been verified.
    pub verification_state: VerificationState,
    /// The level of the last verification.
    pub verification_level: Option<String>,
    /// When the last verification ended (or, while running, began).
    pub verified_at: Option<Timestamp>,
    /// What the last verification found, in one line.
    pub verification_error: Option<String>,
    /// The PostgreSQL cluster's identity.
    pub system_id: Option<SystemId>,
    /// The timeline it was taken on.
    pub timeline: Option<TimelineId>,
    /// Where recovery must start.
    pub start_lsn: Option<Lsn>,
    /// What recovery must reach before the backup is consistent.
    pub stop_lsn: Option<Lsn>,
    /// Set while nothing may remove it.
    pub pinned: Option<PinInfo>,
}

/// One backup with all that its record holds, as `show` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackupDetails {
    /// The fields of [`BackupInfo`].
    #[serde(flatten)]
    pub info: BackupInfo,
    /// The version of the program that took it.
    pub tool_version: String,
    /// The backup it was put together with, when the server sent only what had changed since. It is
    /// whole all the same.
    pub incremental_from: Option<BackupId>,
    /// What was counted while it was taken.
    pub stats: BackupStats,
    /// What PostgreSQL said.
    pub postgres: Option<PostgresInfo>,
    /// What was wrong with it when it was taken: the first of them.
    pub problems: Vec<String>,
    /// How many problems there were in all.
    pub problems_total: u64,
}

/// What was counted while a backup was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackupStats {
    /// Entries: files, directories and links.
    pub entries: u64,
    /// Files.
    pub files: u64,
    /// Bytes of the files.
    pub size_bytes: u64,
    /// Bytes that the repository did not hold before.
    pub new_bytes: u64,
    /// Bytes that the repository held already.
    pub deduplicated_bytes: u64,
    /// Bytes the new ones take after compression and encryption, with all overhead.
    pub stored_bytes: u64,
    /// Chunks referred to.
    pub chunks: u64,
    /// Chunks that were new.
    pub new_chunks: u64,
}

/// What a base backup knows of its PostgreSQL cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PostgresInfo {
    /// The cluster's identity, made by `initdb`.
    pub system_id: SystemId,
    /// As `server_version_num`: 150020.
    pub version_num: u32,
    /// As PostgreSQL writes it: `15.20`.
    pub version: String,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where recovery must start.
    pub start_lsn: Lsn,
    /// What recovery must reach before the backup is consistent.
    pub stop_lsn: Option<Lsn>,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// Whether its pages carry checksums.
    pub data_checksums: Option<bool>,
    /// Whether the WAL it needs is inside it.
    pub wal_included: bool,
    /// Whether a standby sent it.
    pub from_standby: bool,
    /// Its tablespaces besides the default ones.
    pub tablespaces: Vec<TablespaceInfo>,
    /// Settings that recovery needs.
    pub settings: std::collections::BTreeMap<String, String>,
    /// Collation versions its indexes were built under.
    pub collations: Vec<CollationInfo>,
    /// How its `backup_manifest` compared with what was stored.
    pub backup_manifest: Option<ManifestCheckInfo>,
}

/// One tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TablespaceInfo {
    /// Its object id, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it lay on the server.
    pub location: String,
    /// Its size as the server estimated it.
    pub size_bytes: Option<u64>,
}

/// One collation the cluster's indexes may depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CollationInfo {
    /// Its name.
    pub name: String,
    /// `libc`, `icu` or `builtin`.
    pub provider: String,
    /// The provider's version of it.
    pub version: Option<String>,
}

/// How a `backup_manifest` compared with what was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ManifestCheckInfo {
    /// The algorithm of its checksums: `CRC32C`, `SHA256`, `NONE`.
    pub algorithm: String,
    /// Files it lists.
    pub files: u64,
    /// Files whose size and checksum were compared.
    pub checked: u64,
    /// Files that did not agree.
    pub mismatches: u64,
}
