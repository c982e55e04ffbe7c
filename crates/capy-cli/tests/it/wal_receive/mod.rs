//! A receiver beside a real server: nothing that the server wrote is missing in the archive.
//!
//! `follow`: what a server does in a normal life; `faults`: what goes wrong; `lossless`: what is left
//! when all is lost but the archive.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod faults;
mod follow;
mod lossless;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use capy_testkit::postgres::{Cluster, ClusterBuilder, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::documents::is_documented;
use crate::harness::Cli;

/// No single step of these tests takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SLOT: [&str; 3] = ["--slot", "capy", "--create-slot"];

/// A server with segments of 1 MiB that keeps them all.
fn server() -> ClusterBuilder {
    Cluster::builder().initdb(&["--wal-segsize=1"]).setting("wal_keep_size = 1GB")
}

/// A receiver that runs.
struct Receiver {
    child: Child,
    directory: PathBuf,
    /// What earlier ones had said there, in bytes.
    before: usize,
}

impl Receiver {
    fn start(cli: &Cli, conninfo: &str, options: &[&str]) -> Self {
        let arguments = ["wal", "receive", "--cluster", "main", "--pg", conninfo, "--json"];
        Self::run(cli.command(&[&arguments, options].concat()), cli.path("receiver"))
    }

    /// Runs a command that receives; what it says goes to this directory.
    fn run(mut command: Command, directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let file =
            |name: &str| fs::OpenOptions::new().create(true).append(true).open(directory.join(name)).unwrap();
        fs::remove_file(directory.join("stdout")).ok();
        let before = fs::read(directory.join("stderr")).map_or(0, |said| said.len());
        let child =
            command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn().unwrap();
        Self { child, directory, before }
    }

    /// What it said so far.
    fn said(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).unwrap().split_off(self.before)
    }

    fn says(&self, words: &str) {
        let reported = || fs::read_to_string(self.directory.join("stdout")).unwrap();
        let failure = || format!("it says {words:?}: {}, and at the end {}", self.said(), reported());
        eventually(
            || {
                // Looked at first: what it said last counts.
                let has_ended = !reported().is_empty();
                let said = self.said().contains(words);
                assert!(said || !has_ended, "{}", failure());
                said
            },
            failure,
        );
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM: it ends in good order, with a report.
    fn stop(self) -> Value {
        self.signal(Signal::TERM);
        self.ends(0)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Its document, once it ends with `code`.
    fn ends(mut self, code: i32) -> Value {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
            assert!(begun.elapsed() < PATIENCE, "it ends: {}", self.said());
        };
        assert_eq!(status.code(), Some(code), "{}", self.said());
        let document = serde_json::from_slice(&fs::read(self.directory.join("stdout")).unwrap()).unwrap();
        is_documented(&document);
        document
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually(mut holds: impl FnMut() -> bool, what: impl Fn() -> String) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn conninfo(cluster: &Cluster) -> String {
    format!("{} user=postgres", cluster.address())
}

/// Writes about `megabytes` of WAL.
fn write(cluster: &Cluster, megabytes: u32) {
    cluster.sql(&format!(
        "create table if not exists t (x text); alter table t alter x set storage plain; \
         insert into t select repeat('x', 1000) from generate_series(1, {megabytes} * 900)"
    ));
}

/// Completes the present segment and says its name.
fn switch(cluster: &Cluster) -> String {
    cluster.sql("select pg_create_restore_point('x')");
    let name = cluster.sql("select pg_walfile_name(pg_current_wal_lsn())");
    cluster.sql("select pg_switch_wal()");
    // Without more, nothing says that it is complete.
    cluster.sql("select pg_create_restore_point('y')");
    name
}

/// The archived files of a timeline, by name.
fn archived(cli: &Cli, timeline: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(cli.repo().join("wal/main").join(timeline)) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|n| !n.starts_with('.'))
        .collect();
    names.sort();
    names
}

fn is_archived(cli: &Cli, timeline: &str, file: &str) {
    let there = || archived(cli, timeline).iter().any(|name| name == file);
    eventually(there, || format!("{file} is archived, not only {:?}", archived(cli, timeline)));
}

fn fetched(cli: &Cli, file: &str) -> Vec<u8> {
    let target = cli.path("fetched");
    cli.run(&["wal", "fetch", "--cluster", "main", file, text(&target), "--quiet"]).ok();
    fs::read(&target).unwrap()
}

fn in_pg_wal(cluster: &Cluster, file: &str) -> Vec<u8> {
    fs::read(cluster.data().join("pg_wal").join(file)).unwrap()
}

/// The archived segments of timeline 1 follow each other, and are the server's byte for byte.
fn are_the_servers(cli: &Cli, cluster: &Cluster) -> Vec<String> {
    let names = archived(cli, "00000001");
    for pair in names.windows(2) {
        let number = |name: &str| u64::from_str_radix(&name[8..], 16).unwrap();
        // 4096 segments of 1 MiB to 4 GiB, more than any of these tests writes.
        assert_eq!(number(&pair[1]), number(&pair[0]) + 1, "{names:?}");
    }
    for name in &names {
        assert!(fetched(cli, name) == in_pg_wal(cluster, name), "{name}");
    }
    names
}

/// The parts of segments that are not whole, by name.
fn parts(repo: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(repo.join("wal-parts/main")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// Whether a commit waits for a synchronous standby.
fn a_commit_waits(cluster: &Cluster) -> bool {
    cluster.sql("select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == "1"
}
