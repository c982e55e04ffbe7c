//! Reading: a pack's footer and its frames, each proven before anyone sees a byte.
//!
//! Invariant: [`FrameOpener::open`] returns only plaintext whose keyed hash is the chunk id that was asked
//! for; what [`FrameOpener::apply`] makes of a base is proven by [`FrameOpener::is`] before use. Nothing
//! beyond `read::rebuild` handles unverified plaintext.

use std::fmt;

use capy_codec::{ChunkNamer, Compression, Decompressor, DeltaDecoder, RepositoryKeys, SealKey};
use capy_format::{
    COMPRESSION_ZSTD_PREFIX, FrameInfo, FrameKind, HEADER_BYTES, Header, ObjectKind, PACK_TRAILER_BYTES,
    PackFooter, PackTrailer, frame_aad, names, version_of,
};
use capy_types::{ChunkId, PackId, RepositoryId};

use crate::RepoError;

/// The ordinal under which a pack's footer is sealed; no frame can have it.
pub(crate) const FOOTER_ORDINAL: u32 = u32::MAX;

/// The header every pack of `repository` named `pack` starts with, when its frames need a reader of
/// `version`.
pub(crate) fn pack_header(repository: RepositoryId, pack: &PackId, version: u16) -> [u8; HEADER_BYTES] {
    Header {
        version,
        kind: ObjectKind::Pack,
        suite: capy_codec::Suite::ChaCha20Poly1305 as u8,
        compression: Compression::Raw as u8,
        repository,
        nonce: capy_types::Nonce::from_bytes(*pack.as_bytes()),
        plain_len: 0,
        stored_len: 0,
    }
    .encode()
}

/// What the footer's seal is bound to.
pub(crate) fn footer_aad(header: &[u8; HEADER_BYTES], trailer: &[u8]) -> Vec<u8> {
    [header.as_slice(), trailer].concat()
}

/// Opens and decodes the footer of a pack from its first bytes and its tail.
///
/// `tail` runs from `tail_offset` to the end of the object and holds at least the footer.
pub(crate) fn open_footer(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    pack: &PackId,
    header: &[u8; HEADER_BYTES],
    tail: &[u8],
    tail_offset: u64,
) -> Result<PackFooter, RepoError> {
    let object = names::pack(pack);
    let version = Header::decode(&object, header)?.version;
    if *header != pack_header(repository, pack, version) {
        return Err(RepoError::Unauthentic { object });
    }
    let end = tail_offset + tail.len() as u64;
    let (rest, trailer_bytes) =
        tail.split_last_chunk::<PACK_TRAILER_BYTES>().ok_or_else(|| RepoError::Inconsistent {
            object: object.clone(),
            problem: format!("{end} bytes are too few for a pack"),
        })?;
    let trailer = PackTrailer::decode(&object, trailer_bytes, end - PACK_TRAILER_BYTES as u64)?;
    let start =
        rest.len().checked_sub(trailer.footer_len as usize).ok_or_else(|| RepoError::Inconsistent {
            object: object.clone(),
            problem: format!("its footer of {} bytes does not fit", trailer.footer_len),
        })?;
    let mut sealed = rest.get(start..).unwrap_or_default().to_vec();
    let length = keys
        .pack_key(pack)
        .open(FOOTER_ORDINAL, &footer_aad(header, trailer_bytes), &mut sealed)
        .map_err(|_| RepoError::Unauthentic { object: object.clone() })?;
    let footer =
        PackFooter::decode(&object, sealed.get(..length).unwrap_or_default(), tail_offset + start as u64)?;
    if version < version_of(&footer.frames) {
        let problem = format!("it holds deltas, which version {version} does not have");
        return Err(RepoError::Inconsistent { object, problem });
    }
    if footer.frames.len() != trailer.frame_count as usize {
        return Err(RepoError::Inconsistent {
            object,
            problem: format!("{} frames listed, {} announced", footer.frames.len(), trailer.frame_count),
        });
    }
    Ok(footer)
}

/// Why a frame could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameProblem {
    /// Altered, or not the frame the index says it is.
    Unauthentic,
    /// Authentic, but does not decompress to its length.
    Decompress,
    /// Authentic, but its plaintext is not the chunk it is named for.
    WrongChunk,
    /// A kind of frame this version does not read.
    Unsupported,
}

impl fmt::Display for FrameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unauthentic => "the frame fails authentication",
            Self::Decompress => "the frame does not decompress to its length",
            Self::WrongChunk => "the plaintext is not the chunk it is named for",
            Self::Unsupported => "the frame is of a kind this version does not read",
        })
    }
}

/// Opens frames of packs; keeps its buffers and contexts between frames.
pub(crate) struct FrameOpener {
    repository: RepositoryId,
    keys: RepositoryKeys,
    namer: ChunkNamer,
    decompressor: Decompressor,
    delta: DeltaDecoder,
    current: Option<(PackId, SealKey)>,
    plain: Vec<u8>,
}

impl FrameOpener {
    pub(crate) fn new(keys: &RepositoryKeys, repository: RepositoryId) -> Self {
        Self {
            repository,
            keys: keys.clone(),
            namer: keys.chunk_namer(),
            decompressor: Decompressor::new(),
            delta: DeltaDecoder::new(),
            current: None,
            plain: Vec::new(),
        }
    }

    /// Opens one full frame in place and returns the chunk, proven to be the one `frame` names.
    pub(crate) fn open<'a>(
        &'a mut self,
        pack: &PackId,
        ordinal: u32,
        frame: &FrameInfo,
        stored: &'a mut [u8],
    ) -> Result<&'a [u8], FrameProblem> {
        if frame.kind != FrameKind::Full {
            return Err(FrameProblem::Unsupported);
        }
        let body = self.unseal(pack, ordinal, frame, stored)?;
        let compression = Compression::try_from(frame.compression).map_err(|_| FrameProblem::Unsupported)?;
        let plain = match compression {
            Compression::Raw if body.len() == frame.plain_len as usize => body,
            Compression::Raw => return Err(FrameProblem::Decompress),
            Compression::Zstd => {
                self.decompressor
                    .decompress(compression, body, frame.plain_len as usize, &mut self.plain)
                    .map_err(|_| FrameProblem::Decompress)?;
                &self.plain
            }
        };
        if self.namer.name(plain) == frame.chunk { Ok(plain) } else { Err(FrameProblem::WrongChunk) }
    }

    /// Opens a delta in place and returns its body, authentic, for [`apply`](Self::apply).
    pub(crate) fn open_delta<'a>(
        &mut self,
        pack: &PackId,
        ordinal: u32,
        frame: &FrameInfo,
        stored: &'a mut [u8],
    ) -> Result<&'a [u8], FrameProblem> {
        if frame.kind != FrameKind::Delta || frame.compression != COMPRESSION_ZSTD_PREFIX {
            return Err(FrameProblem::Unsupported);
        }
        self.unseal(pack, ordinal, frame, stored)
    }

    /// Replaces `plain` by the chunk that a delta's body makes of its base. Not proven: several
    /// deltas on each other are proven by the last, see [`is`](Self::is).
    pub(crate) fn apply(
        &mut self,
        base: &[u8],
        body: &[u8],
        plain_len: u32,
        plain: &mut Vec<u8>,
    ) -> Result<(), FrameProblem> {
        self.delta.decode(base, body, plain_len as usize, plain).map_err(|_| FrameProblem::Decompress)
    }

    /// Whether `plain` is the chunk `chunk`.
    pub(crate) fn is(&self, chunk: &ChunkId, plain: &[u8]) -> bool {
        self.namer.name(plain) == *chunk
    }

    fn unseal<'a>(
        &mut self,
        pack: &PackId,
        ordinal: u32,
        frame: &FrameInfo,
        stored: &'a mut [u8],
    ) -> Result<&'a [u8], FrameProblem> {
        if self.current.as_ref().is_none_or(|(id, _)| id != pack) {
            self.current = Some((*pack, self.keys.pack_key(pack)));
        }
        let (_, key) = self.current.as_ref().expect("set just above");
        let aad = frame_aad(&self.repository, pack, ordinal, frame);
        let length = key.open(ordinal, &aad, stored).map_err(|_| FrameProblem::Unauthentic)?;
        stored.get(..length).ok_or(FrameProblem::Unauthentic)
    }
}
