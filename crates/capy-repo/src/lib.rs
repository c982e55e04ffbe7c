//! The repository: dedup, packs, index, manifests, the root commit, and reading it all back.
//!
//! Contained by: the library crate `capy-store`, which feeds it entries of PostgreSQL backups and
//! asks for them again. Knows nothing of PostgreSQL, terminals or the environment.
//!
//! Invariants: nothing is visible before the root commit; every object is written once under a
//! name never used before; every byte that leaves was opened and matched against its chunk id.

mod env;
mod error;
mod index;
mod ingest;
mod inspect;
mod keyring;
mod pack;
mod read;
mod repository;
mod root;
mod sealed;
mod tree;
mod verify;
mod wal;

pub use env::Env;
pub use error::RepoError;
pub use ingest::{
    DeltaPolicy, Flushed, Ingest, IngestOptions, Inspector, Patch, Patched, Recognizer, Strategy,
};
pub use inspect::{FrameInspection, PackInspection};
pub use read::{
    BulkRead, BulkReport, ChunkNames, ChunkPlace, ContentReader, Defect, DefectKind, FileSink,
    ManifestReader, Piece, ReadOptions, Reader, SequenceReader,
};
pub use repository::{InitOptions, Repository};
pub use verify::{AffectedDefect, StructureReport, verify_structure};
pub use wal::{
    ListedWal, ReadWal, StoredContent, StoredPart, StoredWal, WAL_OBJECT_MAX_BYTES, WalCatalog, WalParts,
};
