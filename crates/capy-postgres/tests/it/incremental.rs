//! Incremental base backups: what a server of 17 or later sends, put together with the backup
//! before it, is a cluster that boots with every row; what it refuses becomes a full backup.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use capy_postgres::backup_manifest::ChecksumAlgorithm;
use capy_postgres::incremental::{IncrementalEvent, IncrementalReader, segment_path};
use capy_postgres::label::{BackupLabel, without_incremental_lines};
use capy_postgres::{ArchiveKind, BaseBackupOptions, ConnectSettings, ReplicationSource, Source};
use capy_testkit::postgres::{Cluster, majors, text};
use capy_types::{Ctx, Problem, Progress};

use crate::archive::{check_manifest, receive};
use crate::majors::unpack;

/// Remembers what it is told of.
#[derive(Default)]
struct Told(Mutex<Vec<Problem>>);

impl Progress for Told {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem);
    }
}

async fn start(cluster: &Cluster, incremental_from: Option<Bytes>) -> (ReplicationSource, Arc<Told>) {
    let settings = format!("{} user=postgres", cluster.address());
    let settings = ConnectSettings::parse(&settings, |_| None).unwrap();
    let options = BaseBackupOptions {
        label: "test".to_owned(),
        fast_checkpoint: true,
        include_wal: true,
        incremental_from,
    };
    let told = Arc::new(Told::default());
    let ctx = Ctx { progress: told.clone(), ..Ctx::default() };
    let source = ReplicationSource::start(&ctx, &settings, &options).await;
    (source.unwrap_or_else(|error| panic!("PostgreSQL {}: {error}", cluster.major())), told)
}

fn server(major: u32) -> Cluster {
    let mut builder = Cluster::builder().major(major).initdb(&["--data-checksums"]);
    if major >= 17 {
        builder = builder.setting("summarize_wal = on");
    }
    let cluster = builder.start();
    cluster.sql("create table t (id int primary key, word text) with (fillfactor = 50)");
    cluster.sql("insert into t select g, md5(g::text) from generate_series(1, 50000) g");
    cluster.sql("create table gone as select g from generate_series(1, 10000) g");
    cluster.sql("create table cut as select g from generate_series(1, 50000) g");
    cluster
}

/// Writes a file of changed blocks onto the segment of the earlier backup.
fn put_together(segment: &Path, changed: &[u8]) {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(segment).unwrap();
    let (mut reader, mut rest) = (IncrementalReader::new(changed.len() as u64), changed);
    loop {
        let (taken, event) = reader.feed(rest).unwrap();
        rest = &rest[taken..];
        match event {
            // First cut, so that what lay behind does not come back; then as long as it is to be.
            IncrementalEvent::Header(header) => {
                let before = file.metadata().unwrap().len();
                file.set_len(before.min(u64::from(header.truncation_blocks) * 8192)).unwrap();
                file.set_len(header.length_bytes()).unwrap();
            }
            IncrementalEvent::Block { number, within, data } => {
                file.write_all_at(data, u64::from(number) * 8192 + within as u64).unwrap();
            }
            IncrementalEvent::NeedMore => break,
        }
    }
    reader.finish().unwrap();
}

/// Bytes of the files that are no WAL.
fn without_wal(files: &BTreeMap<String, Vec<u8>>) -> usize {
    files.iter().filter(|(path, _)| !path.starts_with("pg_wal/")).map(|(_, bytes)| bytes.len()).sum()
}

#[tokio::test]
async fn changed_blocks_and_the_backup_before_them_make_a_cluster_with_every_row() {
    for major in majors().into_iter().filter(|major| *major >= 17) {
        let cluster = server(major);
        let (source, told) = start(&cluster, None).await;
        assert!(!source.is_incremental() && told.0.lock().unwrap().is_empty());
        let full = receive(&mut Source::Replication(Box::new(source))).await.unwrap();
        let manifest = Bytes::from(full.last().unwrap().bytes.clone());

        cluster.sql("update t set word = 'changed' where id % 1000 = 0");
        cluster.sql("drop table gone");
        cluster.sql("delete from cut where g > 100");
        cluster.sql("vacuum cut");
        cluster.sql("create table new as select g from generate_series(1, 20000) g");
        let checks = [
            "select count(*), sum(hashtext(word)) from t",
            "select sum(g) from cut",
            "select sum(g) from new",
        ];
        let expected = checks.map(|check| cluster.sql(check));

        let (source, told) = start(&cluster, Some(manifest)).await;
        assert!(source.is_incremental(), "PostgreSQL {major}: {:?}", told.0.lock().unwrap());
        let mut source = Source::Replication(Box::new(source));
        let changed = receive(&mut source).await.unwrap();
        assert!(source.facts().incremental);
        let (base, manifest) = (&changed[0], &changed[1]);
        assert_eq!(base.kind, ArchiveKind::Base);
        let files = base.files();
        let (sent, whole) = (without_wal(&files), without_wal(&full[0].files()));
        assert!(sent * 2 < whole, "{sent} bytes sent of {whole}");
        check_manifest(&manifest.bytes, &files, Some(ChecksumAlgorithm::Crc32c));
        assert!(BackupLabel::parse(&files["backup_label"]).unwrap().incremental_from.is_some());
        cluster.stop_server();

        let restored = Cluster::builder().major(major).start_from(|data| {
            let before = data.with_file_name("before");
            unpack(&full[0], &before);
            unpack(base, data);
            let changed: BTreeMap<_, _> = files
                .iter()
                .filter_map(|(path, bytes)| Some((path, (segment_path(path.as_bytes())?, bytes))))
                .collect();
            assert!(changed.len() > 100);
            for (path, (segment, bytes)) in changed {
                let segment = String::from_utf8(segment).unwrap();
                fs::remove_file(data.join(path)).unwrap();
                if before.join(&segment).exists() {
                    fs::copy(before.join(&segment), data.join(&segment)).unwrap();
                }
                put_together(&data.join(&segment), bytes);
            }
            let label = without_incremental_lines(&files["backup_label"]);
            fs::write(data.join("backup_label"), label).unwrap();
            fs::remove_dir_all(&before).unwrap();
            assert!(text(data).starts_with('/'));
        });
        assert_eq!(checks.map(|check| restored.sql(check)), expected, "PostgreSQL {major}");
        assert_eq!(restored.sql("select to_regclass('gone') is null"), "t");
    }
}

#[tokio::test]
async fn what_the_server_cannot_do_becomes_a_full_backup_with_the_reason_said() {
    for major in majors() {
        let cluster = server(major);
        let foreign = Bytes::from_static(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n");
        let (source, told) = start(&cluster, Some(foreign)).await;
        assert!(!source.is_incremental());
        let told: Vec<_> = told.0.lock().unwrap().iter().map(|problem| problem.message.clone()).collect();
        let [reason] = told.as_slice() else { panic!("{told:?}") };
        assert!(reason.starts_with("not possible, so everything is sent: "), "{reason}");
        assert_eq!(reason.contains("only 17 and later"), major < 17, "{reason}");
        let archives = receive(&mut Source::Replication(Box::new(source))).await.unwrap();
        let files = archives[0].files();
        assert!(!files.keys().any(|path| segment_path(path.as_bytes()).is_some()));
        assert!(files.contains_key("global/pg_control"));
    }
}
