//! Why a server does not stream: the cases that ask a WAL receiver for different next steps.
//!
//! Contained by: [`PostgresError`]. Cases without an SQLSTATE of their own are told by the
//! server's message, which is only possible while `lc_messages` is English.

use crate::{PostgresError, ServerError};

/// Why a server does not stream WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamRefusal {
    /// It no longer has WAL of that position: there is a gap, unless the archive has it.
    WalRemoved,
    /// The position is ahead of what it has flushed: it is behind, or another server.
    AheadOfServer,
    /// Timeline and position are not in its history: it has gone another way.
    NotInHistory,
    /// All its connections for receivers are taken: wait, or raise `max_wal_senders`.
    TooManyReceivers,
    /// Somebody streams from the slot, maybe a lost connection it has not noticed yet: wait.
    SlotInUse,
    /// There is no such slot: make it.
    SlotMissing,
    /// It has given the slot up: drop it and make it again; there may be a gap.
    SlotInvalidated,
}

impl StreamRefusal {
    /// Whether waiting may help.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::AheadOfServer | Self::TooManyReceivers | Self::SlotInUse)
    }

    fn of(error: &ServerError) -> Option<Self> {
        let says = |text: &str| error.message.contains(text);
        // The message for the operator, the state for everybody else: a file that is not there is,
        // for a sender, WAL that was removed.
        Some(match error.code.as_str() {
            "58P01" => Self::WalRemoved,
            "53300" => Self::TooManyReceivers,
            "55006" => Self::SlotInUse,
            "42704" => Self::SlotMissing,
            "55000" if says("can no longer") => Self::SlotInvalidated,
            _ if says("is ahead of the WAL flush position") => Self::AheadOfServer,
            _ if says("is not in this server's history") => Self::NotInHistory,
            _ => return None,
        })
    }
}

impl PostgresError {
    /// Why the server does not stream, when this is an error of
    /// [`start_physical`](crate::ReplicationConnection::start_physical), of the stream it gave, or
    /// of the connection, and is one of the known cases.
    #[must_use]
    pub fn stream_refusal(&self) -> Option<StreamRefusal> {
        match self {
            Self::Server(error) => StreamRefusal::of(error),
            _ => None,
        }
    }
}
