//! Base backups of a real server: parsed, written again, checked against their own manifest.

use std::collections::BTreeMap;
use std::fs;

use capy_postgres::backup_manifest::{ChecksumAlgorithm, FileChecksum, ManifestParser};
use capy_postgres::control::{ClusterState, ControlFile};
use capy_postgres::label::BackupLabel;
use capy_postgres::relation::{PathClass, classify};
use capy_postgres::source::TarSource;
use capy_postgres::tar::{EndMarker, EntryKind, TarEntry, TarEvent, TarParser, TarWriter, clean_path};
use capy_postgres::{ArchiveKind, Source, SourceEvent};
use capy_testkit::postgres::{Cluster, text};
use capy_types::Lsn;

struct Archive {
    kind: ArchiveKind,
    bytes: Vec<u8>,
}

impl Archive {
    fn entries(&self) -> Vec<(TarEntry, Vec<u8>)> {
        let (mut parser, mut rest, mut entries) = (TarParser::new(), self.bytes.as_slice(), Vec::new());
        loop {
            let (taken, event) = parser.feed(rest).unwrap();
            rest = &rest[taken..];
            match event {
                TarEvent::Entry(entry) => entries.push((entry, Vec::new())),
                TarEvent::Data(data) => entries.last_mut().unwrap().1.extend_from_slice(data),
                TarEvent::EndEntry => {}
                TarEvent::NeedMore => break,
            }
        }
        assert_eq!(parser.finish().unwrap().marker, EndMarker::Complete);
        entries
    }

    /// The archive's files by the path a manifest gives them.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let prefix = match &self.kind {
            ArchiveKind::Tablespace { oid, .. } => format!("pg_tblspc/{oid}/"),
            _ => String::new(),
        };
        let files = self.entries().into_iter().filter(|(entry, _)| entry.kind == EntryKind::File);
        files
            .map(|(entry, data)| {
                let path = clean_path(&entry.path).unwrap().into_owned();
                (prefix.clone() + &String::from_utf8(path).unwrap(), data)
            })
            .collect()
    }
}

async fn archives(mut source: Source) -> Vec<Archive> {
    let mut archives: Vec<Archive> = Vec::new();
    while let Some(event) = source.next().await.unwrap() {
        match event {
            SourceEvent::Archive(start) => archives.push(Archive { kind: start.kind, bytes: Vec::new() }),
            SourceEvent::Data(bytes) => archives.last_mut().unwrap().bytes.extend_from_slice(&bytes),
            _ => {}
        }
    }
    archives
}

async fn from_stdout(cluster: &Cluster, options: &[&str]) -> Archive {
    let options = [&["-D", "-", "-Ft", "--no-sync"], options].concat();
    let stream = cluster.base_backup(&options).stdout;
    let source = Source::Tar(TarSource::from_reader(std::io::Cursor::new(stream), "pg_basebackup"));
    archives(source).await.remove(0)
}

/// What the manifest says of each file, and whether the files are those it names. A manifest
/// does not list itself.
fn check_manifest(manifest: &[u8], files: &BTreeMap<String, Vec<u8>>, algorithm: Option<ChecksumAlgorithm>) {
    let mut listed = BTreeMap::new();
    let mut parser = ManifestParser::new();
    for piece in manifest.chunks(1000) {
        parser
            .feed(piece, |file| {
                listed.insert(String::from_utf8(file.path.clone()).unwrap(), file);
            })
            .unwrap();
    }
    let summary = parser.finish().unwrap();
    assert_eq!(summary.files, listed.len() as u64);
    assert_eq!(summary.wal_ranges.len(), 1);
    // WAL segments are covered by the WAL ranges; their archive status files are listed.
    let unlisted = |path: &&String| !listed.contains_key(*path) && *path != "backup_manifest";
    let surplus: Vec<&String> =
        files.keys().filter(unlisted).filter(|path| !path.starts_with("pg_wal/")).collect();
    assert_eq!(surplus, [""; 0], "files that the manifest does not list");
    let missing: Vec<&String> = listed.keys().filter(|path| !files.contains_key(*path)).collect();
    assert_eq!(missing, [""; 0], "files that are only in the manifest");
    for (path, file) in &listed {
        let data = &files[path];
        assert_eq!(file.size_bytes, data.len() as u64, "{path}");
        let computed: Option<FileChecksum> = algorithm.map(|algorithm| {
            let mut hasher = algorithm.hasher();
            hasher.update(data);
            hasher.finish()
        });
        assert_eq!(file.checksum, computed, "{path}");
    }
}

#[tokio::test]
async fn a_stream_written_again_is_the_same_bytes() {
    let cluster = Cluster::start(&["--data-checksums"]);
    cluster.sql("create table t as select g, repeat('x', g % 100) from generate_series(1, 5000) g");
    let archive = from_stdout(&cluster, &["-X", "fetch"]).await;
    let (mut writer, mut again) = (TarWriter::new(), Vec::new());
    for (entry, data) in archive.entries() {
        writer.begin(&entry, &mut again).unwrap();
        writer.passed(data.len() as u64).unwrap();
        again.extend_from_slice(&data);
        writer.end(&mut again).unwrap();
    }
    writer.finish(1024, &mut again).unwrap();
    assert!(archive.bytes.len() > 20 << 20, "there is a backup");
    assert!(again == archive.bytes);
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

    let source = Source::Tar(TarSource::open(&backup).unwrap());
    let facts = source.facts();
    assert_eq!((facts.tablespaces[0].oid, facts.tablespaces[0].location.as_str()), (oid, text(&location)));
    let archives = archives(source).await;
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
