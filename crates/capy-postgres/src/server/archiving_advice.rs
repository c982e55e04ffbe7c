//! What keeps a server's log from being archived, or makes the archive worth less than it seems.

use super::archiving::{ArchiveMode, ArchiverState, ArchivingPrivileges, ArchivingSettings, WalLevel};
use super::preflight::{Advice, Severity, advice_of};

/// Commands that report every segment as archived and keep none.
const DISCARDING: [&str; 5] = ["true", "/bin/true", "/usr/bin/true", ":", "exit 0"];

/// Looks at a server's settings. Each message is one line, and ends with what to change.
#[must_use]
pub fn archiving_advice(settings: &ArchivingSettings) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut warn = |subject: &str, message: &str| all.push(advice_of(Severity::Warning, subject, message));
    if settings.wal_level == WalLevel::Minimal {
        warn("wal_level", "minimal: the log is not enough for a recovery; set it to replica and restart");
    }
    if settings.max_wal_senders == 0 {
        warn("max_wal_senders", "0: no base backup can be taken; set it to 10 and restart");
    }
    for name in &settings.pending_restart {
        warn(name, "changed, but not in effect: restart the server");
    }
    all.extend(archiver_setup(settings));
    if settings.in_recovery && settings.archive_mode == ArchiveMode::On {
        all.push(advice_of(
            Severity::Note,
            "standby",
            "archives nothing before it is promoted; archive from the primary",
        ));
    }
    if settings.archive_mode != ArchiveMode::Off && settings.archive_timeout.is_zero() {
        all.push(advice_of(
            Severity::Note,
            "archive_timeout",
            "0: on a quiet server the last transactions wait for the segment to fill; set it to 60s and reload",
        ));
    }
    if settings.max_slot_wal_keep_bytes.is_none() {
        all.push(advice_of(
            Severity::Note,
            "max_slot_wal_keep_size",
            "-1: a slot that nobody reads fills the disk; set it below the free space and reload",
        ));
    }
    all.extend(missing_privileges(&settings.privileges, settings.data_directory.is_some()));
    all
}

/// Looks at how the archiver does.
#[must_use]
pub fn archiver_advice(archiver: &ArchiverState) -> Vec<Advice> {
    let failed = archiver.last_failed.as_ref().filter(|_| archiver.is_failing());
    let message = failed.map(|failed| {
        let waiting = archiver.waiting_count.map(|count| format!(", {count} files wait")).unwrap_or_default();
        format!(
            "failing: {} at {}{waiting}; the reason is in the server's log: mend it before pg_wal is full",
            failed.file, failed.time
        )
    });
    message.map(|message| advice_of(Severity::Warning, "archiver", message)).into_iter().collect()
}

/// Whether what is complete goes anywhere.
fn archiver_setup(settings: &ArchivingSettings) -> Option<Advice> {
    let warning = |subject, message: String| Some(advice_of(Severity::Warning, subject, message));
    match settings.archive_mode {
        ArchiveMode::Off => {
            return warning(
                "archive_mode",
                "off: the server archives nothing; set it to on and restart, or run `capy-store wal receive`"
                    .to_owned(),
            );
        }
        ArchiveMode::Always => {
            return warning(
                "archive_mode",
                "always: a standby archives the same segments in other bytes; set it to on and restart"
                    .to_owned(),
            );
        }
        ArchiveMode::On => {}
    }
    match (settings.archive_command.as_deref(), settings.archive_library.as_deref()) {
        (None, None) => warning(
            "archive_command",
            "empty: complete segments stay until pg_wal is full; set it to \
             'capy-store --repo … wal push --cluster … %p' and reload"
                .to_owned(),
        ),
        (Some(_), Some(library)) => warning(
            "archive_library",
            format!("{library}: only one of it and archive_command can be set; set it to '' and reload"),
        ),
        (None, Some(library)) => Some(advice_of(
            Severity::Note,
            "archive_library",
            format!(
                "{library} gets the segments; for capy-store, set it to '' and archive_command, and reload"
            ),
        )),
        (Some(command), None) if DISCARDING.contains(&command.trim()) => warning(
            "archive_command",
            format!("{command}: throws every segment away; set it to a command that keeps %p, and reload"),
        ),
        (Some(command), None) if !command.replace("%%", "").contains("%p") => {
            warning("archive_command", format!("{command}: does not say which file; add %p and reload"))
        }
        (Some(_), None) => None,
    }
}

fn missing_privileges(privileges: &ArchivingPrivileges, reads_settings: bool) -> Vec<Advice> {
    let role = identifier(&privileges.role);
    let missing = [
        (
            privileges.replication,
            Severity::Warning,
            "take base backups or stream the log",
            format!("alter role {role} replication"),
        ),
        (
            privileges.switch_wal,
            Severity::Note,
            "complete a segment at once",
            format!("grant execute on function pg_switch_wal() to {role}"),
        ),
        (
            privileges.create_restore_point,
            Severity::Note,
            "create restore points",
            format!("grant execute on function pg_create_restore_point(text) to {role}"),
        ),
        (
            privileges.archive_status,
            Severity::Note,
            "see what waits for the archiver",
            format!("grant pg_monitor to {role}"),
        ),
        (
            reads_settings,
            Severity::Note,
            "read where the data is",
            format!("grant pg_read_all_settings to {role}"),
        ),
    ];
    let missing = missing.into_iter().filter(|(granted, ..)| !granted);
    let subject = format!("role {}", privileges.role);
    missing
        .map(|(_, severity, what, sql)| advice_of(severity, &subject, format!("may not {what}: {sql}")))
        .collect()
}

/// A role's name in SQL.
fn identifier(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    if name.starts_with(plain) && name.chars().all(|c| plain(c) || c.is_ascii_digit()) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use capy_types::{SegmentSize, SystemId, Timestamp};

    use super::*;
    use crate::server::archiving::ArchiverEvent;

    /// A server about which there is nothing to say.
    fn good() -> ArchivingSettings {
        ArchivingSettings {
            version_num: 150_004,
            system_id: SystemId::from_u64(7_300_000_000_000_000_001),
            in_recovery: false,
            archive_mode: ArchiveMode::On,
            archive_command: Some("capy-store wal push %p".to_owned()),
            archive_library: None,
            archive_timeout: Duration::from_secs(60),
            wal_level: WalLevel::Replica,
            max_wal_senders: 10,
            max_slot_wal_keep_bytes: Some(1 << 30),
            segment_size: SegmentSize::DEFAULT,
            data_directory: Some("/srv/pg".to_owned()),
            pending_restart: Vec::new(),
            privileges: ArchivingPrivileges {
                role: "backup".to_owned(),
                replication: true,
                switch_wal: true,
                create_restore_point: true,
                archive_status: true,
            },
        }
    }

    /// The only advice, of this severity and about this, which says so.
    fn check(settings: &ArchivingSettings, severity: Severity, subject: &str, says: &str) {
        let all = archiving_advice(settings);
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.severity, one.subject.as_str()), (severity, subject));
        assert!(one.message.contains(says) && !one.message.contains('\n'), "{}", one.message);
    }

    #[test]
    fn a_server_that_archives_gets_no_advice() {
        assert_eq!(archiving_advice(&good()), []);
        let percent = ArchivingSettings { archive_command: Some("p%%q %p".to_owned()), ..good() };
        assert_eq!(archiving_advice(&percent), []);
    }

    #[test]
    fn what_keeps_the_log_from_the_archive_is_a_warning() {
        let warns = |settings, subject, says| check(&settings, Severity::Warning, subject, says);
        warns(ArchivingSettings { wal_level: WalLevel::Minimal, ..good() }, "wal_level", "set it to replica");
        warns(ArchivingSettings { max_wal_senders: 0, ..good() }, "max_wal_senders", "set it to 10");
        warns(ArchivingSettings { archive_mode: ArchiveMode::Off, ..good() }, "archive_mode", "set it to on");
        warns(
            ArchivingSettings { archive_mode: ArchiveMode::Always, ..good() },
            "archive_mode",
            "set it to on",
        );
        warns(ArchivingSettings { archive_command: None, ..good() }, "archive_command", "wal push");
        for command in ["/bin/true", " true ", ":"] {
            let discards = ArchivingSettings { archive_command: Some(command.to_owned()), ..good() };
            warns(discards, "archive_command", "throws every segment away");
        }
        for command in ["push %f", "push %%p"] {
            let nameless = ArchivingSettings { archive_command: Some(command.to_owned()), ..good() };
            warns(nameless, "archive_command", "add %p");
        }
        let both = ArchivingSettings { archive_library: Some("basic_archive".to_owned()), ..good() };
        warns(both.clone(), "archive_library", "only one");
        let library = ArchivingSettings { archive_command: None, ..both };
        check(&library, Severity::Note, "archive_library", "basic_archive gets the segments");
        let waits = ArchivingSettings { pending_restart: vec!["wal_level".to_owned()], ..good() };
        warns(waits, "wal_level", "restart");
    }

    #[test]
    fn what_surprises_later_is_a_note() {
        let notes = |settings, subject, says| check(&settings, Severity::Note, subject, says);
        notes(ArchivingSettings { archive_timeout: Duration::ZERO, ..good() }, "archive_timeout", "60s");
        let unlimited = ArchivingSettings { max_slot_wal_keep_bytes: None, ..good() };
        notes(unlimited, "max_slot_wal_keep_size", "fills the disk");
        notes(ArchivingSettings { in_recovery: true, ..good() }, "standby", "from the primary");
    }

    #[test]
    fn missing_privileges_come_with_the_statement_that_gives_them() {
        let privileges = ArchivingPrivileges {
            role: "Back \"up\"".to_owned(),
            replication: false,
            switch_wal: false,
            create_restore_point: false,
            archive_status: false,
        };
        let all = archiving_advice(&ArchivingSettings { privileges, data_directory: None, ..good() });
        let statements: Vec<&str> = all.iter().filter_map(|one| one.message.split(": ").nth(1)).collect();
        assert_eq!(
            statements,
            [
                r#"alter role "Back ""up""" replication"#,
                r#"grant execute on function pg_switch_wal() to "Back ""up""""#,
                r#"grant execute on function pg_create_restore_point(text) to "Back ""up""""#,
                r#"grant pg_monitor to "Back ""up""""#,
                r#"grant pg_read_all_settings to "Back ""up""""#,
            ]
        );
        assert_eq!(identifier("backup_2"), "backup_2");
    }

    #[test]
    fn an_archiver_fails_when_its_last_attempt_did() {
        let event = |seconds: i64| {
            let time = Timestamp::from_micros(seconds * 1_000_000);
            Some(ArchiverEvent { file: "000000010000000000000007".to_owned(), time })
        };
        let state = |last_archived, last_failed| ArchiverState {
            archived_count: 1,
            last_archived,
            failed_count: 1,
            last_failed,
            stats_reset: None,
            waiting_count: Some(3),
        };
        for healthy in [state(None, None), state(event(2), None), state(event(2), event(1))] {
            assert_eq!(archiver_advice(&healthy), []);
        }
        for failing in [state(None, event(1)), state(event(1), event(2))] {
            let all = archiver_advice(&failing);
            let [one] = all.as_slice() else { panic!("{all:?}") };
            assert!(one.message.starts_with("failing: 000000010000000000000007 at 1970"), "{}", one.message);
            assert!(one.message.contains(", 3 files wait;"), "{}", one.message);
        }
    }
}
