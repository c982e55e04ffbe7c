//! `backup --incremental`: what a server of 17 or later sends of a cluster in which everything happened
//! to files becomes the backup that a full stream would have become, byte for byte.
//!
//! Servers of 17 and 18 are there with `CAPY_TEST_MATRIX` only; on others everything is received.

mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use capy_testkit::postgres::{Cluster, clients_of_17, majors, text};
use serde_json::Value;

use crate::documents::is_documented;
use crate::harness::Cli;

/// Majors that send changed blocks, among those to be tested.
fn incremental_majors() -> Vec<u32> {
    majors().into_iter().filter(|major| *major >= 17).collect()
}

/// A cluster with tables to be changed in every way, at rest.
fn server(major: u32) -> Cluster {
    let builder = Cluster::builder().major(major).initdb(&["--data-checksums"]);
    let cluster = if major >= 17 { builder.setting("summarize_wal = on") } else { builder }.start();
    let place = cluster.make_directory("fast");
    for sql in [
        &format!("create tablespace fast location '{}'", text(&place)),
        "create extension amcheck",
        "create table t (id int primary key, word text) with (fillfactor = 50)",
        "insert into t select g, md5(g::text) from generate_series(1, 50000) g",
        "create table gone as select g from generate_series(1, 10000) g",
        "create table cut as select g from generate_series(1, 200000) g",
        "create table emptied as select g from generate_series(1, 10000) g",
        "create table still as select g, md5(g::text) x from generate_series(1, 100000) g",
        "create table rewritten as select g, g % 7 h from generate_series(1, 20000) g",
        "create table moved as select g from generate_series(1, 5000) g",
        "create table in_fast tablespace fast as select g, md5(g::text) x from generate_series(1, 30000) g",
        "create unlogged table scratch as select g from generate_series(1, 5000) g",
        "create index on still (x)",
        "create database other",
    ] {
        cluster.sql(sql);
    }
    settle(&cluster);
    cluster
}

/// No hint is left to be set by whoever looks: such changes are in no WAL, and in no summary.
fn settle(cluster: &Cluster) {
    cluster.run("vacuumdb", ["-h", text(cluster.path()), "-U", "postgres", "--all", "--freeze", "-q"]);
    cluster.sql("checkpoint");
}

fn change(cluster: &Cluster, day: u32) {
    for sql in [
        &format!("update t set word = 'day {day}' where id % 1000 = {day}"),
        &format!("insert into t select g, 'new' from generate_series({day}00000, {day}05000) g"),
        "delete from cut where g > 100 + (select max(g) from cut) / 2",
        "delete from t where id % 77 = 0",
        "vacuum t, cut",
        &format!("drop table if exists gone, new_{}", day - 1),
        &format!("create table new_{day} as select g from generate_series(1, 20000) g"),
        "truncate emptied",
        "vacuum full rewritten",
        "insert into scratch select generate_series(1, 10000)",
        "update in_fast set x = 'changed' where g % 500 = 0",
        &format!("alter table moved set tablespace {}", if day % 2 == 1 { "fast" } else { "pg_default" }),
        &format!("create database made_{day}"),
        "reindex table still",
    ] {
        cluster.sql(sql);
    }
    settle(cluster);
}

const CHECKS: [&str; 6] = [
    "select count(*), sum(hashtext(word)) from t",
    "select count(*), sum(g) from cut",
    "select count(*) from emptied",
    "select count(*), sum(hashtext(x)) from still",
    "select count(*), sum(hashtext(x)) from in_fast",
    "select sum(g), sum(h) from rewritten",
];

fn rows(cluster: &Cluster) -> [String; 6] {
    CHECKS.map(|check| cluster.sql(check))
}

fn conninfo(cluster: &Cluster) -> String {
    format!("{} user=postgres", cluster.address())
}

/// A backup over the replication protocol.
fn back_up(cli: &Cli, cluster: &Cluster, options: &[&str]) -> Value {
    let conninfo = conninfo(cluster);
    let report = cli.run(&[&["backup", "--cluster", "main", "--pg", &conninfo, "--json"], options].concat());
    let report = report.ok().json();
    assert_eq!(report["backup"]["state"], "complete", "{report}");
    is_documented(&report);
    report
}

fn key(report: &Value) -> &str {
    report["backup"]["backup_key"].as_str().expect("a key")
}

fn number(of: &Value) -> u64 {
    of.as_u64().unwrap_or_else(|| panic!("no number: {of}"))
}

/// A server's directory made of a backup, not started, its tablespace beside it.
fn restore(cli: &Cli, cluster: &Cluster, backup: &str) -> Cluster {
    Cluster::builder().major(cluster.major()).prepare_from(|data| {
        fs::remove_dir(data).expect("it is empty");
        let (old, new) = (cluster.path().join("fast"), data.with_file_name("fast"));
        let mapping = format!("{}={}", text(&old), text(&new));
        cli.run(&["restore", backup, "--to", text(data), "-T", &mapping]).ok();
    })
}

/// All files with their bytes, tablespaces included.
fn files(data: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut directories) = (BTreeMap::new(), vec![data.to_owned()]);
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(data).expect("below it").to_owned();
                found.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    found
}

/// Two directories made of backups of the same cluster at rest are the same, but for what says when
/// each was taken.
fn check_same(found: &Path, expected: &Path, what: &str) {
    let (found, expected) = (files(found), files(expected));
    let differs = |path: &Path| {
        // The position and time of the start; the list of files with theirs; the last checkpoint; the
        // WAL from start to stop; and where pg_basebackup says where tablespaces were, by links.
        let own = ["backup_label", "backup_manifest", "global/pg_control", "tablespace_map"];
        path.starts_with("pg_wal") || own.iter().any(|name| path == Path::new(name))
    };
    for path in found.keys().chain(expected.keys()).filter(|path| !differs(path)) {
        let (found, expected) = (found.get(path), expected.get(path));
        let length = |bytes: Option<&Vec<u8>>| bytes.map(Vec::len);
        let block = found.zip(expected).and_then(|(a, b)| a.iter().zip(b).position(|(a, b)| a != b));
        assert!(
            found == expected,
            "{what}: {}: {:?} bytes, {:?} expected, first difference at {block:?}",
            path.display(),
            length(found),
            length(expected)
        );
    }
    assert!(found.len() > 900, "{what}: {} files", found.len());
}

/// What PostgreSQL itself makes of the same cluster: a full backup, then one of what changed since.
struct Peer(PathBuf);

impl Peer {
    fn take(&self, cluster: &Cluster, name: &str, options: &[&str]) -> PathBuf {
        let to = cluster.path().join(name);
        let old = cluster.path().join("fast");
        let mapping = format!("{}={}_fast", text(&old), text(&to));
        let connect = ["-h", text(cluster.path()), "-U", "postgres", "-c", "fast", "-X", "fetch"];
        let place = ["-D", text(&to), "-T", &mapping];
        self.run(cluster, "pg_basebackup", &[&connect[..], &place, options].concat());
        to
    }

    fn combine(&self, cluster: &Cluster, backups: &[&Path]) -> PathBuf {
        let to = cluster.path().join("combined");
        let last = backups.last().expect("some");
        let mapping = format!("{}_fast={}_fast", text(last), text(&to));
        let mut options: Vec<&str> = backups.iter().map(|path| text(path)).collect();
        options.extend(["-o", text(&to), "-T", &mapping]);
        self.run(cluster, "pg_combinebackup", &options);
        to
    }

    fn run(&self, cluster: &Cluster, program: &str, options: &[&str]) {
        let output = cluster.execute(&self.0.join(program), options);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {errors}");
    }
}

#[test]
fn changed_blocks_become_what_postgresql_itself_puts_together_and_what_a_full_stream_is() {
    for major in incremental_majors() {
        let cluster = server(major);
        let peer = clients_of_17().map(Peer);
        assert!(peer.is_some(), "no pg_combinebackup: run tools/setup/postgres-majors 17");
        let peer = peer.filter(|_| major == 17);
        let cli = Cli::with_repository();
        let full = back_up(&cli, &cluster, &[]);
        let peer_full = peer.as_ref().map(|peer| peer.take(&cluster, "full", &[]));
        change(&cluster, 1);

        let report = back_up(&cli, &cluster, &["--incremental", "require"]);
        let incremental = &report["incremental"];
        assert_eq!(incremental["from"], full["backup"]["backup_key"], "{report}");
        assert!(incremental["reason"].is_null(), "{report}");
        let (sent, all) = (number(&report["read_bytes"]), number(&full["read_bytes"]));
        // Of the rest 16 MiB are WAL, and much was made anew.
        assert!(sent + (20 << 20) < all, "{sent} bytes were sent, {all} are all");
        assert!(number(&incremental["changed_files"]) < number(&incremental["files"]) / 2, "{report}");
        assert!(number(&incremental["known_bytes"]) > 10 << 20, "{report}");
        let shown = cli.run(&["show", key(&report), "--json"]).ok().json();
        assert_eq!(shown["backup"]["incremental_from"], full["backup"]["id"]);
        is_documented(&shown);
        let verified = cli.run(&["verify", key(&report), "--level", "full", "--json"]).ok().json();
        assert!(number(&verified["manifest_files_checked"]) > 900, "{verified}");

        let mut restored = restore(&cli, &cluster, key(&report));
        if let (Some(peer), Some(peer_full)) = (&peer, &peer_full) {
            let since = format!("--incremental={}", text(&peer_full.join("backup_manifest")));
            let changed = peer.take(&cluster, "changed", &[&since]);
            let combined = peer.combine(&cluster, &[peer_full, &changed]);
            check_same(&restored.data(), &combined, "pg_combinebackup");
            peer.run(&cluster, "pg_verifybackup", &["-q", text(&restored.data())]);
        }
        let whole = back_up(&cli, &cluster, &[]);
        assert!(whole["incremental"].is_null());
        check_same(&restored.data(), &restore(&cli, &cluster, key(&whole)).data(), "a full stream");
        assert!(number(&whole["stats"]["new_bytes"]) < 1 << 20, "nothing of it is new: {whole}");

        let expected = rows(&cluster);
        cluster.stop_server();
        restored.start_server();
        assert_eq!(rows(&restored), expected, "PostgreSQL {major}");
        assert_eq!(restored.sql("select to_regclass('gone') is null, count(*) from scratch"), "t|0");
        let options = ["-h", text(restored.path()), "-U", "postgres", "--heapallindexed", "-d", "postgres"];
        restored.run("pg_amcheck", options);
    }
}

#[test]
fn each_builds_on_the_one_before_however_that_was_taken_and_outlives_it() {
    for major in incremental_majors() {
        let cluster = server(major);
        let cli = Cli::with_repository();
        let data = text(&cluster.data()).to_owned();
        let mut before = back_up(&cli, &cluster, &["--pgdata", &data]);
        for day in 1..=3 {
            change(&cluster, day);
            let report = back_up(&cli, &cluster, &["--incremental", "auto"]);
            let earlier = key(&before);
            assert_eq!(report["incremental"]["from"], earlier, "PostgreSQL {major}, day {day}: {report}");
            cli.run(&["delete", earlier]).ok();
            before = report;
        }
        let whole = back_up(&cli, &cluster, &[]);
        let (incremental, full) =
            (restore(&cli, &cluster, key(&before)), restore(&cli, &cluster, key(&whole)));
        check_same(&incremental.data(), &full.data(), "three days on files read in place");

        // The tars of a backup are a parent like any other: pg_basebackup's are of this form.
        let tars = cli.path("tars");
        cli.run(&["restore", key(&whole), "--tar", text(&tars)]).ok();
        let taken = cli.run(&["backup", "--cluster", "main", "--tar", text(&tars), "--json"]).ok().json();
        change(&cluster, 4);
        let report = back_up(&cli, &cluster, &["--incremental", "auto"]);
        assert_eq!(report["incremental"]["from"], taken["backup"]["backup_key"], "{report}");
        let whole = back_up(&cli, &cluster, &["--delta-depth", "0"]);
        let (incremental, full) =
            (restore(&cli, &cluster, key(&report)), restore(&cli, &cluster, key(&whole)));
        check_same(&incremental.data(), &full.data(), "a day on tars");
    }
}
