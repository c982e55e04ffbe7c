//! Restore points on a real server: made, judged, and restored to.

use capy_testkit::postgres::Cluster;
use serde_json::Value;

use crate::archiving::Archiving;
use crate::documents::is_documented;

const ROWS: &str = "select string_agg(i::text, ',' order by i) from t";

/// A server with a backup, and behind it a second row.
fn started() -> Archiving {
    let archiving = Archiving::start();
    archiving.server.sql("create table t (i int); insert into t values (1)");
    archiving.back_up();
    archiving.server.sql("insert into t values (2)");
    archiving
}

/// Makes a restore point and gives its document.
fn create(archiving: &Archiving, label: &str, at: &[&str]) -> Value {
    let create = ["restore-point", "create", "--cluster", "main", "--label", label, "--json"];
    let document = archiving.run(&[&create, at].concat()).ok().json();
    is_documented(&document);
    document["restore_point"].clone()
}

/// The restore point of this label, as the list has it.
fn listed(archiving: &Archiving, label: &str) -> Value {
    let document = archiving.run(&["restore-point", "list", "--cluster", "main", "--json"]).ok().json();
    is_documented(&document);
    let points = document["restore_points"].as_array().expect("a list").clone();
    points.into_iter().find(|point| point["label"] == label).expect("it is listed")
}

/// What table `t` has on a server that was recovered to a label.
fn rows_at(archiving: &Archiving, label: &str) -> String {
    let (_, copy) = archiving.recover(&["--target-name", label, "--quiet"]);
    copy.sql(ROWS)
}

#[test]
fn a_point_on_the_server_is_pending_until_its_wal_is_archived_and_then_exactly_there() {
    let archiving = started();
    let conninfo = archiving.conninfo();
    let made = create(
        &archiving,
        "before_migration",
        &["--pg", &conninfo, "--created-by", "ops", "--note", "then the columns go"],
    );
    assert_eq!((made["state"].as_str(), made["kind"].as_str()), (Some("pending"), Some("pitr")));
    assert_eq!((made["in_wal"].as_bool(), made["created_by"].as_str()), (Some(true), Some("ops")));
    assert!(made["reason"].as_str().is_some_and(|why| why.contains("end of the archive")), "{made}");
    archiving.server.sql("insert into t values (3)");

    let early =
        archiving.run(&["restore", "main/latest", "--to", "early", "--target-name", "before_migration"]);
    assert!(early.with_code(3).stderr.contains("end of the archive"));
    assert!(!archiving.path("early").exists(), "nothing is written");

    archiving.archive_all();
    let point = listed(&archiving, "before_migration");
    assert_eq!((point["state"].as_str(), &point["reason"]), (Some("reachable"), &Value::Null));
    assert_eq!((&point["id"], &point["lsn"]), (&made["id"], &made["lsn"]));
    assert!(point["backup_key"].as_str().is_some_and(|key| key.starts_with("main/")), "{point}");
    assert_eq!(rows_at(&archiving, "before_migration"), "1,2");

    // Another of the name, made by hand behind the next backup: the label still means its own.
    archiving.back_up();
    archiving.server.sql("select pg_create_restore_point('before_migration')");
    archiving.archive_all();
    assert_eq!(listed(&archiving, "before_migration")["state"], "reachable");
    assert_eq!(rows_at(&archiving, "before_migration"), "1,2");
}

#[test]
fn labels_of_the_moment_a_position_and_a_backup_are_restored_to_though_the_wal_does_not_know_them() {
    let archiving = started();
    // The archive begins with the first segment: only then is "now" a moment to return to.
    let now = ["restore-point", "create", "--cluster", "main", "--label", "now"];
    archiving.archive_all();
    archiving.run(&now).ok();
    assert_eq!(listed(&archiving, "now")["state"], "pending");
    let golden = create(&archiving, "golden", &["--backup", "main/latest"]);
    assert_eq!((golden["kind"].as_str(), golden["state"].as_str()), (Some("backup"), Some("reachable")));
    archiving.server.sql("insert into t values (3)");
    let lsn = archiving.server.sql("select pg_current_wal_insert_lsn()");
    archiving.server.sql("insert into t values (4)");
    create(&archiving, "by position", &["--lsn", &lsn]);
    archiving.archive_all();

    for label in ["now", "by position"] {
        assert_eq!(listed(&archiving, label)["state"], "reachable", "{label}");
    }
    assert_eq!(rows_at(&archiving, "now"), "1,2");
    assert_eq!(rows_at(&archiving, "golden"), "1");
    let (run, copy) = archiving.recover(&["--target-name", "by position"]);
    assert!(run.text().contains(&format!("restore point \"by position\" is lsn {lsn}")), "{}", run.text());
    // The first record from there on, the insert's, is part of it; its commit is not.
    assert_eq!(copy.sql(ROWS), "1,2,3");
    assert_eq!(copy.sql("show archive_mode"), "off");
}

#[test]
fn the_list_is_a_table_and_what_is_deleted_is_gone() {
    let archiving = started();
    archiving.archive_all();
    create(&archiving, "later", &["--time", "2120-01-01T00:00:00Z"]);
    let point = create(&archiving, "before all", &["--time", "2020-01-01T00:00:00+01:00"]);
    assert_eq!(
        (point["state"].as_str(), point["pitr_time"].as_str()),
        (Some("unreachable"), Some("2019-12-31T23:00:00Z"))
    );
    let text = archiving.run(&["restore-point", "list"]).ok().text();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(words).collect();
    assert_eq!(lines[0], "RESTORE POINT LABEL KIND AT STATE BACKUP CREATED BY");
    assert!(lines[1].contains(" later pitr time 2120-01-01T00:00:00Z pending 2"), "{text}");
    assert!(lines[2].ends_with(" before all pitr time 2019-12-31T23:00:00Z unreachable"), "{text}");
    assert!(lines[4].starts_with("note: before all is unreachable: main/"), "{text}");

    let id = format!("main/{}", point["id"].as_str().expect("an id"));
    let deleted = archiving.run(&["restore-point", "delete", &id, "--json"]).ok().json();
    assert_eq!(deleted, serde_json::json!({ "deleted": [id] }));
    archiving.run(&["restore-point", "delete", &id]).with_code(3);
    assert_eq!(archiving.run(&["restore-point", "list"]).ok().text().lines().count(), 3);
}

#[test]
fn points_that_would_mislead_are_not_made() {
    let archiving = Archiving::start();
    let conninfo = archiving.conninfo();
    let refused = |at: &[&str], code: i32, says: &str| {
        let create = ["restore-point", "create", "--cluster", "main"];
        let run = archiving.run(&[&create, at].concat()).with_code(code);
        assert!(run.stderr.contains(says), "{}", run.stderr);
    };
    refused(&["--label", "x"], 3, "neither WAL nor a backup of main");
    refused(&["--label", "x", "--pg", &conninfo], 3, "neither WAL nor a backup of main");
    archiving.back_up();
    archiving.server.sql("select pg_create_restore_point('by hand')");
    archiving.archive_all();
    refused(&["--label", "by hand"], 4, "the WAL has a restore point \"by hand\" already");
    refused(&["--label", "x", "--lsn", "0/1", "--time", "2026-01-01T00:00:00Z"], 2, "cannot be used with");
    refused(&["--label", "x", "--time", "2026-01-01 00:00:00"], 2, "RFC 3339");
    refused(&["--label", "x", "--backup", "main/none"], 3, "none");
    refused(&["--label", &"x".repeat(64), "--pg", &conninfo], 2, "1 to 63 bytes");
    refused(&["--label", "x", "--pg", "host=/no/such/socket user=x"], 5, "socket");
    create(&archiving, "mine", &["--pg", &conninfo]);
    refused(&["--label", "mine", "--pg", &conninfo], 4, "a restore point \"mine\" already");
    create(&archiving, "mine", &["--backup", "main/latest"]);

    let before = archiving.server.sql("select pg_current_wal_insert_lsn()");
    let other = Cluster::start(&[]);
    let other_conninfo = format!("{} user=postgres", other.address());
    refused(&["--label", "x", "--pg", &other_conninfo], 4, "the WAL of main are of");
    assert_eq!(archiving.server.sql("select pg_current_wal_insert_lsn()"), before);
}
