//! A directory as `pg_basebackup -Ft -D <directory>` writes it: `base.tar`, one `<oid>.tar` per
//! tablespace, `pg_wal.tar` with `-X stream`, and `backup_manifest`.
//!
//! Invariant: every tablespace that the backup's `tablespace_map` names has its tar, so a copy
//! that forgot one is refused before anything is stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::TablespaceFacts;
use crate::PostgresError;
use crate::label::TablespaceMap;
use crate::tar::{TarEvent, TarParser, clean_path};

/// How much of `base.tar` is searched for the `tablespace_map`, which is its second entry: the
/// largest map, the largest label and their headers fit.
const MAP_SEARCH_MAX_BYTES: u64 = 2 * 1024 * 1024;

/// The files of one base backup.
#[derive(Debug)]
pub(super) struct TarDirectory {
    pub(super) base: PathBuf,
    /// In the order of their oids.
    pub(super) tablespaces: Vec<(TablespaceFacts, PathBuf)>,
    pub(super) wal: Option<PathBuf>,
    pub(super) manifest: Option<PathBuf>,
    pub(super) total_bytes: u64,
}

/// Finds the files of the base backup in `directory`. Other files are left alone.
pub(super) fn read_directory(directory: &Path) -> Result<TarDirectory, PostgresError> {
    let failed = |e| PostgresError::read(&directory.display().to_string(), e);
    let mut found = Found::default();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let size_bytes = std::fs::metadata(entry.path()).map_err(failed)?.len();
        found.take(&entry.file_name().to_string_lossy(), entry.path(), size_bytes)?;
    }
    found.complete(directory)
}

#[derive(Default)]
struct Found {
    base: Option<PathBuf>,
    tars: BTreeMap<u32, (PathBuf, u64)>,
    wal: Option<PathBuf>,
    manifest: Option<PathBuf>,
    is_data_directory: bool,
    total_bytes: u64,
}

impl Found {
    fn take(&mut self, name: &str, path: PathBuf, size_bytes: u64) -> Result<(), PostgresError> {
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        let oid = stem.parse::<u32>().ok().filter(|oid| oid.to_string() == stem);
        let ours = oid.is_some() || matches!(stem, "base" | "pg_wal");
        match (stem, extension) {
            ("backup_manifest", "") => self.manifest = Some(path),
            ("PG_VERSION", "") => {
                self.is_data_directory = true;
                return Ok(());
            }
            ("base", "tar") => self.base = Some(path),
            ("pg_wal", "tar") => self.wal = Some(path),
            (_, "tar") if ours => {
                self.tars.extend(oid.map(|oid| (oid, (path, size_bytes))));
            }
            (_, extension) if ours => match compression(extension) {
                Some((format, advice)) => {
                    return Err(PostgresError::Compressed {
                        what: path.display().to_string(),
                        format,
                        advice,
                    });
                }
                None => return Ok(()),
            },
            _ => return Ok(()),
        }
        self.total_bytes += size_bytes;
        Ok(())
    }

    fn complete(self, directory: &Path) -> Result<TarDirectory, PostgresError> {
        let refuse = |problem: String| PostgresError::NotATarDirectory {
            path: directory.display().to_string(),
            problem,
        };
        let Some(base) = self.base else {
            return Err(refuse(match self.is_data_directory {
                true => "it holds plain files; give tars (pg_basebackup -Ft) or a connection".to_owned(),
                false => "it has no base.tar".to_owned(),
            }));
        };
        let map = read_tablespace_map(&base)?;
        if let Some(missing) = map.locations.keys().find(|oid| !self.tars.contains_key(oid)) {
            return Err(refuse(format!("tablespace {missing} of its tablespace_map has no {missing}.tar")));
        }
        let tablespaces = self.tars.into_iter().map(|(oid, (path, size_bytes))| {
            let location = map.locations.get(&oid).cloned().unwrap_or_default();
            (TablespaceFacts { oid, location, size_bytes: Some(size_bytes) }, path)
        });
        Ok(TarDirectory {
            base,
            tablespaces: tablespaces.collect(),
            wal: self.wal,
            manifest: self.manifest,
            total_bytes: self.total_bytes,
        })
    }
}

fn compression(extension: &str) -> Option<(&'static str, &'static str)> {
    match extension {
        "tar.gz" | "tgz" => Some(("gzip", "gzip -d")),
        "tar.zst" => Some(("zstd", "zstd -d")),
        "tar.lz4" => Some(("lz4", "lz4 -d")),
        "tar.bz2" => Some(("bzip2", "bzip2 -d")),
        "tar.xz" => Some(("xz", "xz -d")),
        _ => None,
    }
}

/// The `tablespace_map` among the first entries of `base.tar`; empty when it is not there.
fn read_tablespace_map(base: &Path) -> Result<TablespaceMap, PostgresError> {
    let what = base.display().to_string();
    let start = read_start(base).map_err(|e| PostgresError::read(&what, e))?;
    let (mut parser, mut rest) = (TarParser::new(), start.as_slice());
    let mut map: Option<Vec<u8>> = None;
    loop {
        let (taken, event) = match parser.feed(rest) {
            Ok(step) => step,
            // Whoever reads the archive itself will meet the same error and name it.
            Err(_) => return Ok(TablespaceMap::default()),
        };
        rest = rest.get(taken..).unwrap_or_default();
        match event {
            TarEvent::Entry(entry) => match clean_path(&entry.path).as_deref() {
                Ok(b"backup_label") => {}
                Ok(b"tablespace_map") => map = Some(Vec::new()),
                _ => return Ok(TablespaceMap::default()),
            },
            TarEvent::Data(data) => map.iter_mut().for_each(|map| map.extend_from_slice(data)),
            TarEvent::EndEntry => {
                if let Some(map) = &map {
                    return TablespaceMap::parse(map).map_err(|source| PostgresError::Label { what, source });
                }
            }
            TarEvent::NeedMore => return Ok(TablespaceMap::default()),
        }
    }
}

fn read_start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(MAP_SEARCH_MAX_BYTES).read_to_end(&mut start)?;
    Ok(start)
}
