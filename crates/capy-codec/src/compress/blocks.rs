//! Decompression in blocks that stay in the processor's cache, for plaintexts of many MiB that are
//! hashed, compared or written as they come: what is as long as the plaintext is never allocated.
//!
//! Invariants: no more than the length it was told is given out, whatever the stored bytes claim; the
//! last block came only when all stored bytes were used up and the length was right.

use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, get_error_name};

use super::{Compression, DecompressError, check_claim, check_length};

/// Bytes given out at once. With zstd's window of 512 KiB they fit a second-level cache of 1 MiB.
const BLOCK_BYTES: usize = 256 * 1024;

/// A plaintext on its way out of its stored form.
pub struct Unpacking<'a> {
    /// `None` for what is stored as it is.
    context: Option<DCtx<'static>>,
    stored: InBuffer<'a>,
    plain_len: usize,
    given: usize,
    block: Vec<u8>,
}

impl std::fmt::Debug for Unpacking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unpacking({} of {} bytes)", self.given, self.plain_len)
    }
}

impl<'a> Unpacking<'a> {
    /// Begins to unpack `stored`, which must be `plain_len` bytes long.
    ///
    /// # Errors
    /// When it claims another length.
    pub fn new(
        compression: Compression,
        stored: &'a [u8],
        plain_len: usize,
    ) -> Result<Self, DecompressError> {
        match compression {
            Compression::Raw => check_length(plain_len, stored.len())?,
            Compression::Zstd => check_claim(stored, plain_len)?,
        }
        let context = (compression == Compression::Zstd).then(DCtx::create);
        let block = Vec::with_capacity(if context.is_some() { BLOCK_BYTES.min(plain_len + 1) } else { 0 });
        Ok(Self { context, stored: InBuffer::around(stored), plain_len, given: 0, block })
    }

    /// The next bytes of the plaintext; `None` after its end, and only when all was as it should be.
    ///
    /// # Errors
    /// When the stored bytes are damaged or of another length. What was given out before may be wrong.
    pub fn next_block(&mut self) -> Result<Option<&[u8]>, DecompressError> {
        let Some(context) = &mut self.context else {
            let rest = self.stored.src.get(self.given..).unwrap_or_default();
            let block = rest.get(..BLOCK_BYTES).unwrap_or(rest);
            self.given += block.len();
            return Ok(if block.is_empty() { None } else { Some(block) });
        };
        self.block.clear();
        let mut out = OutBuffer::around(&mut self.block);
        // What zstd still expects after the frame's end is the beginning of another one.
        let mut is_whole = false;
        while out.pos() < out.capacity() && !is_whole {
            let (read, written) = (self.stored.pos(), out.pos());
            let expected = context
                .decompress_stream(&mut out, &mut self.stored)
                .map_err(|code| DecompressError::Damaged(get_error_name(code).to_owned()))?;
            is_whole = expected == 0;
            if !is_whole && (read, written) == (self.stored.pos(), out.pos()) {
                return Err(DecompressError::Damaged("it ends inside its frame".to_owned()));
            }
        }
        let length = out.pos();
        self.given += length;
        let is_used_up = self.stored.pos() == self.stored.src.len();
        if is_whole && !is_used_up {
            return Err(DecompressError::Damaged("bytes behind its frame".to_owned()));
        }
        if self.given > self.plain_len || (is_whole && self.given != self.plain_len) {
            return Err(DecompressError::Length { expected: self.plain_len, found: self.given });
        }
        if is_whole {
            // Nothing is left to be given but this block.
            self.context = None;
            self.stored = InBuffer::around(&[]);
        }
        Ok(if length == 0 { None } else { Some(&self.block) })
    }
}
