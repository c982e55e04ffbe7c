//! Recoveries of a real server, set up by the crate: each target, side and action, row by row.
//!
//! Against all installed majors with `CAPY_TEST_MATRIX` set, otherwise the distribution's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use capy_postgres::control::{ClusterState, ControlFile};
use capy_postgres::recovery::{
    Configuration, RecoveryPlan, RecoveryTarget, TargetAction, TargetTimeline, edit_auto_conf,
    percent_escape, restore_command, shell_quote,
};
use capy_postgres::{BaseBackupOptions, ConnectSettings, ReplicationSource, Source};
use capy_testkit::postgres::{Cluster, majors, text};
use capy_types::{Ctx, Lsn, TimelineId, Timestamp};
use tempfile::TempDir;

use crate::archive::receive;
use crate::archiving::{archiving_server, session, until};
use crate::majors::unpack;

/// The newest server that the distribution's `pg_basebackup` serves.
const PG_BASEBACKUP_MAJOR: u32 = 15;

/// `max_connections` of the source, and of the copies' `postgresql.conf`.
const CONNECTIONS: (u32, u32) = (150, 20);

/// A cluster with an archive, a base backup, and what happened since.
///
/// Row 1 is in the base backup. 2 is committed before `time`, 3 after it by `xid`; the point
/// `it's here` comes next, then 4, whose commit record begins at `commit`, and 5.
struct History {
    source: Cluster,
    archive: PathBuf,
    backup: TempDir,
    time: Timestamp,
    xid: u64,
    commit: Lsn,
}

impl History {
    async fn new(major: u32) -> Self {
        let connections = format!("max_connections = {}", CONNECTIONS.0);
        let (source, archive) = archiving_server(major, &[], &[&connections]);
        source.sql("create table t (n int); insert into t values (1)");
        let backup = base_backup(&source).await;
        let server = session(&source, "postgres").await;
        let pause = || tokio::time::sleep(Duration::from_millis(50));

        source.sql("insert into t values (2)");
        pause().await;
        let micros = source.sql("select (extract(epoch from clock_timestamp()) * 1000000)::bigint");
        let time = Timestamp::from_micros(micros.parse().unwrap());
        pause().await;
        let xid = source.sql("begin; insert into t values (3); select pg_current_xact_id()::text; commit");
        server.create_restore_point("it's here").await.unwrap();
        let commit = commit_of_four(&source);
        source.sql("insert into t values (5)");
        let last = server.switch_wal().await.unwrap().segment.to_string();
        until(&last, || archive.join(&last).exists()).await;
        Self { source, archive, backup, time, xid: xid.parse().unwrap(), commit }
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(&self.archive).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn plan(&self, target: RecoveryTarget) -> RecoveryPlan {
        // A name that needs quoting and has a percent sign in it.
        let script = self.archive.with_file_name("fetch 100%s.sh");
        if !script.exists() {
            fs::write(&script, "test -f \"$1/$2\" || exit 1\ncp \"$1/$2\" \"$3\"\n").unwrap();
        }
        let command = restore_command(&["sh", text(&script), text(&self.archive)]);
        assert!(command.contains("'") && command.contains("100%%s.sh"), "{command}");
        RecoveryPlan { restore_command: Some(command), ..RecoveryPlan::to(target) }
    }

    /// A server on the base backup, recovering as planned.
    fn start(&self, plan: &RecoveryPlan) -> Cluster {
        Cluster::builder().major(self.source.major()).start_from(|data| self.fill(data, plan))
    }

    /// The base backup with leftovers of an earlier recovery, made ready by the crate.
    fn fill(&self, data: &Path, plan: &RecoveryPlan) {
        copy(self.backup.path(), data);
        append(
            &data.join("postgresql.conf"),
            &format!(
                "max_connections = {}\nrecovery_target_time = '2020-01-01 00:00:00+00'\n\
                 recovery_end_command = 'exit 1'\narchive_cleanup_command = 'rm -r /nowhere'\n",
                CONNECTIONS.1
            ),
        );
        append(
            &data.join("postgresql.auto.conf"),
            "Recovery_Target_Name 'stale'\nrestore_command = 'exit 200'\nprimary_conninfo='host=/nowhere'\n",
        );
        fs::write(data.join("standby.signal"), "").unwrap();
        fs::write(data.join("recovery.conf"), "").unwrap();
        prepare(data, plan);
    }
}

/// What a restore does to a data directory.
fn prepare(data: &Path, plan: &RecoveryPlan) {
    let control = ControlFile::parse(&fs::read(data.join("global/pg_control")).unwrap()).unwrap();
    let plan = RecoveryPlan { minimum: Some(control.limits), ..plan.clone() };
    let (main, auto) = (data.join("postgresql.conf"), data.join("postgresql.auto.conf"));
    let (postgresql_conf, auto_conf) = (fs::read(main).unwrap(), fs::read(&auto).unwrap());
    let existing = Configuration { postgresql_conf: &postgresql_conf, auto_conf: &auto_conf };
    fs::write(auto, edit_auto_conf(existing, &plan).unwrap()).unwrap();
    for name in plan.signal_file().must_be_absent() {
        let path = data.join(name);
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
    fs::write(data.join(plan.signal_file().name()), "").unwrap();
}

async fn base_backup(source: &Cluster) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    if source.major() <= PG_BASEBACKUP_MAJOR {
        let target = source.path().join("backup");
        source.base_backup(&["-D", text(&target), "-X", "none", "--no-sync"]);
        copy(&target, place.path());
        return place;
    }
    let settings = ConnectSettings::parse(&format!("{} user=postgres", source.address()), |_| None).unwrap();
    let options = BaseBackupOptions {
        label: "test".to_owned(),
        fast_checkpoint: true,
        include_wal: false,
        incremental_from: None,
    };
    let stream = ReplicationSource::start(&Ctx::default(), &settings, &options).await.unwrap();
    let archives = receive(&mut Source::Replication(Box::new(stream))).await.unwrap();
    unpack(&archives[0], place.path());
    place
}

/// Inserts row 4 and gives the position at which its commit record begins.
fn commit_of_four(source: &Cluster) -> Lsn {
    loop {
        let positions = source.sql(
            "begin; insert into t values (4); select pg_current_wal_insert_lsn(); commit; \
             select pg_current_wal_insert_lsn()",
        );
        let mut positions = positions.lines().map(|line| line.parse::<Lsn>().unwrap());
        let (before, after) = (positions.next().unwrap(), positions.next().unwrap());
        // More than a commit record: a checkpoint or the like came in between.
        if after.as_u64() - before.as_u64() <= 64 {
            return before;
        }
        source.sql("delete from t where n = 4");
    }
}

fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").args(["-a", text(&from.join(".")), text(to)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn append(path: &Path, lines: &str) {
    let mut content = fs::read(path).unwrap();
    content.extend_from_slice(lines.as_bytes());
    fs::write(path, content).unwrap();
}

fn rows(cluster: &Cluster) -> String {
    cluster.sql("select string_agg(n::text, ' ' order by n) from t")
}

/// The copy has these rows, is a primary on a timeline of its own, and archives nothing.
async fn check_promoted(copy: &Cluster, expected: &str, what: &str) {
    until("it promotes", || copy.sql("select pg_is_in_recovery()") == "f").await;
    assert_eq!(rows(copy), expected, "PostgreSQL {}: {what}", copy.major());
    let position = session(copy, "postgres").await.wal_position().await.unwrap();
    assert_eq!((position.in_recovery, position.timeline), (false, TimelineId::from_u32(2)), "{what}");
    assert_eq!(copy.sql("show archive_mode"), "off");
    assert_eq!(copy.sql("show max_connections"), CONNECTIONS.0.to_string());
    assert!(!copy.data().join("recovery.signal").exists());
    // It takes writes, and ALTER SYSTEM can rewrite what was written.
    copy.sql("insert into t values (6)");
    copy.sql("alter system set work_mem = '5MB'");
    copy.sql("select pg_reload_conf()");
    assert_eq!(copy.sql("select count(*) from pg_file_settings where error is not null"), "0", "{what}");
}

#[tokio::test]
async fn every_target_ends_at_exactly_its_rows_and_promotes() {
    for major in majors() {
        let history = History::new(major).await;
        let archived = history.files();
        let included = |target: RecoveryTarget| history.plan(target);
        let excluded = |target: RecoveryTarget| RecoveryPlan { inclusive: false, ..history.plan(target) };
        let timeline = |timeline, plan| RecoveryPlan { timeline, ..plan };
        let epoch_xid = history.xid | 7 << 32;
        for (what, plan, expected) in [
            ("immediate", included(RecoveryTarget::Immediate), "1"),
            ("time", included(RecoveryTarget::Time(history.time)), "1 2"),
            ("xid, exclusive", excluded(RecoveryTarget::Xid(history.xid)), "1 2"),
            ("xid", included(RecoveryTarget::Xid(history.xid)), "1 2 3"),
            ("xid with an epoch", included(RecoveryTarget::Xid(epoch_xid)), "1 2 3"),
            ("name", included(RecoveryTarget::Name("it's here".to_owned())), "1 2 3"),
            ("lsn, exclusive", excluded(RecoveryTarget::Lsn(history.commit)), "1 2 3"),
            ("lsn", included(RecoveryTarget::Lsn(history.commit)), "1 2 3 4"),
            ("latest", included(RecoveryTarget::Latest), "1 2 3 4 5"),
            (
                "latest of the backup's timeline",
                timeline(TargetTimeline::Current, included(RecoveryTarget::Latest)),
                "1 2 3 4 5",
            ),
            (
                "latest of timeline 1",
                timeline(TargetTimeline::Id(TimelineId::from_u32(1)), included(RecoveryTarget::Latest)),
                "1 2 3 4 5",
            ),
        ] {
            check_promoted(&history.start(&plan), expected, what).await;
        }
        assert_eq!(history.files(), archived, "no copy wrote into the archive");
    }
}

#[tokio::test]
async fn with_the_log_in_pg_wal_no_command_is_needed() {
    for major in majors() {
        let history = History::new(major).await;
        let plan = RecoveryPlan::to(RecoveryTarget::Name("it's here".to_owned()));
        let copy = Cluster::builder().major(major).start_from(|data| {
            history.fill(data, &plan);
            copy(&history.archive, &data.join("pg_wal"));
        });
        check_promoted(&copy, "1 2 3", "a directory that has its log").await;
    }
}

#[tokio::test]
async fn a_paused_copy_answers_and_goes_on_when_told() {
    for major in majors() {
        let history = History::new(major).await;
        let target = RecoveryTarget::Name("it's here".to_owned());
        let copy = history.start(&RecoveryPlan { action: TargetAction::Pause, ..history.plan(target) });
        until("it pauses", || copy.sql("select pg_is_wal_replay_paused()") == "t").await;
        assert_eq!(rows(&copy), "1 2 3");
        let position = session(&copy, "postgres").await.wal_position().await.unwrap();
        assert_eq!((position.in_recovery, position.timeline), (true, TimelineId::from_u32(1)));
        assert!(position.insert <= history.commit && position.flush >= position.insert, "{position:?}");
        copy.sql("select pg_wal_replay_resume()");
        check_promoted(&copy, "1 2 3", "resumed").await;
    }
}

#[tokio::test]
async fn a_copy_that_shut_down_at_its_target_goes_on_to_another() {
    for major in majors() {
        let history = History::new(major).await;
        let pause = |target| RecoveryPlan { action: TargetAction::Pause, ..history.plan(target) };
        let mut copy = history.start(&pause(RecoveryTarget::Time(history.time)));
        until("it pauses", || copy.sql("select pg_is_wal_replay_paused()") == "t").await;
        assert_eq!(rows(&copy), "1 2");
        copy.stop_server();

        let (data, log) = (copy.data(), copy.path().join("log"));
        let shutdown = RecoveryPlan {
            action: TargetAction::Shutdown,
            ..history.plan(RecoveryTarget::Name("it's here".to_owned()))
        };
        prepare(&data, &shutdown);
        let alone = format!("-c listen_addresses='' -c unix_socket_directories='{}'", text(copy.path()));
        copy.try_run("pg_ctl", ["-w", "-D", text(&data), "-l", text(&log), "-o", &alone, "start"]);
        until("it shuts down", || !data.join("postmaster.pid").exists()).await;
        let control = ControlFile::parse(&fs::read(data.join("global/pg_control")).unwrap()).unwrap();
        assert_eq!(control.state, ClusterState::ShutDownInRecovery);
        assert!(data.join("recovery.signal").exists());

        prepare(&data, &history.plan(RecoveryTarget::Lsn(history.commit)));
        copy.start_server();
        check_promoted(&copy, "1 2 3 4", "a third target").await;
    }
}

#[tokio::test]
async fn a_standby_follows_its_primary_and_stays_one() {
    for major in majors() {
        let history = History::new(major).await;
        let plan = RecoveryPlan {
            restore_command: history.plan(RecoveryTarget::Latest).restore_command,
            primary_conninfo: Some(format!("{} user=postgres", history.source.address())),
            ..RecoveryPlan::standby()
        };
        let copy = history.start(&plan);
        history.source.sql("insert into t values (7)");
        until("the row arrives", || rows(&copy) == "1 2 3 4 5 7").await;
        assert_eq!(copy.sql("select pg_is_in_recovery()"), "t");
        assert_eq!(history.source.sql("select count(*) from pg_stat_replication"), "1");
        let standby = session(&copy, "postgres").await;
        let position = standby.wal_position().await.unwrap();
        assert_eq!((position.in_recovery, position.timeline), (true, TimelineId::from_u32(1)));
        let settings = standby.archiving_settings().await.unwrap();
        assert!(settings.in_recovery);
        assert!(standby.switch_wal().await.is_err() && standby.create_restore_point("x").await.is_err());
    }
}

#[tokio::test]
async fn a_command_that_fails_otherwise_than_absent_keeps_the_copy_from_promoting() {
    for major in majors() {
        let history = History::new(major).await;
        let place = percent_escape(&shell_quote(text(&history.archive)));
        let last = history.files().pop().unwrap();
        let plan = RecoveryPlan {
            restore_command: Some(format!("test %f = {last} && exit 126; cp {place}/%f %p")),
            ..RecoveryPlan::to(RecoveryTarget::Latest)
        };
        let copy = Cluster::builder().major(major).start_from(|data| {
            history.fill(
                data,
                &RecoveryPlan { action: TargetAction::Pause, ..history.plan(RecoveryTarget::Immediate) },
            );
        });
        until("it pauses", || copy.sql("select pg_is_wal_replay_paused()") == "t").await;
        copy.stop_server();
        let (data, log) = (copy.data(), copy.path().join("log"));
        prepare(&data, &plan);
        let alone = format!("-c listen_addresses='' -c unix_socket_directories='{}'", text(copy.path()));
        copy.try_run("pg_ctl", ["-w", "-D", text(&data), "-l", text(&log), "-o", &alone, "start"]);
        until("it gives up", || !data.join("postmaster.pid").exists()).await;
        assert!(copy.log_tail().contains("could not restore file"), "{}", copy.log_tail());
        assert!(data.join("recovery.signal").exists(), "PostgreSQL {major} promoted");
    }
}
