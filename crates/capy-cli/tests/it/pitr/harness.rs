//! A server that archives, and copies of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capy_testkit::postgres::{Cluster, text};
use serde_json::Value;

use crate::archiving::{Archiving, until};
use crate::harness::{Run, snapshot};

/// How often a copy asks again for WAL that was not there, instead of every 5 s.
const RETRY: &str = "wal_retrieve_retry_interval = 100ms";

/// A moment as the command takes it.
const RFC_3339: &str = r#"'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"#;

/// An archiving server of a major, with a table `t` that has row 1.
pub(super) fn archiving(major: u32, initdb: &[&str], settings: &[&str]) -> Archiving {
    let mut builder = Cluster::builder().major(major).initdb(initdb);
    for setting in settings {
        builder = builder.setting(setting);
    }
    let archiving = Archiving::start_without_command(builder);
    archiving.set("archive_command", &archiving.archive_command());
    archiving.server.sql("create table t (n int); insert into t values (1)");
    archiving
}

pub(super) fn insert(cluster: &Cluster, row: u32) {
    cluster.sql(&format!("insert into t values ({row})"));
}

pub(super) fn rows(cluster: &Cluster) -> String {
    cluster.sql("select string_agg(n::text, ' ' order by n) from t")
}

/// A row, a restore point right after it named `after_ROW`, and the end of the segment they are in.
pub(super) fn insert_and_archive(archiving: &Archiving, row: u32) -> String {
    insert(&archiving.server, row);
    restore_point(&archiving.server, &format!("after_{row}"));
    archive_all(archiving, &archiving.server)
}

pub(super) fn restore_point(cluster: &Cluster, name: &str) {
    cluster.sql(&format!("select pg_create_restore_point('{name}')"));
}

/// Runs SQL in another database than `postgres`.
pub(super) fn sql_in(cluster: &Cluster, database: &str, sql: &str) -> String {
    let port = cluster.port().to_string();
    let connect = ["-h", text(cluster.path()), "-p", &port, "-U", "postgres", "-d", database];
    let output = cluster.run("psql", [&connect[..], &["-v", "ON_ERROR_STOP=1", "-XAtqc", sql]].concat());
    String::from_utf8(output.stdout).expect("psql prints UTF-8").trim_end().to_owned()
}

/// Ends the segment in which `cluster` wrote last, waits until it is archived, and gives its name.
pub(super) fn archive_all(archiving: &Archiving, cluster: &Cluster) -> String {
    archive_all_into(archiving, "main", cluster)
}

/// As `archive_all`, with an archive of another name.
pub(super) fn archive_all_into(archiving: &Archiving, archive: &str, cluster: &Cluster) -> String {
    let segment = cluster.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    cluster.sql("select pg_switch_wal()");
    until(&segment, || object_of(archiving, archive, &segment).exists());
    segment
}

/// Where the repository keeps a file of the archive.
pub(super) fn object(archiving: &Archiving, file: &str) -> PathBuf {
    object_of(archiving, "main", file)
}

fn object_of(archiving: &Archiving, archive: &str, file: &str) -> PathBuf {
    archiving.path("repo/wal").join(archive).join(&file[..8]).join(file)
}

/// Now, at the server, well apart from what is committed before and after.
pub(super) fn moment(cluster: &Cluster) -> String {
    std::thread::sleep(Duration::from_millis(20));
    let now = moment_of(cluster, "clock_timestamp()");
    std::thread::sleep(Duration::from_millis(20));
    now
}

/// What an expression gives, as the command takes it.
pub(super) fn moment_of(cluster: &Cluster, time: &str) -> String {
    cluster.sql(&format!("select to_char(({time}) at time zone 'utc', {RFC_3339})"))
}

/// A restore into a directory of the archive's home.
pub(super) fn restore(archiving: &Archiving, target: &Path, backup: &str, options: &[&str]) -> Run {
    archiving.run(&[&["restore", backup, "--to", text(target), "--json"], options].concat())
}

/// A server on a restored directory, not started, and what the restore answered.
pub(super) fn prepare(archiving: &Archiving, backup: &str, options: &[&str]) -> (Cluster, Value) {
    let mut report = Value::Null;
    let builder = Cluster::builder().major(archiving.server.major()).setting(RETRY);
    let copy = builder.prepare_from(|data| {
        // The restore makes it, as the server's user.
        fs::remove_dir(data).expect("it is empty");
        report = restore(archiving, data, backup, options).ok().json();
    });
    (copy, report)
}

/// As `prepare`, and started.
pub(super) fn start(archiving: &Archiving, backup: &str, options: &[&str]) -> Cluster {
    let (mut copy, _) = prepare(archiving, backup, options);
    copy.start_server();
    copy
}

/// Restored from the newest backup that leads to the target, promoted there with exactly these rows.
pub(super) fn recovers_to(archiving: &Archiving, options: &[&str], expected: &str) -> Cluster {
    let copy = start(archiving, "main/latest", options);
    check_promoted(&copy, expected, &options.join(" "));
    copy
}

/// The copy has these rows, is a primary that takes writes, and archives nothing of them.
pub(super) fn check_promoted(copy: &Cluster, expected: &str, what: &str) {
    let what = format!("PostgreSQL {}: {what}", copy.major());
    until(&what, || copy.sql("select pg_is_in_recovery()") == "f");
    assert_eq!(rows(copy), expected, "{what}");
    assert!(!copy.data().join("recovery.signal").exists(), "{what}");
    assert_eq!(copy.sql("show archive_mode"), "off", "{what}");
    insert(copy, 99);
    copy.sql("select pg_switch_wal()");
    copy.sql("checkpoint");
    assert_eq!(ready(copy), [""; 0], "{what}: nothing waits to be archived");
}

/// The timeline on which a primary writes.
pub(super) fn timeline(cluster: &Cluster) -> u32 {
    let segment = cluster.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    u32::from_str_radix(&segment[..8], 16).expect("a segment begins with its timeline")
}

/// Files that wait for the archiver.
pub(super) fn ready(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.data().join("pg_wal/archive_status")).expect("there");
    let names = entries.map(|entry| entry.expect("read").file_name().into_string().expect("text"));
    names.filter(|name| name.ends_with(".ready")).collect()
}

/// The copy's server ended, and did not promote.
pub(super) fn check_stopped(copy: &Cluster) {
    until("the server stops", || !copy.is_running());
    assert!(copy.data().join("recovery.signal").exists(), "PostgreSQL {} promoted", copy.major());
    assert!(!copy.data().join("pg_wal/00000002.history").exists());
    assert!(copy.log_tail().contains("could not restore file"), "{}", copy.log_tail());
}

/// The target is refused, with nothing written, for this reason and with this hint.
pub(super) fn refused(archiving: &Archiving, options: &[&str], why: &str, hint: &str) {
    let target = archiving.path("refused");
    let run = restore(archiving, &target, "main/latest", options).with_code(3);
    let error = &run.json()["error"];
    let (said, hinted) = (error["message"].to_string(), error["hint"].to_string());
    assert!(said.contains(why) && hinted.contains(hint), "{options:?}: {error}");
    assert!(!target.exists(), "{options:?}");
}

/// What the repository has of the archive `main`.
pub(super) fn of_main(archiving: &Archiving) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = everything(archiving);
    all.retain(|(path, _)| path.iter().any(|part| part == "main"));
    all
}

/// Everything in the repository.
pub(super) fn everything(archiving: &Archiving) -> Vec<(PathBuf, Vec<u8>)> {
    snapshot(&archiving.path("repo"))
}

/// The names of the archive's files, oldest first.
pub(super) fn archived(archiving: &Archiving) -> Vec<String> {
    let files = snapshot(&archiving.path("repo/wal/main"));
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    files.into_iter().filter_map(|(path, _)| name(path)).collect()
}

pub(super) fn windows(archiving: &Archiving) -> Value {
    archiving.run(&["wal", "windows", "--cluster", "main", "--json"]).ok().json()
}
