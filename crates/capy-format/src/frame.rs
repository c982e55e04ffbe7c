//! Frames: a chunk as stored in a pack, and what its seal is bound to.
//!
//! Invariant: frames of a pack follow each other without a gap from the header on, so an offset
//! is never a free choice and two frames never overlap.

use capy_types::limits::{CHUNK_MAX_BYTES, PACK_MAX_BYTES};
use capy_types::{ChunkId, PackId, RepositoryId};

use crate::bytes::Reader;
use crate::header::{COMPRESSION_RAW, COMPRESSION_ZSTD};
use crate::limits::{DELTA_FRAME_BYTES, FRAME_BYTES, TAG_BYTES};
use crate::{FormatError, HEADER_BYTES};
use crate::{VERSION_1, VERSION_DELTA};

/// Compression byte of deltas: one zstd frame with the base as its prefix. Version 1 reserved 0 and
/// 1 for deltas as well; nothing writes those.
pub const COMPRESSION_ZSTD_PREFIX: u8 = 2;

/// Full chunk or difference to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The whole chunk.
    Full = 0,
    /// A difference to the chunk `base`. Since version 2.
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
    /// Compression of what is sealed: 0 as it is, 1 one zstd frame, 2 (deltas only) one zstd frame
    /// with the base as its prefix.
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

impl FrameInfo {
    /// Where the next frame, or the footer, starts in the pack, in bytes.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset as u64 + self.stored_len as u64
    }

    /// Length of its description in a footer or index in bytes.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        if self.base.is_some() { DELTA_FRAME_BYTES } else { FRAME_BYTES }
    }

    /// Whether it can be the frame of a pack that starts at `offset`: the invariant of every
    /// frame, checked when it is read and fit to be checked before it is written.
    ///
    /// # Errors
    /// One fact about what cannot be.
    pub fn check(&self, offset: u64) -> Result<(), String> {
        if u64::from(self.offset) != offset {
            return Err(format!("frame at {} where the one before ends at {offset}", self.offset));
        }
        if self.base.is_some() != (self.kind == FrameKind::Delta) {
            return Err("a frame has a base exactly when it is a delta".to_owned());
        }
        if self.plain_len == 0 || self.plain_len as usize > CHUNK_MAX_BYTES {
            return Err(format!("chunk of {} bytes", self.plain_len));
        }
        if self.end() > PACK_MAX_BYTES as u64 {
            return Err(format!("frame ends at {}, beyond the largest pack", self.end()));
        }
        let (stored, tag) = (u64::from(self.stored_len), TAG_BYTES as u64);
        let whole = u64::from(self.plain_len) + tag;
        let agree = match self.compression {
            // A full chunk as it is has exactly its length; a delta as it is, any below.
            COMPRESSION_RAW if self.kind == FrameKind::Full => stored == whole,
            COMPRESSION_RAW | COMPRESSION_ZSTD => stored > tag && stored < whole,
            COMPRESSION_ZSTD_PREFIX if self.kind == FrameKind::Delta => stored > tag && stored < whole,
            other => return Err(format!("unknown compression {other} of a frame")),
        };
        if agree {
            Ok(())
        } else {
            Err(format!("{stored} stored bytes cannot hold a chunk of {}", self.plain_len))
        }
    }
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

/// The lowest version of the format that knows all of `frames`.
#[must_use]
pub fn version_of<'a>(frames: impl IntoIterator<Item = &'a FrameInfo>) -> u16 {
    let delta = frames.into_iter().any(|frame| frame.kind == FrameKind::Delta);
    if delta { VERSION_DELTA } else { VERSION_1 }
}

/// Where the frame after `frames` starts in their pack, in bytes.
pub(crate) fn end_of(frames: &[FrameInfo]) -> u64 {
    frames.last().map_or(HEADER_BYTES as u64, FrameInfo::end)
}

/// Appends a frame's description.
pub(crate) fn put_frame(out: &mut Vec<u8>, frame: &FrameInfo) {
    let has_base = u8::from(frame.base.is_some());
    out.extend_from_slice(frame.chunk.as_bytes());
    out.extend_from_slice(&[frame.kind as u8, frame.class as u8, frame.compression, has_base]);
    out.extend_from_slice(&frame.offset.to_le_bytes());
    out.extend_from_slice(&frame.stored_len.to_le_bytes());
    out.extend_from_slice(&frame.plain_len.to_le_bytes());
    if let Some(base) = &frame.base {
        out.extend_from_slice(base.as_bytes());
    }
}

/// Reads the description of a frame that must start at `offset` of its pack.
pub(crate) fn read_frame(reader: &mut Reader<'_>, offset: u64) -> Result<FrameInfo, FormatError> {
    let start = reader.offset();
    let chunk = ChunkId::from_bytes(reader.array()?);
    let kind = match reader.u8()? {
        0 => FrameKind::Full,
        1 => FrameKind::Delta,
        other => return Err(reader.fail_at(start, format!("unknown kind of frame: {other}"))),
    };
    let class = match reader.u8()? {
        0 => ChunkClass::Data,
        1 => ChunkClass::Meta,
        other => return Err(reader.fail_at(start, format!("unknown class of chunk: {other}"))),
    };
    let compression = reader.u8()?;
    let has_base = match reader.u8()? {
        0 => false,
        1 => true,
        other => return Err(reader.fail_at(start, format!("base flag of {other}"))),
    };
    let mut frame = FrameInfo {
        chunk,
        kind,
        class,
        compression,
        offset: reader.u32()?,
        stored_len: reader.u32()?,
        plain_len: reader.u32()?,
        base: None,
    };
    if has_base {
        frame.base = Some(ChunkId::from_bytes(reader.array()?));
    }
    frame.check(offset).map_err(|problem| reader.fail_at(start, problem))?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn the_seal_is_bound_to_every_field_but_the_offset() {
        let frame = samples::frames()[1];
        let aad = |frame: &FrameInfo| frame_aad(&samples::repository(), &samples::pack_id(), 7, frame);
        let other = ChunkId::from_bytes([0xee; 32]);
        let changed = [
            FrameInfo { chunk: other, ..frame },
            FrameInfo { kind: FrameKind::Delta, ..frame },
            FrameInfo { class: ChunkClass::Data, ..frame },
            FrameInfo { compression: 0, ..frame },
            FrameInfo { stored_len: frame.stored_len + 1, ..frame },
            FrameInfo { plain_len: frame.plain_len + 1, ..frame },
            FrameInfo { base: Some(other), ..frame },
        ];
        for changed in changed {
            assert_ne!(aad(&changed), aad(&frame), "{changed:?}");
        }
        assert_eq!(aad(&FrameInfo { offset: 99, ..frame }), aad(&frame));
        assert_ne!(frame_aad(&samples::repository(), &samples::pack_id(), 8, &frame), aad(&frame));
    }

    #[test]
    fn lengths_that_cannot_belong_together_are_refused() {
        let [raw, zstd, ..] = samples::frames()[..] else { panic!("two frames") };
        assert_eq!(raw.check(64), Ok(()));
        let refuse = |frame: FrameInfo, message: &str| {
            let problem = frame.check(u64::from(frame.offset)).unwrap_err();
            assert!(problem.contains(message), "{problem}");
        };
        refuse(FrameInfo { stored_len: raw.stored_len - 1, ..raw }, "cannot hold a chunk");
        refuse(FrameInfo { stored_len: 16, ..zstd }, "cannot hold a chunk");
        refuse(FrameInfo { stored_len: zstd.plain_len + 16, ..zstd }, "cannot hold a chunk");
        refuse(FrameInfo { plain_len: 0, stored_len: 16, ..raw }, "chunk of 0 bytes");
        refuse(FrameInfo { plain_len: (8 << 20) + 1, ..raw }, "chunk of 8388609 bytes");
        refuse(FrameInfo { offset: u32::MAX, ..raw }, "beyond the largest pack");
        refuse(FrameInfo { compression: 2, ..raw }, "unknown compression 2");
        let delta = FrameInfo { kind: FrameKind::Delta, base: Some(raw.chunk), compression: 2, ..zstd };
        assert_eq!(delta.check(u64::from(zstd.offset)), Ok(()));
        refuse(FrameInfo { compression: 3, ..delta }, "unknown compression 3");
        refuse(FrameInfo { stored_len: zstd.plain_len + 16, ..delta }, "cannot hold a chunk");
        assert_eq!((version_of([&raw, &zstd]), version_of([&raw, &delta])), (1, 2));
        refuse(FrameInfo { base: Some(raw.chunk), ..raw }, "exactly when it is a delta");
        assert!(raw.check(65).unwrap_err().contains("frame at 64 where the one before ends at 65"));
    }
}
