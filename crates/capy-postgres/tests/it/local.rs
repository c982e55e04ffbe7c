//! A server's own files as a source: what comes out is what the server itself would send, while
//! it goes on working, and every way in which it cannot be is an error.
//!
//! Against all installed majors with `CAPY_TEST_MATRIX` set, otherwise the distribution's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use capy_postgres::backup_manifest::ChecksumAlgorithm;
use capy_postgres::label::{BackupLabel, TablespaceMap};
use capy_postgres::tar::{EndMarker, TarEntry};
use capy_postgres::{
    ArchiveKind, BaseBackupOptions, ConnectSettings, LocalOptions, LocalSource, PostgresError,
    ReplicationSource, Source, SourceEvent,
};
use capy_testkit::postgres::{Cluster, majors, text};
use capy_types::{Ctx, ErrorKind, Lsn};

use crate::archive::{Archive, check_manifest, receive};
use crate::majors::unpack;

/// How long a server may take to notice that a session has gone.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

const ROWS: u32 = 20_000;

/// A server with a tablespace, an unlogged table, and files that no backup holds.
fn server(major: u32) -> Cluster {
    let cluster = Cluster::start_major(major, &["--data-checksums"]);
    let location = cluster.make_directory("a space");
    cluster.sql(&format!("create tablespace s location '{}'", text(&location)));
    let rows = format!("select g, repeat('x', 100) as x from generate_series(1, {ROWS}) g");
    cluster.sql(&format!("create table kept tablespace s as {rows}; create table plain as {rows}"));
    cluster.sql(&format!("create unlogged table scratch as {rows}; create index on scratch (g)"));
    cluster
}

fn settings(cluster: &Cluster) -> ConnectSettings {
    ConnectSettings::parse(&format!("{} user=postgres", cluster.address()), |_| None).unwrap()
}

fn options(data_directory: PathBuf) -> LocalOptions {
    LocalOptions {
        data_directory,
        label: "it's ours".to_owned(),
        fast_checkpoint: true,
        include_wal: true,
        check_pages: true,
        threads: 3,
    }
}

async fn try_start(cluster: &Cluster, data_directory: PathBuf) -> Result<Source, PostgresError> {
    let source = LocalSource::start(&Ctx::default(), &settings(cluster), &options(data_directory)).await?;
    Ok(Source::Local(Box::new(source)))
}

async fn start(cluster: &Cluster) -> Source {
    let started = try_start(cluster, cluster.data()).await;
    started.unwrap_or_else(|error| panic!("PostgreSQL {}: {error}", cluster.major()))
}

/// What a restorer sees of an archive: entries by path, without the time of day.
fn by_path(archive: &Archive) -> BTreeMap<String, (TarEntry, Vec<u8>)> {
    let entries = archive.entries().into_iter();
    entries
        .map(|(entry, data)| {
            let path = String::from_utf8(entry.path.clone()).unwrap();
            let path = path.trim_start_matches("./").to_owned();
            (path.clone(), (TarEntry { mtime: 0, path: path.into(), ..entry }, data))
        })
        .collect()
}

#[tokio::test]
async fn what_is_read_is_what_the_server_itself_would_send() {
    for major in majors() {
        let cluster = server(major);
        let backup = BaseBackupOptions {
            label: "it's ours".to_owned(),
            fast_checkpoint: true,
            include_wal: true,
            incremental_from: None,
        };
        let streamed = ReplicationSource::start(&Ctx::default(), &settings(&cluster), &backup).await;
        let streamed = receive(&mut Source::Replication(Box::new(streamed.unwrap()))).await.unwrap();
        let mut source = start(&cluster).await;
        let local = receive(&mut source).await.unwrap();

        let kinds = |archives: &[Archive]| archives.iter().map(|a| a.kind.clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&local), kinds(&streamed), "PostgreSQL {major}");
        for (ours, theirs) in local[..2].iter().zip(&streamed) {
            assert_eq!(ours.parse().1, EndMarker::Complete);
            let (ours, theirs) = (by_path(ours), by_path(theirs));
            // Each backup has segments of its own.
            let lasting = |path: &&String| !path.starts_with("pg_wal/0") && !path.contains(".done");
            let paths = |entries: &BTreeMap<String, (TarEntry, Vec<u8>)>| {
                entries.keys().filter(lasting).cloned().collect::<Vec<_>>()
            };
            assert_eq!(paths(&ours), paths(&theirs), "PostgreSQL {major}");
            for (path, (entry, data)) in ours.iter().filter(|(path, _)| lasting(path)) {
                let (their_entry, their_data) = &theirs[path];
                assert_eq!(entry, their_entry, "PostgreSQL {major}: {path}");
                let changes = ["backup_label", "global/pg_control"].contains(&path.as_str());
                assert!(changes || data == their_data, "PostgreSQL {major}: {path}");
            }
        }
    }
}

#[tokio::test]
async fn the_source_says_what_the_backup_itself_says_and_the_manifest_lists_it_all() {
    for major in majors() {
        let cluster = server(major);
        let before: Lsn = cluster.sql("select pg_current_wal_lsn()").parse().unwrap();
        let mut source = start(&cluster).await;
        let archives = receive(&mut source).await.unwrap();
        let after: Lsn = cluster.sql("select pg_current_wal_lsn()").parse().unwrap();
        let facts = source.facts();
        let (start, stop) = (facts.start_lsn.unwrap(), facts.stop_lsn.unwrap());
        assert!(before <= start && start < stop && stop <= after, "{before} {start} {stop} {after}");
        assert_eq!(facts.version_num.unwrap() / 10_000, major);
        assert_eq!((facts.data_checksums, facts.wal_included), (Some(true), Some(true)));
        assert_eq!((facts.from_standby, facts.settings["wal_level"].as_str()), (Some(false), "replica"));

        let [space, base, manifest] = archives.as_slice() else { panic!("{} archives", archives.len()) };
        let mut files = base.files();
        let label = BackupLabel::parse(&files["backup_label"]).unwrap();
        assert_eq!((label.label.as_deref(), label.start_lsn), (Some("it's ours"), start));
        let map = TablespaceMap::parse(&files["tablespace_map"]).unwrap();
        let ArchiveKind::Tablespace { oid, location } = &space.kind else { panic!("{:?}", space.kind) };
        assert_eq!(map.locations, BTreeMap::from([(*oid, location.clone())]));
        files.extend(space.files());
        check_manifest(&manifest.bytes, &files, Some(ChecksumAlgorithm::Crc32c));
    }
}

/// Writes the archives as a data directory beside a tablespace.
fn restored(major: u32, archives: &[Archive]) -> Cluster {
    let (tablespace, base) = (&archives[0], &archives[1]);
    let ArchiveKind::Tablespace { oid, .. } = tablespace.kind else { panic!("{:?}", tablespace.kind) };
    Cluster::builder().major(major).start_from(|data| {
        let space = data.with_file_name("space");
        unpack(base, data);
        unpack(tablespace, &space);
        // The server makes the link to a tablespace from this file.
        fs::write(data.join("tablespace_map"), format!("{oid} {}\n", text(&space))).unwrap();
    })
}

/// Ends the churn however the test goes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_server_boots_on_a_backup_taken_while_tables_came_shrank_and_went() {
    for major in majors() {
        let cluster = server(major);
        let (done, began) = (AtomicBool::new(false), AtomicBool::new(false));
        let archives = std::thread::scope(|scope| {
            let _ends = Ends(&done);
            let churn = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    cluster.sql(
                        "create table if not exists come as select g, g::text x from generate_series(1, 9000) g;
                         truncate come; insert into come select g, 'y' from generate_series(1, 3000) g;
                         delete from plain where g % 7 = 0",
                    );
                    cluster.sql("vacuum plain");
                    cluster.sql("drop table come; create index i on kept (g); drop index i");
                    cluster.sql("insert into plain select g, 'late' from generate_series(1, 500) g");
                    began.store(true, Ordering::Relaxed);
                }
            });
            while !began.load(Ordering::Relaxed) {
                assert!(!churn.is_finished(), "the server refused a statement");
                std::thread::sleep(Duration::from_millis(1));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut source = try_start(&cluster, cluster.data()).await?;
                receive(&mut source).await
            })
        });
        let archives = archives.unwrap_or_else(|error| panic!("PostgreSQL {major}: {error}"));
        cluster.stop_server();
        let restored = restored(major, &archives);
        assert_eq!(restored.sql("select count(*), min(g), max(g) from kept"), format!("{ROWS}|1|{ROWS}"));
        assert_eq!(restored.sql("select count(*) from scratch"), "0", "unlogged tables are empty");
        // Every page of every relation is read, and every index agrees with its table.
        restored.sql("vacuum (freeze, disable_page_skipping)");
        restored.sql("reindex table plain");
        restored.sql("select count(*), sum(length(x)) from plain");
    }
}

#[tokio::test]
async fn what_is_committed_during_the_backup_comes_back() {
    for major in majors() {
        let cluster = server(major);
        let mut source = start(&cluster).await;
        cluster.sql("insert into plain values (0, 'late')");
        let archives = receive(&mut source).await.unwrap();
        cluster.stop_server();
        assert_eq!(restored(major, &archives).sql("select count(*) from plain"), (ROWS + 1).to_string());
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", &format!("{}/.", text(from)), text(to)]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_standby_is_backed_up_by_its_files_too() {
    let primary = Cluster::start(&["--data-checksums"]);
    primary.sql("create table t as select g from generate_series(1, 1000) g");
    let taken = primary.path().join("copy");
    primary.base_backup(&["-D", text(&taken), "-R", "-X", "stream"]);
    let standby = Cluster::builder().start_from(|data| copy(&taken, data));
    let write =
        |from: u32| primary.sql(&format!("insert into t select generate_series({from}, {})", from + 99));
    write(2001);
    let end = primary.sql("select pg_current_wal_flush_lsn()");
    let caught_up = Instant::now() + NOTICED_WITHIN;
    while standby.sql(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) != "t" {
        assert!(Instant::now() < caught_up, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut source = start(&standby).await;
    let archives = receive(&mut source).await.unwrap();
    assert_eq!(source.facts().from_standby, Some(true));
    drop(standby);
    let restored = Cluster::builder().start_from(|data| {
        unpack(&archives[0], data);
        let _ = fs::remove_file(data.join("standby.signal"));
    });
    assert_eq!(restored.sql("select count(*) from t"), "1100");
}

#[tokio::test]
async fn a_directory_that_is_not_the_servers_is_refused_by_what_shows_it() {
    let (cluster, other) = (server(*majors().last().unwrap()), Cluster::start(&[]));
    let kind_and_text = |outcome: Result<Source, PostgresError>| {
        let error = outcome.expect_err("refused");
        (error.kind(), error.to_string())
    };
    let (kind, problem) = kind_and_text(try_start(&cluster, other.data()).await);
    assert!(kind == ErrorKind::Invalid && problem.contains("it is of cluster"), "{problem}");
    let (kind, problem) = kind_and_text(try_start(&cluster, cluster.path().join("a space")).await);
    assert!(kind == ErrorKind::Invalid && problem.contains("no PG_VERSION"), "{problem}");
    let (kind, _) = kind_and_text(try_start(&cluster, cluster.path().join("nowhere")).await);
    assert_eq!(kind, ErrorKind::NotFound);
    // A copy at another path, and one that the server's path cannot tell from it.
    let copied = cluster.make_directory("copied");
    copy(&cluster.data(), &copied);
    let (kind, problem) = kind_and_text(try_start(&cluster, copied.clone()).await);
    assert!(kind == ErrorKind::Invalid && problem.contains("the server works on"), "{problem}");
    let reader =
        "create role reader login; grant execute on function pg_backup_start, pg_backup_stop to reader";
    cluster.sql(reader);
    let settings = format!("{} user=reader dbname=postgres", cluster.address());
    let settings = ConnectSettings::parse(&settings, |_| None).unwrap();
    let options = options(copied);
    let error = LocalSource::start(&Ctx::default(), &settings, &options).await.expect_err("refused");
    assert!(error.to_string().contains("its last checkpoint is at"), "{error}");
    // And the same role gets its backup from the right one.
    let options = LocalOptions { data_directory: cluster.data(), ..options };
    let source = LocalSource::start(&Ctx::default(), &settings, &options).await.unwrap();
    assert_eq!(receive(&mut Source::Local(Box::new(source))).await.unwrap().len(), 3);
    cluster.sql("revoke execute on function pg_backup_start from reader");
    let error = LocalSource::start(&Ctx::default(), &settings, &options).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

/// A backup of which the first bytes have come.
async fn begun(cluster: &Cluster) -> Source {
    cluster.sql("create table big as select g, repeat(md5(g::text), 30) from generate_series(1, 60000) g");
    let mut source = start(cluster).await;
    let mut received = 0;
    while received < 1 << 20 {
        let event = source.next().await.unwrap().expect("there is more");
        if let SourceEvent::Data(bytes) | SourceEvent::SoundPages(bytes) = event {
            received += bytes.len();
        }
    }
    source
}

async fn failure(source: &mut Source) -> PostgresError {
    loop {
        match source.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a backup whose session has ended was finished"),
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn a_session_that_is_ended_or_a_server_that_stops_fails_the_backup() {
    for major in majors() {
        let cluster = server(major);
        let mut source = begun(&cluster).await;
        let sessions = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                        where backend_type = 'client backend' and pid <> pg_backend_pid()";
        assert_eq!(cluster.sql(sessions), "1");
        let error = failure(&mut source).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "PostgreSQL {major}: {error}");
        assert_eq!(source.facts().stop_lsn, None);

        cluster.sql("drop table big");
        let mut source = begun(&cluster).await;
        cluster.stop_server();
        let error = failure(&mut source).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "PostgreSQL {major}: {error}");
    }
}

#[tokio::test]
async fn a_source_that_is_dropped_ends_the_session_and_its_slot() {
    let cluster = server(majors()[0]);
    drop(begun(&cluster).await);
    let give_up = Instant::now() + NOTICED_WITHIN;
    let left = "select (select count(*) from pg_replication_slots) + count(*) from pg_stat_activity
                where backend_type = 'client backend' and pid <> pg_backend_pid()";
    while cluster.sql(left) != "0" {
        assert!(Instant::now() < give_up, "the session lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
