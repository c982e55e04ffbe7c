//! The rule for object names, the same in every store, so that no name can leave a directory,
//! hide itself, or be spelled differently by two stores.

use std::ops::Range;

use crate::{StoreError, StoreErrorKind, StoreOp};

/// Longest name in bytes. S3 takes 1024 bytes of key; the rest is left to the bucket prefix.
pub const NAME_MAX_BYTES: usize = 768;

/// Longest component in bytes: the limit of Linux file systems (`NAME_MAX`).
const COMPONENT_MAX_BYTES: usize = 255;

/// What is wrong with `name`, if anything.
fn fault(name: &str) -> Option<&'static str> {
    if name.len() > NAME_MAX_BYTES {
        return Some("the name is too long");
    }
    name.split('/').find_map(component_fault)
}

fn component_fault(component: &str) -> Option<&'static str> {
    let bytes = component.as_bytes();
    match bytes.first() {
        None => Some("the name has an empty component"),
        Some(b) if !(b.is_ascii_alphanumeric() || *b == b'_') => {
            Some("a component of the name starts with neither a letter nor a digit")
        }
        _ if bytes.len() > COMPONENT_MAX_BYTES => Some("a component of the name is too long"),
        _ if !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-+=@".contains(b)) => {
            Some("the name has a character that not every store takes")
        }
        _ => None,
    }
}

/// Whether `name` may be an object's name.
pub(crate) fn is_valid(name: &str) -> bool {
    fault(name).is_none()
}

/// Refuses what cannot be an object's name.
pub(crate) fn check_name(op: StoreOp, name: &str, url: &str) -> Result<(), StoreError> {
    fault(name).map_or(Ok(()), |what| Err(StoreError::new(op, name, url, StoreErrorKind::invalid(what))))
}

/// Refuses what is neither empty nor a name followed by `/`.
pub(crate) fn check_prefix(op: StoreOp, prefix: &str, url: &str) -> Result<(), StoreError> {
    let fail = |what: &str| Err(StoreError::new(op, prefix, url, StoreErrorKind::invalid(what)));
    match prefix.strip_suffix('/') {
        _ if prefix.is_empty() => Ok(()),
        None => fail("the prefix does not end in '/'"),
        Some(name) => fault(name).map_or(Ok(()), fail),
    }
}

/// The length of `range` in bytes; refuses one that ends before it starts.
pub(crate) fn check_range(name: &str, range: &Range<u64>, url: &str) -> Result<u64, StoreError> {
    range.end.checked_sub(range.start).ok_or_else(|| {
        let what = format!("the range {}..{} ends before it starts", range.start, range.end);
        StoreError::new(StoreOp::GetRange, name, url, StoreErrorKind::invalid(what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass_and_hostile_ones_do_not() {
        for good in ["config", "packs/0a/0a1b", "backups/main/20261121T065452Z-3fa2c1", "_x", "a.b-c+d=e@f"] {
            assert!(is_valid(good), "{good}");
        }
        let long = "a".repeat(256);
        for bad in
            ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", ".hidden", "a\0b", "a b", "ä", "a\\b", &long]
        {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(!is_valid(&["a"; 400].join("/")));
    }

    #[test]
    fn a_prefix_is_empty_or_ends_in_a_slash() {
        for (prefix, good) in
            [("", true), ("a/", true), ("a/b/", true), ("a", false), ("/", false), ("../", false)]
        {
            assert_eq!(check_prefix(StoreOp::List, prefix, "x").is_ok(), good, "{prefix:?}");
        }
    }
}
