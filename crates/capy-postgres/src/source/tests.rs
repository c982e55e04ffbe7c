//! Tar and stream sources over files, directories and pipes.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use capy_types::ErrorKind;
use tempfile::TempDir;

use super::*;
use crate::tar::{EntryKind, TarEntry, TarEvent, TarParser, TarWriter};

type Archive = (ArchiveKind, Vec<u8>);
type Files<'a> = &'a [(&'a str, &'a [u8])];

async fn collect(mut source: Source) -> Result<Vec<Archive>, PostgresError> {
    let mut archives: Vec<Archive> = Vec::new();
    let mut open = false;
    while let Some(event) = source.next().await? {
        match event {
            SourceEvent::Archive(start) => {
                assert!(!open, "an archive begins inside another");
                open = true;
                archives.push((start.kind, Vec::new()));
            }
            SourceEvent::Data(bytes) | SourceEvent::SoundPages(bytes) => {
                assert!(open && !bytes.is_empty());
                archives.last_mut().unwrap().1.extend_from_slice(&bytes);
            }
            SourceEvent::EndArchive => {
                assert!(open);
                open = false;
            }
            SourceEvent::Progress(_) => {}
            SourceEvent::Cells { .. } | SourceEvent::KnownCells(_) => panic!("nobody knows cells"),
        }
    }
    assert!(!open, "an archive was left open");
    assert!(source.next().await?.is_none(), "the end stays the end");
    Ok(archives)
}

fn tar(entries: Files<'_>, trailing_zeros: u32) -> Vec<u8> {
    let (mut writer, mut out) = (TarWriter::new(), Vec::new());
    for (path, data) in entries {
        let entry = TarEntry {
            path: path.as_bytes().to_vec(),
            kind: EntryKind::File,
            size: data.len() as u64,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: 0,
            owner: "postgres".to_owned(),
            group: "postgres".to_owned(),
            link_target: Vec::new(),
        };
        writer.begin(&entry, &mut out).unwrap();
        writer.passed(entry.size).unwrap();
        out.extend_from_slice(data);
        writer.end(&mut out).unwrap();
    }
    writer.finish(trailing_zeros, &mut out).unwrap();
    out
}

fn names(mut tar: &[u8]) -> Vec<(String, usize)> {
    let (mut parser, mut names) = (TarParser::new(), Vec::new());
    loop {
        let (taken, event) = parser.feed(tar).unwrap();
        tar = &tar[taken..];
        match event {
            TarEvent::Entry(entry) => {
                names.push((String::from_utf8(entry.path).unwrap(), entry.size as usize))
            }
            TarEvent::NeedMore => break,
            _ => {}
        }
    }
    assert_eq!(parser.finish().unwrap().marker, crate::tar::EndMarker::Complete);
    names
}

fn directory(files: Files<'_>) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

fn open(path: &Path) -> Result<Source, PostgresError> {
    TarSource::open(path).map(Source::Tar)
}

#[tokio::test]
async fn one_tar_file_is_the_base_archive_byte_for_byte() {
    let content = tar(&[("backup_label", b"label"), ("base/1/1249", &[9; 3 << 20])], 1024);
    let directory = directory(&[("some.tar", &content)]);
    let source = open(&directory.path().join("some.tar")).unwrap();
    assert_eq!(source.total_bytes(), Some(content.len() as u64));
    assert!(collect(source).await.unwrap() == [(ArchiveKind::Base, content)]);
}

#[tokio::test]
async fn a_directory_gives_tablespaces_then_base_then_manifest() {
    let map = b"16384 /srv/fast\n16390 /srv/slow\n";
    let base = tar(&[("backup_label", b"label"), ("tablespace_map", map), ("PG_VERSION", b"15\n")], 1024);
    let (fast, slow, wal) = (tar(&[("f", b"1")], 0), tar(&[("s", b"22")], 10_240), tar(&[], 1024));
    let directory = directory(&[
        ("base.tar", &base),
        ("16390.tar", &slow),
        ("16384.tar", &fast),
        ("20000.tar", &wal),
        ("backup_manifest", b"{}"),
        ("notes.txt", b"not ours"),
    ]);
    let source = open(directory.path()).unwrap();
    let expected = base.len() + slow.len() + fast.len() + wal.len() + 2;
    assert_eq!(source.total_bytes(), Some(expected as u64));
    assert_eq!(source.facts().tablespaces.len(), 3);
    let tablespace = |oid, location: &str| ArchiveKind::Tablespace { oid, location: location.to_owned() };
    let archives = collect(source).await.unwrap();
    assert!(
        archives
            == [
                (tablespace(16384, "/srv/fast"), fast),
                (tablespace(16390, "/srv/slow"), slow),
                (tablespace(20000, ""), wal),
                (ArchiveKind::Base, base),
                (ArchiveKind::BackupManifest, b"{}".to_vec()),
            ]
    );
}

#[tokio::test]
async fn wal_beside_the_backup_appears_inside_the_base_archive() {
    let segment = vec![5; (1 << 20) + 512];
    for zeros in [0, 512, 1024, 10_240, 2_000_384] {
        let base = tar(&[("PG_VERSION", b"15\n"), ("global/pg_control", &[1; 8192])], zeros);
        let wal = tar(&[("000000010000000000000002", &segment), ("archive_status/x.done", b"")], zeros);
        let directory = directory(&[("base.tar", &base), ("pg_wal.tar", &wal)]);
        let archives = collect(open(directory.path()).unwrap()).await.unwrap();
        assert_eq!(archives.len(), 1);
        let joined = &archives[0].1;
        assert!(joined.starts_with(&base[..base.len() - zeros as usize]), "the base passes unchanged");
        let expected = [
            ("PG_VERSION", 3),
            ("global/pg_control", 8192),
            ("pg_wal/000000010000000000000002", segment.len()),
            ("pg_wal/archive_status/x.done", 0),
        ];
        assert_eq!(names(joined), expected.map(|(name, size)| (name.to_owned(), size)), "{zeros} zeros");
    }
}

#[tokio::test]
async fn a_damaged_archive_beside_wal_is_refused() {
    let base = tar(&[("global/pg_control", &[1; 8192])], 1024);
    let wal = tar(&[("000000010000000000000002", &[2; 4096])], 1024);
    for (base, wal) in [
        (&base[..5000], &wal[..]),
        (&base[..], &wal[..900]),
        (&base[..], &[1; 600]),
        (&base[..base.len() - 700], &wal[..]),
    ] {
        let directory = directory(&[("base.tar", base), ("pg_wal.tar", wal)]);
        let error = collect(open(directory.path()).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn a_directory_that_is_no_whole_backup_is_refused_with_what_is_wrong() {
    let base = tar(&[("backup_label", b"l"), ("tablespace_map", b"16384 /srv/fast\n")], 1024);
    let cases: [(Files<'_>, &str); 5] = [
        (&[("base.tar", &base)], "tablespace 16384 of its tablespace_map has no 16384.tar"),
        (&[("16384.tar", &base)], "it has no base.tar"),
        (&[("PG_VERSION", b"15\n")], "it holds plain files"),
        (&[("base.tar.gz", b"x")], "is compressed with gzip: decompress it first (`gzip -d`)"),
        (&[("base.tar", &base), ("16384.tar.zst", b"x")], "is compressed with zstd"),
    ];
    for (files, expected) in cases {
        let directory = directory(files);
        let error = open(directory.path()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert_eq!(open(Path::new("/does/not/exist")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn compressed_and_empty_input_is_refused_before_anything_passes() {
    let from = |content: Vec<u8>| Source::Tar(TarSource::from_reader(Cursor::new(content), "standard input"));
    for (magic, format) in
        [(&b"\x1f\x8b\x08"[..], "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4")]
    {
        let mut source = from([magic, &[0; 600]].concat());
        assert!(matches!(source.next().await, Ok(Some(SourceEvent::Archive(_)))));
        let error = source.next().await.unwrap_err();
        assert!(error.to_string().contains(format), "{error}");
        assert!(source.next().await.unwrap().is_none(), "nothing follows an error");
    }
    let error = collect(from(Vec::new())).await.unwrap_err();
    assert_eq!(error.to_string(), "no data in standard input: did pg_basebackup fail?");
}

#[tokio::test]
async fn a_stream_is_one_archive_of_any_bytes() {
    let directory = directory(&[("dump.sql", b"select 1"), ("empty", b"")]);
    let stream = |name: &str| StreamSource::open(&directory.path().join(name), "import").map(Source::Stream);
    let kind = ArchiveKind::Stream { name: "import".to_owned() };
    let source = stream("dump.sql").unwrap();
    assert_eq!(source.total_bytes(), Some(8));
    assert_eq!(collect(source).await.unwrap(), [(kind.clone(), b"select 1".to_vec())]);
    assert_eq!(
        collect(stream("empty").unwrap()).await.unwrap(),
        [(kind, Vec::new())],
        "an empty file is a file"
    );
    assert_eq!(stream("missing").unwrap_err().kind(), ErrorKind::NotFound);
}
