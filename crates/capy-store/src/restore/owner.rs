//! Who the restored files belong to.
//!
//! Contained by: the restore. PostgreSQL refuses to start as root and on files of another user,
//! so a restore run as root must hand the files to somebody.
//! The rule, first match wins: what the caller says; the owner of the target directory if it
//! exists and is not root's; the owner of its nearest existing parent if that is not root; the
//! fallback the caller gave; nobody (the files stay root's, and the report says so). Not run as
//! root, files belong to the caller and nothing is changed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who the restored files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As root: the owner of the target or of its nearest existing parent, unless that is root;
    /// then the fallback (user id, group id). Otherwise: the caller.
    Automatic {
        /// Used when target and parent are root's.
        fallback: Option<(u32, u32)>,
    },
    /// This user and group; needs root.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl Default for Owner {
    fn default() -> Self {
        Self::Automatic { fallback: None }
    }
}

/// The ids to set, or `None` to leave files as they are created.
pub(crate) fn choose(owner: Owner, target: &Path, is_root: bool) -> Option<(u32, u32)> {
    match owner {
        Owner::Ids { uid, gid } => Some((uid, gid)),
        Owner::Automatic { .. } if !is_root => None,
        Owner::Automatic { fallback } => owner_around(target).filter(|(uid, _)| *uid != 0).or(fallback),
    }
}

/// The owner of `target`, or of its nearest existing parent when it does not exist.
fn owner_around(target: &Path) -> Option<(u32, u32)> {
    let existing = target.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        path.metadata().ok()
    });
    existing.map(|metadata| (metadata.uid(), metadata.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_word_comes_first_and_an_ordinary_user_changes_nothing() {
        let here = Path::new("/");
        assert_eq!(choose(Owner::Ids { uid: 7, gid: 8 }, here, false), Some((7, 8)));
        assert_eq!(choose(Owner::Automatic { fallback: Some((7, 8)) }, here, false), None);
    }

    #[test]
    fn below_a_root_directory_the_fallback_is_used() {
        let target = Path::new("/no/such/directory/here");
        assert_eq!(choose(Owner::Automatic { fallback: Some((7, 8)) }, target, true), Some((7, 8)));
        assert_eq!(choose(Owner::Automatic { fallback: None }, target, true), None);
    }
}
