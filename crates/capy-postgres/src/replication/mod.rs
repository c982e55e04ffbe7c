//! The replication protocol: a small client of our own, because BASE_BACKUP's several results and
//! its copy streams do not fit a query interface.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol".

mod base_backup;
mod connection;
mod scripted;
mod wire;

pub use base_backup::BaseBackupOptions;
pub(crate) use base_backup::{BaseBackup, BaseBackupEvent};
pub use connection::{ReplicationConnection, SystemIdentity};
#[doc(hidden)]
pub use scripted::base_backup_from_script;
