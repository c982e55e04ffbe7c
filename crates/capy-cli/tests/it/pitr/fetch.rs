//! The exit codes of `wal fetch`: 1 only on the archive's own word, and nothing that the server
//! takes for the end of WAL or for a shutdown.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use capy_testkit::postgres::text;

use super::any_major;
use super::harness::{archiving, insert_and_archive};
use crate::archiving::{Archiving, until};

/// Runs a command line as the server does, by the shell, and gives the exit code.
fn shell(archiving: &Archiving, line: &str) -> i32 {
    let mut command = Command::new("sh");
    command.args(["-c", line]).env_clear().current_dir(archiving.server.data()).stdin(Stdio::null());
    let owner = std::fs::metadata(archiving.path("")).expect("there");
    if rustix::process::geteuid().is_root() {
        use std::os::unix::fs::MetadataExt;
        command.uid(owner.uid()).gid(owner.gid());
    }
    let output = command.output().expect("it runs");
    output.status.code().expect("no signal")
}

#[test]
fn only_a_file_that_the_archive_lacks_ends_with_1() {
    let archiving = archiving(any_major(), &[], &[]);
    let segment = insert_and_archive(&archiving, 2);
    let binary = env!("CARGO_BIN_EXE_capy-store");
    let (repo, key) = (archiving.path("repo"), archiving.path("key"));
    let (repo, key) = (text(&repo), text(&key));
    let open = format!("{binary} --repo {repo} --key-file {key}");
    let to = archiving.path("to");
    let to = text(&to);

    for (line, code) in [
        (format!("{open} wal fetch --cluster main {segment} {to}"), 0),
        (format!("{open} wal fetch --cluster main 0000000100000000000000F0 {to}"), 1),
        (format!("{open} wal fetch --cluster main 00000009.history {to}"), 1),
        (format!("{open} wal fetch --cluster main {segment}.partial {to}"), 1),
        // What is beside the fetch is no fault of it.
        (
            format!(
                "mkdir {to}-dir; touch {to}-dir/.capy-fetch; \
                 said=$({open} wal fetch --cluster main {segment} {to}-dir/RECOVERYXLOG 2>&1) || exit; \
                 echo \"$said\" | grep -q 'nothing is fetched ahead'"
            ),
            0,
        ),
        // The shell's own word.
        (format!("{binary}-none wal fetch --cluster main {segment} {to}"), 127),
    ] {
        assert_eq!(shell(&archiving, &line), code, "{line}");
    }

    let other_key = archiving.path("other-key");
    std::fs::write(&other_key, "00".repeat(32)).expect("written");
    let other_key = text(&other_key);
    for line in [
        // A repository that is not there, cannot be opened, or is no repository.
        format!("{binary} --repo {repo}-none --key-file {key} wal fetch --cluster main {segment} {to}"),
        format!("{binary} --repo {repo} --key-file {other_key} wal fetch --cluster main {segment} {to}"),
        format!("{binary} --repo {repo} --key-file {key}-none wal fetch --cluster main {segment} {to}"),
        format!("{binary} --repo {repo} wal fetch --cluster main {segment} {to}"),
        format!("{binary} --key-file {key} wal fetch --cluster main {segment} {to}"),
        format!("{binary} --repo {to}-empty --key-file {key} wal fetch --cluster main {segment} {to}"),
        format!(
            "{binary} --repo s3://no.such.host.invalid/x --key-file {key} wal fetch --cluster main {segment} {to}"
        ),
        // Nowhere to write, and no room to write all of it.
        format!("trap '' XFSZ; ulimit -f 8; {open} wal fetch --cluster main {segment} {to}-full"),
        format!("{open} wal fetch --cluster main {segment} /no/such/directory/x"),
        format!("{open} wal fetch --cluster main {segment} /proc/x"),
        // Command lines that make no sense.
        format!("{open} wal fetch --cluster main {segment}"),
        format!("{open} wal fetch --cluster main"),
        format!("{open} wal fetch {segment} {to}"),
        format!("{open} wal fetch --cluster main --no-such-option {segment} {to}"),
        format!("{open} wal fetch --cluster main %f %p"),
        format!("{open} wal fetch --cluster main '' {to}"),
        format!("{open} wal fetch --cluster '' {segment} {to}"),
        format!("{open} --json wal fetch --cluster main {segment}"),
        format!("{open} --no-such-option wal fetch --cluster main {segment} {to}"),
        format!("{open} wal fetch --cluster main {segment} {to} {to}"),
    ] {
        let code = shell(&archiving, &line);
        assert!((126..=255).contains(&code) && code != 143, "{code}: {line}");
    }
    for left in ["to-full", ".to-full.fetching"] {
        assert!(!archiving.path(left).exists(), "{left}");
    }
}

/// A mistyped name of the archive is no word on a file either: nobody ever wrote into it.
#[test]
fn an_archive_that_was_never_written_to_is_a_fault() {
    let archiving = archiving(any_major(), &[], &[]);
    let segment = insert_and_archive(&archiving, 2);
    let to = archiving.path("to");
    let fetch = ["wal", "fetch", "--cluster", "mian", &segment, text(&to)];
    archiving.run(&fetch).with_code(126);
}

/// Nor is another server's archive, in which this server's WAL can only end.
#[test]
fn the_archive_of_another_system_is_a_fault() {
    let archiving = archiving(any_major(), &[], &[]);
    let segment = insert_and_archive(&archiving, 2);
    let own = archiving.server.data();
    let other = archiving.path("other");
    archiving.server.run("initdb", ["-D", text(&other), "--no-sync"]);
    let fetch = |file: &str, data: &Path, name: &str| {
        let to = data.join("pg_wal").join(name);
        archiving.run(&["wal", "fetch", "--cluster", "main", file, text(&to), "--prefetch", "2"])
    };
    let absent = "0000000100000000000000F0";
    for (file, name) in
        [(&*segment, "RECOVERYXLOG"), (absent, "RECOVERYXLOG"), ("00000002.history", "RECOVERYHISTORY")]
    {
        let run = fetch(file, &other, name).with_code(126);
        assert!(run.stderr.contains("the archive main has the WAL of system"), "{}", run.stderr);
        assert!(run.stderr.contains("this server's own archive"), "{}", run.stderr);
        assert!(!other.join("pg_wal").join(name).exists());
    }
    assert!(!other.join("pg_wal/.capy-fetch").exists(), "nothing is fetched ahead");
    // A person may look at it there, with nothing ahead of that; and its own server gets it.
    fetch(&segment, &other, &segment).ok();
    let logs = || fs::read_dir(other.join("pg_wal/.capy-fetch")).expect("made").flatten();
    let said = || logs().filter_map(|dir| fs::read_to_string(dir.path().join("worker.log")).ok());
    until("the worker refuses", || said().any(|log| log.contains("has the WAL of system")));
    fetch(&segment, &own, "RECOVERYXLOG").ok();
    fetch(absent, &own, "RECOVERYXLOG").with_code(1);
    fs::remove_file(own.join("pg_wal/RECOVERYXLOG")).expect("removed");
}

#[test]
fn a_fetch_that_is_ended_by_a_signal_is_a_fault() {
    let archiving = archiving(any_major(), &[], &[]);
    let segment = insert_and_archive(&archiving, 2);
    // A store that answers never: the object is a pipe that nobody writes into.
    let object = super::harness::object(&archiving, &segment);
    std::fs::remove_file(&object).expect("removed");
    assert!(Command::new("mkfifo").args(["-m", "666", text(&object)]).status().expect("it runs").success());
    let (repo, key) = (archiving.path("repo"), archiving.path("key"));
    let (repo, key, to) = (text(&repo), text(&key), archiving.path("to"));
    let binary = env!("CARGO_BIN_EXE_capy-store");
    for signal in ["TERM", "INT"] {
        let line = format!(
            "{binary} --repo {repo} --key-file {key} wal fetch --cluster main {segment} {} & \
             sleep 1; kill -{signal} $!; wait $!",
            text(&to)
        );
        let code = shell(&archiving, &line);
        assert!((126..=255).contains(&code) && code != 143, "{code} after {signal}");
        assert!(!to.exists());
    }
}

/// Whoever is told that the file is there finds it whole, also while others fetch it once more.
#[test]
fn many_fetches_of_one_file_to_one_place_never_show_half_of_it() {
    let archiving = archiving(any_major(), &[], &[]);
    let segment = insert_and_archive(&archiving, 2);
    let to = archiving.path("to");
    let fetch = ["wal", "fetch", "--cluster", "main", &segment, text(&to), "--no-prefetch"];
    archiving.run(&fetch).ok();
    let sound = std::fs::read(&to).expect("fetched");
    let reads = std::thread::scope(|threads| {
        let fetching: Vec<_> =
            (0..4).map(|_| threads.spawn(|| (0..6).for_each(|_| drop(archiving.run(&fetch).ok())))).collect();
        let mut reads = 0;
        while fetching.iter().any(|thread| !thread.is_finished()) {
            assert!(std::fs::read(&to).expect("there") == sound, "after {reads} reads");
            reads += 1;
        }
        reads
    });
    assert!(reads > 10, "{reads}");
    assert!(!archiving.path(".to.fetching").exists(), "nothing is left");
}
