//! What WAL archiving asks of a live server: answers, marks in the log, and refusals.
//!
//! Against all installed majors with `CAPY_TEST_MATRIX` set, otherwise the distribution's.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use capy_postgres::{
    ArchiveMode, ConnectSettings, PostgresError, Severity, SqlConnection, WalLevel, archiver_advice,
    archiving_advice,
};
use capy_testkit::postgres::{Cluster, majors, text};
use capy_types::{ErrorKind, Lsn, SegmentName, TimelineId};

/// No single step of these tests takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server whose archive is a directory, and the directory.
pub(crate) fn archiving_server(major: u32, initdb: &[&str], settings: &[&str]) -> (Cluster, PathBuf) {
    let mut builder = Cluster::builder().major(major).initdb(initdb).setting("archive_mode = on");
    for setting in settings {
        builder = builder.setting(setting);
    }
    let cluster = builder.start();
    let archive = cluster.make_directory("archive");
    let place = text(&archive).to_owned();
    let command = format!("test ! -f {place}/%f && cp %p {place}/%f.tmp && mv {place}/%f.tmp {place}/%f");
    cluster.sql(&format!("alter system set archive_command = '{command}'"));
    cluster.sql("select pg_reload_conf()");
    (cluster, archive)
}

/// An open session of a role.
pub(crate) async fn session(cluster: &Cluster, role: &str) -> SqlConnection {
    let settings = format!("{} user={role} dbname=postgres", cluster.address());
    SqlConnection::open(&ConnectSettings::parse(&settings, |_| None).unwrap()).await.unwrap()
}

/// What a role is refused, which must be of the kind expected.
fn refused<T: std::fmt::Debug>(answer: Result<T, PostgresError>, expected: ErrorKind) -> String {
    let error = answer.expect_err("it is refused");
    assert_eq!(error.kind(), expected, "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_switch_names_the_segment_that_the_archive_then_gets() {
    for (major, megabytes) in majors().into_iter().flat_map(|major| [(major, "16"), (major, "1")]) {
        let (cluster, archive) = archiving_server(major, &[&format!("--wal-segsize={megabytes}")], &[]);
        let server = session(&cluster, "postgres").await;
        let before = server.wal_position().await.unwrap();
        assert!(!before.in_recovery);
        assert_eq!(before.timeline, TimelineId::from_u32(1));

        let point = server.create_restore_point("it's \"a point\"").await.unwrap();
        let switch = server.switch_wal().await.unwrap();
        assert!(before.insert < point && point <= switch.lsn, "{before:?} {point} {switch:?}");
        let name = switch.segment.to_string();
        until(&name, || archive.join(&name).exists()).await;
        let again = server.switch_wal().await.unwrap();
        assert_eq!(again.segment, switch.segment, "nothing was written in between");

        // The point itself is in the segment that was named.
        let segment = fs::read(archive.join(&name)).unwrap();
        let label = b"it's \"a point\"\0";
        assert!(segment.windows(label.len()).any(|window| window == label), "PostgreSQL {major}");

        let after = server.wal_position().await.unwrap();
        assert!(after.flush >= switch.lsn && after.insert >= after.flush, "{after:?}");
        let settings = server.archiving_settings().await.unwrap();
        assert_eq!(settings.segment_size.bytes().to_string(), format!("{}", switch_size(megabytes)));
        let inserting = SegmentName::containing(after.timeline, after.insert, settings.segment_size);
        assert_eq!(inserting, switch.segment.next(), "PostgreSQL {major}: {after:?}");
    }
}

fn switch_size(megabytes: &str) -> u64 {
    megabytes.parse::<u64>().unwrap() << 20
}

#[tokio::test]
async fn the_settings_are_the_servers_and_only_what_is_missing_is_advised() {
    for major in majors() {
        let (cluster, _) = archiving_server(
            major,
            &[],
            &["archive_timeout = 1min", "max_slot_wal_keep_size = 1GB", "max_wal_senders = 7"],
        );
        let server = session(&cluster, "postgres").await;
        let settings = server.archiving_settings().await.unwrap();
        assert_eq!(settings.version_num / 10_000, major);
        assert_eq!(
            settings.system_id.to_string(),
            cluster.sql("select system_identifier from pg_control_system()")
        );
        assert_eq!((settings.archive_mode, settings.wal_level), (ArchiveMode::On, WalLevel::Replica));
        assert_eq!(settings.archive_command, Some(cluster.sql("show archive_command")));
        assert_eq!(settings.archive_library, None);
        assert_eq!(settings.archive_timeout, Duration::from_secs(60));
        assert_eq!((settings.max_wal_senders, settings.max_slot_wal_keep_bytes), (7, Some(1 << 30)));
        assert_eq!(settings.data_directory.as_deref(), Some(text(&cluster.data())));
        assert!(!settings.in_recovery);
        assert_eq!(archiving_advice(&settings), [], "PostgreSQL {major}");

        cluster.sql("alter system set wal_level = 'logical'");
        cluster.sql("alter system set archive_command = ''");
        cluster.sql("select pg_reload_conf()");
        until("the settings are read", || cluster.sql("show archive_command").is_empty()).await;
        let settings = server.archiving_settings().await.unwrap();
        let found: Vec<String> = archiving_advice(&settings).into_iter().map(|one| one.subject).collect();
        assert_eq!(found, ["wal_level", "archive_command"], "PostgreSQL {major}");

        let bare = Cluster::start_major(major, &[]);
        let settings = session(&bare, "postgres").await.archiving_settings().await.unwrap();
        assert_eq!((settings.archive_mode, &settings.archive_command), (ArchiveMode::Off, &None));
        let found: Vec<String> = archiving_advice(&settings).into_iter().map(|one| one.subject).collect();
        assert_eq!(found, ["archive_mode", "max_slot_wal_keep_size"], "PostgreSQL {major}");
    }
}

#[tokio::test]
async fn a_restore_point_is_flushed_before_it_is_acknowledged() {
    for (major, commits) in majors().into_iter().flat_map(|major| [(major, "on"), (major, "off")]) {
        let commits_setting = format!("synchronous_commit = {commits}");
        let builder = Cluster::builder().major(major).setting(&commits_setting);
        let cluster = builder.setting("wal_writer_delay = 10s").start();
        let server = session(&cluster, "postgres").await;
        let point = server.create_restore_point("kept").await.unwrap();
        let flushed = server.wal_position().await.unwrap().flush;
        assert!(flushed >= point, "PostgreSQL {major}, synchronous_commit {commits}: {flushed} < {point}");
    }
}

#[tokio::test]
async fn the_archiver_is_seen_failing_and_recovering() {
    for major in majors() {
        let (cluster, archive) = archiving_server(major, &[], &[]);
        let server = session(&cluster, "postgres").await;
        server.create_restore_point("first").await.unwrap();
        let good = server.switch_wal().await.unwrap().segment.to_string();
        until(&good, || archive.join(&good).exists()).await;

        let away = archive.with_extension("away");
        fs::rename(&archive, &away).unwrap();
        server.create_restore_point("second").await.unwrap();
        let failed = server.switch_wal().await.unwrap().segment.to_string();
        let state = loop {
            let state = server.archiver_state().await.unwrap();
            if state.is_failing() {
                break state;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(state.last_failed.as_ref().unwrap().file, failed);
        assert_eq!(state.last_archived.as_ref().unwrap().file, good);
        assert!(
            state.failed_count > 0 && state.archived_count > 0 && state.stats_reset.is_some(),
            "{state:?}"
        );
        assert_eq!(state.waiting_count, Some(1));
        let advice = archiver_advice(&state);
        assert!(advice[0].message.contains(&failed), "{advice:?}");

        fs::rename(&away, &archive).unwrap();
        server.create_restore_point("third").await.unwrap();
        server.switch_wal().await.unwrap();
        until(&failed, || archive.join(&failed).exists()).await;
        let give_up = Instant::now() + PATIENCE;
        loop {
            let state = server.archiver_state().await.unwrap();
            if !state.is_failing() && state.waiting_count == Some(0) {
                assert_eq!(archiver_advice(&state), []);
                break;
            }
            assert!(Instant::now() < give_up, "PostgreSQL {major}: {state:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_role_does_what_the_advised_statements_let_it_do() {
    for major in majors() {
        let (cluster, _) =
            archiving_server(major, &[], &["archive_timeout = 60", "max_slot_wal_keep_size = 1GB"]);
        cluster.sql("create role \"Back up\" login");
        let server = session(&cluster, "'Back up'").await;
        let denied = refused(server.switch_wal().await, ErrorKind::Denied);
        assert!(denied.contains("permission denied for function pg_switch_wal"), "{denied}");
        refused(server.create_restore_point("x").await, ErrorKind::Denied);
        assert_eq!(server.archiver_state().await.unwrap().waiting_count, None);
        server.wal_position().await.unwrap();
        let settings = server.archiving_settings().await.unwrap();
        assert_eq!(settings.data_directory, None);
        let advice = archiving_advice(&settings);
        assert_eq!(advice.len(), 5, "{advice:?}");
        assert!(advice.iter().all(|one| one.subject == "role Back up"), "{advice:?}");
        assert_eq!(advice.iter().filter(|one| one.severity == Severity::Warning).count(), 1);
        for one in advice {
            let (_, statement) = one.message.split_once(": ").unwrap();
            cluster.sql(statement);
        }
        let server = session(&cluster, "'Back up'").await;
        assert_eq!(archiving_advice(&server.archiving_settings().await.unwrap()), [], "PostgreSQL {major}");
        server.create_restore_point("x").await.unwrap();
        server.switch_wal().await.unwrap();
        assert!(server.archiver_state().await.unwrap().waiting_count.is_some());
    }
}

#[tokio::test]
async fn a_restore_point_that_could_not_be_a_target_is_not_created() {
    let cluster = Cluster::start(&[]);
    let server = session(&cluster, "postgres").await;
    let position: Lsn = server.wal_position().await.unwrap().insert;
    for name in [String::new(), "x".repeat(64), "two\nlines".to_owned()] {
        refused(server.create_restore_point(&name).await, ErrorKind::Invalid);
    }
    assert_eq!(server.wal_position().await.unwrap().insert, position);
    server.create_restore_point(&"x".repeat(63)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable() {
    let cluster = Cluster::start(&[]);
    let server = session(&cluster, "postgres").await;
    cluster.stop_server();
    refused(server.wal_position().await, ErrorKind::Unavailable);
    refused(server.switch_wal().await, ErrorKind::Unavailable);
}
