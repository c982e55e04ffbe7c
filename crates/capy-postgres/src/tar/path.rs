//! From a path in a tar to a path that may be joined to a directory.
//!
//! Invariant: what [`clean_path`] returns stays below the directory it is joined to, as long as
//! no component on the way is a symbolic link: that is the restorer's to see to.

use std::borrow::Cow;

use capy_types::limits::PATH_MAX_BYTES;

/// A path that must not be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused path {path:?}: {problem}")]
pub struct PathError {
    /// The path, lossily as text.
    pub path: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Removes `.` components, doubled and trailing slashes: `./pg_wal//archive_status/` becomes
/// `pg_wal/archive_status`. The root itself (`.` or `./`) becomes `.`.
/// # Errors
/// [`PathError`] for a path that is empty, absolute, longer than 4096 bytes, or that holds a NUL
/// byte or a `..` component.
pub fn clean_path(path: &[u8]) -> Result<Cow<'_, [u8]>, PathError> {
    let fail = |problem| Err(PathError { path: String::from_utf8_lossy(path).into_owned(), problem });
    if path.is_empty() {
        return fail("it is empty");
    }
    if path.len() > PATH_MAX_BYTES {
        return fail("it is longer than 4096 bytes");
    }
    if path.starts_with(b"/") {
        return fail("it is absolute");
    }
    if path.contains(&0) {
        return fail("it holds a NUL byte");
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for component in path.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return fail("it climbs out with '..'"),
            name => {
                if !cleaned.is_empty() {
                    cleaned.push(b'/');
                }
                cleaned.extend_from_slice(name);
            }
        }
    }
    Ok(match cleaned {
        root if root.is_empty() => Cow::Borrowed(b"."),
        same if same == path => Cow::Borrowed(path),
        cleaned => Cow::Owned(cleaned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_spellings_become_plain_ones() {
        for (given, clean) in [
            ("base/1/1249", "base/1/1249"),
            ("./pg_wal/archive_status/", "pg_wal/archive_status"),
            ("base//1/./2", "base/1/2"),
            ("base/", "base"),
            ("./", "."),
            (".", "."),
            ("a/...", "a/..."),
            ("..a/b..", "..a/b.."),
            ("a\\..\\b", "a\\..\\b"),
        ] {
            assert_eq!(clean_path(given.as_bytes()).unwrap().as_ref(), clean.as_bytes(), "{given}");
        }
    }

    #[test]
    fn paths_that_leave_the_directory_are_refused() {
        let long = "x/".repeat(2049);
        for bad in ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./..", "a\0b", &long] {
            assert!(clean_path(bad.as_bytes()).is_err(), "{bad:?} must be refused");
        }
        assert_eq!(
            clean_path(b"a/../b").unwrap_err().to_string(),
            "refused path \"a/../b\": it climbs out with '..'"
        );
    }

    #[test]
    fn a_clean_path_is_borrowed_and_cleaning_is_idempotent() {
        assert!(matches!(clean_path(b"global/pg_control"), Ok(Cow::Borrowed(_))));
        let once = clean_path(b"./a//b/").unwrap().into_owned();
        assert_eq!(clean_path(&once).unwrap().as_ref(), once);
    }
}
