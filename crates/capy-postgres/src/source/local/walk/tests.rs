use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// Makes empty files, and the directories (names that end with a slash) they lie in.
fn tree(paths: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for path in paths {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::write(path, "x").unwrap();
        }
    }
    directory
}

fn plan(root: &Path) -> WalkPlan {
    WalkPlan {
        root: root.to_owned(),
        archive: ArchiveKind::Base,
        only: None,
        emptied: None,
        has_summaries: false,
    }
}

fn paths(plan: WalkPlan) -> Vec<String> {
    let path = |found: Result<Found, PostgresError>| match found.unwrap() {
        Found::Directory(entry) | Found::Empty(entry) => String::from_utf8(entry.path).unwrap(),
        Found::File(file) => String::from_utf8(file.entry.path).unwrap(),
        Found::Passed { path, what } => format!("{what}: {}", path.file_name().unwrap().display()),
    };
    Walk::new(plan).map(path).collect()
}

#[test]
fn what_a_server_sends_is_found_in_order_and_nothing_else() {
    let directory = tree(&[
        "PG_VERSION",
        "backup_label.old",
        "backup_label",
        "base/1/1249",
        "base/1/1249_fsm",
        "base/1/pg_internal.init",
        "base/1/pg_internal.init.99",
        "base/1/t3_500",
        "base/1/t3_500_fsm",
        "base/1/600",
        "base/1/600.1",
        "base/1/600_vm",
        "base/1/600_init",
        "base/pgsql_tmp/pgsql_tmp1.0",
        "global/pg_control",
        "global/1262",
        "pg_dynshmem/mmap.1",
        "pg_notify/0000",
        "pg_replslot/s/state",
        "pg_stat/pgstat.stat",
        "pg_tblspc/200/PG_15_202209061/5/16384",
        "pg_wal/000000010000000000000001",
        "pg_wal/archive_status/000000010000000000000001.done",
        "pg_xact/0000",
        "postmaster.pid",
        "sub/pg_serial/0000",
    ]);
    symlink("/somewhere", directory.path().join("pg_tblspc/100")).unwrap();
    symlink("/somewhere", directory.path().join("log")).unwrap();
    let expected = [
        "PG_VERSION",
        "backup_label.old",
        "base/",
        "base/1/",
        "base/1/1249",
        "base/1/1249_fsm",
        "base/1/600_init",
        "global/",
        "global/1262",
        "a symbolic link: log",
        "pg_dynshmem/",
        "pg_notify/",
        "pg_replslot/",
        "pg_stat/",
        "pg_stat/pgstat.stat",
        "pg_tblspc/",
        "pg_tblspc/200/",
        "pg_tblspc/200/PG_15_202209061/",
        "pg_tblspc/200/PG_15_202209061/5/",
        "pg_tblspc/200/PG_15_202209061/5/16384",
        "pg_wal/",
        "pg_wal/archive_status/",
        "pg_xact/",
        "pg_xact/0000",
        "sub/",
        "sub/pg_serial/",
    ];
    assert_eq!(paths(plan(directory.path())), expected);
    // Nine files of one byte.
    assert_eq!(Walk::size_bytes(plan(directory.path())), 9);
}

#[test]
fn links_in_place_of_pg_wal_and_emptied_directories_become_directories() {
    let directory = tree(&["elsewhere/0001"]);
    for name in ["pg_wal", "pg_stat_tmp"] {
        symlink(directory.path().join("elsewhere"), directory.path().join(name)).unwrap();
    }
    let mut plan = plan(directory.path());
    plan.has_summaries = true;
    plan.emptied = Some("elsewhere".into());
    let expected = ["elsewhere/", "pg_stat_tmp/", "pg_wal/", "pg_wal/archive_status/", "pg_wal/summaries/"];
    assert_eq!(paths(plan), expected);
}

#[test]
fn of_a_tablespace_only_the_directory_of_its_version_is_read() {
    let directory =
        tree(&["PG_14_202107181/5/1", "PG_15_202209061/5/1", "PG_15_202209061/5/t1_2", "lost+found/x"]);
    let mut plan = plan(directory.path());
    plan.archive = ArchiveKind::Tablespace { oid: 7, location: String::new() };
    plan.only = Some("PG_15_202209061".to_owned());
    assert_eq!(paths(plan.clone()), ["PG_15_202209061/", "PG_15_202209061/5/", "PG_15_202209061/5/1"]);
    plan.only = Some("PG_16_202307071".to_owned());
    assert_eq!(paths(plan), [""; 0], "nothing was ever put into it");
}

#[test]
fn what_vanishes_in_the_middle_has_never_been_and_a_root_that_is_not_there_is_an_error() {
    let directory = tree(&["a/1", "b/1", "c"]);
    let mut walk = Walk::new(plan(directory.path()));
    assert!(matches!(walk.next(), Some(Ok(Found::Directory(_)))));
    fs::remove_dir_all(directory.path().join("a")).unwrap();
    fs::remove_dir_all(directory.path().join("b")).unwrap();
    fs::remove_file(directory.path().join("c")).unwrap();
    assert!(walk.next().is_none());

    let mut walk = Walk::new(plan(&directory.path().join("nowhere")));
    let error = walk.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), capy_types::ErrorKind::NotFound);
    assert!(walk.next().is_none(), "nothing follows an error");
}
