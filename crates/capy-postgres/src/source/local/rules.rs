//! What of a data directory belongs into a base backup: the server's own rules.
//!
//! Source: `excludeDirContents`, `excludeFiles` and `sendDir` of PostgreSQL's `basebackup.c`, the
//! same in 13 to 18 but for what newer versions left out more.

use std::collections::HashSet;

use crate::ArchiveKind;
use crate::relation::{Fork, PathClass, RelationFile, classify};

/// Directories that are kept empty: their content is worthless after a restart. By name, at any
/// depth, as for the server.
const EMPTIED: [&[u8]; 7] = [
    b"pg_stat_tmp",
    b"pg_replslot",
    b"pg_dynshmem",
    b"pg_notify",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_subtrans",
];

/// Files left out wherever they are: of a running server, of an earlier backup, half written, or
/// the backup's own to make.
const LEFT_OUT: [&[u8]; 8] = [
    b"postgresql.auto.conf.tmp",
    b"current_logfiles.tmp",
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
    b"postmaster.pid",
    b"postmaster.opts",
    b".DS_Store",
];

/// Beginnings of names left out: a cache that is built again (its temporary form has the number of
/// a process behind it), and files of running queries.
const LEFT_OUT_BEGINNINGS: [&[u8]; 2] = [b"pg_internal.init", b"pgsql_tmp"];

/// Whether a name is left out wherever it is, whatever it is.
pub(super) fn is_left_out(name: &[u8]) -> bool {
    LEFT_OUT.contains(&name) || LEFT_OUT_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Whether a directory of this name is kept without its content.
pub(super) fn is_emptied(name: &[u8]) -> bool {
    EMPTIED.contains(&name)
}

/// The unlogged relations among the names of one directory: those with an init fork.
#[derive(Debug, Default)]
pub(super) struct Unlogged(HashSet<(u32, u32)>);

impl Unlogged {
    /// Looks through the paths of one directory.
    pub(super) fn among<'a>(archive: &ArchiveKind, paths: impl Iterator<Item = &'a [u8]>) -> Self {
        Self(
            paths
                .filter_map(|path| match classify(archive, path) {
                    PathClass::Relation(RelationFile {
                        database,
                        filenode,
                        fork: Fork::Init,
                        temporary_backend: None,
                        ..
                    }) => Some((database, filenode)),
                    _ => None,
                })
                .collect(),
        )
    }

    /// Whether a file holds rows that no recovery brings back: of a temporary relation, or of an
    /// unlogged one, which begins again from its init fork.
    pub(super) fn is_transient(&self, class: &PathClass) -> bool {
        let PathClass::Relation(file) = class else { return false };
        // Relations shared by all databases are neither.
        if file.database == 0 {
            return false;
        }
        file.temporary_backend.is_some()
            || (file.fork != Fork::Init && self.0.contains(&(file.database, file.filenode)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_running_server_are_left_out_and_no_others() {
        for name in [
            "postmaster.pid",
            "backup_label",
            "pg_internal.init",
            "pg_internal.init.4711",
            "pgsql_tmp",
            "pgsql_tmp123.0",
            "backup_manifest",
            ".DS_Store",
        ] {
            assert!(is_left_out(name.as_bytes()), "{name}");
        }
        for name in
            ["backup_label.old", "PG_VERSION", "pg_hba.conf", "current_logfiles", "postgresql.auto.conf"]
        {
            assert!(!is_left_out(name.as_bytes()), "{name}");
        }
        assert!(is_emptied(b"pg_replslot") && !is_emptied(b"pg_logical") && !is_emptied(b"pg_stat"));
    }

    #[test]
    fn relations_with_an_init_fork_keep_only_that() {
        let archive = ArchiveKind::Base;
        let paths: [&[u8]; 4] = [b"base/5/100", b"base/5/100_init", b"base/5/101", b"pg_xact/0001"];
        let unlogged = Unlogged::among(&archive, paths.into_iter());
        let transient = |path: &str| unlogged.is_transient(&classify(&archive, path.as_bytes()));
        for path in ["base/5/100", "base/5/100.1", "base/5/100_fsm", "base/5/t3_9", "base/5/t3_9_vm.1"] {
            assert!(transient(path), "{path}");
        }
        for path in ["base/5/100_init", "base/5/101", "base/6/100", "global/100", "pg_xact/0001", "base/5/t3"]
        {
            assert!(!transient(path), "{path}");
        }
    }
}
