//! What is no incremental backup: everything is received by the same command, and the reason is said.

use std::fs;

use capy_testkit::postgres::{Cluster, clients_of_17, majors, text};
use serde_json::Value;

use super::{back_up, change, conninfo, incremental_majors, server};
use crate::harness::Cli;

/// Everything was sent, for this reason, which is said in every place.
fn is_whole(report: &Value, reason: &str) {
    let incremental = &report["incremental"];
    assert!(incremental["from"].is_null(), "{report}");
    assert!(incremental["reason"].to_string().contains(reason), "{report}");
    assert!(report["notices"].to_string().contains(reason), "{report}");
}

fn refusal(cli: &Cli, cluster: &Cluster) -> String {
    let conninfo = conninfo(cluster);
    let arguments = ["backup", "--cluster", "main", "--pg", &conninfo, "--incremental", "require", "--json"];
    let refused = cli.run(&arguments).with_code(2).json();
    refused["error"]["message"].as_str().expect("a message").to_owned()
}

#[test]
fn a_server_that_cannot_sends_everything_and_where_that_is_not_wanted_nothing() {
    for major in majors() {
        let cluster = Cluster::builder().major(major).start();
        let cli = Cli::with_repository();
        let reason = if major < 17 { "needs PostgreSQL 17" } else { "summarize_wal is off" };
        is_whole(&back_up(&cli, &cluster, &["--incremental", "auto"]), reason);
        assert!(refusal(&cli, &cluster).contains(reason));
        assert_eq!(cli.keys().len(), 1);
        let conninfo = conninfo(&cluster);
        let both =
            ["backup", "--cluster", "main", "--pg", &conninfo, "--incremental", "auto", "--pgdata", "/x"];
        cli.run(&both).with_code(2);
    }
}

#[test]
fn a_backup_that_is_none_to_build_on_is_passed_over() {
    for major in incremental_majors() {
        let (cluster, cli) = (server(major), Cli::with_repository());
        is_whole(&back_up(&cli, &cluster, &["--incremental", "auto"]), "main has no backup to build on");
        let sound = cli.keys().remove(0);
        // Of another system, and newer.
        let other = server(major);
        back_up(&cli, &other, &[]);
        let report = back_up(&cli, &cluster, &["--incremental", "auto"]);
        assert_eq!(report["incremental"]["from"], sound, "{report}");
        let stranger = Cluster::builder().major(major).setting("summarize_wal = on").start();
        is_whole(&back_up(&cli, &stranger, &["--incremental", "auto"]), "it is of the system");
    }
}

/// It changes every page and tells nobody.
#[test]
fn checksums_that_were_switched_on_make_it_a_full_backup() {
    let Some(clients) = clients_of_17() else { return };
    for major in incremental_majors().into_iter().filter(|major| *major == 17) {
        let builder = Cluster::builder().major(major).setting("summarize_wal = on");
        let mut cluster = builder.start();
        let cli = Cli::with_repository();
        cluster.sql("create table t as select g from generate_series(1, 10000) g");
        back_up(&cli, &cluster, &[]);
        cluster.stop_server();
        let data = cluster.data();
        let enabled = cluster.execute(&clients.join("pg_checksums"), ["--enable", "-D", text(&data)]);
        assert!(enabled.status.success(), "{}", String::from_utf8_lossy(&enabled.stderr));
        cluster.start_server();
        let whole = back_up(&cli, &cluster, &["--incremental", "auto"]);
        is_whole(&whole, "its pages have no checksums, the server's have");
        let report = back_up(&cli, &cluster, &["--incremental", "require"]);
        assert_eq!(report["incremental"]["from"], whole["backup"]["backup_key"], "{report}");
    }
}

#[test]
fn wal_that_was_not_summarised_makes_it_a_full_backup() {
    for major in incremental_majors() {
        let (cluster, cli) = (server(major), Cli::with_repository());
        back_up(&cli, &cluster, &[]);
        change(&cluster, 1);
        cluster.sql("alter system set summarize_wal = off");
        cluster.sql("select pg_reload_conf()");
        // Its process ends first, so that nothing writes the files again.
        let gone = "select count(*) from pg_stat_activity where backend_type = 'walsummarizer'";
        crate::archiving::until("the summarizer ends", || cluster.sql(gone) == "0");
        let summaries = cluster.data().join("pg_wal/summaries");
        for entry in fs::read_dir(&summaries).expect("there") {
            fs::remove_file(entry.expect("readable").path()).expect("removed");
        }
        // What it would make them of goes as well.
        for _ in 0..3 {
            cluster.sql("create table if not exists x (); select pg_switch_wal()");
            cluster.sql("checkpoint");
        }
        cluster.sql("alter system set summarize_wal = on");
        cluster.sql("select pg_reload_conf()");
        let whole = back_up(&cli, &cluster, &["--incremental", "auto"]);
        is_whole(&whole, "WAL summaries are required");
        // The new one is one to build on.
        let report = back_up(&cli, &cluster, &["--incremental", "require"]);
        assert_eq!(report["incremental"]["from"], whole["backup"]["backup_key"], "{report}");
    }
}

#[test]
fn a_damaged_parent_is_none_to_build_on() {
    for major in incremental_majors() {
        let (cluster, cli) = (server(major), Cli::with_repository());
        back_up(&cli, &cluster, &[]);
        let packs = crate::harness::snapshot(&cli.repo().join("packs"));
        let (largest, bytes) = packs.iter().max_by_key(|(_, bytes)| bytes.len()).expect("some");
        let mut damaged = bytes.clone();
        damaged[4096..].iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
        fs::write(largest, damaged).expect("written");
        change(&cluster, 1);
        let report = back_up(&cli, &cluster, &["--incremental", "auto"]);
        is_whole(&report, "fails authentication");
        // It does not rest on what was found damaged, though that pack is still there and told of.
        let verdict = cli.run(&["verify", "main/latest", "--level", "full"]).with_code(1).text();
        assert!(verdict.contains("1 defect; 0 of 1 backup cannot be restored in full"), "{verdict}");
        let mapping = format!("{}={}", cluster.path().join("fast").display(), cli.path("fast").display());
        let to = cli.path("out").display().to_string();
        cli.run(&["restore", "main/latest", "--to", &to, "--tablespace-mapping", &mapping]).ok();
    }
}
