//! A backup's record: everything about it but the state of its verification, which the root
//! keeps because it changes.

use std::collections::BTreeMap;

use capy_types::{BackupId, BackupKey, Lsn, SegmentSize, SystemId, TimelineId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{check_label, checked, from_json};
use crate::{Content, FormatError};

/// What a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// A PostgreSQL cluster.
    Base,
    /// A byte stream.
    Stream,
}

/// Whether a backup passed its own checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupState {
    /// All of them.
    Complete,
    /// Page checksums or `backup_manifest` disagree with what was read.
    Damaged,
}

/// Counts and sizes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Records of the manifest.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of the files.
    pub size_bytes: u64,
    /// Bytes in chunks that were not known before.
    pub new_bytes: u64,
    /// Bytes in chunks that were.
    pub deduplicated_bytes: u64,
    /// Bytes of the packs and indexes written.
    pub stored_bytes: u64,
    /// Chunks of the files.
    pub chunks: u64,
    /// Chunks that were not known before.
    pub new_chunks: u64,
}

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its oid.
    pub oid: u32,
    /// Where it was on the server.
    pub location: String,
    /// Its size in bytes, where the server told.
    #[serde(default)]
    pub size: Option<u64>,
}

/// A collation's version when the backup was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collation {
    /// Its name.
    pub name: String,
    /// `libc`, `icu` or `builtin`.
    pub provider: String,
    /// The library's version.
    #[serde(default)]
    pub version: Option<String>,
}

/// How `backup_manifest` compared with what was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestCheck {
    /// The checksum algorithm of its files.
    pub algorithm: String,
    /// Files it lists.
    pub files: u64,
    /// Files whose checksum was compared.
    pub checked: u64,
    /// Files that differ, are missing or are not listed.
    pub mismatches: u64,
}

/// What PostgreSQL said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresFacts {
    /// System identifier.
    pub system_id: SystemId,
    /// Version as a number, 150018 for 15.18; only the major where nothing else is known.
    pub version_num: u32,
    /// Version as PostgreSQL words it.
    pub version: String,
    /// The timeline of the backup.
    pub timeline: TimelineId,
    /// Where the WAL it needs begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    #[serde(default)]
    pub stop_lsn: Option<Lsn>,
    /// Size of WAL segments in bytes.
    pub segment_size: SegmentSize,
    /// Whether pages carry checksums.
    #[serde(default)]
    pub data_checksums: Option<bool>,
    /// Whether the WAL it needs is inside.
    pub wal_included: bool,
    /// Its tablespaces.
    #[serde(default)]
    pub tablespaces: Vec<Tablespace>,
    /// Settings a restore must not go below, and others worth knowing.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Versions of its collations.
    #[serde(default)]
    pub collations: Vec<Collation>,
    /// Whether it was taken from a standby.
    #[serde(default)]
    pub from_standby: bool,
    /// How `backup_manifest` compared.
    #[serde(default)]
    pub backup_manifest: Option<ManifestCheck>,
}

/// The record document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// Its key.
    pub key: BackupKey,
    /// A name for people.
    #[serde(default)]
    pub label: Option<String>,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// What it is of.
    pub kind: BackupKind,
    /// The database or stream it is of.
    #[serde(default)]
    pub database: Option<String>,
    /// The backup of the same cluster that it was put together with: the server sent only what had
    /// changed since. Written only then. It is a whole backup all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incremental_from: Option<BackupId>,
    /// Its manifest.
    pub manifest: Content,
    /// Counts and sizes.
    pub stats: Stats,
    /// What PostgreSQL said of itself.
    #[serde(default)]
    pub postgres: Option<PostgresFacts>,
    /// What its own checks found, the first of it.
    #[serde(default)]
    pub problems: Vec<String>,
    /// How much they found in all.
    #[serde(default)]
    pub problems_total: u64,
    /// The program that wrote it.
    pub tool_version: String,
}

impl BackupRecord {
    /// Reads the document and checks its invariants.
    ///
    /// # Errors
    /// Not this document, or one that contradicts itself.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        checked(object, from_json(object, json)?, Self::check)
    }

    /// What must hold of every record, checked before it is written and after it is read.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        self.label.as_deref().map_or(Ok(()), check_label)?;
        self.manifest.check().map_err(|problem| format!("manifest: {problem}"))?;
        if self.incremental_from.as_ref() == Some(&self.key.id) {
            return Err("put together with itself".to_owned());
        }
        if (self.problems.len() as u64) > self.problems_total {
            return Err(format!("{} problems listed of {}", self.problems.len(), self.problems_total));
        }
        match &self.postgres {
            Some(facts) => check_positions(Some(facts.start_lsn), facts.stop_lsn),
            None => Ok(()),
        }
    }
}

/// A backup is consistent at or after the position its WAL starts at.
pub(super) fn check_positions(start: Option<Lsn>, stop: Option<Lsn>) -> Result<(), String> {
    match (start, stop) {
        (Some(start), Some(stop)) if stop < start => {
            Err(format!("stops at {stop}, before its start at {start}"))
        }
        (None, Some(stop)) => Err(format!("stops at {stop} but starts nowhere")),
        _ => Ok(()),
    }
}
