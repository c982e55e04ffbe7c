//! Servers that are not as the others: other segment sizes, settings changed in the WAL,
//! tablespaces, standbys.

use std::fs;

use capy_testkit::postgres::text;

use super::any_major;
use super::harness::{
    archive_all, archiving, check_promoted, insert, insert_and_archive, of_main, prepare, ready, recovers_to,
    refused, restore, restore_point, rows, sql_in, start, windows,
};
use crate::archiving::until;

#[test]
fn segments_of_other_sizes_are_archived_and_recovered() {
    for (megabytes, segment) in [(1_u64, "000000010000000000000008"), (64, "000000010000000000000003")] {
        let archiving = archiving(any_major(), &[&format!("--wal-segsize={megabytes}")], &[]);
        archiving.back_up();
        // Over the end of several segments of one megabyte.
        archiving
            .server
            .sql("create table bulk as select repeat(md5(g::text), 20) from generate_series(1, 5000) g");
        insert_and_archive(&archiving, 2);
        insert_and_archive(&archiving, 3);
        let windows = windows(&archiving);
        assert_eq!(windows["segment_size_bytes"], megabytes << 20);
        assert_eq!(windows["timelines"][0]["runs"].as_array().map(Vec::len), Some(1), "{windows}");
        let last = windows["timelines"][0]["runs"][0]["last_segment"].as_str().expect("a name");
        assert!(last >= segment, "{last}");
        let copy = recovers_to(&archiving, &["--target-name", "after_2"], "1 2");
        assert_eq!(copy.sql("select count(*) from bulk"), "5000");
        recovers_to(&archiving, &["--target", "latest", "--wal-into"], "1 2 3");
    }
}

on_each_major! {
    fn a_copy_starts_with_the_settings_that_were_raised_after_its_backup(major) {
        let mut archiving =
            archiving(major, &[], &["max_connections = 20", "max_locks_per_transaction = 32"]);
        archiving.back_up();
        for (name, value) in [("max_connections", "150"), ("max_locks_per_transaction", "96")] {
            archiving.server.sql(&format!("alter system set {name} = {value}"));
        }
        archiving.server.stop_server();
        archiving.server.start_server();
        insert_and_archive(&archiving, 2);
        let copy = recovers_to(&archiving, &["--target", "latest"], "1 2");
        assert_eq!(copy.sql("show max_connections"), "150");
        assert_eq!(copy.sql("show max_locks_per_transaction"), "96");
    }
}

#[test]
fn a_copy_that_does_not_recover_archives_nothing_either_and_what_would_surprise_is_told() {
    let archiving = archiving(
        any_major(),
        &[],
        &["synchronous_standby_names = '\"capy-store\"'", "synchronous_commit = local"],
    );
    archiving.back_up();
    insert_and_archive(&archiving, 2);
    let before = of_main(&archiving);
    let (mut copy, report) = prepare(&archiving, "main/latest", &[]);
    let notices = report["notices"].to_string();
    assert!(notices.contains("archive_mode is off"), "{notices}");
    assert!(notices.contains("after promotion every commit waits"), "{notices}");
    copy.start_server();
    assert_eq!((copy.sql("show archive_mode").as_str(), rows(&copy).as_str()), ("off", "1"));
    for row in [40, 50] {
        insert(&copy, row);
        copy.sql("select pg_switch_wal()");
    }
    assert_eq!(ready(&copy), [""; 0]);
    assert!(of_main(&archiving) == before, "the copy wrote into its parent's archive");
    // The parent goes on where it was.
    insert_and_archive(&archiving, 3);
    let (_, report) = prepare(&archiving, "main/latest", &["--target", "latest"]);
    assert!(report["notices"].to_string().contains("synchronous_standby_names"), "{report}");
}

#[test]
fn a_tablespace_made_in_the_wal_is_refused_where_something_lies_and_made_where_nothing_does() {
    let archiving = archiving(any_major(), &[], &[]);
    let server = &archiving.server;
    archiving.back_up();
    insert_and_archive(&archiving, 2);
    let place = server.make_directory("fast");
    server.sql(&format!("create tablespace fast location '{}'", text(&place)));
    server.sql("create table u tablespace fast as select 7 as n");
    insert_and_archive(&archiving, 3);

    let target = archiving.path("refused");
    let run = restore(&archiving, &target, "main/latest", &["--target", "latest"]).with_code(4);
    assert!(run.text().contains(text(&place)), "{}", run.text());
    assert!(!target.exists());
    recovers_to(&archiving, &["--target-name", "after_2"], "1 2");

    // The parent is lost, with the directory: the copy makes it anew.
    server.stop_server();
    fs::remove_dir_all(&place).expect("removed");
    let (mut copy, report) = prepare(&archiving, "main/latest", &["--target", "latest"]);
    assert!(report["notices"].to_string().contains(text(&place)), "{report}");
    copy.start_server();
    check_promoted(&copy, "1 2 3", "a tablespace made again");
    assert_eq!(copy.sql("select n from u"), "7");
}

on_each_major! {
    fn a_standby_follows_the_archive_and_stays_one(major) {
        let archiving = archiving(major, &[], &[]);
        archiving.back_up();
        insert_and_archive(&archiving, 2);
        let standby = start(&archiving, "main/latest", &["--standby"]);
        until("the row arrives", || rows(&standby) == "1 2");
        insert_and_archive(&archiving, 3);
        until("the next row arrives", || rows(&standby) == "1 2 3");
        assert_eq!(standby.sql("select pg_is_in_recovery()"), "t");
        assert!(standby.data().join("standby.signal").exists());

        // With a primary it gets what is not archived yet.
        let conninfo = archiving.conninfo();
        let streaming = start(&archiving, "main/latest", &["--standby", "--primary-conninfo", &conninfo]);
        insert(&archiving.server, 4);
        until("the row is streamed", || rows(&streaming) == "1 2 3 4");
        restore_point(&archiving.server, "last");
        archive_all(&archiving, &archiving.server);
        until("both have all", || rows(&standby) == "1 2 3 4");
    }
}

on_each_major! {
    fn databases_made_while_a_backup_runs_and_after_it_are_recovered(major) {
        let archiving = archiving(major, &[], &[]);
        let server = &archiving.server;
        let ways: &[&str] = if major < 15 { &[""] } else { &["strategy wal_log", "strategy file_copy"] };
        let make = |name: &str, way: &str| {
            server.sql(&format!("create database {name} {way}"));
            sql_in(server, name, &format!("create table d as select '{name}' as name"));
        };
        let mut made = vec!["before".to_owned()];
        make("before", "");
        std::thread::scope(|threads| {
            let backup = threads.spawn(|| archiving.back_up());
            for (way, at) in ways.iter().zip(0..) {
                made.push(format!("during_{at}"));
                make(&made[made.len() - 1], way);
            }
            server.sql("drop database before");
            made.remove(0);
            backup.join().expect("it is taken");
        });
        for (way, at) in ways.iter().zip(0..) {
            made.push(format!("after_{at}"));
            make(&made[made.len() - 1], way);
        }
        insert_and_archive(&archiving, 2);
        let copy = recovers_to(&archiving, &["--target", "latest"], "1 2");
        let names = copy.sql("select string_agg(datname, ' ' order by oid) from pg_database where oid >= 16384");
        assert_eq!(names, made.join(" "), "PostgreSQL {major}");
        for name in &made {
            assert_eq!(sql_in(&copy, name, "select name from d"), *name);
        }
    }
}

on_each_major! {
    fn a_backup_taken_from_a_standby_is_recovered_as_any_other(major) {
        let archiving = archiving(major, &[], &[]);
        archiving.back_up();
        insert_and_archive(&archiving, 2);
        let conninfo = archiving.conninfo();
        let standby = start(&archiving, "main/latest", &["--standby", "--primary-conninfo", &conninfo]);
        until("the row arrives", || rows(&standby) == "1 2");
        let from = format!("{} user=postgres", standby.address());
        let report = archiving.run(&["backup", "--cluster", "main", "--pg", &from, "--json"]).ok().json();
        let own = report["backup"]["backup_key"].as_str().expect("a key").to_owned();
        insert_and_archive(&archiving, 3);
        insert_and_archive(&archiving, 4);
        for (target, expected) in [
            (&["--target-name", "after_3"][..], "1 2 3"),
            (&["--target", "latest"], "1 2 3 4"),
            (&["--target-immediate", "--wal-into"], "1 2"),
        ] {
            let (mut copy, report) = prepare(&archiving, "main/latest", target);
            assert_eq!(report["recovery"]["backup_key"], *own, "PostgreSQL {major}");
            copy.start_server();
            check_promoted(&copy, expected, "from a standby's backup");
        }
    }
}

on_each_major! {
    fn a_standby_that_is_promoted_while_it_is_backed_up_leaves_no_backup(major) {
        let archiving = archiving(major, &[], &[]);
        archiving.back_up();
        archiving.archive_all();
        let conninfo = archiving.conninfo();
        let standby = start(&archiving, "main/latest", &["--standby", "--primary-conninfo", &conninfo]);
        until("it follows", || rows(&standby) == "1");
        let listed = archiving.run(&["list", "--json"]).ok().json();
        let from = format!("{} user=postgres", standby.address());
        // Slow enough that it is not over before the promotion.
        let slowly = ["backup", "--cluster", "main", "--pg", &from, "--read-rate", "4M", "--json"];
        let ended = std::thread::scope(|scope| {
            let backup = scope.spawn(|| archiving.run(&slowly));
            let phase = "select phase from pg_stat_progress_basebackup";
            until("it is being sent", || standby.sql(phase) == "streaming database files");
            standby.sql("select pg_promote()");
            backup.join().expect("it ends")
        });
        let message = ended.json()["error"]["message"].to_string();
        assert!(ended.code != 0, "PostgreSQL {major}");
        assert!(message.contains("promoted during online backup"), "PostgreSQL {major}: {message}");
        assert_eq!(archiving.run(&["list", "--json"]).ok().json(), listed, "PostgreSQL {major}");
    }
}

#[test]
fn what_was_written_at_wal_level_minimal_is_not_recovered_past() {
    let mut archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    insert(&archiving.server, 2);
    restore_point(&archiving.server, "after_2");
    for (level, mode, senders) in [("minimal", "off", 0), ("replica", "on", 10)] {
        let server = &mut archiving.server;
        for (name, value) in
            [("wal_level", level), ("archive_mode", mode), ("max_wal_senders", &senders.to_string())]
        {
            server.sql(&format!("alter system set {name} = '{value}'"));
        }
        server.stop_server();
        server.start_server();
        insert(server, 3);
    }
    insert_and_archive(&archiving, 4);
    let hint = "--exclusive";
    refused(&archiving, &["--target", "latest"], "wal_level was minimal", hint);
    refused(&archiving, &["--target-name", "after_4"], "wal_level was minimal", hint);
    recovers_to(&archiving, &["--target-name", "after_2"], "1 2");
    archiving.back_up();
    insert_and_archive(&archiving, 5);
    recovers_to(&archiving, &["--target", "latest"], "1 2 3 3 4 5");
}
