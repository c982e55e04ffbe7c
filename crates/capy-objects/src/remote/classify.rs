//! What the answers of an object store mean: which kind of failure, and whether a write may have
//! happened all the same.
//!
//! `object_store` keeps the HTTP status and body private, so the few codes that matter are looked
//! for in the text of its errors.

use std::error::Error as _;

use object_store::Error;

use crate::StoreErrorKind;

/// What an unsuccessful write means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing was written, and trying again would not change that.
    Refused(StoreErrorKind),
    /// The object may be there, by this write or by another.
    Unclear(StoreErrorKind),
}

pub(super) fn classify_write(error: &Error) -> Answer {
    match fault_of(error) {
        kind @ (StoreErrorKind::AlreadyExists | StoreErrorKind::Unavailable) => Answer::Unclear(kind),
        kind => Answer::Refused(kind),
    }
}

/// The kind of an error.
pub(super) fn fault_of(error: &Error) -> StoreErrorKind {
    // Listings wrap the answer once more, so this is asked first and of all.
    if says(error, "NoSuchBucket") {
        return StoreErrorKind::invalid("there is no such bucket");
    }
    match error {
        Error::NotFound { .. } => StoreErrorKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            StoreErrorKind::AlreadyExists
        }
        // Some stores answer a full quota with 403.
        Error::PermissionDenied { .. } if is_full(error) => StoreErrorKind::NoSpace,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreErrorKind::Denied,
        Error::InvalidPath { .. } => StoreErrorKind::invalid("not a name here"),
        Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            StoreErrorKind::invalid("the store does not support this request")
        }
        Error::UnknownConfigurationKey { key, .. } => {
            StoreErrorKind::invalid(format!("not a setting of this store: {key}"))
        }
        _ if is_full(error) => StoreErrorKind::NoSpace,
        _ if says(error, "without LOCATION") || says(error, "PermanentRedirect") => {
            StoreErrorKind::invalid("the bucket is in another region, or behind another endpoint")
        }
        _ => StoreErrorKind::Unavailable,
    }
}

/// Codes of S3-compatible stores for a full disk, bucket or account; 507 is "Insufficient Storage".
fn is_full(error: &Error) -> bool {
    ["507 Insufficient", "QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "StorageFull"]
        .iter()
        .any(|code| says(error, code))
}

/// Whether the error, or what lies below it, says `words`.
fn says(error: &Error, words: &str) -> bool {
    let mut below = error.source();
    if error.to_string().contains(words) {
        return true;
    }
    while let Some(source) = below {
        if source.to_string().contains(words) {
            return true;
        }
        below = source.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.into() }
    }

    fn denied(text: &str) -> Error {
        Error::PermissionDenied { path: "p".to_owned(), source: text.into() }
    }

    #[test]
    fn a_full_store_is_no_space_and_final() {
        for error in [
            generic("Server returned non-2xx status code: 507 Insufficient Storage: "),
            denied("403 Forbidden: <Code>QuotaExceeded</Code>"),
        ] {
            assert_eq!(classify_write(&error), Answer::Refused(StoreErrorKind::NoSpace));
        }
    }

    #[test]
    fn a_write_that_may_have_happened_is_unclear() {
        for (error, kind) in [
            (generic("503 Service Unavailable"), StoreErrorKind::Unavailable),
            (
                Error::AlreadyExists { path: "p".to_owned(), source: "409".into() },
                StoreErrorKind::AlreadyExists,
            ),
        ] {
            assert_eq!(classify_write(&error), Answer::Unclear(kind));
        }
        assert_eq!(classify_write(&denied("403 Forbidden")), Answer::Refused(StoreErrorKind::Denied));
    }

    #[test]
    fn an_absent_bucket_is_not_an_absent_object() {
        let error = Error::NotFound { path: "p".to_owned(), source: "<Code>NoSuchBucket</Code>".into() };
        assert!(matches!(fault_of(&error), StoreErrorKind::Invalid { .. }));
    }
}
