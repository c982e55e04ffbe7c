//! WAL: the archive's way in and out, and what it can be recovered to.
//!
//! A file goes in by [`Repository::push_wal`](crate::Repository::push_wal), which looks at it
//! before it stores it: whose it is, whether it is the segment its name says, and what its records
//! tell. It comes out by [`Repository::fetch_wal`](crate::Repository::fetch_wal), matched against
//! its content id.
//!
//! Invariants: a push is acknowledged only when the file is durable; nothing is ever replaced; a
//! fetch says that a file is absent only on the store's own word.

mod ahead;
pub(crate) mod archive;
mod beside;
pub(crate) mod borders;
mod events;
pub(crate) mod facts;
mod fetch;
mod moment;
mod push;
mod receive;
mod retention;
mod spool;
mod tail;
pub(crate) mod target;
mod verify;
mod windows;

#[cfg(test)]
mod tests;

pub use ahead::{AheadBudget, AheadReport, FetchAhead};
pub use events::ArchivedEvent;
pub use fetch::FetchedWal;
pub use moment::{TransactionMoment, WalMoment};
pub use push::{PushOutcome, PushedWal};
pub use receive::{ReceiveEnd, ReceiveEvent, ReceiveOptions, ReceiveReport, WalGap};
pub(crate) use retention::UnneededWal;
pub use spool::{
    ArchiveStatus, FailingWal, SegmentRates, ServerWal, Spool, SpoolEnd, SpoolFault, SpoolOptions,
    SpoolReport, SpoolStatus, SpoolWorker, TimelineStatus, WaitingWal, WalStatus, WalStatusOptions,
    wal_status,
};
pub use target::RecoveryChoice;
pub use verify::{DamagedWal, WalVerifyReport};
pub use windows::{BackupWindows, RecoveryWindow, TimelineWal, WalRun, WalWindows};
