//! Promotions: branches of one history in one archive, and copies that stay out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use capy_testkit::postgres::Cluster;

use super::any_major;
use super::harness::{
    archive_all, archive_all_into, archived, archiving, check_promoted, insert, insert_and_archive, object,
    of_main, prepare, recovers_to, refused, restore, restore_point, rows, start, timeline, windows,
};
use crate::archiving::{Archiving, until};

/// Lets a copy that is not started write into an archive: `main` as one that takes its parent's place.
fn let_archive(archiving: &Archiving, archive: &str, copy: &Cluster) {
    let command = archiving.archive_command().replace("--cluster main", &format!("--cluster {archive}"));
    let path = copy.data().join("postgresql.auto.conf");
    let mut conf = fs::read_to_string(&path).expect("there");
    conf.push_str(&format!("archive_mode = on\narchive_command = '{command}'\n"));
    fs::write(&path, conf).expect("written");
}

on_each_major! {
    fn after_a_failover_both_branches_are_in_the_archive_and_can_be_recovered(major) {
        let archiving = archiving(major, &[], &[]);
        let old = &archiving.server;
        archiving.back_up();
        insert_and_archive(&archiving, 2);
        let conninfo = archiving.conninfo();
        let (mut new, _) =
            prepare(&archiving, "main/latest", &["--standby", "--primary-conninfo", &conninfo]);
        let_archive(&archiving, "main", &new);
        new.start_server();
        insert(old, 3);
        restore_point(old, "before_fork");
        // A commit flushes the point, which else stays in the server's memory for seconds.
        let end = old.sql("select pg_current_wal_insert_lsn() from txid_current()");
        until("the standby has it", || {
            new.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t"
        });
        let forked = old.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
        new.sql("select pg_promote()");
        until("it is promoted", || new.sql("select pg_is_in_recovery()") == "f");

        // Nobody told the old one: it goes on for a while.
        insert_and_archive(&archiving, 40);
        insert_and_archive(&archiving, 50);
        old.stop_server();
        for row in [4, 5] {
            insert(&new, row);
            restore_point(&new, &format!("new_{row}"));
            archive_all(&archiving, &new);
        }

        let files = archived(&archiving);
        let partial = format!("{forked}.partial");
        for file in ["00000002.history", &partial, &forked, &format!("00000002{}", &forked[8..])] {
            assert!(files.iter().any(|found| found == file), "PostgreSQL {major}: no {file} in {files:?}");
        }
        let windows = windows(&archiving);
        let [first, second] = windows["timelines"].as_array().expect("a list").as_slice() else {
            panic!("PostgreSQL {major}: {windows}")
        };
        assert_eq!((&first["timeline"], &second["timeline"]), (&1.into(), &2.into()));
        assert_eq!((&first["partial"][0], &second["parent"]), (&partial.into(), &1.into()));
        let fork = second["forked_at"].as_str().expect("a position");
        assert!(first["runs"][0]["to_lsn"].as_str().expect("a position") > fork, "{windows}");
        assert_eq!(windows["backups"][0]["windows"].as_array().map(Vec::len), Some(2), "{windows}");
        let shown = archiving.run(&["wal", "windows", "--cluster", "main"]).ok().text();
        assert!(shown.contains(&format!("timeline 2, from timeline 1 at {fork}")), "{shown}");

        for (options, expected) in [
            (&["--target", "latest"][..], "1 2 3 4 5"),
            (&["--target-name", "new_4"], "1 2 3 4"),
            (&["--target-name", "before_fork"], "1 2 3"),
            (&["--target-lsn", fork, "--exclusive", "--target-timeline", "1"], "1 2 3"),
            (&["--target", "latest", "--target-timeline", "1"], "1 2 3 40 50"),
            (&["--target-name", "after_40", "--target-timeline", "1"], "1 2 3 40"),
            (&["--target", "latest", "--target-timeline", "current"], "1 2 3 40 50"),
            (&["--target-name", "new_5", "--wal-into"], "1 2 3 4 5"),
            (&["--target-name", "after_40", "--target-timeline", "1", "--wal-into"], "1 2 3 40"),
        ] {
            recovers_to(&archiving, options, expected);
        }
        // What is on one branch is not on the other.
        refused(&archiving, &["--target-name", "after_40"], "no restore point", "");
        refused(&archiving, &["--target-name", "new_4", "--target-timeline", "1"], "no restore point", "");
        // A copy of the old branch goes on after the last timeline that the archive knows.
        let copy =
            recovers_to(&archiving, &["--target-name", "after_40", "--target-timeline", "1"], "1 2 3 40");
        assert_eq!(timeline(&copy), 3, "PostgreSQL {major}");
    }
}

#[test]
fn a_base_backup_after_a_promotion_belongs_to_its_branch() {
    let archiving = archiving(any_major(), &[], &[]);
    archiving.back_up();
    let old = insert_and_archive(&archiving, 2);
    insert_and_archive(&archiving, 3);
    let beyond = archiving.back_up();
    let (mut new, _) = prepare(&archiving, "main/latest", &["--target-name", "after_2"]);
    let_archive(&archiving, "main", &new);
    new.start_server();
    until("it is promoted", || new.sql("select pg_is_in_recovery()") == "f");
    archiving.server.stop_server();
    // Of the new timeline there is only its history yet: what the old one wrote after the fork is no part
    // of it, though a server would go on in it.
    until("its history", || object(&archiving, "00000002.history").exists());
    for options in [&["--target", "latest"][..], &["--target", "latest", "--wal-into"]] {
        let (mut copy, report) = prepare(&archiving, "main/latest", options);
        let notices = report["notices"].to_string();
        for told in ["recovery stops at 0/", "--target-timeline 1 recovers them"] {
            assert!(notices.contains(told), "{notices}");
        }
        copy.start_server();
        check_promoted(&copy, "1 2", &options.join(" "));
        assert_eq!(timeline(&copy), 3);
    }
    refused(
        &archiving,
        &["--target-name", "after_3"],
        "no restore point of that name is in the WAL",
        "after_2",
    );
    let standby = restore(&archiving, &archiving.path("standby"), "main/latest", &["--standby"]).with_code(3);
    assert!(standby.text().contains("would replay what is not its history"), "{}", standby.text());
    // No backup is of the new timeline, and the newest does not lead to it.
    let expired = archiving.run(&["expire", "--keep-full", "1", "--yes", "--json"]).ok().json();
    assert_eq!(expired["expired"], serde_json::json!([]), "{expired}");
    assert_eq!(expired["kept"][0]["reasons"], serde_json::json!(["newest_timeline"]), "{expired}");
    assert_eq!(expired["kept"][1]["backup"]["backup_key"], beyond, "{expired}");
    let conninfo = format!("{} user=postgres", new.address());
    archiving.run(&["backup", "--cluster", "main", "--pg", &conninfo]).ok();
    insert(&new, 4);
    archive_all(&archiving, &new);
    new.stop_server();

    recovers_to(&archiving, &["--target", "latest"], "1 2 4");
    // The newer backup is not on the way there; the older one is.
    recovers_to(&archiving, &["--target-name", "after_3", "--target-timeline", "1"], "1 2 3");

    // Without its history nobody knows where a timeline began.
    let history = object(&archiving, "00000002.history");
    let aside = archiving.path("aside");
    fs::rename(&history, &aside).expect("renamed");
    let run = archiving.run(&["wal", "windows", "--cluster", "main", "--json"]).with_code(1);
    assert!(run.json()["problems"].to_string().contains("timeline 2 cannot be found"), "{}", run.text());
    // From a backup before the promotion a server would not find it, and silently end on the older; one
    // after it leads there all the same.
    recovers_to(&archiving, &["--target", "latest"], "1 2 4");
    refused(&archiving, &["--target-name", "after_2"], "00000002.history", "--target-timeline 1");
    recovers_to(&archiving, &["--target", "latest", "--target-timeline", "1"], "1 2 3");

    // Histories stay for ever.
    fs::rename(&aside, &history).expect("renamed");
    let expired = archiving.run(&["expire", "--keep-full", "1", "--yes", "--json"]).ok().json();
    assert_eq!(expired["expired"].as_array().map(Vec::len), Some(2), "{expired}");
    assert!(history.exists() && !archived(&archiving).contains(&old), "{expired}");
    recovers_to(&archiving, &["--target", "latest"], "1 2 4");
}

#[test]
fn an_archive_may_begin_after_a_promotion_whose_history_is_elsewhere() {
    let mut server = Cluster::builder().major(any_major()).start();
    server.sql("create table t (n int); insert into t values (1)");
    server.stop_server();
    fs::write(server.data().join("standby.signal"), "").expect("written");
    let (user, group) = owner_of(&server);
    chown(server.data().join("standby.signal"), Some(user), Some(group)).expect("given");
    server.start_server();
    server.sql("select pg_promote()");
    until("it is promoted", || server.sql("select pg_is_in_recovery()") == "f");
    server.sql("alter system set archive_mode = on");
    server.stop_server();
    server.start_server();
    let archiving = Archiving::with_repository(server);
    archiving.set("archive_command", &archiving.archive_command());
    archiving.back_up();
    insert_and_archive(&archiving, 2);
    insert_and_archive(&archiving, 3);
    assert!(!object(&archiving, "00000002.history").exists());
    assert_eq!(windows(&archiving)["problems"].as_array().map(Vec::len), Some(0));
    let copy = recovers_to(&archiving, &["--target-name", "after_2"], "1 2");
    assert_eq!(timeline(&copy), 3);
    recovers_to(&archiving, &["--target", "latest", "--wal-into"], "1 2 3");
}

fn owner_of(server: &Cluster) -> (u32, u32) {
    let data = fs::metadata(server.data()).expect("there");
    (data.uid(), data.gid())
}

on_each_major! {
    fn two_previews_of_one_archive_on_the_same_timeline_harm_neither_it_nor_each_other(major) {
        let archiving = archiving(major, &[], &[]);
        archiving.back_up();
        insert_and_archive(&archiving, 2);
        // The archive goes on with timeline 2, so that both previews begin timeline 3.
        let (mut parent, _) = prepare(&archiving, "main/latest", &["--target", "latest"]);
        let_archive(&archiving, "main", &parent);
        archiving.server.stop_server();
        parent.start_server();
        until("it is promoted", || parent.sql("select pg_is_in_recovery()") == "f");
        insert(&parent, 3);
        restore_point(&parent, "after_3");
        insert(&parent, 4);
        archive_all(&archiving, &parent);
        parent.stop_server();
        let before = of_main(&archiving);

        let targets: [(&str, &[&str], &str); 2] = [
            ("one", &["--target-name", "after_3"], "1 2 3"),
            ("two", &["--target", "latest"], "1 2 3 4"),
        ];
        let mut previews = Vec::new();
        for (archive, target, expected) in targets {
            let mut preview = start(&archiving, "main/latest", target);
            check_promoted(&preview, expected, "a preview");
            assert_eq!(timeline(&preview), 3, "PostgreSQL {major}");
            // From now on it archives, under a name of its own.
            preview.stop_server();
            let_archive(&archiving, archive, &preview);
            preview.start_server();
            previews.push((archive, preview));
        }
        for (archive, preview) in &previews {
            let conninfo = format!("{} user=postgres", preview.address());
            archiving.run(&["backup", "--cluster", archive, "--pg", &conninfo]).ok();
            insert(preview, 100);
            archive_all_into(&archiving, archive, preview);
        }
        assert!(of_main(&archiving) == before, "PostgreSQL {major}: a preview wrote into the archive");
        for (archive, _, expected) in targets {
            let copy = start(&archiving, &format!("{archive}/latest"), &["--target", "latest"]);
            until("it is promoted", || copy.sql("select pg_is_in_recovery()") == "f");
            assert_eq!(rows(&copy), format!("{expected} 99 100"), "PostgreSQL {major}: {archive}");
        }
        recovers_to(&archiving, &["--target", "latest"], "1 2 3 4");
    }
}
