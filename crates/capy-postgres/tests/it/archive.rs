//! The archives of a backup, received whole, taken apart, and compared with their manifest.

use std::collections::BTreeMap;

use capy_postgres::backup_manifest::{ChecksumAlgorithm, FileChecksum, ManifestParser};
use capy_postgres::tar::{EndMarker, EntryKind, TarEntry, TarEvent, TarParser, TarWriter, clean_path};
use capy_postgres::{ArchiveKind, PostgresError, Source, SourceEvent};

/// One archive of a source, whole.
pub(crate) struct Archive {
    pub(crate) kind: ArchiveKind,
    pub(crate) bytes: Vec<u8>,
}

impl Archive {
    /// The entries of a tar with their data, and how the tar ended.
    pub(crate) fn parse(&self) -> (Vec<(TarEntry, Vec<u8>)>, EndMarker) {
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
        (entries, parser.finish().unwrap().marker)
    }

    pub(crate) fn entries(&self) -> Vec<(TarEntry, Vec<u8>)> {
        self.parse().0
    }

    /// The archive's files by the path a manifest gives them.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
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

    /// The tar as the crate writes it, entry by entry.
    pub(crate) fn written_again(&self) -> Vec<u8> {
        let (mut writer, mut again) = (TarWriter::new(), Vec::new());
        for (entry, data) in self.entries() {
            writer.begin(&entry, &mut again).unwrap();
            writer.passed(data.len() as u64).unwrap();
            again.extend_from_slice(&data);
            writer.end(&mut again).unwrap();
        }
        writer.finish(1024, &mut again).unwrap();
        again
    }
}

/// Everything a source gives.
pub(crate) async fn receive(source: &mut Source) -> Result<Vec<Archive>, PostgresError> {
    let (archives, end) = receive_until_end(source).await;
    end.map(|()| archives)
}

/// The archives that came whole, and how the source ended. An archive begins and ends before the
/// next, and no data is outside.
pub(crate) async fn receive_until_end(source: &mut Source) -> (Vec<Archive>, Result<(), PostgresError>) {
    let (mut archives, mut open) = (Vec::new(), None);
    loop {
        match source.next().await {
            Ok(Some(SourceEvent::Archive(start))) => {
                let before = open.replace(Archive { kind: start.kind, bytes: Vec::new() });
                assert!(before.is_none(), "an archive inside an archive");
            }
            Ok(Some(SourceEvent::Data(bytes) | SourceEvent::SoundPages(bytes))) => {
                assert!(!bytes.is_empty());
                open.as_mut().expect("data is inside an archive").bytes.extend_from_slice(&bytes);
            }
            Ok(Some(SourceEvent::EndArchive)) => archives.push(open.take().expect("what ends has begun")),
            Ok(Some(SourceEvent::Progress(_))) => {}
            Ok(Some(SourceEvent::Cells { .. } | SourceEvent::KnownCells(_))) => panic!("nobody knows cells"),
            Ok(None) => {
                assert!(open.is_none(), "the last archive did not end");
                return (archives, Ok(()));
            }
            Err(error) => return (archives, Err(error)),
        }
    }
}

/// What the manifest says of each file, and whether the files are those it names. A manifest
/// does not list itself.
pub(crate) fn check_manifest(
    manifest: &[u8],
    files: &BTreeMap<String, Vec<u8>>,
    algorithm: Option<ChecksumAlgorithm>,
) {
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
