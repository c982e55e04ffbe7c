//! What long operations return: typed reports with figures and findings, ready for JSON.
//!
//! Contained by: the façade. Invariant: a report is returned whenever the operation ran to its
//! end, even when it found something wrong; an error means that it did not get there. Lists of
//! findings are bounded and carry their true total.

use std::path::PathBuf;
use std::time::Duration;

use capy_objects::{CacheCounts, ReadCache};
use capy_types::{BackupKey, Lsn, TimelineId};
use serde::{Serialize, Serializer};

use crate::{BackupInfo, BackupState, BackupStats, IncrementalReport, Limits, RecoveryChoice};

/// Most findings kept in a report, in a record and in memory; the rest are counted. At about
/// 200 bytes each this is 200 kB.
pub(crate) const FINDINGS_MAX: usize = 1000;

pub(crate) fn seconds<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
    // Milliseconds are enough, and keep the documents readable.
    s.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Time spent in one stage of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stage {
    /// What was done.
    pub name: &'static str,
    /// How long it took (stages that overlap may add up to more than the whole).
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

/// A stretch of WAL, as positions and as the names of the segments that hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte.
    pub start_lsn: Lsn,
    /// The byte after the last one, when known.
    pub stop_lsn: Option<Lsn>,
    /// The segment file that holds the first byte.
    pub first_segment: String,
    /// The segment file that holds the last byte, when known.
    pub last_segment: Option<String>,
}

/// Findings, the first of them in words and all of them counted.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) first: Vec<String>,
    pub(crate) total: u64,
}

impl Findings {
    /// Adds one; `words` is not called for those that are only counted.
    pub(crate) fn add(&mut self, words: impl FnOnce() -> String) {
        self.total += 1;
        if self.first.len() < FINDINGS_MAX {
            self.first.push(words());
        }
    }

    /// Adds another's.
    pub(crate) fn extend(&mut self, other: Self) {
        self.total += other.total;
        let room = FINDINGS_MAX.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }

    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// How a backup went.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BackupReport {
    /// The backup as it is listed from now on.
    pub backup: BackupInfo,
    /// What was counted.
    pub stats: BackupStats,
    /// Bytes read from the source, with all framing.
    pub read_bytes: u64,
    /// From start to commit.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Where the time went.
    pub stages: Vec<Stage>,
    /// What it waited for, and so what would have to be faster.
    pub limits: Limits,
    /// What is wrong with what was stored: page checksums, `backup_manifest`. The first of them.
    pub problems: Vec<String>,
    /// How many problems there are in all; when not zero, the backup is marked damaged.
    pub problems_total: u64,
    /// What the operator should know, though nothing is wrong.
    pub notices: Vec<String>,
    /// The WAL a restore needs and this backup does not contain.
    pub wal_needed: Option<WalRange>,
    /// How it went when it was to be incremental; absent when it was not.
    pub incremental: Option<IncrementalReport>,
    /// Bytes read from the repository's store: what is known of earlier backups, and the chunks that
    /// changed ones are stored as differences to. Of the repository's handle, as `cache` is.
    pub store_read_bytes: u64,
    /// What its local cache was good for; absent when it had none.
    pub cache: Option<CacheReport>,
}

/// What a local cache was good for. Counts are of the repository's handle: two backups at once on one
/// handle see each other's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheReport {
    /// Reads of packs and index objects that needed no request to the store.
    pub hits: u64,
    /// Those that did.
    pub misses: u64,
    /// Bytes that came out of the cache and not from the store.
    pub hit_bytes: u64,
    /// Files of the cache that were not what they must be, and were removed.
    pub damaged: u64,
    /// Why nothing more is kept in it, when its directory refused something.
    pub fault: Option<String>,
}

impl CacheReport {
    /// Of what was done since `before`.
    pub(crate) fn since(before: &CacheCounts, cache: &ReadCache) -> Self {
        let now = cache.counts();
        Self {
            hits: now.hits - before.hits,
            misses: now.misses - before.misses,
            hit_bytes: now.hit_bytes - before.hit_bytes,
            damaged: now.damaged - before.damaged,
            fault: cache.fault().map(str::to_owned),
        }
    }
}

impl BackupReport {
    /// Whether the backup passed all its own checks.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.backup.state == BackupState::Complete
    }
}

/// How a restore went.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// What was restored.
    pub backup_key: BackupKey,
    /// Where to; absent when it went into a stream.
    pub target: Option<PathBuf>,
    /// Files written.
    pub files: u64,
    /// Directories and links made.
    pub directories: u64,
    /// Bytes written.
    pub restored_bytes: u64,
    /// Bytes that were there already, with [`Delta`](crate::Delta).
    pub kept_bytes: u64,
    /// Files, links and directories with everything in them that were removed, with
    /// [`Delta`](crate::Delta).
    pub removed: u64,
    /// Bytes read from the store.
    pub read_bytes: u64,
    /// From start to the last flush.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Where the time went.
    pub stages: Vec<Stage>,
    /// What the operator should know: ownership that could not be set, WAL that is still needed.
    pub notices: Vec<String>,
    /// The WAL recovery needs and the backup does not contain.
    pub wal_needed: Option<WalRange>,
    /// What the directory was set up to recover to.
    pub recovery: Option<RecoveryChoice>,
}

/// How thorough a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VerifyLevel {
    /// Everything that says where bytes are: root, records, manifests, indexes, packs exist with
    /// the right size, and their footers agree with the index.
    Structure,
    /// And every stored byte: each frame opened, decompressed and hashed again, and the
    /// checksums of `backup_manifest` computed anew from what is stored.
    Full,
}

impl VerifyLevel {
    /// The word on the command line, in JSON and in the root.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Full => "full",
        }
    }
}

/// One thing found wrong in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Defect {
    /// The object it is in, or the file of a backup whose content does not agree.
    pub object: String,
    /// Where in the object, when known.
    pub offset: Option<u64>,
    /// What is wrong: one fact.
    pub what: String,
    /// Backups that cannot be restored in full because of it.
    pub backups: Vec<BackupKey>,
    /// Files that are affected, as `<backup key>: <path>`; the first of them.
    pub files: Vec<String>,
    /// How many files are affected in all.
    pub files_total: u64,
}

/// How a verification went.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How thorough it was.
    pub level: VerifyLevel,
    /// The backups it covered.
    pub backups: Vec<BackupKey>,
    /// One line: what is now known.
    pub verdict: String,
    /// Whether no defect was found.
    pub ok: bool,
    /// The defects found; the first of them.
    pub defects: Vec<Defect>,
    /// How many defects there are in all.
    pub defects_total: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Chunks looked at (structure) or opened and hashed again (full).
    pub chunks: u64,
    /// Files whose manifest entry was followed.
    pub files: u64,
    /// Files whose `backup_manifest` checksum was computed anew.
    pub manifest_files_checked: u64,
    /// Bytes read from the store.
    pub read_bytes: u64,
    /// Bytes of plaintext hashed again.
    pub hashed_bytes: u64,
    /// From start to end.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_bounded_and_all_counted() {
        let mut findings = Findings::default();
        for n in 0..FINDINGS_MAX as u64 + 7 {
            findings.add(|| n.to_string());
        }
        assert_eq!((findings.first.len(), findings.total), (FINDINGS_MAX, FINDINGS_MAX as u64 + 7));
    }
}
