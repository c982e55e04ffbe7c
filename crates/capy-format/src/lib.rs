//! The repository format: bytes to types and back.
//!
//! Contained by: the repository layer, which seals what this crate encodes. Pure: no I/O, no
//! keys, no async. `FORMAT.md` beside this crate is the specification, `testdata/format/` holds
//! objects of every released version.
//!
//! Invariants: every decoder is bounded, allocates no more than its input justifies, never
//! panics, and says which object and offset it could not read. A binary structure has exactly
//! one encoding.

mod bytes;
mod content;
mod documents;
mod entry;
mod error;
mod frame;
mod header;
mod index;
pub mod limits;
pub mod names;
mod pack;
#[cfg(test)]
mod tests;
mod wal;

/// The newest version of the format this program reads and writes.
pub const FORMAT_VERSION: u16 = 2;
/// The version of objects in which there is nothing that version 1 does not know.
pub const VERSION_1: u16 = 1;
/// The version of packs that hold deltas, of indexes that list such packs, and of every root since
/// the first such index: a program that knows no deltas refuses the repository at its root.
pub const VERSION_DELTA: u16 = 2;

pub use content::{ChunkRef, Content, check_refs, decode_node, encode_node};
pub use documents::{
    ArchiveIdentity, BackupEntry, BackupKind, BackupRecord, BackupState, ChunkingPolicy, Collation, Config,
    KdfParams, KeySlot, KeySlotKind, ManifestCheck, Pin, PostgresFacts, RestorePoint, RestorePointKind, Root,
    SegmentFacts, SessionEntry, Stats, Tablespace, Tombstone, TransactionEnd, Verification,
    VerificationState, WalEvent, WalEventKind, WalFacts, WalParameters, WrappedKey,
};
pub use entry::{ArchiveHeader, ArchiveKind, Entry, FileEntry, Meta, decode_entry, encode_entry};
pub use error::{FormatError, FormatProblem};
pub use frame::{
    COMPRESSION_ZSTD_PREFIX, ChunkClass, FRAME_AAD_BYTES, FrameInfo, FrameKind, frame_aad, version_of,
};
pub use header::{HEADER_BYTES, Header, MAGIC, ObjectKind, object_aad, split_object};
pub use index::{IndexObject, IndexedPack};
pub use limits::FANOUT;
pub use pack::{PACK_TRAILER_BYTES, PackFooter, PackTrailer, pack_len};
pub use wal::{WAL_TRAILER_BYTES, WalTrailer, split_wal};
