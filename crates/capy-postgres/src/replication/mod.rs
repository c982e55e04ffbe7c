//! The replication protocol: a small client of our own, because BASE_BACKUP's several results and
//! its copy streams do not fit a query interface.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol".

mod base_backup;
mod connection;
mod physical;
mod refusal;
mod scripted;
mod slot;
mod timeline_history;
mod wire;

pub use base_backup::BaseBackupOptions;
pub(crate) use base_backup::{BaseBackup, BaseBackupEvent};
pub use connection::{ReplicationConnection, SystemIdentity};
pub use physical::{StreamEvent, WalStream, WalStreamSettings};
pub use refusal::StreamRefusal;
#[doc(hidden)]
pub use scripted::base_backup_from_script;
pub use slot::{SlotCreation, SlotName, SlotState};
pub use timeline_history::{HISTORY_MAX_BYTES, HistoryEntry, HistoryError, HistoryFile, TimelineHistory};
