//! Page checksums of a real server's files, compared with what `pg_checksums` says.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use capy_postgres::ArchiveKind;
use capy_postgres::control::ControlFile;
use capy_postgres::page::{PageChecker, PageCounts, PageFault, PageProblem};
use capy_postgres::relation::{PathClass, RelationFile, classify};
use capy_testkit::postgres::{Cluster, text};

const PAGE: u64 = 8192;

/// Every relation file below the data directory.
fn relation_files(cluster: &Cluster) -> Vec<(PathBuf, RelationFile)> {
    let data = cluster.data();
    let mut found = Vec::new();
    let mut directories = vec![data.join("global"), data.join("base"), data.join("pg_xact")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let relative = text(path.strip_prefix(&data).unwrap()).to_owned();
            if let PathClass::Relation(file) = classify(&ArchiveKind::Base, relative.as_bytes()) {
                found.push((path, file));
            }
        }
    }
    found
}

fn check_file(path: &Path, segment: u32) -> (Vec<PageProblem>, PageCounts) {
    let (mut checker, mut problems) = (PageChecker::new(segment), Vec::new());
    for piece in fs::read(path).unwrap().chunks(100_000) {
        checker.feed(piece, |problem| problems.push(problem));
    }
    let counts = checker.finish(|problem| problems.push(problem));
    (problems, counts)
}

fn check_all(cluster: &Cluster) -> (Vec<PageProblem>, PageCounts) {
    let (mut problems, mut sum) = (Vec::new(), PageCounts::default());
    for (path, file) in relation_files(cluster) {
        let (found, counts) = check_file(&path, file.segment);
        problems.extend(found);
        sum.pages += counts.pages;
        sum.new += counts.new;
        sum.without_checksum += counts.without_checksum;
    }
    (problems, sum)
}

/// What `pg_checksums` found: blocks scanned and bad ones.
fn server_check(cluster: &Cluster) -> (u64, u64) {
    let output = cluster.try_run("pg_checksums", ["--check", "-D", text(&cluster.data())]);
    let report = String::from_utf8(output.stdout).unwrap();
    let number = |label: &str| {
        let line = report.lines().find(|line| line.starts_with(label));
        let line = line.unwrap_or_else(|| panic!("no {label:?} in: {report}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    (number("Blocks scanned:"), number("Bad checksums:"))
}

fn stopped_cluster_with_table(initdb_options: &[&str]) -> (Cluster, PathBuf) {
    let cluster = Cluster::start(initdb_options);
    cluster.sql("create table t as select g, md5(g::text) from generate_series(1, 20000) g");
    cluster.sql("create index on t (g)");
    cluster.sql("vacuum t");
    let path = cluster.data().join(cluster.sql("select pg_relation_filepath('t')"));
    cluster.stop_server();
    (cluster, path)
}

#[test]
fn a_sound_cluster_has_no_problem_and_as_many_pages_as_the_server_counts() {
    let (cluster, _) = stopped_cluster_with_table(&["--data-checksums"]);
    let (problems, counts) = check_all(&cluster);
    assert_eq!(problems, []);
    assert!(counts.pages > 1000);
    assert_eq!(server_check(&cluster), (counts.pages, 0));
}

#[test]
fn damage_in_header_body_and_tail_is_found_where_the_server_finds_it() {
    let (cluster, table) = stopped_cluster_with_table(&["--data-checksums"]);
    let file = fs::OpenOptions::new().read(true).write(true).open(&table).unwrap();
    for (block, offset) in [(0, 18), (1, 24), (3, 4000), (5, 8191), (7, 8)] {
        let (at, mut byte) = (block * PAGE + offset, [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
    }
    let (problems, _) = check_all(&cluster);
    assert_eq!(problems.iter().map(|problem| problem.block).collect::<Vec<_>>(), [0, 1, 3, 5, 7]);
    assert!(problems.iter().all(|problem| matches!(problem.fault, PageFault::Checksum { .. })));
    assert_eq!(server_check(&cluster).1, 5);
}

#[test]
fn transposed_pages_are_found_and_new_pages_are_not_a_problem() {
    let (cluster, table) = stopped_cluster_with_table(&["--data-checksums"]);
    let mut pages = fs::read(&table).unwrap();
    let (first, second) = pages.split_at_mut(PAGE as usize);
    first.swap_with_slice(&mut second[..PAGE as usize]);
    let count = pages.len() as u64 / PAGE;
    pages.resize(pages.len() + 3 * PAGE as usize, 0);
    fs::write(&table, &pages).unwrap();
    let (problems, counts) = check_file(&table, 0);
    assert_eq!(problems.iter().map(|problem| problem.block).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((counts.pages, counts.new), (count + 3, 3));
    assert_eq!(server_check(&cluster).1, 2);
}

#[test]
fn a_page_cut_short_is_reported() {
    let (_cluster, table) = stopped_cluster_with_table(&["--data-checksums"]);
    let file = fs::OpenOptions::new().write(true).open(&table).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len - 100).unwrap();
    let (problems, _) = check_file(&table, 0);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].fault, PageFault::Partial { found_bytes: 8092 });
    assert_eq!(u64::from(problems[0].block), len / PAGE - 1);
}

/// A second segment without two gigabytes of table: pages are moved to where segment 1 begins and
/// their checksums are made anew by the server's own `pg_checksums`.
#[test]
fn the_second_segment_counts_on_where_the_first_ends() {
    let (cluster, table) = stopped_cluster_with_table(&[]);
    let pages = fs::read(&table).unwrap();
    let first = fs::OpenOptions::new().write(true).open(&table).unwrap();
    first.set_len(131_072 * PAGE).unwrap();
    let second = PathBuf::from(format!("{}.1", text(&table)));
    fs::write(&second, &pages).unwrap();
    let owner = fs::metadata(&table).unwrap();
    chown(&second, Some(owner.uid()), Some(owner.gid())).unwrap();
    cluster.run("pg_checksums", ["--enable", "-D", text(&cluster.data())]);

    let (problems, counts) = check_file(&second, 1);
    assert_eq!((problems, counts.pages), (Vec::new(), pages.len() as u64 / PAGE));
    let (problems, _) = check_file(&second, 0);
    assert_eq!(problems.len() as u64, counts.pages, "numbered from zero every page is wrong");
}

#[test]
fn a_cluster_without_checksums_is_recognised_by_its_pages() {
    let (cluster, _) = stopped_cluster_with_table(&[]);
    let control = fs::read(cluster.data().join("global/pg_control")).unwrap();
    assert!(!ControlFile::parse(&control).unwrap().data_checksums);
    let (problems, counts) = check_all(&cluster);
    assert!(problems.iter().all(|problem| problem.fault == PageFault::NoChecksum));
    assert_eq!(counts.without_checksum + counts.new, counts.pages);
}
