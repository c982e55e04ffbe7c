//! What a base backup must hold, and the small files in it that say what it is.
//!
//! Contained by: the feeder. Invariant: a backup without these files is refused, for it could not
//! be restored: a producer that failed early leaves exactly that.

use std::collections::HashSet;

use capy_postgres::relation::PathClass;
use capy_types::ErrorKind;

use crate::{Error, Result};

/// Small files of the base archive, kept while they pass by.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) backup_label: Option<Vec<u8>>,
    pub(super) tablespace_map: Option<Vec<u8>>,
    pub(super) control: Option<Vec<u8>>,
    pub(super) version: Option<Vec<u8>>,
    /// Names of the WAL segments inside: 24 bytes for every 16 MiB.
    pub(super) wal_segments: HashSet<String>,
}

/// Which of the kept files one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    BackupLabel,
    TablespaceMap,
    Control,
    Version,
}

/// Most bytes kept of such a file: the largest `tablespace_map`; the others are tiny.
const KEPT_MAX_BYTES: u64 = capy_postgres::label::TABLESPACE_MAP_MAX_BYTES as u64;

impl Which {
    /// The file of this class, if it is one to keep.
    pub(super) const fn of(class: &PathClass, size: u64) -> Option<Self> {
        if size > KEPT_MAX_BYTES {
            return None;
        }
        match class {
            PathClass::BackupLabel => Some(Self::BackupLabel),
            PathClass::TablespaceMap => Some(Self::TablespaceMap),
            PathClass::ControlFile => Some(Self::Control),
            PathClass::Version => Some(Self::Version),
            _ => None,
        }
    }
}

impl Kept {
    /// Keeps a file.
    pub(super) fn keep(&mut self, which: Which, content: Vec<u8>) {
        *match which {
            Which::BackupLabel => &mut self.backup_label,
            Which::TablespaceMap => &mut self.tablespace_map,
            Which::Control => &mut self.control,
            Which::Version => &mut self.version,
        } = Some(content);
    }

    /// Refuses an archive that is no complete base backup.
    pub(super) fn require_all(&self) -> Result<()> {
        for (name, file) in [
            ("backup_label", &self.backup_label),
            ("PG_VERSION", &self.version),
            ("global/pg_control", &self.control),
        ] {
            if file.as_ref().is_none_or(Vec::is_empty) {
                let what = format!("not a complete base backup: the archive has no {name}");
                return Err(Error::new(ErrorKind::Invalid, what)
                    .with_hint("take it with pg_basebackup -Ft; other files can be stored with --stdin-as"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_a_backup_must_have_is_missed() {
        let whole = || {
            let mut kept = Kept::default();
            for which in [Which::BackupLabel, Which::Control, Which::Version] {
                kept.keep(which, vec![1]);
            }
            kept
        };
        whole().require_all().expect("whole");
        for (which, name) in [
            (Which::BackupLabel, "backup_label"),
            (Which::Control, "pg_control"),
            (Which::Version, "PG_VERSION"),
        ] {
            let mut kept = whole();
            kept.keep(which, Vec::new());
            let error = kept.require_all().expect_err("incomplete");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
