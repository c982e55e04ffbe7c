//! What `expire` answers: each backup with the reason it stays or goes, and what the collector of
//! WAL must not go below.

use capy_types::{BackupKey, ClusterName, Lsn, SystemId, TimelineId};
use serde::Serialize;

use crate::BackupInfo;

/// Why a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeepReason {
    /// It is pinned.
    Pinned,
    /// It is the newest sound backup of its series, which never goes.
    Newest,
    /// `keep_full` counts it.
    Full,
    /// It ended inside `keep_within`.
    Within,
    /// WAL leads from it to the beginning of `keep_within`.
    WindowStart,
    /// It is the newest of a day that counts.
    Daily,
    /// It is the newest of an ISO week that counts.
    Weekly,
    /// It is the newest of a month that counts.
    Monthly,
    /// It is the newest of a year that counts.
    Yearly,
    /// It is damaged or failed its verification, but no sound backup follows it.
    NothingNewer,
    /// It is dated after the present: a clock is wrong, here or where it was taken.
    Future,
    /// Of those that lead to the newest timeline of the archive, it is the newest.
    NewestTimeline,
    /// It would go, but was not among those that were shown.
    NotShown,
}

impl KeepReason {
    /// The words in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Newest => "newest",
            Self::Full => "full",
            Self::Within => "within",
            Self::WindowStart => "leads into the window",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::NothingNewer => "no sound backup is newer",
            Self::Future => "dated in the future",
            Self::NewestTimeline => "leads to the newest timeline",
            Self::NotShown => "not shown before",
        }
    }
}

/// Why a backup goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExpireReason {
    /// No rule keeps it.
    NoRule,
    /// No rule keeps it, for it is damaged or failed its verification, and a newer sound backup
    /// is kept.
    NotSound,
}

impl ExpireReason {
    /// The words in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no rule keeps it",
            Self::NotSound => "not sound, and a newer one is",
        }
    }
}

/// A backup that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeptBackup {
    /// The backup.
    pub backup: BackupInfo,
    /// Every reason, at least one.
    pub reasons: Vec<KeepReason>,
}

/// A backup that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExpiredBackup {
    /// The backup.
    pub backup: BackupInfo,
    /// Why.
    pub reason: ExpireReason,
}

/// The oldest base backup of a timeline that is kept: of this server's WAL on this timeline,
/// nothing from `start_lsn` on may go. Timelines that branch off it need theirs from the branch
/// on. A timeline that is not named has no base backup of its own; that says nothing about who
/// needs its WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OldestKept {
    /// The cluster in the repository.
    pub cluster: ClusterName,
    /// The server: log positions of two servers do not compare.
    pub system_id: Option<SystemId>,
    /// The timeline the backup was taken on.
    pub timeline: TimelineId,
    /// Where its recovery starts.
    pub start_lsn: Lsn,
    /// The backup.
    pub backup_key: BackupKey,
}

/// What was, or would be, expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExpireReport {
    /// Whether nothing was removed because that was asked for.
    pub dry_run: bool,
    /// What stays, oldest first.
    pub kept: Vec<KeptBackup>,
    /// What goes, oldest first.
    pub expired: Vec<ExpiredBackup>,
    /// Bytes of the files of what goes.
    pub expired_bytes: u64,
    /// Bytes that what goes added to the repository when it was taken. What the collector frees
    /// differs: newer backups may share them, and may have been the last to share others.
    pub expired_stored_bytes: u64,
    /// The oldest kept base backup of each cluster and timeline.
    pub oldest_kept: Vec<OldestKept>,
    /// What the operator should know.
    pub notices: Vec<String>,
    /// WAL that went, or would go, with them.
    pub wal: Vec<ExpiredWal>,
}

/// WAL that no kept backup needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExpiredWal {
    /// Whose archive.
    pub cluster: ClusterName,
    /// How many files.
    pub files: u64,
    /// The first of them.
    pub first: String,
    /// The last of them.
    pub last: String,
}
