//! The one public error of the library.
//!
//! Contained by: every entry point of the façade. It is opaque: callers decide by
//! [`Error::kind`], named after their next step, and people read the message and its causes.
//! Invariants: messages are lower case and state one fact; a hint never repeats the message;
//! no secret is ever part of either.

use std::fmt;

use capy_repo::RepoError;
use capy_types::{Cancelled, ErrorKind, PackId};

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, in which class of failure, with its causes.
///
/// `Display` gives one fact; [`std::error::Error::source`] leads to the cause beneath.
pub struct Error {
    kind: ErrorKind,
    /// What was being done or is wrong; without it the source speaks for itself.
    context: Option<String>,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` with a message of one fact.
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: Some(context.into()), hint: None, source: None }
    }

    /// Something the caller must correct.
    pub(crate) fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    /// A lower crate's error as it is.
    pub(crate) fn wrap(kind: ErrorKind, source: impl Into<Source>) -> Self {
        Self { kind, context: None, hint: None, source: Some(source.into()) }
    }

    /// An operating system's error, with what was being done.
    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self {
            kind: kind_of_io(source.kind()),
            context: Some(doing.into()),
            hint: None,
            source: Some(source.into()),
        }
    }

    /// Adds advice on the next step.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The pack that was found damaged, where that is what is wrong.
    pub(crate) fn damaged_pack(&self) -> Option<PackId> {
        self.source.as_ref()?.downcast_ref::<RepoError>()?.damaged_pack()
    }

    /// The class of failure, named by the caller's next step.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same request may succeed later without any change.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }

    /// What to do about it, where the library knows more than the message says.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message and all its causes on one line, a cause that only repeats left out.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let words = cause.to_string();
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            next = cause.source();
        }
        text
    }
}

/// The class of an operating system's error.
fn kind_of_io(kind: std::io::ErrorKind) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match kind {
        Io::NotFound | Io::NotADirectory => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::AlreadyExists | Io::DirectoryNotEmpty => ErrorKind::Conflict,
        Io::InvalidInput | Io::InvalidData | Io::InvalidFilename | Io::UnexpectedEof => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.context, &self.source) {
            (Some(context), _) => f.write_str(context),
            (None, Some(source)) => source.fmt(f),
            (None, None) => self.kind.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.chain(), self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.source.as_deref()? as &(dyn std::error::Error + 'static);
        if self.context.is_some() { Some(source) } else { source.source() }
    }
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_each_fact_once() {
        let disk = std::io::Error::other("disk on fire");
        let error = Error::io("write base/1/2", disk);
        assert_eq!(error.to_string(), "write base/1/2");
        assert_eq!(error.chain(), "write base/1/2: disk on fire");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_wrapped_error_speaks_for_itself() {
        let error = Error::wrap(ErrorKind::Denied, "no key slot opens with this passphrase");
        assert_eq!(error.chain(), "no key slot opens with this passphrase");
        assert!(!error.is_transient());
    }
}
