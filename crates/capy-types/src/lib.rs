//! The words every other crate speaks: identities, PostgreSQL positions, limits, time, chance,
//! and the small context a long operation carries.
//!
//! Contained by: nothing below it. Every other crate depends on this one.
//! Invariants: no I/O, no async, no global state. Time and randomness come by argument
//! ([`Clock`], [`Entropy`]); the only place that asks the operating system is [`SystemClock`]
//! and [`OsEntropy`].

mod clock;
mod ctx;
mod entropy;
mod error_kind;
mod ids;
mod keys;
pub mod limits;
mod lsn;
mod names;
mod timeline;
mod wal_file;

pub use clock::{Clock, ParseTimestampError, SystemClock, Timestamp};
pub use ctx::{Cancelled, Ctx, NoProgress, Phase, Problem, Progress};
pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use error_kind::ErrorKind;
pub use ids::{ChunkId, IndexId, Nonce, PackId, ParseIdError, RepositoryId, RootHash, SessionId, SlotId};
pub use keys::Secret;
pub use lsn::{Lsn, ParseLsnError, SystemId};
pub use names::{BackupId, BackupKey, BackupSelector, ClusterName, NameError};
pub use timeline::{SegmentName, SegmentSize, TimelineId, WalNameError};
pub use wal_file::{WalFile, WalFileKind};
