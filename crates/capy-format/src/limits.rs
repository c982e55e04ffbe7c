//! What a reader accepts at most, each limit with its arithmetic. FORMAT.md repeats the table.
//!
//! Every decoder checks a count or length against these before it allocates, so that a damaged
//! or hostile object costs no more memory than its own length justifies.

use capy_types::limits::{CHUNK_MAX_BYTES, KIB, MIB};

use crate::HEADER_BYTES;

/// Length of the authentication tag that every sealed body, frame and footer ends with, in bytes.
pub const TAG_BYTES: usize = 16;

/// Longest body of a config or key slot in bytes: both are below 1 KiB.
pub const PLAIN_OBJECT_MAX_BYTES: u32 = 64 * KIB as u32;

/// Longest plaintext of a sealed object in bytes: 1 GiB, the largest WAL segment PostgreSQL has;
/// also an index of some 20 million frames, or a root of a million backups.
pub const OBJECT_PLAIN_MAX_BYTES: u32 = 1 << 30;

/// Most frames in one pack: 65 536 chunks of 512 bytes fill a pack of 32 MiB.
pub const PACK_FRAMES_MAX: usize = 65_536;

/// Length of a full frame's description in bytes: id 32, four flags, three lengths of 4.
pub const FRAME_BYTES: usize = 32 + 4 + 3 * 4;

/// Length of a delta frame's description in bytes: its base's id follows.
pub const DELTA_FRAME_BYTES: usize = FRAME_BYTES + 32;

/// Most bases a reader follows from one chunk to a full frame. Writers stay far below; only a frame
/// that several sessions have stored as different deltas makes a chain longer than its writer meant.
pub const DELTA_CHAIN_MAX: usize = 64;

/// Longest sealed footer of a pack in bytes: count, 65 536 deltas, tag = 5 242 900.
pub const FOOTER_MAX_BYTES: usize = 4 + PACK_FRAMES_MAX * DELTA_FRAME_BYTES + TAG_BYTES;

/// Longest stored frame in bytes: a chunk that did not compress, and its tag.
pub const STORED_FRAME_MAX_BYTES: usize = CHUNK_MAX_BYTES + TAG_BYTES;

/// Most packs in one index object: 2^20 packs of 32 MiB are 32 TiB.
pub const INDEX_PACKS_MAX: usize = 1 << 20;

/// Shortest entry of a pack in an index in bytes: id 24, size 4, frame count 4, one frame.
pub const INDEX_PACK_MIN_BYTES: usize = 24 + 4 + 4 + FRAME_BYTES;

/// Most events listed of one WAL segment: a segment of 16 MiB rarely has a dozen.
pub const WAL_EVENTS_MAX: usize = 256;

/// Longest sealed facts of one WAL file in bytes: 256 events of some 300 bytes, the two halves of
/// cut records, and room.
pub const WAL_FACTS_MAX_BYTES: usize = 256 * KIB;

/// Most references in one node or at the top of a content.
pub const FANOUT: usize = 256;

/// Deepest content tree: 256 references at the top of 7 levels of nodes are 2^64 chunks.
pub const DEPTH_MAX: u8 = 7;

/// Shortest encoded reference in bytes: id 32, size 1, length 1.
pub const REF_MIN_BYTES: usize = 32 + 1 + 1;

/// Longest encoded reference in bytes: id 32, a size below 2^28 in 4, a length in 10.
pub const REF_MAX_BYTES: usize = 32 + 4 + 10;

/// Shortest node in bytes: its count and one reference.
pub const NODE_MIN_BYTES: usize = 1 + REF_MIN_BYTES;

/// Longest node in bytes: its count (2) and 256 references of at most 46 bytes = 11 778.
pub const NODE_MAX_BYTES: usize = 2 + FANOUT * REF_MAX_BYTES;

/// Longest record of the entry stream in bytes, without the length before it. A path (4 096), a
/// link target (4 096) and 256 references (11 778) with all else stay below 21 KiB.
pub const RECORD_MAX_BYTES: usize = 64 * KIB;

/// Longest owner or group name in bytes; a tar header holds 32, Linux accounts 32.
pub const OWNER_MAX_BYTES: usize = 256;

/// Smallest size aimed at for packs in bytes: below 1 MiB requests cost more than bytes.
pub const PACK_SIZE_MIN_BYTES: usize = MIB;

/// Shortest content-defined chunk in bytes that a policy may ask for.
pub const CHUNK_MIN_BYTES: usize = 64;

/// Shortest pack in bytes: header, one frame of one byte, footer, trailer.
pub const PACK_MIN_BYTES: usize =
    HEADER_BYTES + (1 + TAG_BYTES) + (4 + FRAME_BYTES + TAG_BYTES) + crate::PACK_TRAILER_BYTES;
