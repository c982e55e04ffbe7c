//! Point-in-time recovery: WAL archived by a server through the binary, and every kind of target
//! reached by a server started on what was restored.

use std::path::Path;

use crate::harness::Cli;
use crate::server::{Server, give_to_postgres, open_to_all, run, text};

/// A server that archives into the repository of `cli`.
fn archiving_server(cli: &Cli) -> Server {
    open_to_all(cli.dir.path());
    let key = cli.path("key");
    std::fs::write(&key, [7; 64]).expect("written");
    give_to_postgres(&key);
    cli.run(&["key", "add", "--label", "server", "--new-key-file", text(&key)]).ok();
    give_tree(&cli.path("repo"));
    let server = Server::start();
    let command = format!(
        "{} --repo {} --key-file {} wal push --cluster main %p",
        env!("CARGO_BIN_EXE_capy-store"),
        text(&cli.path("repo")),
        text(&key)
    );
    server.change_files(|data| {
        let file = data.join("postgresql.auto.conf");
        let before = std::fs::read_to_string(&file).expect("read");
        let settings = format!("{before}archive_mode = on\narchive_command = '{command}'\n");
        std::fs::write(&file, settings).expect("written");
    });
    server
}

fn give_tree(directory: &Path) {
    give_to_postgres(directory);
    for entry in std::fs::read_dir(directory).expect("read") {
        let path = entry.expect("read").path();
        if path.is_dir() { give_tree(&path) } else { give_to_postgres(&path) }
    }
}

/// Ends the present segment and waits until it is archived.
fn archive_all(server: &Server) {
    let last = server.sql("select pg_walfile_name(pg_switch_wal())");
    for _ in 0..200 {
        let archived = server.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver");
        if archived.get(..24).is_some_and(|name| name >= last.as_str()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{last} was not archived: {}", server.sql("select * from pg_stat_archiver"));
}

/// Restores to a target, starts PostgreSQL on it, and gives the rows it has when it is promoted.
fn rows_at(cli: &Cli, target: &[&str]) -> String {
    let (place, key) = (cli.path("recovered"), cli.path("key"));
    let socket = cli.path("socket");
    std::fs::create_dir_all(&socket).expect("made");
    give_to_postgres(&socket);
    let options = [&["restore", "main/latest", "--to", text(&place), "--key-file", text(&key)], target];
    cli.run(&options.concat()).ok();
    let log = socket.join("log");
    let own = format!("-c unix_socket_directories={} -c listen_addresses='' -c fsync=off", text(&socket));
    run("pg_ctl", &["-w", "-D", text(&place), "-l", text(&log), "-o", &own, "start"]);
    let ask = |sql: &str| {
        let output = run("psql", &["-h", text(&socket), "-U", "postgres", "-Atqc", sql]);
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    for _ in 0..200 {
        if ask("select pg_is_in_recovery()") == "f" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let rows = ask("select string_agg(i::text, ',' order by i) from t");
    assert_eq!(ask("show archive_mode"), "off", "a copy must not archive");
    run("pg_ctl", &["-w", "-D", text(&place), "-m", "immediate", "stop"]);
    std::fs::remove_dir_all(&place).expect("removed");
    rows
}

#[test]
fn every_kind_of_target_is_reached_and_one_that_cannot_be_is_refused_with_the_nearest() {
    let cli = Cli::with_repository();
    let server = archiving_server(&cli);
    server.sql("create table t as select 1 as i");
    let conninfo = server.conninfo();
    cli.run(&["backup", "--cluster", "main", "--pg", &conninfo]).ok();
    // The backup's own checkpoint is stamped in whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1200));
    server.sql("insert into t select 2");
    let time = server
        .sql("select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    server.sql("insert into t select 3");
    server.sql("select pg_create_restore_point('before')");
    let lsn = server.sql("select pg_current_wal_insert_lsn()");
    let xid = server.sql("insert into t select 4 returning txid_current()");
    server.sql("insert into t select 5");
    server.sql("checkpoint");
    archive_all(&server);

    assert_eq!(rows_at(&cli, &["--target-time", &time]), "1,2");
    assert_eq!(rows_at(&cli, &["--target-name", "before"]), "1,2,3");
    assert_eq!(rows_at(&cli, &["--target-lsn", &lsn]), "1,2,3");
    assert_eq!(rows_at(&cli, &["--target-xid", &xid]), "1,2,3,4");
    assert_eq!(rows_at(&cli, &["--target-xid", &xid, "--exclusive"]), "1,2,3");
    assert_eq!(rows_at(&cli, &["--target", "latest"]), "1,2,3,4,5");
    assert_eq!(rows_at(&cli, &["--target-immediate"]), "1");
    assert_eq!(rows_at(&cli, &["--target-name", "before", "--wal-into"]), "1,2,3");

    let place = cli.path("refused");
    for (target, nearest) in [
        (["--target-time", "2020-01-01T00:00:00Z"], "time 2"),
        (["--target-time", "2099-01-01T00:00:00Z"], "time 2"),
        (["--target-name", "never"], "name \"before\""),
        (["--target-lsn", "F/0"], "lsn 0/"),
        (["--target-xid", "99999999"], "lsn 0/"),
    ] {
        let options = [&["restore", "main/latest", "--to", text(&place)][..], &target].concat();
        let refused = cli.run(&options).with_code(3);
        assert!(refused.stderr.contains("cannot be reached"), "{}", refused.stderr);
        assert!(refused.stderr.contains(&format!("the nearest that can: {nearest}")), "{}", refused.stderr);
        assert!(!place.exists(), "nothing is written");
    }
}

#[test]
fn the_servers_commands_answer_in_its_own_terms() {
    let cli = Cli::with_repository();
    let server = archiving_server(&cli);
    server.sql("create table t as select 1 as i");
    let first = server.sql("select pg_walfile_name(pg_current_wal_lsn())");
    archive_all(&server);
    let segment = server.data().join("pg_wal").join(&first);
    let copy = cli.path(&first);
    std::fs::copy(&segment, &copy).expect("copied");
    let push = |path: &Path| cli.run(&["wal", "push", "--cluster", "main", text(path)]);
    let again = push(&copy).ok();
    let said = again.text() + &again.stderr;
    assert!(said.contains("archived already, with the same content"), "{said}");

    let out = cli.path("out");
    let fetch =
        |file: &str| cli.run(&["wal", "fetch", "--no-prefetch", "--cluster", "main", file, text(&out)]);
    fetch(&first).ok();
    assert!(std::fs::read(&out).expect("fetched") == std::fs::read(&copy).expect("read"));
    fetch("0000000100000000000000FE").with_code(1);
    fetch("not a file").with_code(126);
    cli.run(&["wal", "fetch", "--cluster", "main"]).with_code(126);
    cli.run(&["wal", "fetch", "--repo", "/no/such/place", "--cluster", "main", &first, text(&out)])
        .with_code(126);

    // Another content under the same name: refused, kept, and told how it differs.
    let mut other = std::fs::read(&copy).expect("read");
    let middle = other.len() / 2;
    other[middle] ^= 1;
    std::fs::write(&copy, &other).expect("written");
    let conflict = push(&copy).with_code(4);
    assert!(conflict.stderr.contains("with another content"), "{}", conflict.stderr);
    other.truncate(middle);
    std::fs::write(&copy, &other).expect("written");
    push(&copy).with_code(2);
    let windows = cli.run(&["wal", "windows", "--cluster", "main"]).with_code(1);
    assert!(windows.text().contains("archived with another content"), "{}", windows.text());
}
