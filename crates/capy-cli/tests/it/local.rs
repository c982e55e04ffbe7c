//! `backup --pgdata`: a running server's own files into the repository, and back onto a server.

use crate::documents::is_documented;
use crate::harness::Cli;
use crate::postgres::{add_tablespaces, fill, proves_whole, rows};
use crate::server::{Server, open_to_all, text};

fn number(document: &serde_json::Value, of: &str) -> u64 {
    document["stats"][of].as_u64().expect("a number")
}

#[test]
fn files_of_a_busy_server_become_a_backup_that_passes_every_proof() {
    let server = Server::start();
    fill(&server);
    add_tablespaces(&server, &["fast"]);
    server.sql("create extension amcheck");
    server.run("pgbench", &["-i", "-q", "-s", "2", "postgres"]);
    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    let (conninfo, data) = (server.conninfo(), text(server.data()).to_owned());
    let streamed = ["backup", "--cluster", "main", "--pg", &conninfo, "--json"];
    let local = [&streamed[..], &["--pgdata", &data]].concat();

    let mut load = server.spawn("pgbench", &["-n", "-c", "2", "-T", "60", "postgres"]);
    let churn = "create temp table mine as select generate_series(1, 1000) g;
                 create table if not exists t as select generate_series(1, 50000) g; truncate t; drop table t";
    let mut churning = server.spawn("psql", &["-c", &format!("{churn} \\watch 0.05")]);
    let busy = cli.run(&local).ok().json();
    for child in [&mut load, &mut churning] {
        child.kill().and_then(|()| child.wait()).expect("stopped");
    }
    assert_eq!(busy["backup"]["state"], "complete", "{busy}");
    is_documented(&busy);
    let busy_key = busy["backup"]["backup_key"].as_str().expect("a key").to_owned();
    let verified = cli.run(&["verify", &busy_key, "--level", "full", "--json"]).ok().json();
    assert!(verified["manifest_files_checked"].as_u64().is_some_and(|files| files > 900), "{verified}");

    // The same cluster at rest, by the stream and by its files: there is nothing new in the second.
    server.sql("checkpoint");
    let first = cli.run(&streamed).ok().json();
    let second = cli.run(&local).ok().json();
    assert!(number(&second, "new_bytes") < 1 << 20, "{second} after {first}");
    assert!(number(&second, "stored_bytes") < 100 << 10, "{second} after {first}");

    let tables = rows(&server, &["documents", "in_fast", "pgbench_accounts", "pgbench_history"]);
    let old = server.data().parent().expect("a parent").join("fast");
    let mapping = format!("{}={}", text(&old), text(&cli.path("moved")));
    let target = cli.path("restored");
    cli.run(&["restore", "main/latest", "--to", text(&target), "-T", &mapping]).ok();
    proves_whole(&cli, &target, &tables);

    // The busy one: bytes from different moments, made one by recovery.
    let target = cli.path("busy");
    let mapping = format!("{}={}", text(&old), text(&cli.path("moved busy")));
    cli.run(&["restore", &busy_key, "--to", text(&target), "-T", &mapping]).ok();
    proves_whole(&cli, &target, &rows(&server, &["documents", "in_fast"]));
    let socket = cli.path("socket");
    let restored = Server::boot(&target, &socket);
    restored.run("pg_amcheck", &["--heapallindexed", "-d", "postgres"]);
    let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
                       (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)";
    assert_eq!(restored.sql(sums), "t|t", "every transaction is in it whole, or not at all");

    // As tars it is what any reader of pg_basebackup's takes.
    let tars = cli.path("tars");
    cli.run(&["restore", "main/latest", "--tar", text(&tars)]).ok();
    let report = cli.run(&["backup", "--cluster", "main", "--tar", text(&tars), "--json"]).ok().json();
    assert_eq!(
        (&report["backup"]["state"], number(&report, "new_bytes")),
        (&"complete".into(), 0),
        "{report}"
    );
}

#[test]
fn what_is_stored_is_known_by_name_and_a_page_that_went_bad_since_is_still_found() {
    let server = Server::start();
    fill(&server);
    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    let (conninfo, data) = (server.conninfo(), text(server.data()).to_owned());
    let streamed = ["backup", "--cluster", "main", "--pg", &conninfo, "--json"];
    let local = [&streamed[..], &["--pgdata", &data]].concat();
    server.sql("checkpoint");
    cli.run(&streamed).ok();
    let known = cli.run(&local).ok().json();
    assert_eq!(known["backup"]["state"], "complete", "{known}");
    assert!(number(&known, "new_bytes") < 1 << 20, "{known}");
    assert!(number(&known, "size_bytes") > 20 << 20, "cells that are known count as well: {known}");
    let target = cli.path("restored");
    cli.run(&["restore", "main/latest", "--to", text(&target)]).ok();
    proves_whole(&cli, &target, &rows(&server, &["documents"]));
    cli.run(&["verify", "main/latest", "--level", "full"]).ok();

    let file = server.sql("select pg_relation_filepath('documents')");
    server.change_files(|data| {
        use std::os::unix::fs::FileExt;
        let relation = std::fs::OpenOptions::new().write(true).open(data.join(&file)).expect("there");
        relation.write_all_at(&[0xff], 3 * 8192 + 8000).expect("written");
    });
    // The second of them finds the damaged cell stored by the first.
    for _ in 0..2 {
        let damaged = cli.run(&local).with_code(1).json();
        assert_eq!(damaged["backup"]["state"], "damaged");
        assert!(damaged["problems"].to_string().contains("block 3 "), "{}", damaged["problems"]);
        assert_eq!(damaged["problems_total"], 1, "{damaged}");
    }
}

#[test]
fn a_damaged_page_is_found_and_a_wrong_directory_is_refused() {
    let server = Server::start();
    fill(&server);
    let cli = Cli::with_repository();
    let conninfo = server.conninfo();
    let file = server.sql("select pg_relation_filepath('documents')");
    server.change_files(|data| {
        use std::os::unix::fs::FileExt;
        let relation = std::fs::OpenOptions::new().write(true).open(data.join(&file)).expect("there");
        relation.write_all_at(&[0xff], 3 * 8192 + 8000).expect("written");
    });
    let data = text(server.data());
    let backup = ["backup", "--cluster", "main", "--pg", &conninfo, "--json", "--pgdata"];
    let damaged = cli.run(&[&backup[..], &[data]].concat()).with_code(1).json();
    assert_eq!(damaged["backup"]["state"], "damaged");
    assert!(damaged["problems"].to_string().contains("block 3 "), "{}", damaged["problems"]);

    let other = Server::start();
    let refused = cli.run(&[&backup[..], &[text(other.data())]].concat()).with_code(2).json();
    let said = |what: &str| refused["error"][what].as_str().unwrap_or_default().to_owned();
    assert!(said("message").contains("not the data directory of the server"), "{refused}");
    assert!(said("hint").contains("show data_directory"), "{refused}");
    cli.run(&["backup", "--cluster", "main", "--pgdata", data, "--stdin-as", "x"]).with_code(2);
    assert_eq!(cli.keys().len(), 1);
}
