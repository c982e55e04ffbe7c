//! Whose files a directory of WAL is among: what the server's own `global/pg_control` says.
//!
//! Segments say whose they are. Timeline histories and backup labels do not, and neither does a
//! request for a file: there the data directory above `pg_wal` tells, where it can be read. Where it
//! cannot (a copy elsewhere, a version that is not known here), nothing is compared.

use std::path::{Path, PathBuf};

use capy_postgres::control::ControlFile;
use capy_types::{SegmentSize, SystemId};

/// A server, by its data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerBeside {
    pub(super) directory: PathBuf,
    pub(super) system_id: SystemId,
    pub(super) segment_size: SegmentSize,
}

impl ServerBeside {
    /// The server in whose `pg_wal` this file is, or is to be. Blocks.
    pub(super) fn of(file: &Path) -> Option<Self> {
        // Not by its one name: `pg_wal` may be a link.
        let file = std::path::absolute(file).ok()?;
        let directory = file.parent()?.parent()?.to_owned();
        let control = ControlFile::read_in(&directory).ok()?;
        let (system_id, segment_size) = (control.system_id, control.segment_size);
        Some(Self { directory, system_id, segment_size })
    }

    /// As [`of`](Self::of), on a thread of its own.
    pub(super) async fn find(file: &Path) -> Option<Self> {
        let file = file.to_owned();
        tokio::task::spawn_blocking(move || Self::of(&file)).await.ok()?
    }
}
