//! Content-defined chunking: FastCDC (Xia et al., USENIX ATC 2016; two bytes a step: Xia et al.,
//! IEEE TPDS 2020) with a gear table of the repository's own.
//!
//! Invariant: cuts depend on the bytes alone, not on how they were fed. Where bytes are cut is
//! part of the format: equal data must be cut equally for ever.

use capy_types::limits::{CHUNK_MAX_BYTES, KIB};
use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// The gear table: 256 random words, here derived from the repository's key, so that chunk sizes
/// tell less about known files.
#[derive(Clone)]
pub struct Gear {
    table: Box<[u64; 256]>,
    shifted: Box<[u64; 256]>,
}

impl std::fmt::Debug for Gear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gear(redacted)")
    }
}

impl Gear {
    /// The table that belongs to `key`: 2 KiB of keyed BLAKE3 output as little-endian words.
    #[must_use]
    pub fn from_key(key: &[u8; 32]) -> Self {
        let mut bytes = [0; 2048];
        blake3::Hasher::new_keyed(key).finalize_xof().fill(&mut bytes);
        let mut table = Box::new([0; 256]);
        for (word, bytes) in table.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let mut shifted = table.clone();
        shifted.iter_mut().for_each(|word| *word <<= 1);
        Self { table, shifted }
    }
}

/// Chunk sizes in bytes that make no sense, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("chunk sizes {min}/{avg}/{max}: {reason}")]
pub struct SizesError {
    min: usize,
    avg: usize,
    max: usize,
    reason: &'static str,
}

/// Sizes of content-defined chunks in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CdcSizes {
    /// No chunk but the last is shorter.
    pub min: usize,
    /// The size aimed at.
    pub avg: usize,
    /// No chunk is longer.
    pub max: usize,
}

impl CdcSizes {
    /// For dumps, imports, text and whatever is not a relation.
    pub const DATA: Self = Self { min: 32 * KIB, avg: 64 * KIB, max: 512 * KIB };
    /// For the entry stream of manifests.
    pub const MANIFEST: Self = Self { min: 4 * KIB, avg: 16 * KIB, max: 64 * KIB };

    /// Checked sizes.
    ///
    /// # Errors
    /// When they are not even, not ascending, or beyond the limits (64 B to 8 MiB).
    pub const fn new(min: usize, avg: usize, max: usize) -> Result<Self, SizesError> {
        let reason = if min % 2 + avg % 2 + max % 2 != 0 {
            "they must be even"
        } else if min < 64 || avg < 256 || avg > 4 * 1024 * KIB || max > CHUNK_MAX_BYTES {
            "out of range"
        } else if min > avg || avg > max {
            "they must ascend"
        } else {
            return Ok(Self { min, avg, max });
        };
        Err(SizesError { min, avg, max, reason })
    }
}

/// Finds where the next chunk ends.
#[derive(Debug, Clone)]
pub struct Cutter {
    gear: Gear,
    sizes: CdcSizes,
    mask_s: u64,
    mask_l: u64,
}

impl Cutter {
    /// A cutter with the given table and sizes.
    #[must_use]
    pub fn new(gear: &Gear, sizes: CdcSizes) -> Self {
        let (mask_s, mask_l) = select_masks(sizes.avg, Normalization::Level1);
        Self { gear: gear.clone(), sizes, mask_s, mask_l }
    }

    /// The sizes.
    #[must_use]
    pub const fn sizes(&self) -> CdcSizes {
        self.sizes
    }

    /// Length of the chunk that starts at `data[0]`, or `None` when it is not decided yet: more
    /// bytes could still move the cut. `at_end` says that no more bytes will come.
    #[must_use]
    pub fn next_cut(&self, data: &[u8], at_end: bool) -> Option<usize> {
        if data.is_empty() || (data.len() < self.sizes.min && !at_end) {
            return None;
        }
        let CdcSizes { min, avg, max } = self.sizes;
        let (_, length) = cut_gear(
            data,
            min,
            avg,
            max,
            self.mask_s,
            self.mask_l,
            self.mask_s << 1,
            self.mask_l << 1,
            &*self.gear.table,
            &*self.gear.shifted,
        );
        // A cut at the very end of what is there may only be the end of what is there.
        (length < data.len() || at_end || data.len() >= max).then_some(length)
    }
}
