//! Where a backup's bytes come from: one shape for the replication protocol, tars and streams.
//!
//! A source is a sequence of archives; each is announced by [`SourceEvent::Archive`], followed by
//! its data in order, and closed by [`SourceEvent::EndArchive`]. Data of base and tablespace
//! archives is raw tar for [`crate::tar::TarParser`]; a backup manifest or stream is plain bytes.
//! Archives come in any order: a server sends tablespaces first and the base archive last.
//!
//! Invariant: reading ahead is bounded, and dropping a source stops it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use capy_types::{Lsn, SegmentSize, SystemId, TimelineId};

use crate::PostgresError;

mod buffer;
mod cells;
mod directory;
mod local;
mod reader;
mod replication;
mod stream;
mod tar;
mod wal_tar;

pub use cells::{Cells, Recognizer};
pub use local::{LocalOptions, LocalSource};
pub use replication::ReplicationSource;
pub use stream::StreamSource;
pub use tar::TarSource;

/// What errors call the standard input.
const STDIN: &str = "standard input";

/// What an archive of a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveKind {
    /// Tar of the data directory.
    Base,
    /// Tar of one tablespace.
    Tablespace {
        /// The tablespace's oid: the name of its link in `pg_tblspc`.
        oid: u32,
        /// Where it lies on the server; empty when the source does not know.
        location: String,
    },
    /// The backup's `backup_manifest`, as plain bytes.
    BackupManifest,
    /// Bytes that are no base backup: a dump, an import file.
    Stream {
        /// What the caller named it.
        name: String,
    },
}

impl ArchiveKind {
    /// Where its files are, seen from the data directory: `pg_tblspc/OID/` for a tablespace's.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Tablespace { oid, .. } => format!("pg_tblspc/{oid}/"),
            _ => String::new(),
        }
    }
}

/// The start of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveStart {
    /// What the archive is.
    pub kind: ArchiveKind,
}

/// One step of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// An archive begins.
    Archive(ArchiveStart),
    /// The next bytes of the archive, never empty.
    Data(Bytes),
    /// As [`Data`](Self::Data): whole pages of one relation, each found sound while they were read.
    SoundPages(Bytes),
    /// As [`Data`](Self::Data): cells of a relation's file, with their names. `sound`: whole pages, each
    /// found sound while they were read. Only where there is a [`Recognizer`].
    Cells {
        /// Their names and lengths, which add up to the bytes.
        cells: Cells,
        /// Their bytes.
        bytes: Bytes,
        /// Whether their pages need no look any more.
        sound: bool,
    },
    /// Cells that come next in the archive and whose bytes are not handed on, for the [`Recognizer`]
    /// knows them. Their pages are sound, or nobody looks at pages.
    KnownCells(Cells),
    /// The archive has ended; for a tar this does not prove that it was complete.
    EndArchive,
    /// The server's own count of bytes done, over all archives.
    Progress(u64),
}

/// A tablespace as the source knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceFacts {
    /// The tablespace's oid.
    pub oid: u32,
    /// Where it lies on the server.
    pub location: String,
    /// Its size in bytes as the server estimated it.
    pub size_bytes: Option<u64>,
}

/// A collation version that indexes of the cluster depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollationFacts {
    /// The collation's or database's name.
    pub name: String,
    /// `libc`, `icu` or `builtin`.
    pub provider: String,
    /// The library's version as the server recorded it.
    pub version: String,
}

/// What only the source knows about a backup. A tar knows almost nothing by itself: its label,
/// control file and manifest are entries inside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// The cluster's system identifier.
    pub system_id: Option<SystemId>,
    /// `server_version_num`, like 150020.
    pub version_num: Option<u32>,
    /// `server_version`, like `15.20 (Debian 15.20-0+deb12u1)`.
    pub version: Option<String>,
    /// The timeline of the backup's start.
    pub timeline: Option<TimelineId>,
    /// Where recovery of the backup begins.
    pub start_lsn: Option<Lsn>,
    /// The first position at which the backup is consistent.
    pub stop_lsn: Option<Lsn>,
    /// The cluster's WAL segment size.
    pub segment_size: Option<SegmentSize>,
    /// Whether the cluster has page checksums.
    pub data_checksums: Option<bool>,
    /// Whether the WAL from start to stop is inside the base archive.
    pub wal_included: Option<bool>,
    /// Whether the server was a standby.
    pub from_standby: Option<bool>,
    /// Whether relation files come as the blocks that changed since an earlier backup.
    pub incremental: bool,
    /// Why they do not, though that was asked for.
    pub not_incremental: Option<String>,
    /// The user tablespaces.
    pub tablespaces: Vec<TablespaceFacts>,
    /// Settings that recovery elsewhere depends on.
    pub settings: BTreeMap<String, String>,
    /// Collation versions in use.
    pub collations: Vec<CollationFacts>,
}

/// Where a backup's bytes come from.
#[derive(Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "there is one value per backup")]
pub enum Source {
    /// A running server.
    Replication(Box<ReplicationSource>),
    /// The files of a running server, read in their places.
    Local(Box<LocalSource>),
    /// Tar files, a directory of them, or tar on standard input.
    Tar(TarSource),
    /// Any other bytes.
    Stream(StreamSource),
}

impl Source {
    /// The next event; `None` once everything was delivered.
    /// # Errors
    /// Whatever stopped the source; it delivers nothing after an error.
    /// # Cancellation
    /// Safe: a dropped call loses no event.
    pub async fn next(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        match self {
            Self::Replication(source) => source.next().await,
            Self::Local(source) => source.next().await,
            Self::Tar(source) => source.next().await,
            Self::Stream(source) => source.next().await,
        }
    }

    /// Lets a source that reads files itself keep cells to itself that `recognizer` knows; others need
    /// nobody for that. Of use before the first event.
    pub fn recognize_with(&mut self, recognizer: Arc<dyn Recognizer>) {
        if let Self::Local(source) = self {
            source.recognize_with(recognizer);
        }
    }

    /// How many bytes all archives have together, where that is known; an estimate for a server.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        match self {
            Self::Replication(source) => source.total_bytes(),
            Self::Local(source) => source.total_bytes(),
            Self::Tar(source) => source.total_bytes(),
            Self::Stream(source) => source.total_bytes(),
        }
    }

    /// What the source knows by itself; complete once [`Source::next`] gave `None`.
    #[must_use]
    pub fn facts(&self) -> SourceFacts {
        match self {
            Self::Replication(source) => source.facts(),
            Self::Local(source) => source.facts(),
            Self::Tar(source) => source.facts(),
            Self::Stream(_) => SourceFacts::default(),
        }
    }
}

#[cfg(test)]
mod tests;
