//! Base backups over the replication protocol from a server of every major: what the source says
//! of them, and that a server boots on what the crate writes of them.
//!
//! Against all installed majors with `CAPY_TEST_MATRIX` set, otherwise the distribution's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use capy_postgres::backup_manifest::ChecksumAlgorithm;
use capy_postgres::control::ControlFile;
use capy_postgres::label::{BackupLabel, TablespaceMap};
use capy_postgres::page::PageChecker;
use capy_postgres::relation::{PathClass, classify};
use capy_postgres::tar::EndMarker;
use capy_postgres::{
    ArchiveKind, BaseBackupOptions, ConnectSettings, PostgresError, ReplicationSource, Source, SourceEvent,
};
use capy_testkit::postgres::{Cluster, majors, text};
use capy_types::{Ctx, ErrorKind, Lsn};

use crate::archive::{Archive, check_manifest, receive, receive_until_end};

/// What a backup of a server that vanished may take to fail. The server itself takes up to 5 s to
/// kill a sender that is stuck in sending.
const FAILS_WITHIN: Duration = Duration::from_secs(30);

/// Rows of the tables.
const ROWS: u32 = 20_000;

/// A word in every row of the table `kept`, which lies in a tablespace of its own.
const WORD: &str = "capybaras-do-not-forget";

/// A server with page checksums and a user tablespace.
fn server(major: u32) -> Cluster {
    let cluster = Cluster::start_major(major, &["--data-checksums"]);
    let location = cluster.make_directory("a space");
    cluster.sql(&format!("create tablespace s location '{}'", text(&location)));
    let rows = format!("select g, '{WORD}'::text as word from generate_series(1, {ROWS}) g");
    cluster.sql(&format!("create table kept tablespace s as {rows}; create table plain as {rows}"));
    cluster
}

async fn start(cluster: &Cluster, include_wal: bool) -> Source {
    let text = format!("{} user=postgres", cluster.address());
    let settings = ConnectSettings::parse(&text, |_| None).unwrap();
    let options = BaseBackupOptions {
        label: "it's ours".to_owned(),
        fast_checkpoint: true,
        include_wal,
        incremental_from: None,
    };
    let source = ReplicationSource::start(&Ctx::default(), &settings, &options).await;
    let source = source.unwrap_or_else(|error| panic!("PostgreSQL {}: {error}", cluster.major()));
    Source::Replication(Box::new(source))
}

#[tokio::test]
async fn the_source_says_what_the_server_and_the_backup_itself_say() {
    for major in majors() {
        let cluster = server(major);
        let before: Lsn = cluster.sql("select pg_current_wal_lsn()").parse().unwrap();
        let mut source = start(&cluster, true).await;
        let archives = receive(&mut source).await.unwrap();
        let after: Lsn = cluster.sql("select pg_current_wal_lsn()").parse().unwrap();
        let facts = source.facts();

        let (start, stop) = (facts.start_lsn.unwrap(), facts.stop_lsn.unwrap());
        assert!(before <= start && start < stop && stop <= after, "{before} {start} {stop} {after}");
        assert_eq!(facts.version_num.unwrap() / 10_000, major);
        assert_eq!(facts.timeline, Some("1".parse().unwrap()));
        assert_eq!((facts.data_checksums, facts.wal_included), (Some(true), Some(true)));
        assert_eq!(facts.settings["wal_level"], "replica");

        let [space, base, manifest] = archives.as_slice() else { panic!("{} archives", archives.len()) };
        let oid: u32 = cluster.sql("select oid from pg_tablespace where spcname = 's'").parse().unwrap();
        let location = cluster.path().join("a space");
        let location = text(&location);
        assert_eq!(space.kind, ArchiveKind::Tablespace { oid, location: location.to_owned() });
        assert_eq!((&base.kind, &manifest.kind), (&ArchiveKind::Base, &ArchiveKind::BackupManifest));
        assert_eq!((facts.tablespaces[0].oid, facts.tablespaces[0].location.as_str()), (oid, location));
        let end = if major < 15 { EndMarker::Missing } else { EndMarker::Complete };
        assert_eq!((space.parse().1, base.parse().1), (end, end));

        let mut files = base.files();
        let label = BackupLabel::parse(&files["backup_label"]).unwrap();
        assert_eq!((label.label.as_deref(), label.start_lsn), (Some("it's ours"), start));
        let map = TablespaceMap::parse(&files["tablespace_map"]).unwrap();
        assert_eq!(map.locations, BTreeMap::from([(oid, location.to_owned())]));
        let control = ControlFile::parse(&files["global/pg_control"]).unwrap();
        assert_eq!(Some(control.system_id), facts.system_id);
        assert!(files.contains_key(&format!("pg_wal/{}", label.start_segment)), "WAL is included");
        files.extend(space.files());
        check_manifest(&manifest.bytes, &files, Some(ChecksumAlgorithm::Crc32c));
    }
}

#[tokio::test]
async fn without_wal_there_is_none_and_the_source_says_so() {
    for major in majors() {
        let cluster = server(major);
        let mut source = start(&cluster, false).await;
        let archives = receive(&mut source).await.unwrap();
        assert_eq!(source.facts().wal_included, Some(false));
        let files = archives[1].files();
        let wal: Vec<&String> = files.keys().filter(|path| path.starts_with("pg_wal/")).collect();
        assert_eq!(wal, [""; 0], "PostgreSQL {major}");
    }
}

#[tokio::test]
async fn the_pages_of_a_known_table_are_in_its_tablespace_sound_and_with_all_rows() {
    for major in majors() {
        let cluster = server(major);
        cluster.sql("checkpoint");
        let path = cluster.sql("select pg_relation_filepath('kept')");
        let archives = receive(&mut start(&cluster, false).await).await.unwrap();
        let files = archives[0].files();
        let (mut words, mut pages) = (0, 0);
        for (name, data) in &files {
            let relative = name.splitn(3, '/').last().unwrap();
            let PathClass::Relation(file) = classify(&archives[0].kind, relative.as_bytes()) else {
                continue;
            };
            let mut checker = PageChecker::new(file.segment);
            checker.feed(data, |problem| panic!("PostgreSQL {major}: {name}: {problem}"));
            pages += checker.finish(|problem| panic!("PostgreSQL {major}: {name}: {problem}")).pages;
            if *name == path {
                words = data.windows(WORD.len()).filter(|window| *window == WORD.as_bytes()).count();
            }
        }
        assert!(pages > 100, "{pages} pages of the table and its free space map");
        assert_eq!(words, ROWS as usize, "PostgreSQL {major}: {path}");
    }
}

/// Unpacks a tar as the crate writes it.
pub(crate) fn unpack(archive: &Archive, target: &Path) {
    let tar = target.with_extension("tar");
    fs::write(&tar, archive.written_again()).unwrap();
    fs::create_dir_all(target).unwrap();
    let mut command = std::process::Command::new("tar");
    command.args(["-x", "--no-same-owner", "-f", text(&tar), "-C", text(target)]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_server_boots_on_what_is_written_again_with_its_rows_and_its_tablespace() {
    for major in majors() {
        let cluster = server(major);
        let mut source = start(&cluster, true).await;
        // Committed during the backup: it comes back through the WAL.
        cluster.sql("insert into plain values (0, 'late')");
        let archives = receive(&mut source).await.unwrap();
        let (tablespace, base) = (&archives[0], &archives[1]);
        let ArchiveKind::Tablespace { oid, .. } = tablespace.kind else { panic!("{:?}", tablespace.kind) };
        cluster.stop_server();

        let restored = Cluster::builder().major(major).start_from(|data| {
            let space = data.with_file_name("space");
            unpack(base, data);
            unpack(tablespace, &space);
            // The server makes the link to a tablespace from this file.
            fs::write(data.join("tablespace_map"), format!("{oid} {}\n", text(&space))).unwrap();
        });
        let counts = format!("select count(*), count(distinct g) from kept where word = '{WORD}'");
        assert_eq!(restored.sql(&counts), format!("{ROWS}|{ROWS}"), "PostgreSQL {major}");
        assert_eq!(restored.sql("select count(*) from plain"), (ROWS + 1).to_string());
        assert!(
            restored
                .sql("select pg_tablespace_location(oid) from pg_tablespace where spcname = 's'")
                .ends_with("/space")
        );
        let log = fs::read_to_string(restored.path().join("log")).unwrap();
        assert!(log.contains("consistent recovery state reached"), "it recovered from the backup: {log}");
    }
}

/// A backup of which the first megabytes have come while the server still holds most of it back.
async fn half_received(cluster: &Cluster) -> Source {
    cluster.sql("create table big as select g, repeat(md5(g::text), 30) from generate_series(1, 60000) g");
    let mut source = start(cluster, true).await;
    let mut received = 0;
    while received < 4 << 20 {
        if let SourceEvent::Data(bytes) = source.next().await.unwrap().expect("there is more") {
            received += bytes.len();
        }
    }
    source
}

/// What the rest of the backup ends with, which must be an error, soon, and for ever.
async fn failure(source: &mut Source) -> PostgresError {
    let end = tokio::time::timeout(FAILS_WITHIN, async {
        loop {
            match source.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the backup of a dead server was finished"),
                Err(error) => return error,
            }
        }
    });
    let error = end.await.expect("it fails in time");
    let again = tokio::time::timeout(FAILS_WITHIN, source.next()).await.expect("it answers in time");
    assert!(again.is_err(), "after an error nothing comes: {again:?}");
    assert_eq!(source.facts().stop_lsn, None);
    error
}

#[tokio::test]
async fn a_server_killed_in_the_middle_is_a_lost_connection_and_never_a_finished_backup() {
    for major in majors() {
        let cluster = server(major);
        let mut source = half_received(&cluster).await;
        cluster.kill_server();
        let error = failure(&mut source).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "PostgreSQL {major}: {error}");
        assert!(matches!(error, PostgresError::ConnectionLost { .. }), "PostgreSQL {major}: {error}");
    }
}

#[tokio::test]
async fn a_backup_that_an_administrator_ends_is_unavailable_and_never_finished() {
    for major in majors() {
        let cluster = server(major);
        let mut source = half_received(&cluster).await;
        let ended = "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walsender'";
        assert_eq!(cluster.sql(ended), "t");
        let error = failure(&mut source).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "PostgreSQL {major}: {error}");
    }
}

#[tokio::test]
async fn a_source_that_is_dropped_ends_the_backup_at_the_server() {
    for major in majors() {
        let cluster = server(major);
        drop(half_received(&cluster).await);
        until_nothing_is_sent(&cluster).await;
    }
}

/// Waits until the server has no sender left; it notices the end of a connection by sending.
pub(crate) async fn until_nothing_is_sent(cluster: &Cluster) {
    let give_up = Instant::now() + FAILS_WITHIN;
    while cluster.sql("select count(*) from pg_stat_activity where backend_type = 'walsender'") != "0" {
        assert!(Instant::now() < give_up, "PostgreSQL {} still sends", cluster.major());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The server looks at the pages too. What it finds must not cost the other pages their backup:
/// its verdict is an error, but one that comes when everything else has come.
#[tokio::test]
async fn a_damaged_page_is_delivered_and_the_verdict_of_the_server_comes_last() {
    for major in majors() {
        let mut cluster = server(major);
        let path = cluster.sql("select pg_relation_filepath('plain')");
        cluster.stop_server();
        let file = fs::OpenOptions::new().write(true).open(cluster.data().join(&path)).unwrap();
        file.write_all_at(&[0xff], 8191).unwrap();
        cluster.start_server();

        let mut source = start(&cluster, true).await;
        let (archives, end) = receive_until_end(&mut source).await;
        let Err(PostgresError::Server(verdict)) = end else { panic!("PostgreSQL {major}: {end:?}") };
        assert_eq!(verdict.code, "XX001", "PostgreSQL {major}: {verdict}");
        let [space, base, manifest] = archives.as_slice() else { panic!("{} archives", archives.len()) };
        let mut files = base.files();
        let mut problems = Vec::new();
        let mut checker = PageChecker::new(0);
        checker.feed(&files[&path], |problem| problems.push(problem.block));
        checker.finish(|_| {});
        assert_eq!(problems, [0], "PostgreSQL {major}");
        files.extend(space.files());
        check_manifest(&manifest.bytes, &files, Some(ChecksumAlgorithm::Crc32c));
        let facts = source.facts();
        assert!(facts.stop_lsn > facts.start_lsn, "PostgreSQL {major}: the end is known all the same");
    }
}
