//! Error kinds, named by what the caller does next.

use std::fmt;

/// What kind of failure an error is, named by the caller's next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The thing named does not exist: check the name.
    NotFound,
    /// It exists already, or somebody else was first: choose another name, or look.
    Conflict,
    /// The store, server or network did not answer: try again later.
    Unavailable,
    /// Stored or received bytes are not what they must be: verify, repair, use another copy.
    Corrupt,
    /// The request or its input makes no sense: correct it.
    Invalid,
    /// No permission, or no key that opens it.
    Denied,
    /// The caller cancelled.
    Cancelled,
    /// A fault in this program: report it.
    Internal,
}

impl ErrorKind {
    /// Whether the same request may succeed later without any change.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable)
    }

    /// The word used in JSON and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
