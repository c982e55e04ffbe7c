//! What can go wrong with a store: one error that says the operation, the object, the place and
//! the kind, named by what the caller does next.

use std::fmt;

use capy_types::ErrorKind;

/// What was asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreOp {
    /// Opening the store.
    Open,
    /// Creating an object.
    PutNew,
    /// Reading a whole object.
    Get,
    /// Reading a part of an object.
    GetRange,
    /// Asking for an object's size.
    Head,
    /// Listing names.
    List,
    /// Asking for the smallest name.
    First,
    /// Removing an object.
    Delete,
}

impl fmt::Display for StoreOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::PutNew => "write",
            Self::Get | Self::GetRange => "read",
            Self::Head => "look up",
            Self::List | Self::First => "list",
            Self::Delete => "delete",
        })
    }
}

/// The kinds of failure a store has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No such object.
    #[error("not found")]
    NotFound,
    /// The name is taken by another content.
    #[error("the name is taken by other content")]
    AlreadyExists,
    /// The store refuses these credentials, or this user.
    #[error("permission denied")]
    Denied,
    /// The disk, the quota or the bucket is full. Never retried here.
    #[error("no space left in the store")]
    NoSpace,
    /// The store did not answer, or answered with a fault of its own, within the retry limit.
    #[error("the store is unavailable")]
    Unavailable,
    /// Fewer bytes than there must be.
    #[error("truncated: expected {expected} bytes, found {found}")]
    Truncated {
        /// Bytes asked for.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// Larger than the caller's limit.
    #[error("too large: {size} bytes, at most {max} are accepted")]
    TooLarge {
        /// The object's size in bytes.
        size: u64,
        /// The caller's limit in bytes.
        max: u64,
    },
    /// A request, a URL or a setting that makes no sense.
    #[error("{what}")]
    Invalid {
        /// One fact.
        what: String,
    },
}

impl StoreErrorKind {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

/// A failure of a store.
#[derive(Debug, thiserror::Error)]
#[error("{op}{}{object}: {kind}: {url}", if object.is_empty() { "" } else { " " })]
pub struct StoreError {
    /// What was asked.
    pub op: StoreOp,
    /// Of which object or prefix; empty for the store as a whole.
    pub object: String,
    /// Of which store, without secrets.
    pub url: String,
    /// What kind of failure it is.
    pub kind: StoreErrorKind,
    /// What the layer below said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// A failure without a deeper cause.
    pub fn new(op: StoreOp, object: impl Into<String>, url: impl Into<String>, kind: StoreErrorKind) -> Self {
        Self { op, object: object.into(), url: url.into(), kind, source: None }
    }

    /// The same failure with what the layer below said.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind, named by the caller's next step.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self.kind {
            StoreErrorKind::NotFound => ErrorKind::NotFound,
            StoreErrorKind::AlreadyExists => ErrorKind::Conflict,
            StoreErrorKind::Denied => ErrorKind::Denied,
            StoreErrorKind::NoSpace | StoreErrorKind::Unavailable => ErrorKind::Unavailable,
            StoreErrorKind::Truncated { .. } | StoreErrorKind::TooLarge { .. } => ErrorKind::Corrupt,
            StoreErrorKind::Invalid { .. } => ErrorKind::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_operation_object_kind_and_place() {
        let error = StoreError::new(StoreOp::Get, "config", "s3://b/p", StoreErrorKind::NotFound);
        assert_eq!(error.to_string(), "read config: not found: s3://b/p");
        let open = StoreError::new(StoreOp::Open, "", "x://", StoreErrorKind::invalid("no such scheme"));
        assert_eq!(open.to_string(), "open: no such scheme: x://");
    }
}
