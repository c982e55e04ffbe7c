//! Limits that more than one crate relies on, each with its arithmetic.

/// One kibibyte in bytes.
pub const KIB: usize = 1024;
/// One mebibyte in bytes.
pub const MIB: usize = 1024 * KIB;

/// Size of a PostgreSQL page in bytes. Servers built with another block size are refused.
pub const PAGE_SIZE_BYTES: usize = 8 * KIB;

/// Pages in one segment file of a relation: 1 GiB / 8 KiB.
pub const RELATION_SEGMENT_PAGES: u32 = 131_072;

/// Target size of a pack in bytes. 32 MiB is one single PUT on every S3 dialect, 32 768 requests
/// per TiB, and two of them in the making fit a 256 MiB process.
pub const PACK_SIZE_BYTES: usize = 32 * MIB;

/// Largest chunk in bytes. A reader allocates at most this much for one chunk.
pub const CHUNK_MAX_BYTES: usize = 8 * MIB;

/// Largest pack in bytes that a reader accepts: target size, one chunk more, and a footer.
pub const PACK_MAX_BYTES: usize = PACK_SIZE_BYTES + CHUNK_MAX_BYTES + 8 * MIB;

/// Longest path of an entry in bytes. Linux refuses longer ones (`PATH_MAX`).
pub const PATH_MAX_BYTES: usize = 4096;

/// Longest cluster name in bytes: it is one path component of object names.
pub const CLUSTER_NAME_MAX_BYTES: usize = 63;

/// Longest label of a backup in bytes.
pub const LABEL_MAX_BYTES: usize = 512;
