//! Building a pack: frames are compressed and sealed straight into the pack's buffer.
//!
//! Invariants: a pack id and its key serve one pack, once; frame ordinals count up from 0, so no
//! nonce repeats; a finished pack has been decoded again and compared before it is handed on.

use bytes::Bytes;
use capy_codec::{Compressor, DeltaEncoder, RepositoryKeys, SealKey};
use capy_format::limits::PACK_FRAMES_MAX;
use capy_format::{
    COMPRESSION_ZSTD_PREFIX, ChunkClass, FrameInfo, FrameKind, HEADER_BYTES, PACK_TRAILER_BYTES, PackFooter,
    PackTrailer, VERSION_1, frame_aad, names, version_of,
};
use capy_types::limits::KIB;
use capy_types::{ChunkId, PackId, RepositoryId};

use super::frame::{FOOTER_ORDINAL, FrameOpener, footer_aad, open_footer, pack_header};
use crate::RepoError;

/// Every how-many-th frame is opened, decompressed and hashed again before the pack leaves.
/// The first frame always is. One in 32 costs about 1 % of a first backup's time and would
/// show a codec or memory fault within one pack.
const CHECK_EVERY: usize = 32;

/// A finished pack, ready to be stored.
#[derive(Debug, Clone)]
pub(crate) struct SealedPack {
    pub(crate) id: PackId,
    pub(crate) bytes: Bytes,
    pub(crate) frames: Vec<FrameInfo>,
}

/// What was appended to the buffer.
enum Body {
    /// A whole chunk, with its compression.
    Full(u8),
    /// The difference to a base.
    Delta(ChunkId),
}

/// A pack in the making.
pub(crate) struct PackBuilder {
    id: PackId,
    repository: RepositoryId,
    key: SealKey,
    /// The size it is aimed at.
    full_bytes: usize,
    buffer: Vec<u8>,
    frames: Vec<FrameInfo>,
}

impl PackBuilder {
    /// A pack that is full at `full_bytes`.
    pub(crate) fn new(
        id: PackId,
        keys: &RepositoryKeys,
        repository: RepositoryId,
        full_bytes: usize,
    ) -> Self {
        // Reserved in full so that it never moves; the pages are touched only as it fills.
        let mut buffer = Vec::with_capacity(full_bytes + 256 * KIB);
        buffer.extend_from_slice(&pack_header(repository, &id, VERSION_1));
        Self { id, repository, key: keys.pack_key(&id), full_bytes, buffer, frames: Vec::new() }
    }

    /// Appends `plain` as a full frame; returns its stored length in bytes.
    pub(crate) fn append(
        &mut self,
        chunk: ChunkId,
        class: ChunkClass,
        plain: &[u8],
        compressor: &mut Compressor,
    ) -> Result<u32, RepoError> {
        let from = self.buffer.len();
        let compression = compressor.compress(plain, &mut self.buffer)?;
        Ok(self.seal(from, chunk, class, plain.len(), Body::Full(compression as u8)))
    }

    /// Appends `plain` as its difference to `base` when that takes fewer than `limit` bytes; returns
    /// its stored length in bytes, or `None` when it does not and nothing was appended.
    pub(crate) fn append_delta(
        &mut self,
        chunk: ChunkId,
        plain: &[u8],
        base: (&ChunkId, &[u8]),
        limit: usize,
        encoder: &mut DeltaEncoder,
    ) -> Result<Option<u32>, RepoError> {
        let from = self.buffer.len();
        if !encoder.encode(base.1, plain, limit, &mut self.buffer)? {
            return Ok(None);
        }
        Ok(Some(self.seal(from, chunk, ChunkClass::Data, plain.len(), Body::Delta(*base.0))))
    }

    /// Seals what was appended since `from` as the next frame.
    fn seal(&mut self, from: usize, chunk: ChunkId, class: ChunkClass, plain_len: usize, body: Body) -> u32 {
        let sealed_len = self.buffer.len() - from + capy_codec::TAG_BYTES;
        let length = |n| u32::try_from(n).expect("packs stay far below 4 GiB");
        let (kind, compression, base) = match body {
            Body::Full(compression) => (FrameKind::Full, compression, None),
            Body::Delta(base) => (FrameKind::Delta, COMPRESSION_ZSTD_PREFIX, Some(base)),
        };
        let frame = FrameInfo {
            chunk,
            kind,
            class,
            compression,
            offset: length(from),
            stored_len: length(sealed_len),
            plain_len: length(plain_len),
            base,
        };
        let ordinal = length(self.frames.len());
        let aad = frame_aad(&self.repository, &self.id, ordinal, &frame);
        self.key.seal(ordinal, &aad, &mut self.buffer, from);
        self.frames.push(frame);
        frame.stored_len
    }

    /// Whether the pack has reached its size.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= self.full_bytes || self.frames.len() >= PACK_FRAMES_MAX
    }

    /// Whether nothing was appended yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Its length so far in bytes.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn frames(&self) -> &[FrameInfo] {
        &self.frames
    }

    /// Appends a frame of another pack in the making, sealed anew for its place here.
    pub(super) fn move_in(&mut self, from: &Self, ordinal: usize) -> Result<(), RepoError> {
        let fault = || RepoError::Internal { what: format!("frame {ordinal} of an open pack does not open") };
        let frame = from.frames.get(ordinal).ok_or_else(fault)?;
        let range = frame.offset as usize..(frame.offset + frame.stored_len) as usize;
        let start = self.buffer.len();
        self.buffer.extend_from_slice(from.buffer.get(range).ok_or_else(fault)?);
        let number = u32::try_from(ordinal).expect("bounded by PACK_FRAMES_MAX");
        let aad = frame_aad(&from.repository, &from.id, number, frame);
        let opened = from.key.open(number, &aad, self.buffer.get_mut(start..).unwrap_or_default());
        self.buffer.truncate(start + opened.map_err(|_| fault())?);
        let body = frame.base.map_or(Body::Full(frame.compression), Body::Delta);
        self.seal(start, frame.chunk, frame.class, frame.plain_len as usize, body);
        Ok(())
    }

    /// Seals the footer, then reads the pack back and compares.
    pub(crate) fn finish(mut self, keys: &RepositoryKeys) -> Result<SealedPack, RepoError> {
        let header = pack_header(self.repository, &self.id, version_of(&self.frames));
        self.buffer[..HEADER_BYTES].copy_from_slice(&header);
        let from = self.buffer.len();
        let footer = PackFooter { frames: self.frames };
        self.buffer.extend_from_slice(&footer.encode());
        let trailer = PackTrailer {
            footer_len: u32::try_from(self.buffer.len() - from + capy_codec::TAG_BYTES)
                .expect("a footer is at most a few MiB"),
            frame_count: u32::try_from(footer.frames.len()).expect("bounded by PACK_FRAMES_MAX"),
        }
        .encode();
        self.key.seal(FOOTER_ORDINAL, &footer_aad(&header, &trailer), &mut self.buffer, from);
        self.buffer.extend_from_slice(&trailer);
        let pack = SealedPack { id: self.id, bytes: self.buffer.into(), frames: footer.frames };
        check(&pack, keys, self.repository)?;
        Ok(pack)
    }
}

/// Reads a finished pack back: its footer must list exactly its frames, and sampled frames must
/// open to the chunks they are named for. Deltas must open; that they make their chunk of their base
/// was seen when they were encoded.
fn check(pack: &SealedPack, keys: &RepositoryKeys, repository: RepositoryId) -> Result<(), RepoError> {
    let fault = |what: String| RepoError::Internal { what: format!("{}: {what}", names::pack(&pack.id)) };
    let (header, _) =
        pack.bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| fault("no header".into()))?;
    let footer_start = pack.frames.last().map_or(HEADER_BYTES, |f| (f.offset + f.stored_len) as usize);
    debug_assert!(pack.bytes.len() >= footer_start + PACK_TRAILER_BYTES);
    let tail = pack.bytes.get(footer_start..).ok_or_else(|| fault("no footer".into()))?;
    let footer = open_footer(keys, repository, &pack.id, header, tail, footer_start as u64)?;
    if footer.frames != pack.frames {
        return Err(fault("the footer read back differs".into()));
    }
    let mut opener = FrameOpener::new(keys, repository);
    let mut stored = Vec::new();
    for (ordinal, frame) in pack.frames.iter().enumerate().step_by(CHECK_EVERY) {
        let range = frame.offset as usize..(frame.offset + frame.stored_len) as usize;
        stored.clear();
        stored.extend_from_slice(pack.bytes.get(range).ok_or_else(|| fault("a frame is cut off".into()))?);
        let at = u32::try_from(ordinal).expect("bounded by PACK_FRAMES_MAX");
        let opened = match frame.kind {
            FrameKind::Full => opener.open(&pack.id, at, frame, &mut stored).map(|_| ()),
            FrameKind::Delta => opener.open_delta(&pack.id, at, frame, &mut stored).map(|_| ()),
        };
        opened.map_err(|problem| fault(format!("frame {ordinal} read back: {problem}")))?;
    }
    Ok(())
}
