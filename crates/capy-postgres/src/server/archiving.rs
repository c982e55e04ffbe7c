//! What WAL archiving asks of a live server: where it is, how its archiver does, how it is set up,
//! and the two actions that put marks into its log.
//!
//! Invariant: what the role may not ask is left out, never guessed. Positions are compared as
//! numbers, and segments are named here: `pg_walfile_name` at a boundary names another segment
//! from PostgreSQL 17 on.

use std::time::Duration;

use capy_types::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId, Timestamp};
use tokio_postgres::Row;

use super::SqlConnection;
use crate::PostgresError;
use crate::recovery::check_restore_point_name;

/// The settings that are asked for.
const SETTINGS: [&str; 8] = [
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "wal_level",
    "max_wal_senders",
    "max_slot_wal_keep_size",
    "data_directory",
];

/// What the server shows instead of the command while `archive_mode` is off.
const DISABLED: &str = "(disabled)";

/// What a switch to a new segment left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalSwitch {
    /// The end of what was written.
    pub lsn: Lsn,
    /// The last complete segment: once it is archived, everything before `lsn` is.
    pub segment: SegmentName,
}

/// How far the server's log reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPosition {
    /// Whether it is a standby, or still recovers.
    pub in_recovery: bool,
    /// The timeline it writes, or replays and receives.
    pub timeline: TimelineId,
    /// The end of the log; in recovery, of what is replayed.
    pub insert: Lsn,
    /// The end of what is durable; in recovery, of what is received or replayed.
    pub flush: Lsn,
}

/// One file and the time something happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverEvent {
    /// The name of a segment, a history, a backup label or a partial segment.
    pub file: String,
    /// When, by the server's clock.
    pub time: Timestamp,
}

/// `pg_stat_archiver`, and what waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverState {
    /// Files archived since the statistics were reset.
    pub archived_count: u64,
    /// The last of them.
    pub last_archived: Option<ArchiverEvent>,
    /// Attempts that failed; those by a signal or an exit code above 125 are not counted.
    pub failed_count: u64,
    /// The last of them.
    pub last_failed: Option<ArchiverEvent>,
    /// When the statistics were reset.
    pub stats_reset: Option<Timestamp>,
    /// Files that are ready and not yet archived. None: the role may not look (`pg_monitor` may).
    pub waiting_count: Option<u64>,
}

impl ArchiverState {
    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let archived = self.last_archived.as_ref().map(|event| event.time);
        self.last_failed.as_ref().is_some_and(|failed| archived.is_none_or(|archived| failed.time > archived))
    }
}

/// When the server archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveMode {
    /// Never.
    Off,
    /// As a primary.
    On,
    /// As a standby too.
    Always,
}

/// How much the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough to survive a crash.
    Minimal,
    /// Enough for archives and standbys.
    Replica,
    /// Enough for logical decoding.
    Logical,
}

/// What the connected role may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivingPrivileges {
    /// Its name.
    pub role: String,
    /// Take base backups and stream the log.
    pub replication: bool,
    /// Call `pg_switch_wal`.
    pub switch_wal: bool,
    /// Call `pg_create_restore_point`.
    pub create_restore_point: bool,
    /// See which files wait for the archiver.
    pub archive_status: bool,
}

/// How the server is set up for archiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivingSettings {
    /// `server_version_num`: 150004 is 15.4.
    pub version_num: u32,
    /// Whose log it is.
    pub system_id: SystemId,
    /// Whether it is a standby, or still recovers.
    pub in_recovery: bool,
    /// `archive_mode`.
    pub archive_mode: ArchiveMode,
    /// `archive_command`; none when empty, and unknown, hence none, while `archive_mode` is off.
    pub archive_command: Option<String>,
    /// `archive_library`; none when empty or before PostgreSQL 15.
    pub archive_library: Option<String>,
    /// `archive_timeout`; zero is never.
    pub archive_timeout: Duration,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_slot_wal_keep_size` in bytes; none is no limit.
    pub max_slot_wal_keep_bytes: Option<u64>,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
    /// `data_directory`; none when the role may not read it (`pg_read_all_settings` may).
    pub data_directory: Option<String>,
    /// Those of these settings that were changed and wait for a restart.
    pub pending_restart: Vec<String>,
    /// What the role may do.
    pub privileges: ArchivingPrivileges,
}

impl SqlConnection {
    /// Puts a restore point into the log and gives the position behind it.
    ///
    /// It is durable, and with synchronous standbys as safe as any commit: the server by itself would
    /// leave the record in memory until something else is flushed. Recovery to a name ends at the first
    /// point that has it; the server does not ask for names to be unique.
    ///
    /// # Errors
    /// `Recovery` when the name could not be a target; `Sql`, among others when the role may not,
    /// or the server is a standby.
    ///
    /// # Cancellation
    /// The point may be there or not.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn, PostgresError> {
        check_restore_point_name(name)?;
        // A transaction with an id of its own ends with a commit record, behind the point; the flush of
        // that takes the point along. A role that commits asynchronously would not wait for it.
        let sql = "select pg_create_restore_point($1)::text, txid_current(),
            set_config('synchronous_commit', case current_setting('synchronous_commit')
                when 'off' then 'local' else current_setting('synchronous_commit') end, true)";
        self.lsn(&self.row(sql, &[&name]).await?, 0)
    }

    /// Completes the segment that is being written, so that it can be archived. Does nothing when
    /// nothing was written since the last switch; the segment is then that of the last switch.
    ///
    /// # Errors
    /// `Sql`, among others when the role may not, or the server is a standby.
    ///
    /// # Cancellation
    /// The switch may be made or not.
    pub async fn switch_wal(&self) -> Result<WalSwitch, PostgresError> {
        let sql = "select pg_switch_wal()::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
                   (select setting from pg_settings where name = 'wal_segment_size')";
        let row = self.row(sql, &[]).await?;
        let lsn = self.lsn(&row, 0)?;
        let timeline: String = self.get(&row, 1)?;
        let timeline = u32::from_str_radix(&timeline, 16).map_err(|_| self.nonsense("no timeline", sql))?;
        let size = self.segment_size(&self.get::<String>(&row, 2)?)?;
        let last_byte = Lsn::from_u64(lsn.as_u64().saturating_sub(1));
        Ok(WalSwitch {
            lsn,
            segment: SegmentName::containing(TimelineId::from_u32(timeline), last_byte, size),
        })
    }

    /// How far the log reaches.
    ///
    /// # Errors
    /// `Sql`.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn wal_position(&self) -> Result<WalPosition, PostgresError> {
        // A standby's control file has the timeline of its last restart point, which can be older
        // than what it receives.
        let sql = "select recovering,
            case when recovering then coalesce(pg_last_wal_replay_lsn(), '0/0')
                 else pg_current_wal_insert_lsn() end::text,
            case when recovering then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), '0/0')
                 else pg_current_wal_flush_lsn() end::text,
            case when recovering then null
                 else substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end,
            greatest((select timeline_id from pg_control_checkpoint()),
                     (select received_tli from pg_stat_wal_receiver))
            from pg_is_in_recovery() recovering";
        let row = self.row(sql, &[]).await?;
        let written: Option<String> = self.get(&row, 3)?;
        let timeline = match written {
            Some(digits) => u32::from_str_radix(&digits, 16).ok(),
            None => u32::try_from(self.get::<i32>(&row, 4)?).ok(),
        };
        Ok(WalPosition {
            in_recovery: self.get(&row, 0)?,
            timeline: TimelineId::from_u32(timeline.ok_or_else(|| self.nonsense("no timeline", sql))?),
            insert: self.lsn(&row, 1)?,
            flush: self.lsn(&row, 2)?,
        })
    }

    /// How the archiver does.
    ///
    /// # Errors
    /// `Sql`.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn archiver_state(&self) -> Result<ArchiverState, PostgresError> {
        let sql = "select archived_count, last_archived_wal,
            (extract(epoch from last_archived_time) * 1000000)::bigint,
            failed_count, last_failed_wal, (extract(epoch from last_failed_time) * 1000000)::bigint,
            (extract(epoch from stats_reset) * 1000000)::bigint,
            has_function_privilege('pg_ls_archive_statusdir()', 'execute')
            from pg_stat_archiver";
        let row = self.row(sql, &[]).await?;
        let event = |at| -> Result<Option<ArchiverEvent>, PostgresError> {
            let (file, micros): (Option<String>, Option<i64>) =
                (self.get(&row, at)?, self.get(&row, at + 1)?);
            let with_time = file.zip(micros.map(Timestamp::from_micros));
            Ok(with_time.map(|(file, time)| ArchiverEvent { file, time }))
        };
        let waiting_count = match self.get(&row, 7)? {
            true => {
                let sql = "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'";
                Some(self.get::<i64>(&self.row(sql, &[]).await?, 0)?.unsigned_abs())
            }
            false => None,
        };
        Ok(ArchiverState {
            archived_count: self.get::<i64>(&row, 0)?.unsigned_abs(),
            last_archived: event(1)?,
            failed_count: self.get::<i64>(&row, 3)?.unsigned_abs(),
            last_failed: event(4)?,
            stats_reset: self.get::<Option<i64>>(&row, 6)?.map(Timestamp::from_micros),
            waiting_count,
        })
    }

    /// How the server is set up for archiving, and what the role may do.
    ///
    /// # Errors
    /// `Sql`.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn archiving_settings(&self) -> Result<ArchivingSettings, PostgresError> {
        let names: Vec<String> = SETTINGS.iter().map(|name| (*name).to_owned()).collect();
        let sql = "select name, setting, pending_restart from pg_settings where name = any($1)";
        let mut found = Vec::new();
        for row in self.rows(sql, &[&names]).await? {
            let setting: (String, Option<String>, bool) =
                (self.get(&row, 0)?, self.get(&row, 1)?, self.get(&row, 2)?);
            found.push(setting);
        }
        let text = |name: &str| {
            let value =
                found.iter().find(|(found, ..)| found == name).and_then(|(_, value, _)| value.clone());
            value.filter(|value| !value.is_empty())
        };
        let number = |name: &str| text(name).and_then(|value| value.parse::<i64>().ok());
        let archive_mode = match text("archive_mode").as_deref() {
            Some("always") => ArchiveMode::Always,
            Some("on") => ArchiveMode::On,
            _ => ArchiveMode::Off,
        };
        let wal_level = match text("wal_level").as_deref() {
            Some("logical") => WalLevel::Logical,
            Some("replica") => WalLevel::Replica,
            _ => WalLevel::Minimal,
        };
        let sql = "select current_setting('server_version_num'),
            (select system_identifier::text from pg_control_system()), pg_is_in_recovery(),
            (select setting from pg_settings where name = 'wal_segment_size')";
        let row = self.row(sql, &[]).await?;
        let parsed = |at| -> Result<u64, PostgresError> {
            self.get::<String>(&row, at)?.parse().map_err(|_| self.nonsense("no number", sql))
        };
        Ok(ArchivingSettings {
            version_num: u32::try_from(parsed(0)?).map_err(|_| self.nonsense("no version", sql))?,
            system_id: SystemId::from_u64(parsed(1)?),
            in_recovery: self.get(&row, 2)?,
            archive_mode,
            archive_command: text("archive_command").filter(|command| command != DISABLED),
            archive_library: text("archive_library"),
            archive_timeout: Duration::from_secs(number("archive_timeout").unwrap_or(0).unsigned_abs()),
            wal_level,
            max_wal_senders: number("max_wal_senders").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            max_slot_wal_keep_bytes: number("max_slot_wal_keep_size")
                .and_then(|megabytes| u64::try_from(megabytes).ok())
                .map(|megabytes| megabytes << 20),
            segment_size: self.segment_size(&self.get::<String>(&row, 3)?)?,
            data_directory: text("data_directory"),
            pending_restart: found
                .iter()
                .filter(|(.., waits)| *waits)
                .map(|(name, ..)| name.clone())
                .collect(),
            privileges: self.privileges().await?,
        })
    }

    async fn privileges(&self) -> Result<ArchivingPrivileges, PostgresError> {
        let sql = "select rolname::text, rolreplication or rolsuper,
            has_function_privilege('pg_switch_wal()', 'execute'),
            has_function_privilege('pg_create_restore_point(text)', 'execute'),
            has_function_privilege('pg_ls_archive_statusdir()', 'execute')
            from pg_roles where rolname = current_user";
        let row = self.row(sql, &[]).await?;
        Ok(ArchivingPrivileges {
            role: self.get(&row, 0)?,
            replication: self.get(&row, 1)?,
            switch_wal: self.get(&row, 2)?,
            create_restore_point: self.get(&row, 3)?,
            archive_status: self.get(&row, 4)?,
        })
    }

    fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
        &self,
        row: &'a Row,
        at: usize,
    ) -> Result<T, PostgresError> {
        row.try_get(at).map_err(|source| self.failed(source))
    }

    fn lsn(&self, row: &Row, at: usize) -> Result<Lsn, PostgresError> {
        let text: String = self.get(row, at)?;
        text.parse().map_err(|_| self.nonsense(&format!("{text:?}"), "a position"))
    }

    /// From the setting, which the view has in bytes.
    fn segment_size(&self, setting: &str) -> Result<SegmentSize, PostgresError> {
        let size = setting.parse::<u64>().ok().and_then(|bytes| SegmentSize::try_from(bytes).ok());
        size.ok_or_else(|| self.nonsense(&format!("{setting:?}"), "wal_segment_size"))
    }
}
