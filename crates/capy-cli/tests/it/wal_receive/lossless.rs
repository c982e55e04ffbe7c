//! The receiver as a synchronous standby: what a commit has returned for is there when the server and
//! the receiver are gone for good, and only the archive is left.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use capy_testkit::postgres::majors;
use serde_json::json;

use super::*;
use crate::archiving::Archiving;

/// The rows whose commits returned.
type Acknowledged = Mutex<Vec<u32>>;

fn receiver(archiving: &Archiving) -> Receiver {
    let (repo, key) = (archiving.path("repo"), archiving.path("key"));
    let arguments = ["--repo", text(&repo), "--key-file", text(&key), "wal", "receive", "--json"];
    // Parts are stored because commits wait for them, not because it is time.
    let options = ["--cluster", "main", "--pg", &archiving.conninfo(), "--partial-interval", "1h"];
    let command = archiving.capy(&[&arguments[..], &options, &SLOT].concat());
    Receiver::run(command, archiving.server.path().join("receiver"))
}

/// A server that waits for a receiver, which runs, a base backup, and a table.
fn synchronous(major: u32) -> (Archiving, Receiver) {
    let server = server().major(major).setting("synchronous_commit = remote_apply").start();
    server.sql("create table t (n int primary key, x text)");
    server.sql("alter table t alter x set storage plain");
    let archiving = Archiving::with_repository(server);
    let first = receiver(&archiving);
    first.says("streaming");
    archiving.back_up();
    archiving.set("synchronous_standby_names", "\"capy-store\"");
    // The next one sees that at once.
    first.kill();
    let second = receiver(&archiving);
    second.says("commits wait for it");
    (archiving, second)
}

/// Inserts one row after the other until the server is gone.
fn commit_rows(server: &Cluster, next: &AtomicU32, acknowledged: &Acknowledged) {
    loop {
        let n = next.fetch_add(1, Ordering::SeqCst);
        let sql = format!("insert into t values ({n}, repeat('x', {}))", 100 + n % 7 * 1100);
        let port = server.port().to_string();
        let options =
            ["-h", text(server.path()), "-p", &port, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Xqc", &sql];
        let output = server.try_run("psql", options);
        if !output.status.success() {
            return;
        }
        // A server that goes down may say so behind the answer; a wait that was given up is none.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("synchronous replication"), "{said}");
        acknowledged.lock().unwrap().push(n);
    }
}

/// As if its machine were gone: its lock file, too, for a process that nobody has waited for yet
/// still has its number, and a server takes that for another one running.
fn kill_postmaster(server: &Cluster) {
    let lock = server.data().join("postmaster.pid");
    let file = fs::read_to_string(&lock).unwrap();
    let pid = file.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let status = format!("/proc/{}/status", pid.as_raw_pid());
    let is_gone = || fs::read_to_string(&status).map_or(true, |status| status.contains("State:\tZ"));
    eventually(is_gone, || format!("{status} ends"));
    fs::remove_file(lock).unwrap();
}

fn rows(server: &Cluster) -> Vec<u32> {
    server.sql("select n from t order by n").lines().map(|line| line.parse().unwrap()).collect()
}

fn has_all(server: &Cluster, acknowledged: &[u32]) {
    let there = rows(server);
    let lost: Vec<_> = acknowledged.iter().filter(|n| there.binary_search(n).is_err()).collect();
    assert!(lost.is_empty(), "of {} acknowledged commits, lost: {lost:?}", acknowledged.len());
}

/// Commits from several sessions, while the receiver is killed at some moments and at last, with
/// the server, for good.
fn lose_everything(major: u32) -> (Archiving, Vec<u32>) {
    let (archiving, mut running) = synchronous(major);
    let (next, acknowledged) = (AtomicU32::new(0), Acknowledged::default());
    let count = || acknowledged.lock().unwrap().len();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| commit_rows(&archiving.server, &next, &acknowledged));
        }
        for round in 1..=5 {
            eventually(|| count() >= round * 60, || format!("commits return: {}", running.said()));
            // Nobody acknowledges in between: no more commits return than were under way.
            running.kill();
            running = receiver(&archiving);
        }
        eventually(|| count() >= 360, || format!("commits return: {}", running.said()));
        kill_postmaster(&archiving.server);
        running.kill();
    });
    (archiving, acknowledged.into_inner().unwrap())
}

#[test]
fn every_acknowledged_commit_is_recovered_when_server_and_receiver_are_killed() {
    for major in majors() {
        let (archiving, acknowledged) = lose_everything(major);
        let windows = archiving.run(&["wal", "windows", "--cluster", "main", "--json"]).ok().json();
        is_documented(&windows);
        assert_eq!(windows["problems"], json!([]), "{windows}");
        assert_ne!(windows["timelines"][0]["open"], json!([]), "{windows}");
        assert_eq!(windows["backups"][0]["windows"][0]["ended_by"], "end of the archive", "{windows}");
        let builder = || Cluster::builder().major(major);
        let (_, copy) = archiving.recover_on(builder(), &["--target", "latest"]);
        has_all(&copy, &acknowledged);
        let (_, copy) = archiving.recover_on(builder(), &["--target", "latest", "--wal-into"]);
        has_all(&copy, &acknowledged);
        let last = windows["backups"][0]["windows"][0]["to_time"].as_str().expect("commits").to_owned();
        let (_, copy) = archiving.recover_on(builder(), &["--target-time", &last]);
        has_all(&copy, &acknowledged);
    }
}

#[test]
fn a_stop_says_that_commits_wait_and_how_to_go_on_without() {
    let (archiving, receiver) = synchronous(majors()[0]);
    archiving.server.sql("insert into t values (1)");
    let report = receiver.stop();
    let notices = report["notices"].to_string();
    assert!(notices.contains("commits wait until it receives again"), "{notices}");
    assert!(notices.contains("the slot capy makes the server keep its WAL"), "{notices}");
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| archiving.server.sql("insert into t values (2)"));
        eventually(|| a_commit_waits(&archiving.server), || "the commit waits".to_owned());
        assert!(!commit.is_finished());
        archiving.set("synchronous_standby_names", "");
        commit.join().unwrap();
    });
}

#[test]
fn a_failover_to_a_server_that_lags_keeps_what_it_lacks() {
    let (mut archiving, running) = synchronous(majors()[0]);
    let primary = &archiving.server;
    (0..20).for_each(|n| drop(primary.sql(&format!("insert into t values ({n})"))));
    let switched = primary.sql("select pg_current_wal_flush_lsn()");
    let segment = primary.sql("select pg_walfile_name(pg_current_wal_flush_lsn())");
    (20..40).for_each(|n| drop(primary.sql(&format!("insert into t values ({n})"))));
    kill_postmaster(primary);
    running.kill();
    // A server that had only half of it takes over and archives its history.
    let history = archiving.path("00000002.history");
    fs::write(&history, format!("1\t{switched}\tno recovery target specified\n")).unwrap();
    archiving.run(&["wal", "push", "--cluster", "main", text(&history)]).ok();
    let fetch = |name: &str| {
        let target = archiving.path("fetched");
        archiving.run(&["wal", "fetch", "--cluster", "main", name, text(&target)]).ok();
        fs::read(target).unwrap()
    };
    let length = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let offset = usize::from_str_radix(&switched[switched.len() - 5..], 16).unwrap();
    assert!(length(&fetch(&segment)) < offset, "what both have");
    assert!(length(&fetch(&format!("{segment}.partial"))) > offset, "all of it");
    let (_, copy) = archiving.recover(&["--target", "latest"]);
    assert_eq!(rows(&copy), (0..20).collect::<Vec<_>>());

    // The old one comes up again by itself.
    let log = archiving.server.path().join("log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    eventually(|| archiving.server.try_start_server(), said);
    receiver(&archiving).says("was another server promoted in its place?");
}
