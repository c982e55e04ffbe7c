//! The repository layer's error: one enum, each variant one kind of failure with what and where.

use capy_codec::{CompressError, DecompressError, UnwrapError};
use capy_format::FormatError;
use capy_objects::{StoreError, StoreErrorKind};
use capy_types::{BackupKey, Cancelled, ClusterName, ErrorKind, PackId};

use crate::read::Defect;

/// Anything that can go wrong in the repository layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// The store holds no repository at this place.
    #[error("not a capy-store repository: {url}")]
    NotARepository {
        /// Where it was looked for.
        url: String,
    },
    /// A repository exists here already.
    #[error("a capy-store repository exists already: {url}")]
    RepositoryExists {
        /// Where.
        url: String,
    },
    /// The place for a new repository holds something else.
    #[error("not empty, and not a capy-store repository: {url}: found {found}")]
    NotEmpty {
        /// Where.
        url: String,
        /// One of the things found.
        found: String,
    },
    /// None of the key slots opens.
    #[error("no key slot opens with this {secret}")]
    NoSlotOpens {
        /// `passphrase` or `key file`.
        secret: &'static str,
    },
    /// The repository has no such backup.
    #[error("no such backup: {what}")]
    NoSuchBackup {
        /// The selector as given.
        what: String,
    },
    /// A backup with this key exists.
    #[error("a backup with this key exists already: {key}")]
    BackupExists {
        /// The key.
        key: BackupKey,
    },
    /// The backup is pinned.
    #[error("backup {key} is pinned: {reason}")]
    Pinned {
        /// The key.
        key: BackupKey,
        /// The reason its pin gives.
        reason: String,
    },
    /// An archive takes the WAL of one system, and this is another's.
    #[error("the archive {cluster} is of another cluster: its {what} is {expected}, this one's {found}")]
    WrongArchive {
        /// The archive.
        cluster: ClusterName,
        /// What differs.
        what: &'static str,
        /// The archive's.
        expected: String,
        /// The newcomer's.
        found: String,
    },
    /// No such restore point.
    #[error("no such restore point: {what}")]
    NoSuchRestorePoint {
        /// Cluster and id.
        what: String,
    },
    /// No such key slot.
    #[error("no such key slot: {id}")]
    NoSuchSlot {
        /// The slot's id.
        id: String,
    },
    /// The last key slot cannot be removed.
    #[error("this is the last key slot: without it nothing could be read again")]
    LastSlot,
    /// The session was fenced off while it worked.
    #[error("this session was ended by another process: nothing was committed; run the backup again")]
    Fenced,
    /// A pack this backup builds on was removed while it ran.
    #[error("pack {pack} was removed by the collector while this backup ran: run the backup again")]
    PackRemoved {
        /// The pack.
        pack: String,
    },
    /// Others kept committing first.
    #[error("could not commit: {attempts} other commits came first")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// An object fails authentication: altered, swapped, or sealed by another repository.
    #[error("{object}: fails authentication: altered, moved, or not of this repository")]
    Unauthentic {
        /// The object.
        object: String,
    },
    /// A stored object contradicts another one.
    #[error("{object}: {problem}")]
    Inconsistent {
        /// The object.
        object: String,
        /// One fact.
        problem: String,
    },
    /// A stored thing cannot be read as it was written.
    #[error("{0}")]
    Defect(Box<Defect>),
    /// A chunk is named by a manifest but no index knows where it is.
    #[error("chunk {chunk} is in no index: its pack or index object is lost")]
    UnknownChunk {
        /// The chunk.
        chunk: String,
    },
    /// The bytes of an object cannot be decoded.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Key slot trouble other than a wrong secret.
    #[error("key slot {slot}: {source}")]
    Slot {
        /// The slot's object name.
        slot: String,
        /// What is wrong.
        source: UnwrapError,
    },
    /// Compression failed.
    #[error("compress: {0}")]
    Compress(#[from] CompressError),
    /// Decompression of an object failed.
    #[error("{object}: {source}")]
    Decompress {
        /// The object.
        object: String,
        /// What is wrong.
        source: DecompressError,
    },
    /// A local file (spilled index) failed.
    #[error("local file: {what}: {source}")]
    Local {
        /// What was being done.
        what: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The sink that receives restored bytes failed.
    #[error("{what}: {source}")]
    Sink {
        /// What was being written.
        what: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A request that makes no sense.
    #[error("{what}")]
    Invalid {
        /// One fact.
        what: String,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A worker failed; the first failure of the session, shared.
    #[error("{0}")]
    Worker(std::sync::Arc<RepoError>),
    /// A fault in this program.
    #[error("internal fault: {what}")]
    Internal {
        /// One fact.
        what: String,
    },
}

impl From<Cancelled> for RepoError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl RepoError {
    /// The kind, named by the caller's next step.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotARepository { .. }
            | Self::NoSuchBackup { .. }
            | Self::NoSuchRestorePoint { .. }
            | Self::NoSuchSlot { .. } => ErrorKind::NotFound,
            Self::RepositoryExists { .. }
            | Self::WrongArchive { .. }
            | Self::BackupExists { .. }
            | Self::Pinned { .. }
            | Self::Fenced
            | Self::PackRemoved { .. }
            | Self::NotEmpty { .. } => ErrorKind::Conflict,
            Self::NoSlotOpens { .. } => ErrorKind::Denied,
            Self::LastSlot | Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Contended { .. } => ErrorKind::Unavailable,
            Self::Unauthentic { .. }
            | Self::Inconsistent { .. }
            | Self::Defect(_)
            | Self::UnknownChunk { .. }
            | Self::Slot { .. }
            | Self::Decompress { .. } => ErrorKind::Corrupt,
            Self::Format(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Sink { source, .. } | Self::Local { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Unavailable,
            },
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Worker(error) => error.kind(),
            Self::Compress(_) | Self::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// The pack that was found damaged.
    #[must_use]
    pub fn damaged_pack(&self) -> Option<PackId> {
        match self {
            Self::Defect(defect) => defect.pack,
            _ => None,
        }
    }

    /// Whether the store said that the object does not exist.
    #[must_use]
    pub fn is_missing_object(&self) -> bool {
        matches!(self, Self::Store(error) if matches!(error.kind, StoreErrorKind::NotFound))
    }
}
