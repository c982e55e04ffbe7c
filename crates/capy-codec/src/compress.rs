//! Compression: zstd (RFC 8878) with a reused context, or the bytes as they are when that is not
//! worth it.
//!
//! Invariants: what is stored is smaller than the plaintext by at least 1/32, or is the plaintext;
//! a decompressor never holds more than the length it was told, whatever the stored bytes claim.

mod blocks;
#[cfg(test)]
mod tests;

use std::io::Cursor;

pub use blocks::Unpacking;

use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, get_error_name, get_frame_content_size};

/// How a frame's plaintext is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Compression {
    /// The byte that stands for it.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

/// A compression byte this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {0}")]
pub struct UnknownCompression(pub u8);

impl TryFrom<u8> for Compression {
    type Error = UnknownCompression;

    fn try_from(byte: u8) -> Result<Self, Self::Error> {
        match byte {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            other => Err(UnknownCompression(other)),
        }
    }
}

/// zstd refused to work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("zstd: {0}")]
pub struct CompressError(String);

impl CompressError {
    pub(crate) fn new(problem: &str) -> Self {
        Self(problem.to_owned())
    }
}

/// Stored bytes that do not decompress to what they should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// Not one valid zstd frame.
    #[error("damaged zstd frame: {0}")]
    Damaged(String),
    /// Of another length.
    #[error("decompresses to {found} bytes, not {expected}")]
    Length {
        /// What it should be.
        expected: usize,
        /// What it is.
        found: usize,
    },
}

/// Compresses chunks one after the other, with one context and one buffer for all of them.
pub struct Compressor {
    context: CCtx<'static>,
    /// Where zstd writes. It grows to the longest chunk and is then never touched but by zstd.
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Compressor {
    /// The levels that [`Compressor::new`] takes: those above need much memory to read, those below
    /// hardly compress.
    pub const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

    /// Up to this level [`Compressor::for_wal`] takes parameters of its own.
    const WAL_LEVEL_MAX: i32 = 3;
    /// Shortest match it looks for in WAL, where level 1 would look for 7 bytes: records and page
    /// images repeat in short pieces, block numbers and item headers.
    const WAL_MATCH_BYTES: u32 = 5;
    /// Logarithm of the number of places it remembers, where level 1 would remember twice as many. The
    /// table of 32 KiB fits the first-level cache, and what repeats in WAL repeats soon.
    const WAL_HASH_LOG: u32 = 13;

    /// A compressor for WAL at zstd `level`. Levels 1 to 3 are one: level 1 that looks for shorter
    /// matches, in a smaller table. It takes about half the time of level 3, and stored 4 % less of
    /// pgbench with bulk inserts, 8 % less of bulk inserts alone, 2 % less of small transactions, 7 %
    /// less of random keys, 1 % less of an update of every third row, 2 % more of page images after
    /// checkpoints. A table of half the size again is faster by up to 7 %, and stores 3 % more of updates.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_wal(level: i32) -> Result<Self, CompressError> {
        if !(1..=Self::WAL_LEVEL_MAX).contains(&level) {
            return Self::new(level);
        }
        let mut compressor = Self::new(1)?;
        compressor.set(CParameter::MinMatch(Self::WAL_MATCH_BYTES))?;
        compressor.set(CParameter::HashLog(Self::WAL_HASH_LOG))?;
        Ok(compressor)
    }

    /// A compressor at zstd `level`.
    ///
    /// # Errors
    /// When `level` is not one of [`Compressor::LEVELS`], or memory is lacking.
    pub fn new(level: i32) -> Result<Self, CompressError> {
        if !Self::LEVELS.contains(&level) {
            return Err(CompressError(format!("level {level} is not from 1 to 19")));
        }
        let context = CCtx::try_create().ok_or_else(|| CompressError("out of memory".to_owned()))?;
        let mut compressor = Self { context, scratch: Vec::new() };
        // A frame's seal and the chunk's name check the content better than zstd's checksum would.
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ] {
            compressor.set(parameter)?;
        }
        Ok(compressor)
    }

    fn set(&mut self, parameter: CParameter) -> Result<(), CompressError> {
        self.context
            .set_parameter(parameter)
            .map(drop)
            .map_err(|code| CompressError(get_error_name(code).to_owned()))
    }

    /// Appends the stored form of `plain` to `out`: one zstd frame when that saves at least 1/32,
    /// else the bytes as they are.
    ///
    /// # Errors
    /// When zstd fails, which it does only for lack of memory; `out` is then as it was.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Compression, CompressError> {
        // zstd gets no more room than it may use: what does not fit there is not worth it.
        let room = (plain.len() - plain.len() / 32).saturating_sub(1);
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        match self.context.compress2(&mut self.scratch[..room], plain) {
            Ok(written) => {
                out.extend_from_slice(&self.scratch[..written]);
                Ok(Compression::Zstd)
            }
            Err(code) if is_out_of_room(code) => {
                out.extend_from_slice(plain);
                Ok(Compression::Raw)
            }
            Err(code) => Err(CompressError(get_error_name(code).to_owned())),
        }
    }

    /// As [`compress`](Self::compress), for a plaintext of many MiB: `out` gets room for the longest
    /// result and zstd writes there, so that no buffer of that length is made and wiped first.
    ///
    /// # Errors
    /// As [`compress`](Self::compress).
    pub fn compress_long(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Compression, CompressError> {
        let from = out.len();
        out.reserve(plain.len());
        let mut rest = Cursor::new(&mut *out);
        rest.set_position(from as u64);
        match self.context.compress2(&mut rest, plain) {
            Ok(written) if written < plain.len() - plain.len() / 32 => return Ok(Compression::Zstd),
            Ok(_) => {}
            Err(code) if is_out_of_room(code) => {}
            Err(code) => {
                out.truncate(from);
                return Err(CompressError(get_error_name(code).to_owned()));
            }
        }
        out.truncate(from);
        out.extend_from_slice(plain);
        Ok(Compression::Raw)
    }
}

/// zstd returns errors as negative numbers in an unsigned type.
pub(crate) fn is_out_of_room(code: usize) -> bool {
    code.wrapping_neg() == ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize
}

/// Decompresses frames one after the other with one context.
pub struct Decompressor {
    context: DCtx<'static>,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// A new context.
    #[must_use]
    pub fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Replaces `out` by the plaintext of `stored`, which must be `plain_len` bytes long; on an
    /// error `out` is empty. What `out` held is overwritten, so handing in the same one again costs
    /// neither an allocation nor a wipe.
    ///
    /// Never allocates more than `plain_len`, whatever `stored` claims; all of `stored` must be
    /// used up.
    ///
    /// # Errors
    /// When it is damaged or of another length.
    pub fn decompress(
        &mut self,
        compression: Compression,
        stored: &[u8],
        plain_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), DecompressError> {
        let result = match compression {
            Compression::Raw => copy(stored, plain_len, out),
            Compression::Zstd => self.unpack(stored, plain_len, out),
        };
        if result.is_err() {
            out.clear();
        }
        result
    }

    fn unpack(&mut self, stored: &[u8], plain_len: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
        let expected = plain_len;
        let damaged = |problem: &str| DecompressError::Damaged(problem.to_owned());
        check_claim(stored, expected)?;
        out.reserve_exact(plain_len.saturating_sub(out.len()));
        out.resize(plain_len, 0);
        let found = self
            .context
            .decompress(out.as_mut_slice(), stored)
            .map_err(|code| damaged(get_error_name(code)))?;
        check_length(expected, found)
    }
}

/// Refuses a frame that claims another length, before room is made for it. One without a length is
/// valid, and bounded by the room it gets.
pub(crate) fn check_claim(stored: &[u8], expected: usize) -> Result<(), DecompressError> {
    let claimed = get_frame_content_size(stored)
        .map_err(|_| DecompressError::Damaged("no frame header".to_owned()))?
        .map(|claimed| usize::try_from(claimed).unwrap_or(usize::MAX));
    check_length(expected, claimed.unwrap_or(expected))
}

/// Refuses another length than the one expected.
pub(crate) fn check_length(expected: usize, found: usize) -> Result<(), DecompressError> {
    if found == expected { Ok(()) } else { Err(DecompressError::Length { expected, found }) }
}

fn copy(stored: &[u8], plain_len: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    check_length(plain_len, stored.len())?;
    out.clear();
    out.extend_from_slice(stored);
    Ok(())
}
