//! `backup_manifest`: the list of files a base backup must have, with sizes and checksums.
//!
//! It is JSON with one file per line, written by PostgreSQL 13 and later; version 2 (17 and later)
//! also names the system identifier. A large cluster's manifest lists a million files, so the
//! parser is fed in pieces and hands each file on as it comes: what it holds is bounded by one
//! string. The file's own SHA-256, over every line but the last, is checked at the end.
//!
//! Checksums in the manifest are CRC-32C unless asked otherwise: they find damage, not forgery.
//!
//! Source: PostgreSQL documentation, chapter "Backup Manifest Format"; `parse_manifest.c`.

mod checksum;
mod draft;
mod error;
mod json;
mod parser;

pub use checksum::{ChecksumAlgorithm, FileChecksum, FileHasher};
pub use draft::{ManifestDraft, ManifestText};
pub use error::ManifestError;
pub use parser::ManifestParser;

use capy_types::{Lsn, SystemId, TimelineId};

/// Longest string in bytes: a path of 4096 bytes in hex, or one in which every byte is written as
/// a six-byte escape, fits.
pub const STRING_MAX_BYTES: usize = 32 * 1024;

/// Most WAL ranges: one per timeline that the backup crossed, which is one or two.
pub const WAL_RANGES_MAX: usize = 1024;

/// One file of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// The path below the data directory; files of tablespaces are below `pg_tblspc/<oid>/`.
    pub path: Vec<u8>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its checksum, unless the backup was made without.
    pub checksum: Option<FileChecksum>,
    /// When it was modified, in seconds since the Unix epoch; 0 when that is not said as PostgreSQL
    /// says it.
    pub modified: i64,
}

/// WAL that is needed to make the backup consistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// First position needed.
    pub start_lsn: Lsn,
    /// End of what is needed.
    pub end_lsn: Lsn,
}

/// What a whole manifest says beside its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestSummary {
    /// Version of the format: 1 or 2.
    pub version: u32,
    /// The cluster's identity; version 2 only.
    pub system_id: Option<SystemId>,
    /// Files listed.
    pub files: u64,
    /// Sum of their sizes in bytes.
    pub size_bytes: u64,
    /// WAL needed.
    pub wal_ranges: Vec<WalRange>,
}

#[cfg(test)]
mod tests;
