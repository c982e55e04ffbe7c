//! Delta: a chunk as its difference to another, a zstd frame that refers back into the base.
//!
//! Contained by: frames of kind delta. Invariants: what is stored is shorter than the limit it was
//! given and has been decoded and compared, or nothing is stored; a decoder never holds more than the length it was told, whatever
//! the stored bytes claim; a chunk that zstd would take for a trained dictionary is never a base.
//!
//! zstd with a prefix, and not zstd over the exclusive or: it follows bytes that move inside a page
//! or between pages (vacuum, index splits), and its window holds base and chunk together.

#[cfg(test)]
mod tests;

use zstd::zstd_safe::{CCtx, CompressionLevel, DCtx, get_error_name};

use crate::compress::{CompressError, DecompressError, check_claim, check_length, is_out_of_room};

/// What trained dictionaries start with (RFC 8878, section 5). Bytes that start with it are no
/// base: zstd would read tables from them.
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];

/// Lowest level used: the window of level 1 is too short to reach back over a long chunk.
const LEVEL_MIN: CompressionLevel = 2;
/// Highest level used: deltas are short, and a higher one takes time for nothing.
const LEVEL_MAX: CompressionLevel = 3;

/// Whether a chunk can be the base of another.
#[must_use]
pub fn can_be_base(plain: &[u8]) -> bool {
    !plain.is_empty() && !plain.starts_with(&DICTIONARY_MAGIC)
}

/// Encodes chunks one after the other, with one context and one buffer for all of them.
pub struct DeltaEncoder {
    context: CCtx<'static>,
    level: CompressionLevel,
    scratch: Vec<u8>,
    decoder: DeltaDecoder,
    decoded: Vec<u8>,
}

impl std::fmt::Debug for DeltaEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeltaEncoder")
    }
}

impl DeltaEncoder {
    /// An encoder for chunks whose full form is compressed at zstd `level`.
    ///
    /// # Errors
    /// When memory is lacking.
    pub fn new(level: i32) -> Result<Self, CompressError> {
        let context = CCtx::try_create().ok_or_else(|| CompressError::new("out of memory"))?;
        Ok(Self {
            context,
            level: level.clamp(LEVEL_MIN, LEVEL_MAX),
            scratch: Vec::new(),
            decoder: DeltaDecoder::new(),
            decoded: Vec::new(),
        })
    }

    /// Appends to `out` the difference of `plain` to `base` when it takes fewer than `limit` bytes,
    /// and fewer than `plain` itself; returns whether it did.
    ///
    /// # Errors
    /// When zstd fails, which it does only for lack of memory; `out` is then as it was.
    pub fn encode(
        &mut self,
        base: &[u8],
        plain: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, CompressError> {
        // zstd gets no more room than it may use, so that it ends early where there is no likeness.
        let room = limit.min(plain.len()).saturating_sub(1);
        if room == 0 || !can_be_base(base) {
            return Ok(false);
        }
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        match self.context.compress_using_dict(&mut self.scratch[..room], plain, base, self.level) {
            Ok(written) => {
                // Decoding is ten times as fast as encoding: all of them are tried, since a delta that
                // does not come back would show only when somebody needs it.
                let stored = &self.scratch[..written];
                let decoded = self.decoder.decode(base, stored, plain.len(), &mut self.decoded);
                let back = decoded.is_ok() && self.decoded == plain;
                if back {
                    out.extend_from_slice(stored);
                }
                Ok(back)
            }
            Err(code) if is_out_of_room(code) => Ok(false),
            Err(code) => Err(CompressError::new(get_error_name(code))),
        }
    }
}

/// Decodes deltas one after the other with one context.
pub struct DeltaDecoder {
    context: DCtx<'static>,
}

impl std::fmt::Debug for DeltaDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeltaDecoder")
    }
}

impl Default for DeltaDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl DeltaDecoder {
    /// A new context.
    #[must_use]
    pub fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Replaces `out` by the chunk of `plain_len` bytes whose difference to `base` is `stored`; on an
    /// error `out` is empty.
    ///
    /// Never allocates more than `plain_len`, whatever `stored` claims; all of `stored` must be used
    /// up. With another base than it was made with, the result is an error or other bytes: whoever
    /// calls compares the chunk's name.
    ///
    /// # Errors
    /// When it is damaged or of another length, or `base` can be none.
    pub fn decode(
        &mut self,
        base: &[u8],
        stored: &[u8],
        plain_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), DecompressError> {
        let result = self.unpack(base, stored, plain_len, out);
        if result.is_err() {
            out.clear();
        }
        result
    }

    fn unpack(
        &mut self,
        base: &[u8],
        stored: &[u8],
        expected: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), DecompressError> {
        let damaged = |problem: &str| DecompressError::Damaged(problem.to_owned());
        if !can_be_base(base) {
            return Err(damaged("its base can be none"));
        }
        check_claim(stored, expected)?;
        out.reserve_exact(expected.saturating_sub(out.len()));
        out.resize(expected, 0);
        let found = self
            .context
            .decompress_using_dict(out.as_mut_slice(), stored, base)
            .map_err(|code| damaged(get_error_name(code)))?;
        check_length(expected, found)
    }
}
