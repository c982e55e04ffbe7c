//! What a file of a base backup is, told from the archive and its path.
//!
//! Relation files are recognised by directory *and* name: the transaction status directories have
//! files with all-digit names too, and their pages have no header to check. Sources:
//! `parse_filename_for_nontemp_relation` in PostgreSQL's `reinit.c`, `relpath.c`.
//!
//! Invariant: paths are clean (see [`crate::tar::clean_path`]); what is not recognised is
//! [`PathClass::Other`], which is always safe.

use crate::ArchiveKind;

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathClass {
    /// A segment of a relation fork: an array of pages.
    Relation(RelationFile),
    /// Changed blocks of a relation fork, in an incremental backup (PostgreSQL 17 and later).
    Incremental(RelationFile),
    /// `global/pg_control`.
    ControlFile,
    /// `backup_label`.
    BackupLabel,
    /// `tablespace_map`.
    TablespaceMap,
    /// `backup_manifest`, put into the tar by `pg_basebackup -D -`.
    BackupManifest,
    /// `PG_VERSION` of the data directory.
    Version,
    /// A WAL segment in `pg_wal`; its name.
    WalSegment(String),
    /// Anything else below `pg_wal`: history files, archive status.
    WalOther,
    /// Any other file.
    Other,
}

impl PathClass {
    /// How the file's bytes move from one backup to the next, and so how to cut them.
    #[must_use]
    pub const fn chunking(&self) -> ChunkingHint {
        match self {
            Self::Relation(_) => ChunkingHint::PageGrid,
            _ => ChunkingHint::ContentDefined,
        }
    }
}

/// How to cut a file into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkingHint {
    /// Bytes change in place, page by page.
    PageGrid,
    /// Bytes may shift.
    ContentDefined,
}

/// One segment file of a relation fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    /// Oid of the database; 0 for relations shared by all.
    pub database: u32,
    /// The relation's file number.
    pub filenode: u32,
    /// Which fork.
    pub fork: Fork,
    /// Segment number: block 131072 × `segment` is the first.
    pub segment: u32,
    /// The backend that a temporary relation belongs to.
    pub temporary_backend: Option<u32>,
}

/// A fork of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fork {
    /// The data.
    Main,
    /// Free space map.
    FreeSpaceMap,
    /// Visibility map.
    VisibilityMap,
    /// What an unlogged relation starts from after a crash.
    Init,
}

/// Tells what `path` is in an archive of this kind.
#[must_use]
pub fn classify(archive: &ArchiveKind, path: &[u8]) -> PathClass {
    let Ok(path) = std::str::from_utf8(path) else { return PathClass::Other };
    let parts: Vec<&str> = path.split('/').collect();
    match (archive, parts.as_slice()) {
        (ArchiveKind::Base, ["backup_label"]) => PathClass::BackupLabel,
        (ArchiveKind::Base, ["tablespace_map"]) => PathClass::TablespaceMap,
        (ArchiveKind::Base, ["backup_manifest"]) => PathClass::BackupManifest,
        (ArchiveKind::Base, ["PG_VERSION"]) => PathClass::Version,
        (ArchiveKind::Base, ["global", "pg_control"]) => PathClass::ControlFile,
        (ArchiveKind::Base, ["global", file]) => relation(Some(0), file),
        (ArchiveKind::Base, ["base", database, file]) => relation(number(database), file),
        (ArchiveKind::Base, ["pg_wal", file]) if is_segment_name(file) => {
            PathClass::WalSegment((*file).to_owned())
        }
        (ArchiveKind::Base, ["pg_wal", ..]) => PathClass::WalOther,
        // In a base archive only when tablespaces were copied in place of their links; always so
        // in the paths of a backup_manifest.
        (ArchiveKind::Base, ["pg_tblspc", tablespace, version, database, file])
            if number(tablespace).is_some() && is_version_directory(version) =>
        {
            relation(number(database), file)
        }
        (ArchiveKind::Tablespace { .. }, [version, database, file]) if is_version_directory(version) => {
            relation(number(database), file)
        }
        _ => PathClass::Other,
    }
}

fn relation(database: Option<u32>, file: &str) -> PathClass {
    let (incremental, name) = match file.strip_prefix("INCREMENTAL.") {
        Some(name) => (true, name),
        None => (false, file),
    };
    match database.and_then(|database| relation_file(database, name)) {
        Some(file) if incremental => PathClass::Incremental(file),
        Some(file) => PathClass::Relation(file),
        None => PathClass::Other,
    }
}

/// Highest segment number: 2³² blocks in segments of 131072.
const SEGMENT_MAX: u32 = u32::MAX / capy_types::limits::RELATION_SEGMENT_PAGES;

/// Reads `16384`, `16384_fsm.1`, `t3_16384`.
fn relation_file(database: u32, name: &str) -> Option<RelationFile> {
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, number(segment).filter(|segment| *segment <= SEGMENT_MAX)?),
        None => (name, 0),
    };
    let (name, temporary_backend) = match name.strip_prefix('t') {
        Some(rest) => {
            let (backend, name) = rest.split_once('_')?;
            (name, Some(number_or_zero(backend)?))
        }
        None => (name, None),
    };
    let (filenode, fork) = match name.split_once('_') {
        Some((filenode, fork)) => (filenode, fork_of(fork)?),
        None => (name, Fork::Main),
    };
    Some(RelationFile { database, filenode: number(filenode)?, fork, segment, temporary_backend })
}

fn fork_of(suffix: &str) -> Option<Fork> {
    match suffix {
        "fsm" => Some(Fork::FreeSpaceMap),
        "vm" => Some(Fork::VisibilityMap),
        "init" => Some(Fork::Init),
        _ => None,
    }
}

/// A number from 1 as PostgreSQL writes it: no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

fn number_or_zero(text: &str) -> Option<u32> {
    if text == "0" { Some(0) } else { number(text) }
}

/// `PG_15_202209061`: major version and catalogue version.
fn is_version_directory(name: &str) -> bool {
    let versions = name.strip_prefix("PG_").and_then(|rest| rest.split_once('_'));
    versions.is_some_and(|(major, catalogue)| number(major).is_some() && number(catalogue).is_some())
}

fn is_segment_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_base(path: &str) -> PathClass {
        classify(&ArchiveKind::Base, path.as_bytes())
    }

    fn main_fork(database: u32, filenode: u32) -> RelationFile {
        RelationFile { database, filenode, fork: Fork::Main, segment: 0, temporary_backend: None }
    }

    #[test]
    fn relation_files_are_known_by_directory_and_name() {
        let file = main_fork(5, 16384);
        for (path, expected) in [
            ("base/5/16384", file),
            ("base/5/16384.7", RelationFile { segment: 7, ..file }),
            ("base/5/16384_fsm", RelationFile { fork: Fork::FreeSpaceMap, ..file }),
            ("base/5/16384_vm.1", RelationFile { fork: Fork::VisibilityMap, segment: 1, ..file }),
            ("base/5/16384_init", RelationFile { fork: Fork::Init, ..file }),
            ("base/5/t3_16384", RelationFile { temporary_backend: Some(3), ..file }),
            (
                "base/5/t3_16384_fsm",
                RelationFile { temporary_backend: Some(3), fork: Fork::FreeSpaceMap, ..file },
            ),
            ("global/1262", main_fork(0, 1262)),
            ("base/4294967295/4294967295", main_fork(u32::MAX, u32::MAX)),
            ("pg_tblspc/16390/PG_15_202209061/5/16384", file),
        ] {
            assert_eq!(in_base(path), PathClass::Relation(expected), "{path}");
        }
    }

    #[test]
    fn what_only_looks_like_a_relation_is_none() {
        for path in [
            "pg_xact/0000",
            "pg_multixact/members/0001",
            "pg_xact/1234",
            "global/pg_filenode.map",
            "global/pg_internal.init",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/016384",
            "base/5/0",
            "base/5/16384_xyz",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/16384.32768",
            "base/5/16384.x",
            "base/5/4294967296",
            "base/5/t_16384",
            "base/5/t3",
            "base/x/16384",
            "base/16384",
            "base/pgsql_tmp/pgsql_tmp123.0",
            "elsewhere/base/5/16384",
            "16384",
            "PG_15_202209061/5/16384",
            "",
        ] {
            assert_eq!(in_base(path), PathClass::Other, "{path}");
        }
        assert_eq!(classify(&ArchiveKind::Base, b"base/5/\xff"), PathClass::Other);
    }

    #[test]
    fn tablespaces_hold_relations_below_their_version_directory_only() {
        let tablespace = ArchiveKind::Tablespace { oid: 16390, location: String::new() };
        let of = |path: &str| classify(&tablespace, path.as_bytes());
        assert_eq!(of("PG_15_202209061/5/16384"), PathClass::Relation(main_fork(5, 16384)));
        for path in
            ["PG_15/5/16384", "base/5/16384", "backup_label", "global/pg_control", "PG_15_202209061/16384"]
        {
            assert_eq!(of(path), PathClass::Other, "{path}");
        }
    }

    #[test]
    fn the_files_that_describe_the_backup_are_known() {
        assert_eq!(in_base("global/pg_control"), PathClass::ControlFile);
        assert_eq!(in_base("backup_label"), PathClass::BackupLabel);
        assert_eq!(in_base("tablespace_map"), PathClass::TablespaceMap);
        assert_eq!(in_base("backup_manifest"), PathClass::BackupManifest);
        assert_eq!(in_base("PG_VERSION"), PathClass::Version);
        let segment = "000000010000000A000000FF";
        assert_eq!(in_base(&format!("pg_wal/{segment}")), PathClass::WalSegment(segment.to_owned()));
        for path in
            ["pg_wal/00000002.history", "pg_wal/archive_status/x.done", "pg_wal/000000010000000a000000ff"]
        {
            assert_eq!(in_base(path), PathClass::WalOther, "{path}");
        }
    }

    #[test]
    fn only_whole_relation_files_are_cut_by_pages() {
        assert_eq!(
            in_base("base/5/INCREMENTAL.16384.2"),
            PathClass::Incremental(RelationFile { segment: 2, ..main_fork(5, 16384) })
        );
        assert_eq!(in_base("base/5/16384").chunking(), ChunkingHint::PageGrid);
        for path in ["base/5/INCREMENTAL.16384", "pg_xact/0000", "pg_wal/000000010000000000000001"] {
            assert_eq!(in_base(path).chunking(), ChunkingHint::ContentDefined, "{path}");
        }
    }
}
