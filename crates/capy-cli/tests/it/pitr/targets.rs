//! Each kind of target, and the wishes that no archive can fulfil.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use capy_testkit::postgres::{Cluster, text};

use super::any_major;
use super::harness::{
    archived, archiving, check_promoted, everything, insert, insert_and_archive, moment, moment_of, prepare,
    recovers_to, refused, restore_point, rows, start,
};
use crate::archiving::{Archiving, until};

/// Two base backups and what happened around them.
///
/// Row 1 is in the first. 2 is committed before `time`, 3 after it, by `xid` at exactly `committed`;
/// the point `it's here` comes next, then 4, whose commit record begins at `commit`, and 5. The
/// second backup has all these; 6 comes after it.
struct History {
    archiving: Archiving,
    first: String,
    second: String,
    time: String,
    committed: String,
    xid: String,
    commit: String,
}

impl History {
    fn new(major: u32) -> Self {
        // A zone that is half an hour off the others, and has summers.
        let settings = ["track_commit_timestamp = on", "timezone = 'America/St_Johns'"];
        let archiving = archiving(major, &[], &settings);
        let server = &archiving.server;
        let first = archiving.back_up();
        insert(server, 2);
        let time = moment(server);
        let xid = server.sql("begin; insert into t values (3); select pg_current_xact_id()::text; commit");
        let committed = moment_of(server, &format!("pg_xact_commit_timestamp('{xid}')"));
        sleep(Duration::from_millis(20));
        restore_point(server, "it''s here");
        let commit = commit_of_four(server);
        insert(server, 5);
        let second = archiving.back_up();
        insert_and_archive(&archiving, 6);
        Self { archiving, first, second, time, committed, xid, commit }
    }
}

/// Inserts row 4 and gives the position at which its commit record begins.
fn commit_of_four(source: &Cluster) -> String {
    let number = |position: &str| source.sql(&format!("select '{position}'::pg_lsn - '0/0'"));
    loop {
        let positions = source.sql(
            "begin; insert into t values (4); select pg_current_wal_insert_lsn(); commit; \
             select pg_current_wal_insert_lsn()",
        );
        let (before, after) = positions.split_once('\n').expect("two lines");
        let bytes: Vec<u64> = [before, after].map(|at| number(at).parse().expect("a number")).to_vec();
        // More than a commit record: a checkpoint or the like came in between.
        if bytes[1] - bytes[0] <= 64 {
            return before.to_owned();
        }
        source.sql("delete from t where n = 4");
    }
}

on_each_major! {
    fn every_target_comes_up_with_exactly_its_rows_and_leaves_the_parents_archive_alone(major) {
        let History { archiving, first, second, time, committed, xid, commit } = &History::new(major);
        let before = everything(archiving);
        let (near, far) = (second.as_str(), first.as_str());
        let name = "it's here";
        let cases: &[(&str, &[&str], &str, &str)] = &[
            ("main/latest", &["--target-time", time], far, "1 2"),
            ("main/latest", &["--target-time", committed], far, "1 2 3"),
            ("main/latest", &["--target-time", committed, "--exclusive"], far, "1 2"),
            ("main/latest", &["--target-lsn", commit], far, "1 2 3 4"),
            ("main/latest", &["--target-lsn", commit, "--exclusive"], far, "1 2 3"),
            ("main/latest", &["--target-xid", xid], far, "1 2 3"),
            ("main/latest", &["--target-xid", xid, "--exclusive"], far, "1 2"),
            ("main/latest", &["--target-name", name], far, "1 2 3"),
            ("main/latest", &["--target-immediate"], near, "1 2 3 4 5"),
            (far, &["--target-immediate"], far, "1"),
            ("main/latest", &["--target", "latest"], near, "1 2 3 4 5 6"),
            (far, &["--target", "latest", "--target-timeline", "current"], far, "1 2 3 4 5 6"),
        ];
        for (backup, options, base, expected) in cases {
            let (mut copy, report) = prepare(archiving, backup, options);
            assert_eq!(report["recovery"]["backup_key"], **base, "PostgreSQL {major}: {options:?}");
            copy.start_server();
            check_promoted(&copy, expected, &options.join(" "));
            // What is set by hand later can be written beside what the restore wrote.
            copy.sql("alter system set work_mem = '5MB'");
            assert_eq!(copy.sql("select count(*) from pg_file_settings where error is not null"), "0");
        }
        assert!(everything(archiving) == before, "PostgreSQL {major}: a copy wrote into the archive");
        assert!(archived(archiving).iter().any(|file| file.ends_with(".backup")));
    }
}

on_each_major! {
    fn with_the_wal_copied_into_it_a_directory_recovers_without_the_repository(major) {
        let History { archiving, commit, time, .. } = &History::new(major);
        let repository = archiving.path("repo");
        for (target, expected) in [
            (vec!["--target-lsn", commit], "1 2 3 4"),
            (vec!["--target-time", time], "1 2"),
            (vec!["--target", "latest"], "1 2 3 4 5 6"),
        ] {
            let (mut copy, _) = prepare(archiving, "main/latest", &[&target[..], &["--wal-into"]].concat());
            fs::rename(&repository, archiving.path("away")).expect("renamed");
            copy.start_server();
            check_promoted(&copy, expected, "--wal-into");
            fs::rename(archiving.path("away"), &repository).expect("renamed");
        }
    }
}

on_each_major! {
    fn a_time_after_the_last_commit_of_an_idle_database_is_recovered_as_far_as_it_is_known(major) {
        let archiving = archiving(major, &[], &[]);
        let server = &archiving.server;
        archiving.back_up();
        insert(server, 2);
        let idle = moment(server);
        // A checkpoint's stamp is in whole seconds.
        sleep(Duration::from_secs(1));
        server.sql("checkpoint");
        let unknown = moment(server);
        archiving.archive_all();

        let (mut copy, report) = prepare(&archiving, "main/latest", &["--target-time", &idle]);
        assert!(report["notices"].to_string().contains("no transaction ended after"), "{report}");
        copy.start_server();
        check_promoted(&copy, "1 2", "an idle database");
        // Nothing in the archive tells of this moment: something may have been committed before it.
        refused(&archiving, &["--target-time", &unknown], "is not archived", "nearest");
    }
}

#[test]
fn what_cannot_be_reached_is_refused_before_anything_is_written_and_the_nearest_is_named() {
    let archiving = archiving(any_major(), &[], &[]);
    let server = &archiving.server;
    let early = moment(server);
    // The stamp of a checkpoint is in whole seconds.
    sleep(Duration::from_millis(1500));
    let early_xid = server.sql("begin; insert into t values (2); select pg_current_xact_id()::text; commit");
    let early_lsn = server.sql("select pg_current_wal_lsn()");
    restore_point(server, "before");
    archiving.back_up();
    insert_and_archive(&archiving, 3);

    let windows = super::harness::windows(&archiving);
    let window = &windows["backups"][0]["windows"][0];
    let (from, until) = (window["from_lsn"].as_str(), window["known_until"].as_str());
    let from = from.expect("a position").to_owned();
    let until = until.expect("a time").to_owned();
    let refused = |options: &[&str], why: &str, nearest: &str| {
        refused(&archiving, options, why, nearest);
        super::harness::refused(&archiving, &[options, &["--wal-into"]].concat(), why, nearest);
    };
    refused(&["--target-time", &early], "it holds what was committed up to", "nearest that can: time 2");
    refused(&["--target-time", "2099-01-01T00:00:00Z"], "is not archived: end of the archive", &until);
    refused(&["--target-name", "after_4"], "no restore point of that name", "after_3");
    refused(&["--target-name", "before"], "before", "");
    refused(&["--target-lsn", "F/0"], "the WAL ends before: end of the archive", "nearest that can: lsn 0/");
    refused(&["--target-lsn", &early_lsn], "consistent only from", &from);
    refused(&["--target-xid", "999999"], "no transaction 999999 ends in the WAL", "nearest that can: lsn");
    refused(&["--target-xid", &early_xid], "", "");
    refused(&["--target", "latest", "--target-timeline", "2"], "00000002.history", "");
    // The nearest is one that can.
    recovers_to(&archiving, &["--target-time", &until], "1 2 3");
    recovers_to(&archiving, &["--target-lsn", &from], "1 2");
    recovers_to(&archiving, &["--target-name", "after_3"], "1 2 3");
}

#[test]
fn at_the_target_the_copy_waits_or_stops_when_told_to() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    insert_and_archive(&archiving, 2);
    insert_and_archive(&archiving, 3);
    let target = ["--target-name", "after_2", "--action"];

    let paused = start(&archiving, "main/latest", &[&target[..], &["pause"]].concat());
    until("it pauses", || paused.sql("select pg_is_wal_replay_paused()") == "t");
    assert_eq!((rows(&paused), paused.sql("select pg_is_in_recovery()")), ("1 2".to_owned(), "t".to_owned()));
    paused.sql("select pg_wal_replay_resume()");
    check_promoted(&paused, "1 2", "resumed");

    let (mut stopped, _) = prepare(&archiving, "main/latest", &[&target[..], &["shutdown"]].concat());
    let _ = stopped.try_start_server();
    until("it shuts down", || !stopped.is_running());
    assert!(stopped.data().join("recovery.signal").exists());
}

/// Runs `begin`, then writes up to 24 bytes before the end of a segment of 1 MB, so that the record of
/// `end` crosses into the next.
fn across_the_border(server: &Cluster, begin: &str, end: &str) {
    // Messages that nobody reads; all of the last 4000 bytes lie on one page.
    const FILL: &str = "do $$ declare
        left_over int;
        padding int;
    begin
        loop
            left_over := 1048576 - (pg_current_wal_insert_lsn() - '0/0')::numeric % 1048576;
            padding := least(left_over - 24, case when left_over > 8000 then 4000 else 100000 end) - 54;
            perform pg_logical_emit_message(false, '', repeat('x', padding));
            exit when left_over <= 8000;
        end loop;
    end $$";
    let position = |text: &str| -> u64 {
        let (high, low) = text.split_once('/').expect("two halves");
        let hex = |half| u64::from_str_radix(half, 16).expect("hex");
        hex(high) << 32 | hex(low)
    };
    loop {
        let at = "select 'at ' || pg_current_wal_insert_lsn()";
        let said = server.sql(&format!("{begin}; {FILL}; {at}; {end}; {at}"));
        let at: Vec<u64> = said.lines().filter_map(|line| line.strip_prefix("at ")).map(position).collect();
        if at[0] % (1 << 20) == (1 << 20) - 24 && at[1] % (1 << 20) < 1000 {
            return;
        }
        // Something else was written in between, or the page ended.
        server.sql("select pg_switch_wal()");
    }
}

on_each_major! {
    fn what_crosses_from_one_segment_into_the_next_is_known_as_well(major) {
        let archiving = archiving(major, &["--wal-segsize=1"], &[]);
        let server = &archiving.server;
        archiving.back_up();
        insert(server, 2);
        let time = moment(server);
        across_the_border(server, "begin; delete from t where n = 3; insert into t values (3)", "commit");
        let xid = server.sql("select xmin from t where n = 3");
        // The stamp of a checkpoint is in whole seconds: it is known that nothing else came until then.
        sleep(Duration::from_millis(1500));
        server.sql("checkpoint");
        across_the_border(server, "select 1", "select pg_create_restore_point('across')");
        insert_and_archive(&archiving, 4);
        for (target, expected) in [
            (&["--target-time", &time][..], "1 2"),
            (&["--target-xid", &xid], "1 2 3"),
            (&["--target-xid", &xid, "--exclusive"], "1 2"),
            (&["--target-name", "across"], "1 2 3"),
        ] {
            recovers_to(&archiving, target, expected);
        }
    }
}

#[test]
fn a_point_among_hundreds_of_dropped_tables_is_found() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    archiving.server.sql(
        "do $$ begin for n in 1..400 loop
            execute 'create table x ()'; execute 'drop table x'; commit;
        end loop; end $$",
    );
    insert_and_archive(&archiving, 2);
    recovers_to(&archiving, &["--target-name", "after_2"], "1 2");
}

#[test]
fn a_restore_by_a_passphrase_says_that_the_server_needs_it_too() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    insert_and_archive(&archiving, 2);
    let (repo, key) = (archiving.path("repo"), archiving.path("key"));
    let mut add = archiving.capy(&["--repo", text(&repo), "--key-file", text(&key), "key", "add"]);
    Archiving::finish(add.env("CAPY_NEW_PASSPHRASE", "a secret")).ok();
    let told = |name: &str, open: &[&str], options: &[&str]| {
        let target = archiving.path(name);
        let restore = ["restore", "main/latest", "--to", text(&target), "--target", "latest", "--json"];
        let mut command = archiving.capy(&[&["--repo", text(&repo)], open, &restore, options].concat());
        let report = Archiving::finish(command.env("CAPY_PASSPHRASE", "a secret")).ok().json();
        report["notices"].to_string().contains("start it with CAPY_PASSPHRASE in its environment")
    };
    assert!(told("one", &[], &[]));
    assert!(!told("two", &["--key-file", text(&key)], &[]), "the command names the file");
    assert!(!told("three", &[], &["--wal-into"]), "nothing is fetched");
}
