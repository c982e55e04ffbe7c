//! Paths of a backup made safe to write to.
//!
//! Contained by: the restore. Whoever can write a repository must not be able to write outside
//! the target: paths are taken apart into components, and only plain names pass.
//! Invariants: a [`SafePath`] is relative, not empty, has no `.`, `..`, NUL or empty component;
//! joined to the target it stays inside as long as no component is a symbolic link, which holds
//! because the restore makes links only after all files and directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use capy_postgres::tar::clean_path;
use capy_types::ErrorKind;

use crate::{Error, Result};

/// Longest component in bytes: what every file system of interest takes (`NAME_MAX`).
const NAME_MAX_BYTES: usize = 255;

/// A relative path of plain names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SafePath(PathBuf);

impl SafePath {
    /// Takes a path as an archive spells it: a leading `./`, doubled and trailing slashes are
    /// harmless spellings, everything else unusual is refused.
    pub(crate) fn parse(spelling: &[u8]) -> Result<Self> {
        let refuse = |why: &str| {
            let shown = String::from_utf8_lossy(spelling).into_owned();
            Error::new(ErrorKind::Corrupt, format!("unsafe path in the backup: {shown:?}: {why}"))
        };
        let clean = clean_path(spelling).map_err(|error| refuse(error.problem))?;
        if *clean == *b"." {
            return Err(refuse("it names nothing"));
        }
        if clean.split(|b| *b == b'/').any(|name| name.len() > NAME_MAX_BYTES) {
            return Err(refuse("a name in it is too long"));
        }
        Ok(Self(PathBuf::from(OsStr::from_bytes(&clean))))
    }

    /// The path, relative.
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
    }

    /// Joined to the directory it is relative to.
    pub(crate) fn under(&self, directory: &Path) -> PathBuf {
        directory.join(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_spellings_are_one_path() {
        for spelling in ["base/1/2", "./base/1/2", "base//1/./2", "base/1/2/"] {
            let path = SafePath::parse(spelling.as_bytes()).expect(spelling);
            assert_eq!(path.as_path(), Path::new("base/1/2"));
        }
    }

    #[test]
    fn what_could_leave_the_target_is_refused() {
        let long = [b'x'; 256];
        let bad: [&[u8]; 9] =
            [b"", b".", b"./", b"/etc/passwd", b"..", b"a/../../b", b"a/..", b"a\0b", &long];
        for spelling in bad {
            let error = SafePath::parse(spelling).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{spelling:?}");
        }
    }

    #[test]
    fn separators_of_other_systems_are_ordinary_bytes_here() {
        let path = SafePath::parse(br"..\..\x").expect("a plain name on this system");
        assert_eq!(path.as_path().components().count(), 1);
    }
}
