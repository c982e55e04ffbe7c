//! Compression: zstd with a reused context, or the bytes as they are when that is not smaller.

use zstd::zstd_safe::{CCtx, CParameter, DCtx};

/// How a frame's plaintext is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
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

/// Stored bytes that do not decompress to what they should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// Not a valid zstd frame.
    #[error("damaged zstd frame: {0}")]
    Damaged(String),
    /// A valid frame of another length, or with bytes left over.
    #[error("decompresses to {found} bytes, not {expected}")]
    Length {
        /// What it should be.
        expected: usize,
        /// What it is.
        found: usize,
    },
}

fn words(code: usize) -> String {
    zstd::zstd_safe::get_error_name(code).to_owned()
}

/// Compresses chunks one after the other with one context.
pub struct Compressor {
    context: CCtx<'static>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Compressor {
    /// A compressor at zstd `level`, 1 to 19.
    ///
    /// # Errors
    /// When zstd refuses the level or lacks memory.
    pub fn new(level: i32) -> Result<Self, CompressError> {
        let mut context = CCtx::try_create().ok_or_else(|| CompressError("out of memory".to_owned()))?;
        let set = |context: &mut CCtx<'static>, parameter| {
            context.set_parameter(parameter).map(|_| ()).map_err(|code| CompressError(words(code)))
        };
        set(&mut context, CParameter::CompressionLevel(level))?;
        // Length, checksum and dictionary id are known from the frame's own header.
        set(&mut context, CParameter::ChecksumFlag(false))?;
        set(&mut context, CParameter::DictIdFlag(false))?;
        Ok(Self { context })
    }

    /// Appends the stored form of `plain` to `out`: a zstd frame when that is at least 1/32
    /// smaller, else the bytes as they are.
    ///
    /// # Errors
    /// When zstd fails, which it does only for lack of memory.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Compression, CompressError> {
        let from = out.len();
        out.resize(from + zstd::zstd_safe::compress_bound(plain.len()), 0);
        let written =
            self.context.compress2(&mut out[from..], plain).map_err(|code| CompressError(words(code)))?;
        if written + plain.len() / 32 < plain.len() {
            out.truncate(from + written);
            return Ok(Compression::Zstd);
        }
        out.truncate(from);
        out.extend_from_slice(plain);
        Ok(Compression::Raw)
    }
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

    /// Replaces `out` by the plaintext of `stored`, which must be `plain_len` bytes long.
    ///
    /// Never allocates more than `plain_len`, whatever `stored` claims.
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
        out.clear();
        let found = match compression {
            Compression::Raw => {
                if stored.len() == plain_len {
                    out.extend_from_slice(stored);
                }
                stored.len()
            }
            Compression::Zstd => {
                out.reserve_exact(plain_len);
                out.resize(plain_len, 0);
                self.context
                    .decompress(out.as_mut_slice(), stored)
                    .map_err(|code| DecompressError::Damaged(words(code)))?
            }
        };
        if found == plain_len { Ok(()) } else { Err(DecompressError::Length { expected: plain_len, found }) }
    }
}
