//! The main job on real parts: a running PostgreSQL into the repository, and back onto a server.

use crate::documents::is_documented;
use crate::harness::Cli;
use crate::server::{Server, open_to_all, run, text};

/// Tables whose content the restored server must show again.
pub(crate) const COUNT: &str = "select count(*), sum(hashtext(t::text)) from";

pub(crate) fn fill(server: &Server) {
    server.sql("create table documents as select g, md5(g::text) x from generate_series(1, 50000) g");
    server.sql(&format!("create database \"{}\"", "n".repeat(63)));
    server.sql("create database empty");
    server.sql("create unlogged table scratch as select g from generate_series(1, 1000) g");
    let long = server.data().join(format!("extra_{}", "x".repeat(84)));
    std::fs::write(long, "a long name").expect("written");
}

/// `tablespaces` in directories of the server's own, a table in each.
pub(crate) fn add_tablespaces(server: &Server, names: &[&str]) {
    for name in names {
        let place = server.directory(name);
        server.sql(&format!("create tablespace {name} location '{}'", text(&place)));
        server.sql(&format!("create table in_{name} tablespace {name} as select * from documents"));
    }
}

/// What a restored directory must pass: PostgreSQL's own check, a start, and the same rows.
pub(crate) fn proves_whole(cli: &Cli, target: &std::path::Path, tables: &[(&str, String)]) {
    run("pg_verifybackup", &["-q", text(target)]);
    let socket = cli.path("socket");
    std::fs::create_dir_all(&socket).expect("made");
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    let restored = Server::boot(target, &socket);
    for (table, rows) in tables {
        assert_eq!(restored.sql(&format!("{COUNT} {table} t")), *rows, "{table}");
    }
    assert_eq!(
        restored.sql("select count(*) from scratch"),
        "0",
        "unlogged tables are empty after a restore"
    );
}

pub(crate) fn rows(server: &Server, tables: &[&'static str]) -> Vec<(&'static str, String)> {
    tables.iter().map(|table| (*table, server.sql(&format!("{COUNT} {table} t")))).collect()
}

#[test]
fn a_live_cluster_with_tablespaces_goes_round_while_it_is_written_to() {
    let server = Server::start();
    fill(&server);
    add_tablespaces(&server, &["fast", "slow"]);
    server.run("pgbench", &["-i", "-q", "-s", "2", "postgres"]);
    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    let mut load = server.spawn("pgbench", &["-n", "-c", "2", "-T", "60", "postgres"]);
    let mut temporary = server.spawn(
        "psql",
        &["-c", "create temp table gone as select generate_series(1, 10000) g; select pg_sleep(60)"],
    );
    let conninfo = server.conninfo();
    let arguments = ["backup", "--cluster", "main", "--pg", &conninfo, "--label", "nightly", "--json"];
    let first = cli.run(&arguments).ok().json();
    load.kill().and_then(|()| load.wait()).expect("stopped");
    temporary.kill().and_then(|()| temporary.wait()).expect("stopped");
    server.sql("checkpoint");
    let first_idle = cli.run(&arguments).ok().json();
    let second = cli.run(&arguments).ok().json();

    assert_eq!(first["backup"]["state"], "complete");
    assert_eq!(first["backup"]["label"], "nightly");
    let stored = |document: &serde_json::Value| document["stats"]["stored_bytes"].as_u64().expect("a number");
    // Only the server's own checkpoint and the WAL around it are new.
    assert!(stored(&second) * 20 < stored(&first), "{} after {}", stored(&second), stored(&first));
    assert!(first_idle["backup"]["start_lsn"].as_str() < second["backup"]["start_lsn"].as_str());

    let verified = cli.run(&["verify", "main/latest", "--level", "full", "--json"]).ok().json();
    assert!(verified["manifest_files_checked"].as_u64().is_some_and(|files| files > 900), "{verified}");
    let shown = cli.run(&["show", "main/latest", "--json"]).ok().json();
    assert_eq!(shown["backup"]["postgres"]["tablespaces"].as_array().map(Vec::len), Some(2));
    assert_eq!(shown["backup"]["postgres"]["wal_included"], true);
    [&first, &verified, &shown].into_iter().for_each(is_documented);

    let tables = rows(&server, &["documents", "in_fast", "in_slow", "pgbench_accounts", "pgbench_history"]);
    let target = cli.path("restored");
    // The tablespaces are where they were: without a mapping nothing may be written.
    let refused = cli.run(&["restore", "main/latest", "--to", text(&target)]).with_code(4);
    assert!(refused.stderr.contains("--tablespace-mapping"), "{}", refused.stderr);
    assert!(!target.exists());
    let mapping = |name: &str| {
        let old = server.data().parent().expect("a parent").join(name);
        format!("{}={}", text(&old), text(&cli.path(name)))
    };
    let (fast, slow) = (mapping("fast"), mapping("slow"));
    let restore =
        ["restore", "main/latest", "--to", text(&target), "--tablespace-mapping", &fast, "-T", &slow];
    cli.run(&restore).ok();
    proves_whole(&cli, &target, &tables);
}

#[test]
fn a_tar_on_standard_input_goes_in_and_comes_out_the_same() {
    let server = Server::start();
    fill(&server);
    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    for wal in ["fetch", "none"] {
        let tar = server.run("pg_basebackup", &["-D", "-", "-Ft", "-X", wal, "-c", "fast"]).stdout;
        let backup = ["backup", "--cluster", "main", "--tar", "-", "--json"];
        let report = cli.run_with_input(&backup, &tar).ok().json();
        assert_eq!(report["backup"]["state"], "complete", "{report}");
        assert_eq!(report["wal_needed"].is_null(), wal == "fetch", "{report}");
        let out = cli.run(&["restore", "main/latest", "--tar", "-", "--quiet"]).ok();
        assert!(out.stdout == tar, "-X {wal}: {} bytes in, {} out", tar.len(), out.stdout.len());
        assert_eq!(out.stderr, "");
    }
    let tables = rows(&server, &["documents"]);
    let target = cli.path("restored");
    let oldest = cli.keys().remove(0);
    cli.run(&["restore", &oldest, "--to", text(&target)]).ok();
    proves_whole(&cli, &target, &tables);
}

#[test]
fn a_directory_of_tars_with_tablespaces_restores_to_a_server() {
    let server = Server::start();
    fill(&server);
    add_tablespaces(&server, &["fast"]);
    let tars = server.directory("tars");
    server.run("pg_basebackup", &["-D", text(&tars), "-Ft", "-X", "fetch", "-c", "fast"]);
    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    let report = cli.run(&["backup", "--cluster", "main", "--tar", text(&tars), "--json"]).ok().json();
    assert_eq!(report["backup"]["state"], "complete", "{report}");

    let again = cli.path("again");
    cli.run(&["restore", "main/latest", "--tar", text(&again)]).ok();
    for entry in std::fs::read_dir(&tars).expect("read") {
        let name = entry.expect("read").file_name();
        let same =
            std::fs::read(tars.join(&name)).expect("read") == std::fs::read(again.join(&name)).expect("read");
        assert!(same, "{}", name.display());
    }

    let tables = rows(&server, &["documents", "in_fast"]);
    let old = server.data().parent().expect("a parent").join("fast");
    let mapping = format!("{}={}", text(&old), text(&cli.path("moved")));
    let target = cli.path("restored");
    cli.run(&["restore", "main/latest", "--to", text(&target), "-T", &mapping]).ok();
    proves_whole(&cli, &target, &tables);
}

#[test]
fn a_relation_of_two_segments_goes_round_with_its_checksums() {
    let server = Server::start();
    fill(&server);
    server.sql("create table big (g int); insert into big values (1)");
    let file = server.sql("select pg_relation_filepath('big')");
    // 1.1 GB without writing it: pages never used are zeros, and the next row goes into the last.
    server.change_files(|data| {
        let first = std::fs::OpenOptions::new().write(true).open(data.join(&file)).expect("there");
        first.set_len(1 << 30).expect("extended");
        let second = data.join(format!("{file}.1"));
        std::fs::File::create_new(&second).and_then(|file| file.set_len(100 << 20)).expect("made");
        crate::server::give_to_postgres(&second);
    });
    server.sql("insert into big select generate_series(2, 100)");
    assert!(
        server.sql("select max(ctid) from big").starts_with("(143871,"),
        "it went into the second segment"
    );

    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    let conninfo = server.conninfo();
    let report = cli.run(&["backup", "--cluster", "main", "--pg", &conninfo, "--json"]).ok().json();
    assert_eq!(report["backup"]["state"], "complete", "{report}");
    let tables = rows(&server, &["documents", "big"]);
    let target = cli.path("restored");
    cli.run(&["restore", "main/latest", "--to", text(&target)]).ok();
    proves_whole(&cli, &target, &tables);

    // One byte of the last page: found by the page's own checksum, block numbers counted on.
    server.change_files(|data| {
        use std::os::unix::fs::FileExt;
        let second =
            std::fs::OpenOptions::new().write(true).open(data.join(format!("{file}.1"))).expect("there");
        second.write_all_at(&[0xff], (100 << 20) - 1).expect("written");
    });
    let damaged = cli.run(&["backup", "--cluster", "main", "--pg", &conninfo, "--json"]).with_code(1).json();
    assert_eq!(damaged["backup"]["state"], "damaged");
    assert!(damaged["problems"].to_string().contains("block 143871 "), "{}", damaged["problems"]);
    let listed = cli.run(&["list", "--json"]).ok().json();
    assert_eq!(listed["backups"][1]["state"], "damaged");
}

#[test]
fn a_server_that_is_not_there_is_unavailable_and_nothing_is_listed() {
    let cli = Cli::with_repository();
    let backup = ["backup", "--cluster", "main", "--pg", "host=/no/such/socket user=postgres"];
    cli.run(&backup).with_code(5);
    assert_eq!(cli.keys(), Vec::<String>::new());
}
