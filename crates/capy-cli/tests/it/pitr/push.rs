//! What the archive takes, what it refuses, and what it says then.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use capy_testkit::postgres::{Cluster, text};

use super::any_major;
use super::harness::{archived, archiving, everything, insert_and_archive, object, windows};
use crate::archiving::Archiving;
use crate::harness::{Run, snapshot};

fn push(archiving: &Archiving, path: &Path) -> Run {
    archiving.run(&["wal", "push", "--cluster", "main", text(path)])
}

/// A refusal that the server counts: exit codes 1 to 125.
fn refused(archiving: &Archiving, path: &Path, why: &str) {
    let run = push(archiving, path);
    assert!((1..=125).contains(&run.code), "{}: {}", run.code, run.stderr);
    assert!(run.stderr.contains(why), "{}: {}", path.display(), run.stderr);
}

/// A file that the command may read, in a directory of its own.
fn file(archiving: &Archiving, name: &str, content: &[u8]) -> PathBuf {
    let directory = tempfile::tempdir_in(archiving.path("")).expect("made").keep();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("set");
    let path = directory.join(name);
    fs::write(&path, content).expect("written");
    path
}

fn content(archiving: &Archiving, name: &str) -> Vec<u8> {
    let target = archiving.path("content");
    archiving.run(&["wal", "fetch", "--cluster", "main", name, text(&target)]).ok();
    fs::read(target).expect("read")
}

#[test]
fn a_segment_pushed_again_is_fine_and_with_another_content_both_are_kept_and_told_apart() {
    let archiving = archiving(any_major(), &[], &[]);
    let segment = insert_and_archive(&archiving, 2);
    let sound = content(&archiving, &segment);
    assert_eq!(sound, fs::read(archiving.server.data().join("pg_wal").join(&segment)).expect("read"));
    let before = everything(&archiving);
    let again = push(&archiving, &file(&archiving, &segment, &sound)).ok();
    assert!(again.text().contains("already, with the same content"), "{}", again.text());
    assert!(everything(&archiving) == before);

    // Recycled segments differ behind the switch, which no recovery reads.
    let mut tail = sound.clone();
    *tail.last_mut().expect("not empty") ^= 1;
    refused(&archiving, &file(&archiving, &segment, &tail), "only behind the last valid record");
    let mut other = sound.clone();
    let changed = sound.windows(7).position(|text| text == b"after_2").expect("the restore point");
    other[changed] ^= 1;
    refused(&archiving, &file(&archiving, &segment, &other), "where this one ends");
    // The archiver tries again and again: nothing more is kept.
    refused(&archiving, &file(&archiving, &segment, &other), "both are kept");

    let conflicts = snapshot(&archiving.path("repo/wal-conflicts/main"));
    assert_eq!(conflicts.len(), 2, "{:?}", conflicts.iter().map(|(path, _)| path).collect::<Vec<_>>());
    assert!(conflicts.iter().all(|(path, _)| path.to_string_lossy().contains(&segment)));
    assert_eq!(content(&archiving, &segment), sound, "the first is served");
    let windows = archiving.run(&["wal", "windows", "--cluster", "main", "--json"]).with_code(1).json();
    assert_eq!(windows["problems"].as_array().map(Vec::len), Some(2), "{windows}");
}

#[test]
fn a_segment_of_another_system_and_what_is_no_segment_is_refused() {
    let archiving = archiving(any_major(), &[], &[]);
    let segment = insert_and_archive(&archiving, 2);
    let sound = content(&archiving, &segment);
    let before = everything(&archiving);

    let stranger = Cluster::start(&[]);
    stranger.sql("create table x (); select pg_switch_wal()");
    let foreign = fs::read(stranger.data().join("pg_wal/000000010000000000000001")).expect("read");
    let next = "0000000100000000000000F0";
    refused(&archiving, &file(&archiving, "000000010000000000000001", &foreign), "system identifier");
    // What does not say whose it is, is the server's in whose directory it is.
    let label = "000000010000000000000001.00000028.backup";
    for (name, bytes) in [("00000002.history", "1\t0/1600000\tno recovery target\n"), (label, "whatever")] {
        let path = stranger.data().join("pg_wal").join(name);
        fs::write(&path, bytes).expect("written");
        refused(&archiving, &path, "system identifier");
    }
    let small = Cluster::start(&["--wal-segsize=1"]);
    let name = small.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    refused(&archiving, &small.data().join("pg_wal").join(name), "");

    for (name, bytes) in [
        (segment.as_str(), &sound[..sound.len() / 2]),
        (next, &sound[..sound.len() / 2]),
        (next, &sound[..sound.len() - 1]),
        (next, &sound[..100]),
        (next, &[]),
        // Sound, but another segment than its name says.
        (next, &sound),
        ("000000020000000000000001", &sound),
        (next, &vec![0; sound.len()]),
        ("00000002.history", b"no timeline\n"),
        ("backup_label", b"whatever"),
    ] {
        refused(&archiving, &file(&archiving, name, bytes), "");
    }
    refused(&archiving, &archiving.path("no/such/000000010000000000000001"), "");
    assert!(everything(&archiving) == before, "nothing was stored");
}

#[test]
fn a_history_of_another_branch_is_refused_and_kept() {
    let archiving = archiving(any_major(), &[], &[]);
    insert_and_archive(&archiving, 2);
    let history =
        |at: &str| file(&archiving, "00000002.history", format!("1\t{at}\tno recovery target\n").as_bytes());
    let own = archiving.server.data().join("pg_wal/00000002.history");
    fs::copy(history("0/2000000"), &own).expect("copied");
    push(&archiving, &own).ok();
    push(&archiving, &history("0/2000000")).ok();
    refused(&archiving, &history("0/2000100"), "another content");
    assert_eq!(content(&archiving, "00000002.history"), b"1\t0/2000000\tno recovery target\n");
    assert_eq!(snapshot(&archiving.path("repo/wal-conflicts/main")).len(), 1);
}

#[test]
fn an_idle_segment_costs_a_few_hundred_bytes() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.archive_all();
    let mut idle = Vec::new();
    for n in 0..3 {
        super::harness::restore_point(&archiving.server, &format!("idle_{n}"));
        let segment = super::harness::archive_all(&archiving, &archiving.server);
        idle.push(object(&archiving, &segment).metadata().expect("there").len());
    }
    assert!(idle.iter().all(|bytes| *bytes < 2000), "{idle:?}");
    assert_eq!(windows(&archiving)["timelines"][0]["runs"].as_array().map(Vec::len), Some(1));
    assert!(archived(&archiving).len() >= 3);
}
