//! Archives with holes and damage, and a store that goes away: nothing is recovered that is less
//! than what was asked for.

use std::fs;
use std::path::Path;

use capy_testkit::postgres::{Cluster, text};

use super::any_major;
use super::harness::{
    archiving, check_promoted, check_stopped, everything, insert, insert_and_archive, object, prepare,
    recovers_to, refused, windows,
};
use crate::archiving::{Archiving, until};
use crate::documents::is_documented;

/// Has a copy wait with `file` until [`Held::let_go`].
struct Held<'a> {
    archiving: &'a Archiving,
}

impl<'a> Held<'a> {
    /// Puts a wait before the restore command of a copy that is not started.
    fn new(archiving: &'a Archiving, copy: &Cluster, file: &str) -> Self {
        let held = Self { archiving };
        let (hold, reached) = (archiving.path("hold"), archiving.path("reached"));
        fs::write(&hold, "").expect("written");
        let _ = fs::remove_file(&reached);
        let wait = format!(
            "while test %f = {file} -a -e {}; do touch {}; sleep 0.02; done;",
            text(&hold),
            text(&reached)
        );
        let path = copy.data().join("postgresql.auto.conf");
        let conf = fs::read_to_string(&path).expect("there");
        let before = "restore_command = '";
        assert_eq!(conf.matches(before).count(), 1, "{conf}");
        fs::write(&path, conf.replace(before, &format!("{before}{wait} "))).expect("written");
        held
    }

    fn is_reached(&self) -> bool {
        self.archiving.path("reached").exists()
    }

    fn let_go(&self) {
        fs::remove_file(self.archiving.path("hold")).expect("held");
    }
}

on_each_major! {
    fn a_store_that_goes_away_stops_a_recovery_and_its_return_lets_it_go_on(major) {
        let archiving = archiving(major, &[], &[]);
        archiving.back_up();
        insert_and_archive(&archiving, 2);
        let later = insert_and_archive(&archiving, 3);
        let (repository, away) = (archiving.path("repo"), archiving.path("away"));

        let (mut copy, _) = prepare(&archiving, "main/latest", &["--target-name", "after_3"]);
        let held = Held::new(&archiving, &copy, &later);
        std::thread::scope(|threads| {
            // The server may look far ahead before it answers anybody: the start may fail, or not.
            threads.spawn(|| copy.try_start_server());
            until("recovery gets there", || held.is_reached());
            fs::rename(&repository, &away).expect("renamed");
            held.let_go();
        });
        check_stopped(&copy);
        // The same when it is away from the start.
        assert!(!copy.try_start_server());
        check_stopped(&copy);

        fs::rename(&away, &repository).expect("renamed");
        copy.start_server();
        check_promoted(&copy, "1 2 3", "the store is back");
    }
}

on_each_major! {
    fn an_archive_command_without_its_store_is_counted_and_made_up_for(major) {
        let archiving = archiving(major, &[], &[]);
        let server = &archiving.server;
        archiving.back_up();
        let (repository, away) = (archiving.path("repo"), archiving.path("away"));
        fs::rename(&repository, &away).expect("renamed");
        insert(server, 2);
        server.sql("select pg_switch_wal()");
        until("the failure is counted", || {
            server.sql("select failed_count > 0 from pg_stat_archiver") == "t"
        });
        assert!(!repository.exists(), "no push makes a repository");
        fs::rename(&away, &repository).expect("renamed");
        // After three failures the archiver waits for a minute, or for the next segment.
        insert_and_archive(&archiving, 3);
        recovers_to(&archiving, &["--target", "latest"], "1 2 3");
    }
}

#[test]
fn a_missing_segment_is_named_and_only_targets_before_it_are_reached() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    insert_and_archive(&archiving, 2);
    let missing = insert_and_archive(&archiving, 3);
    let last = insert_and_archive(&archiving, 4);
    let xid = archiving.server.sql("select max(xmin::text::int) from t");
    fs::remove_file(object(&archiving, &missing)).expect("removed");

    let told = format!("{missing} is missing");
    let windows = windows(&archiving);
    let runs = windows["timelines"][0]["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 2, "{windows}");
    assert_eq!(runs[1]["first_segment"], *last);
    assert_eq!(windows["backups"][0]["windows"][0]["ended_by"], *told);
    let shown = archiving.run(&["wal", "windows", "--cluster", "main"]).ok().text();
    assert!(shown.contains("HOLE") && shown.contains(&told), "{shown}");

    let position = archiving.server.sql("select pg_current_wal_lsn()");
    for target in [
        ["--target-name", "after_3"],
        ["--target-name", "after_4"],
        ["--target-time", "2099-01-01T00:00:00Z"],
        ["--target-lsn", &position],
        ["--target-xid", &xid],
    ] {
        refused(&archiving, &target, &told, "nearest");
    }
    recovers_to(&archiving, &["--target-name", "after_2"], "1 2");
    // The end of what can be had, with a word on what cannot.
    let (mut copy, report) = prepare(&archiving, "main/latest", &["--target", "latest"]);
    assert!(report["notices"].to_string().contains(&told), "{report}");
    copy.start_server();
    check_promoted(&copy, "1 2", "up to the hole");
}

#[test]
fn a_damaged_segment_ends_a_recovery_without_a_promotion() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    insert_and_archive(&archiving, 2);
    let damaged = insert_and_archive(&archiving, 3);
    let path = object(&archiving, &damaged);
    let sound = fs::read(&path).expect("read");

    // In the content: the facts at the end still tell of it.
    let verify = ["wal", "verify", "--cluster", "main", "--json"];
    let report = archiving.run(&verify).ok().json();
    is_documented(&report);
    let files = crate::harness::snapshot(&archiving.path("repo/wal/main")).len();
    assert_eq!((report["files"].as_u64(), report["ok"].as_bool()), (Some(files as u64), Some(true)));
    assert!(report["hashed_bytes"].as_u64() >= Some(3 << 24), "{report}");
    flip(&path, &sound, sound.len() / 2);
    assert_eq!(fetch(&archiving, &damaged), 126);
    let report = archiving.run(&verify).with_code(1).json();
    is_documented(&report);
    assert_eq!(
        (report["damaged"][0]["file"].as_str(), report["damaged_total"].as_u64()),
        (Some(&*damaged), Some(1))
    );
    let (mut copy, _) = prepare(&archiving, "main/latest", &["--target-name", "after_3"]);
    let _ = copy.try_start_server();
    check_stopped(&copy);
    let incomplete = archiving.path("incomplete");
    let options = ["restore", "main/latest", "--to", text(&incomplete), "--target-name", "after_3"];
    archiving.run(&[&options[..], &["--wal-into"]].concat()).with_code(6);
    assert!(!incomplete.join("global/pg_control").exists());

    // In the facts, or cut off: it is as if it were missing, and a problem.
    for content in [flipped(&sound, sound.len() - 60), sound[..sound.len() - 1].to_vec(), Vec::new()] {
        fs::write(&path, content).expect("written");
        assert_eq!(fetch(&archiving, &damaged), 126);
        archiving.run(&verify).with_code(1);
        let windows = archiving.run(&["wal", "windows", "--cluster", "main", "--json"]).with_code(1).json();
        assert!(windows["problems"].to_string().contains(&damaged), "{windows}");
        refused(&archiving, &["--target-name", "after_3"], "", "after_2");
    }

    // Whole again: the same copy goes on.
    fs::write(&path, &sound).expect("written");
    assert_eq!(fetch(&archiving, &damaged), 0);
    copy.start_server();
    check_promoted(&copy, "1 2 3", "the segment is whole again");
}

fn flip(path: &Path, sound: &[u8], at: usize) {
    fs::write(path, flipped(sound, at)).expect("written");
}

fn flipped(sound: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

fn fetch(archiving: &Archiving, file: &str) -> i32 {
    let target = archiving.path("fetched");
    let code = archiving.run(&["wal", "fetch", "--cluster", "main", file, text(&target)]).code;
    assert_eq!(target.exists(), code == 0, "a file appears whole or not at all");
    let _ = fs::remove_file(target);
    code
}

#[test]
fn reading_leaves_the_archive_as_it_is() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    let segment = insert_and_archive(&archiving, 2);
    let before = everything(&archiving);
    windows(&archiving);
    assert_eq!(fetch(&archiving, &segment), 0);
    assert_eq!(fetch(&archiving, "0000000100000000000000F0"), 1);
    refused(&archiving, &["--target-name", "none"], "none", "");
    assert!(everything(&archiving) == before);
}
