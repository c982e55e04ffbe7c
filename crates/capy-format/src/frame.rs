//! Frames: a chunk as stored in a pack, and what its seal is bound to.

use capy_types::limits::{CHUNK_MAX_BYTES, PACK_MAX_BYTES};
use capy_types::{ChunkId, PackId, RepositoryId};

use crate::FormatError;
use crate::bytes::Reader;

/// Full chunk or difference to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The whole chunk.
    Full = 0,
    /// A difference to the chunk `base`. Reserved.
    Delta = 1,
}

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkClass {
    /// Bytes of a file.
    Data = 0,
    /// A piece of a manifest or a node of a content tree.
    Meta = 1,
}

/// One frame, as listed in footers and indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// The chunk it holds.
    pub chunk: ChunkId,
    /// Full or delta.
    pub kind: FrameKind,
    /// Data or meta.
    pub class: ChunkClass,
    /// Compression of its plaintext.
    pub compression: u8,
    /// Offset of the sealed frame in the pack in bytes.
    pub offset: u32,
    /// Its stored length, tag included, in bytes.
    pub stored_len: u32,
    /// Length of the chunk in bytes.
    pub plain_len: u32,
    /// The chunk a delta is against.
    pub base: Option<ChunkId>,
}

/// Length of a frame's additional authenticated data in bytes.
pub const FRAME_AAD_BYTES: usize = 16 + 24 + 4 + 4 + 4 + 4 + 32 + 32;

/// What a frame's seal is bound to: repository, pack, ordinal, kind, class, compression, lengths,
/// chunk and base. Not the offset, which follows from the lengths before it.
#[must_use]
pub fn frame_aad(
    repository: &RepositoryId,
    pack: &PackId,
    ordinal: u32,
    frame: &FrameInfo,
) -> [u8; FRAME_AAD_BYTES] {
    let mut aad = [0; FRAME_AAD_BYTES];
    aad[..16].copy_from_slice(repository.as_bytes());
    aad[16..40].copy_from_slice(pack.as_bytes());
    aad[40..44].copy_from_slice(&ordinal.to_le_bytes());
    aad[44..48].copy_from_slice(&[frame.kind as u8, frame.class as u8, frame.compression, 0]);
    aad[48..52].copy_from_slice(&frame.stored_len.to_le_bytes());
    aad[52..56].copy_from_slice(&frame.plain_len.to_le_bytes());
    aad[56..88].copy_from_slice(frame.chunk.as_bytes());
    if let Some(base) = &frame.base {
        aad[88..].copy_from_slice(base.as_bytes());
    }
    aad
}

/// Length of a frame without base in a footer or index, in bytes.
pub(crate) const FRAME_BYTES: usize = 32 + 4 + 4 + 4 + 4;
/// Shortest stored frame in bytes: one byte and a tag.
const STORED_MIN_BYTES: u32 = 17;

pub(crate) fn put_frame(out: &mut Vec<u8>, frame: &FrameInfo) {
    out.extend_from_slice(frame.chunk.as_bytes());
    out.extend_from_slice(&[frame.kind as u8, frame.class as u8, frame.compression, u8::from(frame.base.is_some())]);
    out.extend_from_slice(&frame.offset.to_le_bytes());
    out.extend_from_slice(&frame.stored_len.to_le_bytes());
    out.extend_from_slice(&frame.plain_len.to_le_bytes());
    if let Some(base) = &frame.base {
        out.extend_from_slice(base.as_bytes());
    }
}

/// Reads a frame that must start at `offset` of its pack.
pub(crate) fn read_frame(reader: &mut Reader<'_>, offset: u32) -> Result<FrameInfo, FormatError> {
    let chunk = ChunkId::from_bytes(reader.array()?);
    let kind = match reader.u8()? {
        0 => FrameKind::Full,
        1 => FrameKind::Delta,
        other => return Err(reader.fail(format!("unknown kind of frame: {other}"))),
    };
    let class = match reader.u8()? {
        0 => ChunkClass::Data,
        1 => ChunkClass::Meta,
        other => return Err(reader.fail(format!("unknown class of chunk: {other}"))),
    };
    let compression = reader.u8()?;
    let has_base = reader.u8()?;
    let (found, stored_len, plain_len) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let base = match (has_base, kind) {
        (0, FrameKind::Full) => None,
        (1, FrameKind::Delta) => Some(ChunkId::from_bytes(reader.array()?)),
        _ => return Err(reader.fail("a frame has a base exactly when it is a delta")),
    };
    if found != offset {
        return Err(reader.fail(format!("frame at {found} where the one before ends at {offset}")));
    }
    if plain_len == 0 || plain_len as usize > CHUNK_MAX_BYTES {
        return Err(reader.fail(format!("chunk of {plain_len} bytes")));
    }
    let within = stored_len as usize <= CHUNK_MAX_BYTES + 64 * 1024
        && u64::from(offset) + u64::from(stored_len) <= PACK_MAX_BYTES as u64;
    if stored_len < STORED_MIN_BYTES || !within {
        return Err(reader.fail(format!("stored frame of {stored_len} bytes")));
    }
    Ok(FrameInfo { chunk, kind, class, compression, offset, stored_len, plain_len, base })
}
