//! What ends a session, and whether another one may do better.

use std::fmt;

use capy_postgres::{PostgresError, StreamRefusal};
use capy_types::ErrorKind;

use super::assembly::Diverged;
use crate::Error;

/// The result of what a session does.
pub(super) type Outcome<T> = std::result::Result<T, Failure>;

/// What ended a session.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server or the connection to it.
    Server(PostgresError),
    /// The store, or something that is wrong for good.
    Here(Error),
}

impl Failure {
    /// Whether another session may do better.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            // Some refusals have the states of outages.
            Self::Server(error) => match error.stream_refusal() {
                Some(refusal) => refusal.is_transient(),
                None => error.kind().is_transient(),
            },
            Self::Here(error) => error.is_transient(),
        }
    }

    /// Whether the server no longer has, or no longer keeps, what is due.
    pub(super) fn is_removed_wal(&self) -> bool {
        self.refusal() == Some(StreamRefusal::WalRemoved) || self.is_lost_slot()
    }

    /// Whether the server streams nothing from a slot that it has given up.
    pub(super) fn is_lost_slot(&self) -> bool {
        self.refusal() == Some(StreamRefusal::SlotInvalidated)
    }

    fn refusal(&self) -> Option<StreamRefusal> {
        match self {
            Self::Server(error) => error.stream_refusal(),
            Self::Here(_) => None,
        }
    }

    pub(super) fn into_error(self) -> Error {
        let error = match self {
            Self::Here(error) => return error,
            Self::Server(error) => error,
        };
        let refusal = error.stream_refusal();
        let kind = match refusal {
            Some(StreamRefusal::SlotMissing) => ErrorKind::NotFound,
            Some(StreamRefusal::NotInHistory) => ErrorKind::Conflict,
            Some(refusal) if refusal.is_transient() => ErrorKind::Unavailable,
            _ => error.kind(),
        };
        let hint = match refusal {
            Some(StreamRefusal::SlotMissing) => "--create-slot makes it",
            Some(StreamRefusal::SlotInvalidated) => {
                "drop the slot and make it again; raise max_slot_wal_keep_size; there may be a gap"
            }
            Some(StreamRefusal::SlotInUse) => "another receiver reads this slot: give each its own",
            Some(StreamRefusal::TooManyReceivers) => "raise max_wal_senders",
            Some(StreamRefusal::AheadOfServer) => {
                "the archive has more than the server: is it a standby that lags, or was it set back?"
            }
            _ => return Error::wrap(kind, error),
        };
        Error::wrap(kind, error).with_hint(hint)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(error) => error.fmt(f),
            Self::Here(error) => f.write_str(&error.chain()),
        }
    }
}

impl From<PostgresError> for Failure {
    fn from(error: PostgresError) -> Self {
        Self::Server(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

impl From<capy_repo::RepoError> for Failure {
    fn from(error: capy_repo::RepoError) -> Self {
        Self::Here(error.into())
    }
}

impl From<Diverged> for Failure {
    fn from(diverged: Diverged) -> Self {
        let what = format!("the server's WAL differs at {} from what was archived of it", diverged.at);
        Self::Here(Error::new(ErrorKind::Conflict, what).with_hint(
            "it was set back to an earlier state, or is another one: give it a --cluster of its own and take \
             a base backup",
        ))
    }
}
