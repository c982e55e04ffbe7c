//! The files of a data directory or tablespace, one after the other, as a base backup has them.
//!
//! A directory comes before what is in it, names are in the order of their bytes, so that the same
//! cluster gives the same list again. A server goes on working meanwhile: what is gone when its
//! turn comes has never been there, and recovery knows why.
//!
//! Invariants: no link is followed; the size of a file is the one seen here, for the tar's header
//! stands before the bytes; at most one listing per level of the tree is held.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::rules::{self, Unlogged};
use crate::relation::{PathClass, classify};
use crate::tar::{EntryKind, TarEntry};
use crate::{ArchiveKind, PostgresError};

/// What the server calls the owner in all its tars.
const OWNER: &str = "postgres";

/// One thing found.
#[derive(Debug)]
pub(super) enum Found {
    /// A directory, before what is in it.
    Directory(TarEntry),
    /// A file to be read.
    File(FoundFile),
    /// An empty file that only the backup has.
    Empty(TarEntry),
    /// Something that no backup holds, and the operator should know of.
    Passed {
        /// Its path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

/// A file to be read.
#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) entry: TarEntry,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Of a relation's segment: the number of its first block.
    pub(super) first_block: Option<u32>,
    /// Whether the backup is worth nothing without it.
    pub(super) required: bool,
}

/// What shall be walked.
#[derive(Debug, Clone)]
pub(super) struct WalkPlan {
    /// The data directory, or where the tablespace is.
    pub(super) root: PathBuf,
    pub(super) archive: ArchiveKind,
    /// Of a tablespace the one directory that is this cluster's.
    pub(super) only: Option<String>,
    /// A directory whose content is left out beside those that always are, as path below the root.
    pub(super) emptied: Option<PathBuf>,
    /// Whether `pg_wal` has a directory for summaries: 17 and later.
    pub(super) has_summaries: bool,
}

/// The walk.
pub(super) struct Walk {
    plan: WalkPlan,
    begun: bool,
    levels: Vec<Level>,
    /// What comes before the next name.
    ready: VecDeque<Found>,
}

/// A directory being walked.
struct Level {
    /// Its path in the archive, with a slash at the end unless it is the root.
    prefix: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    unlogged: Unlogged,
}

impl Walk {
    pub(super) const fn new(plan: WalkPlan) -> Self {
        Self { plan, begun: false, levels: Vec::new(), ready: VecDeque::new() }
    }

    /// Bytes of all files, for an estimate; what cannot be read is left to the walk itself.
    pub(super) fn size_bytes(plan: WalkPlan) -> u64 {
        Self::new(plan).map(|found| if let Ok(Found::File(file)) = found { file.entry.size } else { 0 }).sum()
    }

    fn advance(&mut self) -> Result<Option<Found>, PostgresError> {
        if !std::mem::replace(&mut self.begun, true) {
            let level = self.first_level()?;
            self.levels.push(level);
        }
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let archive_path = [level.prefix.as_slice(), &name].concat();
            if rules::is_left_out(&name) || archive_path == b"global/pg_control" {
                continue;
            }
            let class = classify(&self.plan.archive, &archive_path);
            if level.unlogged.is_transient(&class) {
                continue;
            }
            let path = self.plan.root.join(OsStr::from_bytes(&archive_path));
            match std::fs::symlink_metadata(&path) {
                Ok(metadata) => self.found(&name, archive_path, path, &metadata, &class)?,
                Err(e) if is_gone(&e) => {}
                Err(e) => return Err(failed(&path, e)),
            }
        }
    }

    fn first_level(&self) -> Result<Level, PostgresError> {
        match &self.plan.only {
            // Not there in a tablespace that nothing was ever put into.
            Some(only) => {
                let names = vec![only.clone().into_bytes()].into_iter();
                Ok(Level { prefix: Vec::new(), names, unlogged: Unlogged::default() })
            }
            None => self.list(&self.plan.root, Vec::new()).map_err(|e| failed(&self.plan.root, e)),
        }
    }

    fn found(
        &mut self,
        name: &[u8],
        archive_path: Vec<u8>,
        path: PathBuf,
        metadata: &Metadata,
        class: &PathClass,
    ) -> Result<(), PostgresError> {
        let is_base = self.plan.archive == ArchiveKind::Base;
        let kind = metadata.file_type();
        if is_base && archive_path == b"pg_wal" {
            self.wal(metadata);
        } else if rules::is_emptied(name)
            || self.plan.emptied.as_deref().is_some_and(|p| is(&archive_path, p))
        {
            // Somebody may have put a link in its place: the copy gets a directory.
            self.ready.push_back(Found::Directory(directory(&archive_path, metadata)));
        } else if kind.is_dir() {
            let level = match self.list(&path, [archive_path.as_slice(), b"/"].concat()) {
                Ok(level) => level,
                Err(e) if is_gone(&e) => return Ok(()),
                Err(e) => return Err(failed(&path, e)),
            };
            self.ready.push_back(Found::Directory(directory(&archive_path, metadata)));
            self.levels.push(level);
        } else if kind.is_file() {
            let first_block = match class {
                PathClass::Relation(file) => {
                    Some(file.segment.wrapping_mul(capy_types::limits::RELATION_SEGMENT_PAGES))
                }
                _ => None,
            };
            let entry = file(archive_path, metadata);
            self.ready.push_back(Found::File(FoundFile { entry, path, first_block, required: false }));
        } else if !(is_base && kind.is_symlink() && archive_path.starts_with(b"pg_tblspc/")) {
            let what = if kind.is_symlink() { "a symbolic link" } else { "no plain file" };
            self.ready.push_back(Found::Passed { path, what });
        }
        Ok(())
    }

    /// Of `pg_wal` only the directories: what is needed of its content comes at the end.
    fn wal(&mut self, metadata: &Metadata) {
        let summaries: &[&[u8]] = if self.plan.has_summaries { &[b"pg_wal/summaries"] } else { &[] };
        let paths: [&[u8]; 2] = [b"pg_wal", b"pg_wal/archive_status"];
        for path in paths.iter().chain(summaries) {
            self.ready.push_back(Found::Directory(directory(path, metadata)));
        }
    }

    fn list(&self, path: &Path, prefix: Vec<u8>) -> io::Result<Level> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().into_vec());
        }
        names.sort_unstable();
        let paths: Vec<Vec<u8>> = names
            .iter()
            .filter(|name| name.ends_with(b"_init"))
            .map(|n| [&prefix, n.as_slice()].concat())
            .collect();
        let unlogged = Unlogged::among(&self.plan.archive, paths.iter().map(Vec::as_slice));
        Ok(Level { prefix, names: names.into_iter(), unlogged })
    }
}

impl Iterator for Walk {
    type Item = Result<Found, PostgresError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance().transpose();
        if !matches!(found, Some(Ok(_))) {
            // Nothing follows the end or an error.
            self.levels.clear();
            self.ready.clear();
        }
        found
    }
}

/// Whether a path has vanished, or something on the way to it.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(super) fn failed(path: &Path, source: io::Error) -> PostgresError {
    PostgresError::read(&path.display().to_string(), source)
}

/// The entry of a regular file as the server would write it.
pub(super) fn file(path: Vec<u8>, metadata: &Metadata) -> TarEntry {
    entry(path, EntryKind::File, metadata.len(), metadata)
}

fn directory(path: &[u8], metadata: &Metadata) -> TarEntry {
    // A link in a directory's place says nothing of who may enter.
    let mode = if metadata.is_dir() { metadata.permissions().mode() & 0o7777 } else { 0o700 };
    TarEntry { mode, ..entry([path, b"/"].concat(), EntryKind::Directory, 0, metadata) }
}

fn entry(path: Vec<u8>, kind: EntryKind, size: u64, metadata: &Metadata) -> TarEntry {
    TarEntry {
        path,
        kind,
        size,
        mode: metadata.permissions().mode() & 0o7777,
        uid: u64::from(metadata.uid()),
        gid: u64::from(metadata.gid()),
        mtime: metadata.mtime(),
        owner: OWNER.to_owned(),
        group: OWNER.to_owned(),
        link_target: Vec::new(),
    }
}

fn is(archive_path: &[u8], path: &Path) -> bool {
    archive_path == path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests;
