//! The places a restore writes to, checked before the first byte is written.
//!
//! Contained by: the restore. Invariants: every destination, each tablespace's included, is empty
//! or absent when the restore begins; none holds a `postmaster.pid`; no two of them are the same
//! directory or lie inside one another.

use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use capy_types::ErrorKind;

use crate::{Error, Result};

/// Moves a tablespace: what lay at `old` on the server is restored to `new`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// The directory on the server, as the backup records it.
    pub old: PathBuf,
    /// The directory to restore into: an absolute path.
    pub new: PathBuf,
}

impl FromStr for TablespaceMapping {
    type Err = Error;

    /// Reads `OLD=NEW`; an equals sign inside a path is written `\=`, as pg_basebackup has it.
    fn from_str(text: &str) -> Result<Self> {
        let mut halves = vec![String::new()];
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' if letters.peek() == Some(&'=') => {
                    letters.next();
                    halves.last_mut().expect("there is always one").push('=');
                }
                '=' => halves.push(String::new()),
                other => halves.last_mut().expect("there is always one").push(other),
            }
        }
        let refuse = |why: &str| Error::invalid(format!("not a tablespace mapping OLD=NEW: {text:?}: {why}"));
        let Ok([old, new]) = <[String; 2]>::try_from(halves) else {
            return Err(refuse("expected one equals sign"));
        };
        let (old, new) = (PathBuf::from(old), PathBuf::from(new));
        if !old.is_absolute() || !new.is_absolute() {
            return Err(refuse("both directories must be absolute paths"));
        }
        Ok(Self { old, new })
    }
}

/// Where a tablespace of the backup goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TablespaceTarget {
    pub(crate) oid: u32,
    /// As the backup records it.
    pub(crate) location: String,
    /// Where its files are written.
    pub(crate) directory: PathBuf,
    /// The link in `pg_tblspc` is made for it; not so for one that lies inside the data directory.
    pub(crate) linked: bool,
}

/// Where each tablespace goes, and which mappings fit none.
pub(crate) fn place_tablespaces<'a>(
    target: &Path,
    tablespaces: impl Iterator<Item = (u32, &'a str)>,
    mapping: &[TablespaceMapping],
) -> Result<Vec<TablespaceTarget>> {
    let mut placed = Vec::new();
    let mut used = vec![false; mapping.len()];
    for (oid, location) in tablespaces {
        // Inside the data directory (`allow_in_place_tablespaces`): a plain directory.
        if !location.starts_with('/') {
            let directory = target.join("pg_tblspc").join(oid.to_string());
            placed.push(TablespaceTarget { oid, location: location.to_owned(), directory, linked: false });
            continue;
        }
        let fits = mapping.iter().position(|m| same_directory(&m.old, Path::new(location)));
        let directory =
            fits.and_then(|at| mapping.get(at)).map_or_else(|| PathBuf::from(location), |m| m.new.clone());
        if let Some(flag) = fits.and_then(|at| used.get_mut(at)) {
            *flag = true;
        }
        placed.push(TablespaceTarget { oid, location: location.to_owned(), directory, linked: true });
    }
    let unused = mapping.iter().zip(&used).find(|(_, used)| !**used);
    if let Some((mapping, _)) = unused {
        let known: Vec<&str> = placed.iter().map(|t| t.location.as_str()).collect();
        let hint = if known.is_empty() {
            "the backup has no tablespaces".to_owned()
        } else {
            format!("the backup's tablespaces lay at: {}", known.join(", "))
        };
        let what = format!("the backup has no tablespace at {}", mapping.old.display());
        return Err(Error::invalid(what).with_hint(hint));
    }
    Ok(placed)
}

/// Equal but for trailing slashes and the like.
fn same_directory(a: &Path, b: &Path) -> bool {
    a.components().eq(b.components())
}

/// Checks every destination of a restore.
pub(crate) fn check_all(target: &Path, tablespaces: &[TablespaceTarget]) -> Result<()> {
    check_empty(target, "the target directory")?;
    let mut places = vec![target];
    for tablespace in tablespaces.iter().filter(|t| t.linked) {
        check_tablespace(tablespace)?;
        places.push(&tablespace.directory);
    }
    check_apart(&places)
}

/// Refuses a tablespace's directory that holds anything.
pub(super) fn check_tablespace(tablespace: &TablespaceTarget) -> Result<()> {
    let what = format!("the directory of tablespace {}", tablespace.oid);
    check_empty(&tablespace.directory, &what).map_err(|error| {
        if error.kind() == ErrorKind::Conflict {
            error.with_hint(format!(
                "put it elsewhere with --tablespace-mapping {}=NEW",
                tablespace.location.replace('=', "\\=")
            ))
        } else {
            error
        }
    })
}

/// Refuses two destinations of which one is, or lies in, the other.
pub(super) fn check_apart(places: &[&Path]) -> Result<()> {
    for (at, one) in places.iter().enumerate() {
        for other in places.iter().skip(at + 1) {
            if one.starts_with(other) || other.starts_with(one) {
                return Err(Error::invalid(format!(
                    "two destinations overlap: {} and {}",
                    one.display(),
                    other.display()
                )));
            }
        }
    }
    Ok(())
}

/// Refuses a directory that holds anything; an absent one is fine.
pub(crate) fn check_empty(directory: &Path, what: &str) -> Result<()> {
    let shown = directory.display();
    let mut entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        Err(error) if error.kind() == Io::NotADirectory => {
            return Err(Error::new(ErrorKind::Conflict, format!("{what} is not a directory: {shown}")));
        }
        Err(error) => return Err(Error::io(format!("look into {shown}"), error)),
    };
    if directory.join("postmaster.pid").symlink_metadata().is_ok() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("{what} holds a postmaster.pid: a server may be running on it: {shown}"),
        ));
    }
    // What mkfs leaves at the top of a file system is not content.
    let found = entries.find(|entry| !entry.as_ref().is_ok_and(|entry| entry.file_name() == "lost+found"));
    match found {
        None => Ok(()),
        Some(Ok(entry)) => {
            let name = entry.file_name().to_string_lossy().into_owned();
            Err(Error::new(ErrorKind::Conflict, format!("{what} is not empty: {shown} holds {name}")))
        }
        Some(Err(error)) => Err(Error::io(format!("look into {shown}"), error)),
    }
}

#[cfg(test)]
mod tests;
