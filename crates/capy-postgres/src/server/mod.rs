//! What a server says about itself, what is worth telling before a backup starts, and what WAL
//! archiving asks of it.

mod archiving;
mod archiving_advice;
mod backup_session;
mod facts;
mod incremental;
mod preflight;
mod slots;
mod sql;

pub use archiving::{
    ArchiveMode, ArchiverEvent, ArchiverState, ArchivingPrivileges, ArchivingSettings, WalLevel, WalPosition,
    WalSwitch,
};
pub use archiving_advice::{archiver_advice, archiving_advice};
pub(crate) use backup_session::{BackupSession, Stopped};
pub(crate) use facts::{facts_over_replication, facts_over_sql};
pub use incremental::IncrementalServer;
pub(crate) use preflight::advice_of;
pub use preflight::{Advice, Severity};
pub use slots::{SlotInfo, slots_advice};
pub use sql::SqlConnection;
