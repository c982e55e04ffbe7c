//! Chunk, hash, compress and seal.

mod chunk;
mod compress;
mod key;
mod seal;
mod slot;

pub use chunk::{CdcSizes, Cutter, Gear, SizesError};
pub use compress::{
    CompressError, Compression, Compressor, DecompressError, Decompressor, UnknownCompression,
};
pub use key::{ChunkNamer, MasterKey, RepositoryKeys};
pub use seal::{OpenError, SealKey, Suite, TAG_BYTES};
pub use slot::{KdfParams, SlotSecret, UnwrapError, WrappedKey, unwrap_key, wrap_key};
