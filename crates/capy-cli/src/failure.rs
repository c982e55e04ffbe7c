//! How the command fails: the binary's own errors, and how any error is shown.
//!
//! Contained by: `main` and the commands. The library's errors carry kind and hint; what the
//! binary itself refuses is a [`Failure`]. Everything else that anyhow gathers is classed by the
//! operating system's error beneath it.

use std::fmt;

use capy_store::ErrorKind;
use serde_json::json;

/// An error of the binary's own.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, message)
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error ready to be shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Shown {
    /// Classes `error` and puts its causes on one line, repetitions left out.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let mut shown = Self { kind: ErrorKind::Internal, message: String::new(), hint: None };
        let mut classed = false;
        for cause in error.chain() {
            let words = cause.to_string();
            if shown.message.is_empty() {
                shown.message = words;
            } else if !shown.message.contains(&words) {
                shown.message = format!("{}: {words}", shown.message);
            }
            if classed {
                continue;
            }
            classed = true;
            if let Some(error) = cause.downcast_ref::<capy_store::Error>() {
                (shown.kind, shown.hint) = (error.kind(), error.hint().map(str::to_owned));
            } else if let Some(failure) = cause.downcast_ref::<Failure>() {
                (shown.kind, shown.hint) = (failure.kind, failure.hint.clone());
            } else if let Some(error) = cause.downcast_ref::<std::io::Error>() {
                shown.kind = kind_of_io(error);
            } else {
                classed = false;
            }
        }
        shown
    }

    /// The document printed under `--json`.
    pub(crate) fn document(&self) -> serde_json::Value {
        json!({ "error": { "kind": self.kind.as_str(), "message": self.message, "hint": self.hint } })
    }

    /// The lines printed for people: what is wrong, and on its own line what to do.
    pub(crate) fn lines(&self) -> String {
        match &self.hint {
            Some(hint) => format!("error: {}\nhint: {hint}", self.message),
            None => format!("error: {}", self.message),
        }
    }
}

fn kind_of_io(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        std::io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn causes_are_joined_and_the_first_known_one_gives_the_kind() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let error = Err::<(), _>(missing).context("read /etc/passphrase").unwrap_err();
        let shown = Shown::of(&error);
        assert_eq!(shown.kind, ErrorKind::NotFound);
        assert!(shown.message.starts_with("read /etc/passphrase: "), "{}", shown.message);
    }

    #[test]
    fn a_hint_stands_on_its_own_line() {
        let error = anyhow::Error::from(Failure::denied("no passphrase").with_hint("set one"));
        assert_eq!(Shown::of(&error).lines(), "error: no passphrase\nhint: set one");
    }
}
