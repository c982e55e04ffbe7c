//! Base backups of a real server: parsed, written again, checked against their own manifest.

use std::fs;

use capy_postgres::backup_manifest::ChecksumAlgorithm;
use capy_postgres::control::{ClusterState, ControlFile};
use capy_postgres::label::BackupLabel;
use capy_postgres::relation::{PathClass, classify};
use capy_postgres::source::TarSource;
use capy_postgres::tar::{EndMarker, TarEntry, clean_path};
use capy_postgres::{ArchiveKind, Source};
use capy_testkit::postgres::{Cluster, text};
use capy_types::Lsn;

use crate::archive::{Archive, check_manifest, receive};

async fn from_stdout(cluster: &Cluster, options: &[&str]) -> Archive {
    let options = [&["-D", "-", "-Ft", "--no-sync"], options].concat();
    let stream = cluster.base_backup(&options).stdout;
    let mut source = Source::Tar(TarSource::from_reader(std::io::Cursor::new(stream), "pg_basebackup"));
    receive(&mut source).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_stream_written_again_is_the_same_bytes() {
    let cluster = Cluster::start(&["--data-checksums"]);
    cluster.sql("create table t as select g, repeat('x', g % 100) from generate_series(1, 5000) g");
    let archive = from_stdout(&cluster, &["-X", "fetch"]).await;
    assert_eq!(archive.parse().1, EndMarker::Complete);
    assert!(archive.bytes.len() > 20 << 20, "there is a backup");
    assert!(archive.written_again() == archive.bytes);
}

#[tokio::test]
async fn the_entries_of_a_stream_say_what_the_server_says() {
    let cluster = Cluster::start(&["--data-checksums", "--wal-segsize=1"]);
    cluster.sql("create table t as select g from generate_series(1, 5000) g");
    let archive = from_stdout(&cluster, &["-X", "fetch", "-l", "a label"]).await;
    let files = archive.files();
    check_manifest(&files["backup_manifest"], &files, Some(ChecksumAlgorithm::Crc32c));

    let label = BackupLabel::parse(&files["backup_label"]).unwrap();
    assert_eq!((label.label.as_deref(), label.from_standby), (Some("a label"), false));
    assert!(files.contains_key(&format!("pg_wal/{}", label.start_segment)), "WAL is included");

    let control = ControlFile::parse(&files["global/pg_control"]).unwrap();
    let server = cluster.sql(
        "select system_identifier::text || ' ' || pg_control_version || ' ' || catalog_version_no \
         || ' ' || redo_lsn || ' ' || timeline_id || ' ' || checkpoint_lsn \
         from pg_control_system(), pg_control_checkpoint()",
    );
    let found = format!(
        "{} {} {} {} {} {}",
        control.system_id,
        control.control_version,
        control.catalog_version,
        control.redo_lsn,
        control.timeline,
        control.checkpoint_lsn
    );
    assert_eq!(found, server);
    assert_eq!(control.state, ClusterState::InProduction);
    assert_eq!(control.segment_size.bytes(), 1 << 20);
    assert!(control.data_checksums);
    assert_eq!(control.limits.max_connections.to_string(), cluster.sql("show max_connections"));
    assert_eq!(control.limits.max_wal_senders, 10);
    assert_eq!(label.start_lsn, control.redo_lsn);
    assert_ne!(control.redo_lsn, Lsn::INVALID);

    // Every relation the server knows is classified as one, and nothing else is.
    let known: i64 = cluster.sql("select count(*) from pg_class where relfilenode <> 0").parse().unwrap();
    let path: String = cluster.sql("select pg_relation_filepath('t')");
    let class = |path: &str| classify(&ArchiveKind::Base, path.as_bytes());
    assert!(matches!(class(&path), PathClass::Relation(_)));
    let relations = files.keys().filter(|path| matches!(class(path), PathClass::Relation(_))).count() as i64;
    assert!(relations > known, "{relations} relation files for {known} relations of one database");
    for (path, data) in &files {
        if matches!(class(path), PathClass::Relation(_)) {
            assert!(data.len().is_multiple_of(8192), "{path} is whole pages");
        }
    }
}

#[tokio::test]
async fn a_directory_of_tars_is_one_complete_backup() {
    let cluster = Cluster::start(&[]);
    let location = cluster.make_directory("space");
    cluster.sql(&format!("create tablespace s location '{}'", text(&location)));
    cluster.sql("create table t tablespace s as select g from generate_series(1, 5000) g");
    let oid: u32 = cluster.sql("select oid from pg_tablespace where spcname = 's'").parse().unwrap();
    let backup = cluster.path().join("backup");
    cluster.base_backup(&["-D", text(&backup), "-Ft", "-X", "stream", "--manifest-checksums=SHA256"]);

    let mut source = Source::Tar(TarSource::open(&backup).unwrap());
    let facts = source.facts();
    assert_eq!((facts.tablespaces[0].oid, facts.tablespaces[0].location.as_str()), (oid, text(&location)));
    let archives = receive(&mut source).await.unwrap();
    let [tablespace, base, manifest] = archives.as_slice() else { panic!("{} archives", archives.len()) };
    assert_eq!(tablespace.kind, ArchiveKind::Tablespace { oid, location: text(&location).to_owned() });
    assert_eq!((&base.kind, &manifest.kind), (&ArchiveKind::Base, &ArchiveKind::BackupManifest));

    let mut files = base.files();
    assert!(files.keys().any(|path| path.starts_with("pg_wal/0000000")), "WAL came from pg_wal.tar");
    let relation = tablespace.files();
    assert!(!relation.is_empty());
    let class = |entry: &TarEntry| classify(&tablespace.kind, &clean_path(&entry.path).unwrap());
    assert!(tablespace.entries().iter().any(|(entry, _)| matches!(class(entry), PathClass::Relation(_))));
    files.extend(relation);
    check_manifest(&manifest.bytes, &files, Some(ChecksumAlgorithm::Sha256));

    fs::remove_file(backup.join(format!("{oid}.tar"))).unwrap();
    let refused = TarSource::open(&backup).unwrap_err().to_string();
    assert!(refused.contains(&format!("has no {oid}.tar")), "{refused}");
}

#[tokio::test]
async fn manifests_without_checksums_and_with_encoded_paths_are_read() {
    let cluster = Cluster::start(&[]);
    let archive =
        from_stdout(&cluster, &["-X", "none", "--manifest-checksums=NONE", "--manifest-force-encode"]).await;
    let files = archive.files();
    check_manifest(&files["backup_manifest"], &files, None);
}
