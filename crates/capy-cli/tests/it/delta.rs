//! `restore --delta`: a directory that was the cluster once becomes the backup again, and nothing else
//! does.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::documents::is_documented;
use crate::harness::{Cli, noise};
use crate::postgres::{add_tablespaces, fill, proves_whole, rows};
use crate::server::{Server, open_to_all, text};

/// Everything below a directory: bytes of files, targets of links, modes of all.
fn contents(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).expect("readable") {
            let path = entry.expect("readable").path();
            let metadata = path.symlink_metadata().expect("there");
            let bytes = if metadata.is_symlink() {
                std::fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            } else if metadata.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).expect("readable")
            };
            let name = path.strip_prefix(root).expect("below").to_owned();
            found.insert(name, (metadata.permissions().mode(), bytes));
        }
    }
    found
}

fn assert_same(restored: &Path, fresh: &Path) {
    let (restored, fresh) = (contents(restored), contents(fresh));
    let names = |of: &BTreeMap<PathBuf, (u32, Vec<u8>)>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&restored), names(&fresh));
    for (path, (mode, bytes)) in &fresh {
        let (found_mode, found) = &restored[path];
        assert!(found_mode == mode && found == bytes, "{} is not as in a fresh restore", path.display());
    }
}

#[test]
fn a_directory_that_lived_on_and_was_damaged_becomes_the_backup_again() {
    let server = Server::start();
    fill(&server);
    add_tablespaces(&server, &["fast"]);
    server.run("pgbench", &["-i", "-q", "-s", "3", "postgres"]);
    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    let conninfo = server.conninfo();
    cli.run(&["backup", "--cluster", "main", "--pg", &conninfo]).ok();
    let tables = rows(&server, &["documents", "in_fast", "pgbench_accounts"]);
    let target = cli.path("data");
    let mapping = format!(
        "{}={}",
        text(&server.data().parent().expect("a parent").join("fast")),
        text(&cli.path("space"))
    );
    let to = ["restore", "main/latest", "--to", text(&target), "-T", &mapping];
    let delta = [&to[..], &["--delta", "--json"]].concat();
    let fresh = cli.run(&[&to[..], &["--json"]].concat()).ok().json();
    let (fresh_data, fresh_space) = (contents(&target), contents(&cli.path("space")));
    let same_as_fresh = || {
        assert!(contents(&target) == fresh_data, "the data directory is not as after a fresh restore");
        assert!(
            contents(&cli.path("space")) == fresh_space,
            "the tablespace is not as after a fresh restore"
        );
    };

    // Nothing has happened: only the control file is written, and the two files that name the
    // tablespace's place, which are not as the backup has them.
    let idle = cli.run(&delta).ok().json();
    is_documented(&idle);
    assert!(idle["restored_bytes"].as_u64() < Some(400_000), "{idle}");
    assert_eq!((idle["removed"].as_u64(), &idle["files"]), (Some(0), &fresh["files"]), "{idle}");
    same_as_fresh();

    // The parent's own tablespace is in use, and nothing says that it belongs to another directory.
    let fast = server.data().parent().expect("a parent").join("fast");
    let in_use = contents(&fast);
    let elsewhere = cli.path("elsewhere");
    for target in [&target, &elsewhere] {
        let unmapped = ["restore", "main/latest", "--to", text(target), "--delta", "--json"];
        let refused = cli.run(&unmapped).with_code(4).json();
        assert!(refused["error"]["message"].to_string().contains(text(&fast)), "{refused}");
        assert!(refused["error"]["hint"].to_string().contains("--tablespace-mapping"), "{refused}");
    }
    assert!(contents(&fast) == in_use && !elsewhere.exists());
    same_as_fresh();

    // A server lives on it: its own changes, files and links, then damage.
    let socket = cli.path("socket");
    std::fs::create_dir_all(&socket).expect("made");
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o777)).expect("set");
    let alive = Server::boot(&target, &socket);
    let in_use = cli.run(&delta).with_code(4).json();
    assert!(in_use["error"]["message"].to_string().contains("postmaster.pid"), "{in_use}");
    alive.sql("update pgbench_accounts set abalance = 1 where aid % 1000 = 0; create table more as select * from documents");
    alive.sql("drop table in_fast");
    let large = alive.sql("select pg_relation_filepath('pgbench_accounts')");
    drop(alive);
    let file = std::fs::OpenOptions::new().write(true).open(target.join(&large)).expect("there");
    file.write_all_at(b"damage", 300_000).expect("written");
    file.set_len(20_000_000).expect("cut");
    let files = fresh_data.iter().filter(|(_, (mode, _))| mode & 0o170_000 == 0o100_000);
    let empty = files.clone().find(|(_, (_, bytes))| bytes.is_empty()).expect("an empty file").0;
    for grown in [empty.as_path(), Path::new("PG_VERSION")] {
        let file = std::fs::OpenOptions::new().append(true).open(target.join(grown));
        file.and_then(|mut file| file.write_all(b"more")).expect("written");
    }
    std::fs::set_permissions(target.join("PG_VERSION"), PermissionsExt::from_mode(0o644)).expect("set");
    std::fs::set_permissions(target.join("base"), PermissionsExt::from_mode(0o755)).expect("set");
    std::fs::remove_dir_all(target.join("pg_xact")).expect("removed");
    std::fs::remove_file(target.join("postgresql.conf")).expect("removed");
    std::fs::create_dir_all(target.join("postgresql.conf/deep")).expect("a directory in a file's place");
    std::os::unix::fs::symlink("/etc/passwd", target.join("pg_xact")).expect("a link in a directory's place");
    std::fs::create_dir_all(target.join("stray/deep")).expect("made");
    std::fs::write(target.join("stray/deep/file"), "x").expect("written");
    // Another link to the same place is as good as its own; without any, the place is nobody's.
    let links = std::fs::read_dir(target.join("pg_tblspc")).expect("read");
    let link = links.map(|entry| entry.expect("read").path()).next().expect("one");
    std::fs::remove_file(&link).expect("unlinked");
    let refused = cli.run(&delta).with_code(4).json();
    assert!(refused["error"]["message"].to_string().contains(text(&cli.path("space"))), "{refused}");
    std::os::unix::fs::symlink("../../space", &link).expect("linked");

    let before = contents(&target);
    let plan = cli.run(&[&delta[..], &["--dry-run"]].concat()).ok().json();
    is_documented(&plan);
    let removed: Vec<&str> =
        plan["remove"].as_array().expect("a list").iter().filter_map(|p| p.as_str()).collect();
    for name in ["stray", "postgresql.conf", "pg_xact"] {
        assert!(removed.contains(&text(&target.join(name))), "{name} is not among {removed:?}");
    }
    assert!(!removed.iter().any(|path| path.ends_with(&large)), "{removed:?}");
    assert!(contents(&target) == before, "a dry run changes nothing");

    // An interrupted one: chunks cannot be read, and can again. The manifest, at the pack's end, can be.
    let packs = crate::harness::snapshot(&cli.repo().join("packs"));
    let (pack, sound) = packs.iter().max_by_key(|(_, bytes)| bytes.len()).expect("a pack");
    let mut damaged = sound.clone();
    let data = 64..sound.len() - (256 << 10);
    damaged[data].iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(pack, damaged).expect("damaged");
    cli.run(&delta).with_code(6);
    assert!(!target.join("global/pg_control").exists(), "what is left does not start");
    assert!(
        !link.exists() || std::fs::remove_file(&link).is_ok(),
        "an earlier try is known without its link"
    );
    std::fs::write(pack, sound).expect("mended");
    let report = cli.run(&delta).ok().json();
    let (kept, all) = (report["kept_bytes"].as_u64(), fresh["restored_bytes"].as_u64());
    assert!(kept > all.map(|all| all / 2), "most of it was there: {report}");
    same_as_fresh();
    proves_whole(&cli, &target, &tables);
}

#[test]
fn a_directory_of_another_cluster_or_of_none_is_refused_unless_forced() {
    let (server, other) = (Server::start(), Server::start());
    fill(&server);
    let cli = Cli::with_repository();
    open_to_all(cli.dir.path());
    for (name, server) in [("main", &server), ("other", &other)] {
        cli.run(&["backup", "--cluster", name, "--pg", &server.conninfo()]).ok();
    }
    let (target, fresh, plain) = (cli.path("data"), cli.path("fresh"), cli.path("plain"));
    cli.run(&["restore", "other/latest", "--to", text(&target)]).ok();
    cli.run(&["restore", "main/latest", "--to", text(&fresh)]).ok();
    let before = contents(&target);
    let delta = ["restore", "main/latest", "--to", text(&target), "--delta", "--json"];
    let refused = cli.run(&delta).with_code(4).json();
    assert!(refused["error"]["message"].to_string().contains("is of cluster"), "{refused}");
    assert!(contents(&target) == before);
    std::fs::create_dir(&plain).expect("made");
    std::fs::write(plain.join("letter"), "dear").expect("written");
    cli.run(&["restore", "main/latest", "--to", text(&plain), "--delta"]).with_code(4);
    assert_eq!(contents(&plain).len(), 1);

    cli.run(&[&delta[..], &["--force"]].concat()).ok();
    assert_same(&target, &fresh);
    // Where nothing is, it is a restore like any other.
    cli.run(&["restore", "main/latest", "--to", text(&cli.path("new")), "--delta"]).ok();
    assert_same(&cli.path("new"), &fresh);
    cli.run(&["restore", "main/latest", "--to", text(&target), "--force"]).with_code(2);
}

#[test]
fn rates_are_taken_with_units_and_refused_without_sense() {
    let cli = Cli::with_repository();
    let backup =
        ["backup", "--cluster", "main", "--stdin-as", "x", "--read-rate", "1G", "--upload-rate", "500MiB/s"];
    cli.run_with_input(&backup, b"content").ok();
    cli.run(&["verify", "main/latest", "--level", "full", "--read-rate", "2GB"]).ok();
    cli.run(&["restore", "main/latest", "--to", text(&cli.path("out")), "--read-rate", "2GB"]).ok();
    assert_eq!(std::fs::read(cli.path("out").join("x")).expect("restored"), b"content");
    cli.run(&["verify", "--read-rate", "fast"]).with_code(2);
}

#[test]
fn what_a_backup_waited_for_is_told() {
    let cli = Cli::with_repository();
    let data = noise(8 << 19);
    for (rate, expected) in [("--upload-rate", "store"), ("--read-rate", "source")] {
        let backup = ["backup", "--cluster", "main", "--stdin-as", "x", "--json", rate, "4M"];
        let limits = &cli.run_with_input(&backup, &data).ok().json()["limits"];
        assert_eq!(limits["limited_by"], expected, "{limits}");
    }
    let text =
        cli.run_with_input(&["backup", "--cluster", "third", "--stdin-as", "x"], b"little").ok().text();
    assert!(text.contains("limited by"), "{text}");
}
