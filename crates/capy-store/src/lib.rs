//! Encrypted, deduplicated backups of PostgreSQL in an object store: the library an agent links.
//!
//! A [`Repository`] lives in an object store (a directory, S3 or a compatible store) and is opened
//! by a passphrase or a key file. [`Repository::backup`] takes a running PostgreSQL cluster, a tar
//! of `pg_basebackup`, or any stream, and stores only what the repository does not hold yet.
//! [`Repository::verify`] proves that what is stored is what was stored, and
//! [`Repository::restore`] brings it back, byte for byte.
//!
//! Rules that hold everywhere:
//!
//! - Long operations take a [`Ctx`] first: the means to cancel, and a place to report progress to.
//! - Every future may be dropped; its `# Cancellation` section says what may be left behind. A
//!   backup becomes visible in one step, its commit, and not before.
//! - Errors are one opaque [`Error`], whose [`kind`](Error::kind) is named after the caller's next
//!   step. A result that is bad news but not a failure (defects found, a damaged backup kept) is
//!   a report, not an error.
//! - The library reads no environment variable, no terminal and no home directory.
//!
//! ```
//! use capy_store::{BackupOptions, BackupSource, Ctx, InitOptions, Key, Location, Repository};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), capy_store::Error> {
//! let ctx = Ctx::default();
//! let key = Key::passphrase("correct horse battery staple");
//! let place = Location::new("memory://");
//! let repository = Repository::init(&ctx, &place, &[key], InitOptions::default()).await?;
//!
//! let source = BackupSource::stream("dump.sql", &b"select 1;"[..]);
//! let report = repository.backup(&ctx, source, BackupOptions::new("main".parse().unwrap())).await?;
//! assert!(report.is_complete());
//! # Ok(()) }
//! ```

mod backup;
mod check;
mod convert;
mod error;
mod expire;
mod explain;
mod info;
pub mod inspect;
mod keys;
mod limits;
mod location;
mod manifest;
mod metered;
mod probe;
mod rate;
mod report;
mod repository;
mod restore;
mod restore_point;
mod server;
mod stats;
mod verify;
mod wal;

#[cfg(test)]
#[allow(dead_code, reason = "made for the tests beside the library, which use all of it")]
#[path = "../tests/it/made_wal.rs"]
mod made_wal;

pub use capy_objects::{CacheOptions, ProbeReport, StoreOptions};
pub use capy_types::{
    BackupId, BackupKey, BackupSelector, ChunkId, Clock, ClusterName, Ctx, Entropy, ErrorKind, IndexId, Lsn,
    NameError, NoProgress, OsEntropy, PackId, Phase, Problem, Progress, RepositoryId, Secret, SegmentSize,
    SlotId, SystemClock, SystemId, TimelineId, Timestamp, WalFile, WalFileKind, WalNameError,
};

pub use backup::{BackupOptions, BackupSource, Checkpoint, Incremental, IncrementalReport, PostgresSource};
pub use capy_postgres::recovery::{RecoveryTarget, TargetAction, TargetTimeline, restore_command};
pub use check::{CheckOptions, CheckReport, CheckState, CheckStep};
pub use error::{Error, Result};
pub use expire::{
    ExpireOptions, ExpireReason, ExpireReport, ExpiredBackup, ExpiredWal, KeepReason, KeptBackup, OldestKept,
    RetentionPolicy,
};
pub use explain::{Cost, Explanation};
pub use info::{
    BackupDetails, BackupInfo, BackupKind, BackupState, BackupStats, CollationInfo, ManifestCheckInfo,
    PinInfo, PostgresInfo, TablespaceInfo, VerificationState,
};
pub use keys::{KeyKind, KeySlotInfo};
pub use limits::{Limit, Limits};
pub use location::{Key, Location, StoreRates};
pub use probe::probe;
pub use report::{
    BackupReport, CacheReport, Defect, RestoreReport, Stage, VerifyLevel, VerifyReport, WalRange,
};
pub use repository::{ChunkSizes, InitOptions, Repository};
pub use restore::{Delta, DeltaPlan, Owner, Recovery, RestoreOptions, TablespaceMapping, TarTarget};
pub use restore_point::{
    RestorePointAt, RestorePointInfo, RestorePointKind, RestorePointOptions, RestorePointState,
};
pub use server::PostgresServer;
pub use stats::{ChunkSum, RepositoryStats};
pub use verify::{VerifyOptions, VerifyScope};
pub use wal::{AheadBudget, AheadReport, FetchAhead};
pub use wal::{
    ArchiveStatus, FailingWal, SegmentRates, ServerWal, Spool, SpoolEnd, SpoolFault, SpoolOptions,
    SpoolReport, SpoolStatus, SpoolWorker, TimelineStatus, WaitingWal, WalStatus, WalStatusOptions,
    wal_status,
};
pub use wal::{
    ArchivedEvent, BackupWindows, DamagedWal, FetchedWal, PushOutcome, PushedWal, RecoveryChoice,
    RecoveryWindow, TimelineWal, TransactionMoment, WalMoment, WalRun, WalVerifyReport, WalWindows,
};
pub use wal::{ReceiveEnd, ReceiveEvent, ReceiveOptions, ReceiveReport, WalGap};
