//! A server's normal life: restarts, promotions, pushes beside the receiver.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use capy_testkit::postgres::{Cluster, majors, text};
use rustix::process::Signal;
use serde_json::Value;

use super::*;
use crate::archiving::Archiving;

#[test]
fn what_is_received_is_what_the_server_wrote() {
    majors().into_iter().for_each(check_streaming);
}

fn check_streaming(major: u32) {
    let cluster = server().major(major).start();
    let cli = Cli::with_repository();
    write(&cluster, 2);
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    receiver.says("streaming timeline 1 from");
    write(&cluster, 5);
    let last = switch(&cluster);
    is_archived(&cli, "00000001", &last);
    // Ctrl-C.
    receiver.signal(Signal::INT);
    let report = receiver.ends(0);
    let names = are_the_servers(&cli, &cluster);
    assert!(names.len() > 5, "{names:?}");
    assert_eq!((&report["ended"], &report["segments"]), (&"stopped".into(), &names.len().into()), "{report}");
    assert_eq!((&report["timeline"], &report["gaps"]), (&1.into(), &Value::Array(Vec::new())));
    let notices = report["notices"].to_string();
    assert!(notices.contains("the slot capy makes the server keep its WAL"), "{notices}");
    assert!(!notices.contains("synchronous_standby_names"), "{notices}");

    // The server keeps WAL for us, and the next receiver goes on behind the last segment.
    write(&cluster, 2);
    let until = cluster.sql("select pg_current_wal_flush_lsn()");
    let last = switch(&cluster);
    let report =
        Receiver::start(&cli, &conninfo(&cluster), &["--slot", "capy", "--until-lsn", &until]).ends(0);
    assert_eq!(report["ended"], "reached_position", "{report}");
    Receiver::start(
        &cli,
        &conninfo(&cluster),
        &["--until-lsn", &cluster.sql("select pg_current_wal_flush_lsn()")],
    )
    .ends(0);
    assert!(are_the_servers(&cli, &cluster).contains(&last));
}

#[test]
fn a_receiver_that_begins_behind_the_newest_backup_names_the_wal_between() {
    let cluster = server().start();
    let cli = Cli::with_repository();
    let backup = cli.run(&["backup", "--cluster", "main", "--pg", &conninfo(&cluster), "--json"]).ok().json();
    write(&cluster, 3);
    switch(&cluster);
    // A new slot keeps WAL from the last checkpoint on.
    cluster.sql("checkpoint");
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    receiver.says("the newest base backup ends before the WAL that is received now");
    let report = receiver.stop();
    assert_eq!(report["gaps"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["gaps"][0]["from"], backup["backup"]["stop_lsn"], "{report}");
    // A new backup is what it advises, and nothing is missing behind that.
    cli.run(&["backup", "--cluster", "main", "--pg", &conninfo(&cluster), "--quiet"]).ok();
    write(&cluster, 1);
    let until = cluster.sql("select pg_current_wal_flush_lsn()");
    let report =
        Receiver::start(&cli, &conninfo(&cluster), &["--slot", "capy", "--until-lsn", &until]).ends(0);
    assert_eq!(report["gaps"], serde_json::json!([]), "{report}");

    // A new slot above what the archive has is no reason to begin there: the server has the WAL before.
    let durable = report["durable_lsn"].as_str().expect("a position").to_owned();
    cluster.sql("select pg_drop_replication_slot('capy')");
    write(&cluster, 3);
    switch(&cluster);
    cluster.sql("checkpoint");
    cluster.sql("select pg_create_physical_replication_slot('capy', true)");
    let is_above = format!("select restart_lsn - '{durable}'::pg_lsn > 2 << 20 from pg_replication_slots");
    assert_eq!(cluster.sql(&is_above), "t");
    let until = cluster.sql("select pg_current_wal_flush_lsn()");
    let report =
        Receiver::start(&cli, &conninfo(&cluster), &["--slot", "capy", "--until-lsn", &until]).ends(0);
    assert_eq!(report["gaps"], serde_json::json!([]), "{report}");
    assert!(are_the_servers(&cli, &cluster).len() > 3);
}

#[test]
fn a_receiver_that_is_killed_goes_on_without_a_gap() {
    let cluster = server().start();
    let cli = Cli::with_repository();
    Receiver::start(&cli, &conninfo(&cluster), &SLOT).says("streaming");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                write(&cluster, 1);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        for moment in 0..6 {
            let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
            std::thread::sleep(Duration::from_millis(150 + 130 * moment));
            receiver.kill();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        switch(&cluster)
    });
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    is_archived(&cli, "00000001", &last);
    receiver.stop();
    assert!(are_the_servers(&cli, &cluster).len() > 5);
}

#[test]
fn a_server_that_restarts_is_found_again() {
    let mut cluster = server().start();
    let cli = Cli::with_repository();
    // Nothing is stored because it is time.
    let options = [&SLOT[..], &["--partial-interval", "1h"]].concat();
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &options);
    receiver.says("streaming");
    write(&cluster, 2);
    // In good order: it waits until all its WAL is received.
    cluster.stop_server();
    receiver.says("trying again in");
    cluster.start_server();
    write(&cluster, 2);
    let streams = || receiver.said().matches("streaming timeline").count();
    eventually(|| streams() == 2, || receiver.said());
    cluster.kill_server();
    cluster.start_server();
    let last = switch(&cluster);
    is_archived(&cli, "00000001", &last);
    let report = receiver.stop();
    assert!(report["reconnects"].as_u64() >= Some(2), "{report}");
    are_the_servers(&cli, &cluster);
}

#[test]
fn at_a_promotion_the_old_timeline_ends_and_the_new_one_is_archived() {
    majors().into_iter().for_each(check_promotion);
}

fn check_promotion(major: u32) {
    let mut primary = server().major(major).start();
    let standby = standby_of(&mut primary);
    let cli = Cli::with_repository();
    let receiver = Receiver::start(&cli, &conninfo(&standby), &[]);
    receiver.says("streaming timeline 1");
    write(&primary, 3);
    let end = primary.sql("select pg_current_wal_flush_lsn()");
    eventually(
        || standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t",
        || "the standby catches up".to_owned(),
    );
    standby.sql("select pg_promote()");
    receiver.says("timeline 2 follows");
    write(&standby, 2);
    let last = switch(&standby);
    is_archived(&cli, "00000002", &last);
    let report = receiver.stop();

    assert_eq!(report["histories"], serde_json::json!(["00000002.history"]));
    assert!(fetched(&cli, "00000002.history") == in_pg_wal(&standby, "00000002.history"));
    let partial = report["partials"][0].as_str().expect("one").to_owned();
    let segment = partial.strip_suffix(".partial").expect("its name");
    // Up to the switch, and then nothing: in recovery, where the new timeline's is not whole yet, it
    // takes its place.
    let history = fs::read_to_string(standby.data().join("pg_wal/00000002.history")).unwrap();
    let switched = history.split('\t').nth(1).expect("its second column");
    let offset = usize::from_str_radix(&switched[switched.len() - 5..], 16).unwrap();
    let old = in_pg_wal(&primary, segment);
    for name in [&*partial, segment] {
        let found = fetched(&cli, name);
        assert!(found[..offset] == old[..offset] && found.len() == 1 << 20, "{name}");
    }
    assert!(fetched(&cli, segment)[offset..].iter().all(|byte| *byte == 0));
    let names = archived(&cli, "00000002");
    assert!(names.iter().any(|name| name[8..] == segment[8..]), "{names:?}");
    for name in names.iter().filter(|name| !name.ends_with(".history")) {
        assert!(fetched(&cli, name) == in_pg_wal(&standby, name), "{name}");
    }
    assert_eq!(
        cli.run(&["wal", "windows", "--cluster", "main", "--json"]).ok().json()["problems"],
        serde_json::json!([])
    );

    // Who comes later finds the same way.
    write(&standby, 1);
    let last = switch_and_receive(&cli, &standby);
    assert!(archived(&cli, "00000002").contains(&last));

    // The old timeline's end is kept in parts until no backup needs it.
    let kept = || parts(&cli.repo()).iter().any(|part| part.starts_with(segment));
    assert!(kept());
    cli.run(&["backup", "--cluster", "main", "--pg", &conninfo(&standby), "--quiet"]).ok();
    let report = cli.run(&["expire", "--keep-full", "1", "--dry-run", "--json"]).ok().json();
    assert!(report["notices"].to_string().contains("never became whole"), "{report}");
    assert!(kept());
    cli.run(&["expire", "--keep-full", "1", "--yes"]).ok();
    assert!(!kept(), "{:?}", parts(&cli.repo()));
}

/// Nobody received while two servers in a row were promoted: the way is known by its histories, and what
/// is due is still what the archive lacks, on the timelines of then.
#[test]
fn a_receiver_that_missed_two_promotions_goes_on_behind_what_the_archive_has() {
    let mut primary = server().start();
    let mut standby = standby_of(&mut primary);
    let cli = Cli::with_repository();
    let receiver = Receiver::start(&cli, &conninfo(&standby), &[]);
    receiver.says("streaming timeline 1");
    // Behind a switch, a standby may send what was in its file before: zeros are archived, as everywhere.
    let first = switch(&primary);
    is_archived(&cli, "00000001", &first);
    assert!(fetched(&cli, &first) == in_pg_wal(&primary, &first), "{first}");
    receiver.stop();

    write(&primary, 3);
    let end = primary.sql("select pg_current_wal_flush_lsn()");
    eventually(
        || standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t",
        || "the standby catches up".to_owned(),
    );
    primary.stop_server();
    standby.sql("select pg_promote()");
    write(&standby, 2);
    standby.stop_server();
    let signal = standby.data().join("standby.signal");
    fs::write(&signal, "").unwrap();
    let owner = standby.data().metadata().unwrap();
    chown(&signal, Some(owner.uid()), Some(owner.gid())).unwrap();
    standby.start_server();
    standby.sql("select pg_promote()");
    write(&standby, 2);
    let last = switch(&standby);

    let receiver = Receiver::start(&cli, &conninfo(&standby), &[]);
    is_archived(&cli, "00000003", &last);
    let report = receiver.stop();
    assert_eq!((&report["gaps"], &report["timeline"]), (&serde_json::json!([]), &3.into()), "{report}");
    let mut numbers = Vec::new();
    for timeline in ["00000001", "00000002", "00000003"] {
        for name in archived(&cli, timeline) {
            assert!(fetched(&cli, &name) == in_pg_wal(&standby, &name), "{name}");
            numbers.extend(name.get(8..24).map(|number| u64::from_str_radix(number, 16).unwrap()));
        }
    }
    // Where a timeline was left, both have the segment, or its parts.
    assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] <= 1), "{numbers:?}");
    assert!(archived(&cli, "00000002").contains(&"00000002.history".to_owned()));
    assert!(archived(&cli, "00000003").contains(&"00000003.history".to_owned()));
    let windows = cli.run(&["wal", "windows", "--cluster", "main", "--json"]).ok().json();
    assert_eq!(windows["problems"], serde_json::json!([]), "{windows}");
}

fn switch_and_receive(cli: &Cli, cluster: &Cluster) -> String {
    let last = switch(cluster);
    let until = cluster.sql("select pg_current_wal_flush_lsn()");
    Receiver::start(cli, &conninfo(cluster), &["--until-lsn", &until]).ends(0);
    last
}

/// A standby on a copy of the stopped primary's files: `pg_basebackup` knows no newer servers.
fn standby_of(primary: &mut Cluster) -> Cluster {
    primary.stop_server();
    let (from, line) = (primary.data(), format!("primary_conninfo = '{}'\n", conninfo(primary)));
    let fill = |data: &Path| {
        let status = Command::new("cp").args(["-a", &format!("{}/.", text(&from)), text(data)]).status();
        assert!(status.unwrap().success());
        fs::write(data.join("standby.signal"), "").unwrap();
        fs::write(data.join("postgresql.auto.conf"), line).unwrap();
    };
    let standby = Cluster::builder().major(primary.major()).start_from(fill);
    primary.start_server();
    standby
}

#[test]
fn a_push_of_the_same_wal_at_the_same_time_agrees() {
    let cluster = server().start();
    let cli = Cli::with_repository();
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    receiver.says("streaming");
    write(&cluster, 1);
    for _ in 0..6 {
        let name = switch(&cluster);
        let path = cluster.data().join("pg_wal").join(&name);
        cli.run(&["wal", "push", "--cluster", "main", text(&path), "--quiet"]).ok();
        is_archived(&cli, "00000001", &name);
    }
    let report = receiver.stop();
    let names = are_the_servers(&cli, &cluster);
    let count = |field: &str| report[field].as_u64().unwrap();
    assert!(count("segments") + count("segments_already_there") >= names.len() as u64 - 1, "{report}");
    assert!(!cli.repo().join("wal-conflicts").exists());
}

#[test]
fn two_receivers_of_one_server_make_one_archive() {
    let cluster = server().start();
    let cli = Cli::with_repository();
    let arguments = ["wal", "receive", "--cluster", "main", "--pg", &conninfo(&cluster), "--json"];
    let start = |slot: &str| {
        let options = ["--slot", slot, "--create-slot", "--partial-interval", "0s"];
        Receiver::run(cli.command(&[&arguments[..], &options].concat()), cli.path(slot))
    };
    let (one, two) = (start("one"), start("two"));
    one.says("streaming");
    two.says("streaming");
    write(&cluster, 3);
    let last = switch(&cluster);
    is_archived(&cli, "00000001", &last);
    let reports = [one.stop(), two.stop()];
    let names = are_the_servers(&cli, &cluster);
    assert!(reports.iter().all(|report| report["reconnects"] == 0), "{reports:?}");
    assert!(!cli.repo().join("wal-conflicts").exists());
    // The parts that are left are of the segment that is not whole.
    Receiver::start(&cli, &conninfo(&cluster), &["--slot", "one"]).says("streaming");
    let left = parts(&cli.repo());
    assert!(left.iter().all(|part| !names.iter().any(|name| part.starts_with(name))), "{left:?}");
}

#[test]
fn wal_that_the_server_has_removed_is_a_gap_with_a_size_and_never_silent() {
    let cluster = Cluster::builder().initdb(&["--wal-segsize=1"]).setting("min_wal_size = 2MB").start();
    let cli = Cli::with_repository();
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &[]);
    receiver.says("streaming");
    is_archived(&cli, "00000001", &switch(&cluster));
    let report = receiver.stop();
    assert!(report["notices"].to_string().contains("without a slot"), "{report}");
    write(&cluster, 8);
    (0..2).for_each(|_| drop(cluster.sql("checkpoint; select pg_switch_wal(); checkpoint")));

    let refused = Receiver::start(&cli, &conninfo(&cluster), &[]).ends(3);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("WAL is lost: timeline 1 from 0/"), "{message}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("take a base backup"), "{refused}");

    let receiver = Receiver::start(&cli, &conninfo(&cluster), &["--accept-gap"]);
    receiver.says("warning: no WAL of timeline 1 from");
    is_archived(&cli, "00000001", &switch(&cluster));
    let report = receiver.stop();
    assert_eq!(report["gaps"][0]["timeline"], 1, "{report}");
    assert_eq!(report["gaps"].as_array().unwrap().len(), 1, "{report}");
}

#[test]
fn a_slot_that_the_server_gave_up_is_told_with_the_gap_and_made_again() {
    majors().into_iter().for_each(check_lost_slot);
}

fn check_lost_slot(major: u32) {
    let cluster = Cluster::builder()
        .major(major)
        .initdb(&["--wal-segsize=1"])
        .setting("min_wal_size = 2MB")
        .setting("max_slot_wal_keep_size = 2MB")
        .start();
    let cli = Cli::with_repository();
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    receiver.says("streaming");
    is_archived(&cli, "00000001", &switch(&cluster));
    receiver.stop();
    let due = cluster.sql("select pg_walfile_name(restart_lsn) from pg_replication_slots");
    write(&cluster, 8);
    let state = format!(
        "select wal_status from pg_replication_slots
         where not exists (select from pg_ls_waldir() where name = '{due}')"
    );
    let is_lost = || {
        cluster.sql("checkpoint");
        cluster.sql("create table if not exists x (); select pg_switch_wal()");
        cluster.sql(&state) == "lost"
    };
    eventually(is_lost, || format!("PostgreSQL {major} gives the slot up"));

    let refused = Receiver::start(&cli, &conninfo(&cluster), &SLOT).ends(3);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("WAL is lost: timeline 1 from 0/") && message.contains(" MiB, "),
        "{message}"
    );
    if major >= 15 {
        assert!(message.contains("the slot capy keeps none"), "{major}: {message}");
        let hint = refused["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("raise max_slot_wal_keep_size"), "{major}: {hint}");
    }

    let receiver = Receiver::start(&cli, &conninfo(&cluster), &[&SLOT[..], &["--accept-gap"]].concat());
    receiver.says("warning: no WAL of timeline 1 from");
    is_archived(&cli, "00000001", &switch(&cluster));
    let report = receiver.stop();
    assert_eq!(report["gaps"].as_array().unwrap().len(), 1, "{major}: {report}");
    // The slot keeps WAL again.
    let keeps = "select restart_lsn is not null and wal_status <> 'lost' from pg_replication_slots";
    assert_eq!(cluster.sql(keeps), "t", "{major}");
}

#[test]
fn a_check_is_content_with_a_receiver_in_place_of_the_archiver_and_warns_of_its_slot_once_it_is_gone() {
    let archiving = Archiving::with_repository(server().setting("max_slot_wal_keep_size = 1GB").start());
    let (repo, key) = (archiving.path("repo"), archiving.path("key"));
    let conninfo = archiving.conninfo();
    let arguments = ["--repo", text(&repo), "--key-file", text(&key), "wal", "receive", "--json"];
    let command =
        archiving.capy(&[&arguments[..], &["--cluster", "main", "--pg", &conninfo], &SLOT].concat());
    let receiver = Receiver::run(command, archiving.server.path().join("receiver"));
    receiver.says("streaming");
    archiving.back_up();
    let check = |options: &[&str]| {
        let check = ["check", "--cluster", "main", "--pg", &conninfo, "--json"];
        archiving.run(&[&check[..], options].concat())
    };
    let sound = check(&[]).ok().json();
    assert!(sound.to_string().contains("something streams it"), "{sound}");
    receiver.stop();
    write(&archiving.server, 20);
    let said = check(&["--no-switch"]).stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("slot capy") && said.contains("nobody reads it"), "{said}");
}
