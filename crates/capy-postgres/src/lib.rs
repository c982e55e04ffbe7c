//! PostgreSQL as the engine sees it: base backups in, and the formats they are made of.
//!
//! One [`Source`] shape covers all inputs (the replication protocol, tar files or standard input,
//! any other stream); the parsers beside it ([`tar`], [`backup_manifest`], [`page`], [`label`],
//! [`control`], [`wal`]) are pure and work on bytes as they arrive, in bounded memory.
//!
//! Contained by: capy-store, the façade. This crate knows nothing of repositories.
//! Invariants: outside bytes are never indexed unchecked, every parser names the offset of what
//! it refuses, and no queue or buffer is unbounded.

pub mod backup_manifest;
mod connect;
pub mod control;
mod error;
pub mod incremental;
pub mod label;
pub mod page;
pub mod recovery;
pub mod relation;
mod replication;
mod server;
pub mod source;
pub mod tar;
pub mod wal;

pub use connect::{ConnectSettings, Host, SslMode};
pub use error::{PostgresError, ServerError};
#[doc(hidden)]
pub use replication::base_backup_from_script;
pub use replication::{
    BaseBackupOptions, HISTORY_MAX_BYTES, HistoryEntry, HistoryError, HistoryFile, ReplicationConnection,
    SlotCreation, SlotName, SlotState, StreamEvent, StreamRefusal, SystemIdentity, TimelineHistory,
    WalStream, WalStreamSettings,
};
pub use server::{
    Advice, ArchiveMode, ArchiverEvent, ArchiverState, ArchivingPrivileges, ArchivingSettings,
    IncrementalServer, Severity, SlotInfo, SqlConnection, WalLevel, WalPosition, WalSwitch, archiver_advice,
    archiving_advice, slots_advice,
};
pub use source::{
    ArchiveKind, ArchiveStart, Cells, CollationFacts, LocalOptions, LocalSource, Recognizer,
    ReplicationSource, Source, SourceEvent, SourceFacts, TablespaceFacts,
};
