//! The stored format's types turned into the façade's, in one place.
//!
//! Contained by: the entry points. Neither side knows the other: the format may change without
//! changing what callers see.

use capy_format::{BackupEntry, BackupRecord, PostgresFacts};
use capy_postgres::PostgresError;
use capy_repo::RepoError;
use capy_types::{Lsn, SegmentName, SegmentSize, TimelineId};

use crate::{
    BackupDetails, BackupInfo, BackupKind, BackupState, BackupStats, CollationInfo, Error, ManifestCheckInfo,
    PinInfo, PostgresInfo, RestorePointKind, TablespaceInfo, VerificationState, WalRange,
};

/// A backup as the root lists it.
pub(crate) fn info(entry: &BackupEntry) -> BackupInfo {
    BackupInfo {
        id: entry.key.id.clone(),
        backup_key: entry.key.clone(),
        cluster: entry.key.cluster.clone(),
        label: entry.label.clone(),
        database: entry.database.clone(),
        kind: match entry.kind {
            capy_format::BackupKind::Base => BackupKind::Base,
            capy_format::BackupKind::Stream => BackupKind::Stream,
        },
        created_at: entry.created_at,
        finished_at: entry.finished_at,
        size_bytes: entry.size_bytes,
        stored_bytes: entry.stored_bytes,
        state: match entry.state {
            capy_format::BackupState::Complete => BackupState::Complete,
            capy_format::BackupState::Damaged => BackupState::Damaged,
        },
        verification_state: match entry.verification.state {
            capy_format::VerificationState::Pending => VerificationState::Pending,
            capy_format::VerificationState::Running => VerificationState::Running,
            capy_format::VerificationState::Verified => VerificationState::Verified,
            capy_format::VerificationState::Failed => VerificationState::Failed,
        },
        verification_level: entry.verification.level.clone(),
        verified_at: entry.verification.at,
        verification_error: entry.verification.error.clone(),
        system_id: entry.system_id,
        timeline: entry.timeline,
        start_lsn: entry.start_lsn,
        stop_lsn: entry.stop_lsn,
        pinned: entry.pinned.as_ref().map(|pin| PinInfo {
            reason: pin.reason.clone(),
            by: pin.by.clone(),
            at: pin.at,
        }),
    }
}

/// A backup with its record.
pub(crate) fn details(entry: &BackupEntry, record: &BackupRecord) -> BackupDetails {
    BackupDetails {
        info: info(entry),
        tool_version: record.tool_version.clone(),
        incremental_from: record.incremental_from.clone(),
        stats: stats(&record.stats),
        postgres: record.postgres.as_ref().map(postgres),
        problems: record.problems.clone(),
        problems_total: record.problems_total,
    }
}

/// What a restore point leads to.
pub(crate) fn restore_point_kind(kind: capy_format::RestorePointKind) -> RestorePointKind {
    match kind {
        capy_format::RestorePointKind::Backup => RestorePointKind::Backup,
        capy_format::RestorePointKind::Pitr => RestorePointKind::Pitr,
    }
}

/// What was counted.
pub(crate) fn stats(stats: &capy_format::Stats) -> BackupStats {
    BackupStats {
        entries: stats.entries,
        files: stats.files,
        size_bytes: stats.size_bytes,
        new_bytes: stats.new_bytes,
        deduplicated_bytes: stats.deduplicated_bytes,
        stored_bytes: stats.stored_bytes,
        chunks: stats.chunks,
        new_chunks: stats.new_chunks,
    }
}

fn postgres(facts: &PostgresFacts) -> PostgresInfo {
    PostgresInfo {
        system_id: facts.system_id,
        version_num: facts.version_num,
        version: facts.version.clone(),
        timeline: facts.timeline,
        start_lsn: facts.start_lsn,
        stop_lsn: facts.stop_lsn,
        segment_size: facts.segment_size,
        data_checksums: facts.data_checksums,
        wal_included: facts.wal_included,
        from_standby: facts.from_standby,
        tablespaces: facts
            .tablespaces
            .iter()
            .map(|t| TablespaceInfo { oid: t.oid, location: t.location.clone(), size_bytes: t.size })
            .collect(),
        settings: facts.settings.clone(),
        collations: facts
            .collations
            .iter()
            .map(|c| CollationInfo {
                name: c.name.clone(),
                provider: c.provider.clone(),
                version: c.version.clone(),
            })
            .collect(),
        backup_manifest: facts.backup_manifest.as_ref().map(|m| ManifestCheckInfo {
            algorithm: m.algorithm.clone(),
            files: m.files,
            checked: m.checked,
            mismatches: m.mismatches,
        }),
    }
}

/// The WAL a base backup needs to become consistent, unless it is inside.
pub(crate) fn wal_needed(facts: &PostgresFacts) -> Option<WalRange> {
    (!facts.wal_included)
        .then(|| wal_range(facts.timeline, facts.start_lsn, facts.stop_lsn, facts.segment_size))
}

fn wal_range(timeline: TimelineId, start: Lsn, stop: Option<Lsn>, size: SegmentSize) -> WalRange {
    let segment = |lsn| SegmentName::containing(timeline, lsn, size).to_string();
    WalRange {
        timeline,
        start_lsn: start,
        stop_lsn: stop,
        first_segment: segment(start),
        // The stop position is the byte after the last one needed.
        last_segment: stop.map(|stop| segment(Lsn::from_u64(stop.as_u64().saturating_sub(1)))),
    }
}

impl From<PostgresError> for Error {
    fn from(error: PostgresError) -> Self {
        let hint = match &error {
            PostgresError::NotTheServersDirectory { .. } => {
                Some("give the directory that `show data_directory` names on that server")
            }
            PostgresError::WalRemoved { .. } => Some(
                "let a slot keep it (a free max_replication_slots, a role with REPLICATION), raise \
                 wal_keep_size, or leave the WAL to the archive",
            ),
            PostgresError::TimelineChanged { .. } => Some("take the backup again"),
            _ => None,
        };
        let wrapped = Self::wrap(error.kind(), error);
        match hint {
            Some(hint) => wrapped.with_hint(hint),
            None => wrapped,
        }
    }
}

impl From<RepoError> for Error {
    fn from(error: RepoError) -> Self {
        let hint = match &error {
            RepoError::NotARepository { .. } => Some("check the URL, or create one with `init`"),
            RepoError::NoSlotOpens { .. } => {
                Some("check the passphrase; `key list` shows what slots there are")
            }
            RepoError::NoSuchBackup { .. } => Some("`list` shows the backups there are"),
            RepoError::Pinned { .. } => Some("take the pin off first, with `unpin`"),
            RepoError::LastSlot => Some("add another way to open the repository first"),
            RepoError::NotEmpty { .. } => Some("choose an empty place for the repository"),
            _ => None,
        };
        let wrapped = Self::wrap(error.kind(), error);
        match hint {
            Some(hint) => wrapped.with_hint(hint),
            None => wrapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_segment_needed_is_the_one_before_a_stop_on_a_border() {
        let lsn = |text: &str| text.parse::<Lsn>().expect(text);
        let tli = TimelineId::from_u32(1);
        let range = wal_range(tli, lsn("0/2000028"), Some(lsn("0/4000000")), SegmentSize::DEFAULT);
        assert_eq!(range.first_segment, "000000010000000000000002");
        assert_eq!(range.last_segment.as_deref(), Some("000000010000000000000003"));
    }
}
