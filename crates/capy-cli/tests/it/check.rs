//! `check` on real servers: sound ones, and each with one thing wrong.

use capy_testkit::postgres::{Cluster, text};
use serde_json::Value;

use crate::archiving::Archiving;
use crate::documents::is_documented;
use crate::harness::snapshot;

/// Runs a check that ends with `code`, and gives its document.
fn check(archiving: &Archiving, options: &[&str], code: i32) -> Value {
    let conninfo = archiving.conninfo();
    check_at(archiving, &conninfo, options, code)
}

fn check_at(archiving: &Archiving, conninfo: &str, options: &[&str], code: i32) -> Value {
    let check = ["check", "--cluster", "main", "--pg", conninfo, "--json"];
    let document = archiving.run(&[&check, options].concat()).with_code(code).json();
    is_documented(&document);
    let report = document["check"].clone();
    assert_eq!(report["ok"].as_bool(), Some(code == 0), "{report}");
    report
}

/// The steps of a name: their states, messages and changes.
fn steps(report: &Value, name: &str) -> Vec<(String, String, String)> {
    let steps = report["steps"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = steps.iter().filter(|step| step["step"] == name);
    own.map(|step| (text(&step["state"]), text(&step["message"]), text(&step["change"]))).collect()
}

/// The only step of a name, which must have this state and say this.
fn is(report: &Value, name: &str, state: &str, says: &str) {
    let found = steps(report, name);
    let [(found_state, message, change)] = found.as_slice() else { panic!("{name}: {report}") };
    assert_eq!(found_state, state, "{name}: {message}");
    assert!(format!("{message} -> {change}").contains(says), "{name}: {message} -> {change}");
}

#[test]
fn a_sound_server_passes_and_the_forced_segment_is_the_one_that_arrived() {
    let archiving = Archiving::start();
    let no_backup = check(&archiving, &[], 1);
    is(&no_backup, "backup", "problem", "capy-store backup --cluster main");
    is(&no_backup, "delivery", "ok", "reads back: 16777216 bytes");
    archiving.back_up();

    // Idle, twice: each time a segment of its own.
    let first = check(&archiving, &[], 0);
    let second = check(&archiving, &[], 0);
    for report in [&first, &second] {
        let segment = report["segment"].as_str().expect("a segment");
        assert!(archiving.path("repo/wal/main/00000001").join(segment).exists());
        is(report, "delivery", "ok", segment);
        is(report, "recovery", "ok", "a restore to now is possible");
        is(report, "recovery", "ok", segment);
        is(report, "replication", "ok", "let in");
        assert!(report["archived_after_seconds"].as_f64().is_some(), "{report}");
    }
    assert!(first["segment"].as_str() < second["segment"].as_str());

    let position = archiving.server.sql("select pg_current_wal_insert_lsn()");
    let still = check(&archiving, &["--no-switch"], 0);
    is(&still, "delivery", "skipped", "as was asked for");
    is(&still, "recovery", "ok", "a restore is possible up to");
    assert_eq!(archiving.server.sql("select pg_current_wal_insert_lsn()"), position);

    let conninfo = archiving.conninfo();
    let text = archiving.run(&["check", "--cluster", "main", "--pg", &conninfo]).ok().text();
    assert!(
        text.lines().all(|line| line.starts_with("ok ") || line.starts_with("no problems, in ")),
        "{text}"
    );
    let quiet = archiving.run(&["check", "--cluster", "main", "--pg", &conninfo, "--quiet"]).ok();
    assert_eq!((quiet.text().as_str(), quiet.stderr.as_str()), ("", ""));
    // Nothing of the probes stays.
    assert_eq!(snapshot(&archiving.path("repo/probe")), []);
}

#[test]
fn a_segment_that_does_not_arrive_is_told_with_what_the_archiver_says() {
    let archiving = Archiving::start();
    archiving.back_up();
    archiving.archive_all();
    let elsewhere = archiving.server.make_directory("elsewhere");
    archiving.set("archive_command", &format!("cp %p {}/%f", text(&elsewhere)));
    let report = check(&archiving, &[], 1);
    is(&report, "delivery", "problem", "the server says that");
    is(&report, "delivery", "problem", "archive_command is cp %p");
    assert!(report["archived_after_seconds"].is_null());

    // Now there is a hole, whatever arrives after it.
    archiving.set("archive_command", &archiving.archive_command());
    let report = check(&archiving, &[], 1);
    is(&report, "delivery", "ok", "reads back");
    is(&report, "recovery", "problem", "is missing");
    archiving.back_up();
    check(&archiving, &[], 0);

    archiving.set("archive_command", &archiving.archive_command().replace("/repo ", "/no-repo "));
    let report = check(&archiving, &[], 1);
    is(&report, "delivery", "problem", "failed 3 times");
    is(&report, "delivery", "problem", "the server's log");
    assert_eq!(steps(&report, "archiver"), [], "the step before has said it");
    let late = check(&archiving, &["--timeout", "0s"], 1);
    is(&late, "delivery", "problem", "is not archived after 0.");
    let quiet = ["check", "--cluster", "main", "--pg", &archiving.conninfo(), "--timeout", "0s", "--quiet"];
    let text = archiving.run(&quiet).with_code(1).text();
    assert!(text.contains("\nPROBLEM  delivery ") && text.contains(" -> "), "{text}");
}

#[test]
fn settings_and_privileges_come_with_what_to_change() {
    let archiving = Archiving::with_repository(Cluster::start(&[]));
    let report = check(&archiving, &[], 1);
    is(&report, "archive_mode", "problem", "set it to on and restart");
    is(&report, "max_slot_wal_keep_size", "note", "set it below the free space");
    is(&report, "delivery", "skipped", "nothing archives");
    is(&report, "version", "ok", "PostgreSQL ");
    is(&report, "system", "ok", "nothing is stored yet");

    archiving.server.sql("create role small login; select pg_create_physical_replication_slot('left', true)");
    let small = format!("{} user=small dbname=postgres", archiving.server.address());
    let report = check_at(&archiving, &small, &[], 1);
    let advised = steps(&report, "role small");
    assert_eq!(advised[0].2, "alter role small replication");
    assert!(advised.iter().any(|step| step.2 == "grant execute on function pg_switch_wal() to small"));
    is(&report, "replication", "skipped", "may not replicate");
    is(&report, "slot left", "note", "pg_drop_replication_slot('left')");
}

#[test]
fn a_role_that_may_not_switch_or_is_not_let_in_to_replicate_is_told_so() {
    let hba = Cluster::builder().hba(&["local all all trust"]);
    let archiving = Archiving::start_without_command(hba);
    archiving.set("archive_command", &archiving.archive_command());
    archiving.server.sql("create role small login replication");
    let small = format!("{} user=small dbname=postgres", archiving.server.address());
    let report = check_at(&archiving, &small, &[], 1);
    is(&report, "replication", "problem", "pg_hba.conf");
    is(&report, "delivery", "problem", "--no-switch");
}

#[test]
fn another_systems_archive_is_not_waited_for() {
    let archiving = Archiving::start();
    archiving.back_up();
    archiving.archive_all();
    let other =
        Cluster::builder().setting("archive_mode = on").setting("archive_command = 'cp %p /nowhere'").start();
    let position = other.sql("select pg_current_wal_insert_lsn()");
    let report = check_at(&archiving, &format!("{} user=postgres", other.address()), &[], 1);
    is(&report, "system", "problem", "a --cluster of its own");
    is(&report, "delivery", "skipped", "another system's");
    is(&report, "backup", "problem", "no base backup of this server");
    assert_eq!(other.sql("select pg_current_wal_insert_lsn()"), position, "nothing was written");
}

#[test]
fn a_standby_is_not_switched() {
    let archiving = Archiving::start();
    archiving.back_up();
    archiving.archive_all();
    let copy = archiving.path("copy");
    archiving.server.base_backup(&["-D", text(&copy), "-R"]);
    let standby = Cluster::builder().start_from(|data| {
        std::fs::remove_dir(data).expect("it is empty");
        std::fs::rename(&copy, data).expect("one file system");
    });
    assert_eq!(standby.sql("select pg_is_in_recovery()"), "t");
    let report = check_at(&archiving, &format!("{} user=postgres", standby.address()), &[], 0);
    is(&report, "connection", "ok", "it is a standby");
    is(&report, "standby", "note", "archive from the primary");
    is(&report, "delivery", "skipped", "check the primary");
    is(&report, "recovery", "ok", "a restore is possible up to");
}

#[test]
fn what_cannot_be_asked_at_all_ends_by_its_kind() {
    let archiving = Archiving::with_repository(Cluster::start(&[]));
    let refused = |options: &[&str], code: i32| {
        let run = archiving.run(&[&["check", "--cluster", "main"], options].concat());
        run.with_code(code);
    };
    refused(&["--pg", "host=/no/such/socket user=x"], 5);
    refused(&["--pg", "user=x nonsense=1"], 2);
    refused(&["--pg", "user=x", "--timeout", "1h"], 2);
    let conninfo = archiving.conninfo();
    refused(&["--pg", &conninfo.replace("user=postgres", "user=nobody")], 7);
    let key = archiving.path("key");
    let elsewhere = ["--repo", "no-such-repo", "--key-file", text(&key), "check", "--cluster", "main"];
    archiving.run_plain(&[&elsewhere[..], &["--pg", &conninfo]].concat()).with_code(3);
}
