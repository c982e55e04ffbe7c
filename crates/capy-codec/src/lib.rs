//! Chunk, hash, compress and seal: everything between plaintext and stored bytes.
//!
//! Bytes in, bytes out: no I/O, no async, no knowledge of packs or objects. What is written goes
//! through [`Cutter`], [`ChunkNamer`], [`Compressor`] and [`SealKey::seal`]; what is read goes
//! through [`SealKey::open`] and [`Decompressor`], and is then named again and compared.
//!
//! Every key comes from one [`MasterKey`] through [`RepositoryKeys`]; the master key itself is
//! stored wrapped ([`wrap_key`]) for each secret that may open the repository.
//!
//! Invariants: cuts, names and derivations never change (known answers in the tests hold them);
//! secrets are wiped on drop and never printed; nothing is allocated on the word of stored bytes.

mod chunk;
mod compress;
mod crc;
mod delta;
mod key;
mod seal;
mod slot;

pub use chunk::{CdcSizes, Cutter, Gear, SizesError};
pub use compress::{
    CompressError, Compression, Compressor, DecompressError, Decompressor, UnknownCompression, Unpacking,
};
pub use crc::{join_crc32c, part_crc32c};
pub use delta::{DeltaDecoder, DeltaEncoder, can_be_base};
pub use key::{ChunkNamer, MasterKey, Naming, RepositoryKeys};
pub use seal::{OpenError, SealKey, Suite, TAG_BYTES};
pub use slot::{KdfParams, SlotSecret, UnwrapError, WrappedKey, unwrap_key, wrap_key};
