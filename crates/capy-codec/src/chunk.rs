//! Content-defined chunking: FastCDC (Xia et al., USENIX ATC 2016, with the masks of the 2020
//! paper, IEEE TPDS 31(9)) with a gear table of the repository's own.
//!
//! Invariants: cuts depend on the bytes alone, never on how they were fed; every chunk but the last
//! is `min..=max` bytes long. Where bytes are cut is part of the format: equal data must be cut
//! equally for ever, which is why masks and loop are ours and the tests pin cut points.

mod masks;
mod pin;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;

use capy_types::limits::{CHUNK_MAX_BYTES, KIB, MIB};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The gear table: 256 random words, derived from the repository's key, so that cut points tell
/// less about known files. It is a secret: wiped on drop, never printed.
///
/// It raises the bar but is no proof against an observer who can choose plaintext and see chunk
/// sizes (Alexeev, Percival, Zhang, eprint 2025/532); the format hides those sizes inside packs.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Gear(Box<[u64; 256]>);

impl fmt::Debug for Gear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gear(redacted)")
    }
}

impl Gear {
    /// The table that belongs to `key`: 2 KiB of keyed BLAKE3 output as little-endian words.
    #[must_use]
    pub fn from_key(key: &[u8; 32]) -> Self {
        let mut output = blake3::Hasher::new_keyed(key).finalize_xof();
        let mut table = Box::new([0; 256]);
        let mut bytes = [0; 8];
        for word in table.iter_mut() {
            output.fill(&mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
        bytes.zeroize();
        Self(table)
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

/// Sizes of content-defined chunks in bytes; made by [`CdcSizes::new`], which checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CdcSizes {
    /// No chunk but the last of a stream is shorter.
    pub min: usize,
    /// Where the easier of the two masks takes over. On random bytes the mean chunk is about a
    /// quarter longer, since nothing is cut before `min`.
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
    /// When they are odd (FastCDC's two-byte form shifts such cuts), do not ascend, or are out of
    /// range: `min` from 64 bytes, `avg` 256 bytes to 4 MiB, `max` up to [`CHUNK_MAX_BYTES`].
    pub const fn new(min: usize, avg: usize, max: usize) -> Result<Self, SizesError> {
        let reason = if min % 2 + avg % 2 + max % 2 != 0 {
            "they must be even"
        } else if min < 64 || avg < 256 || avg > 4 * MIB || max > CHUNK_MAX_BYTES {
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
    /// Cuts are rarer by this mask, which rules up to the average size,
    strict: u64,
    /// and more frequent by this one, which rules after it.
    loose: u64,
}

impl Cutter {
    /// A cutter with the given table and sizes.
    #[must_use]
    pub fn new(gear: &Gear, sizes: CdcSizes) -> Self {
        let (strict, loose) = masks::for_average(sizes.avg);
        Self { gear: gear.clone(), sizes, strict, loose }
    }

    /// The sizes.
    #[must_use]
    pub const fn sizes(&self) -> CdcSizes {
        self.sizes
    }

    /// Length of the chunk that starts at `data[0]`, or `None` when it is not decided yet: more
    /// bytes could still move the cut. `at_end` says that no more bytes will come.
    ///
    /// It is always decided when `data` holds `max` bytes or more. The scan keeps no state: a
    /// caller that asks before that pays for the same bytes again.
    #[must_use]
    pub fn next_cut(&self, data: &[u8], at_end: bool) -> Option<usize> {
        let CdcSizes { min, avg, max } = self.sizes;
        let window = &data[..data.len().min(max)];
        let decided = at_end || window.len() == max;
        if window.is_empty() || (window.len() <= min && !decided) {
            return None;
        }
        let cut = if window.len() <= min { None } else { self.scan(window, min, avg) };
        cut.or(decided.then_some(window.len()))
    }

    /// Whether [`next_cut`](Self::next_cut) answers `length`, when somewhere else a chunk of the same
    /// first `length` bytes was cut: without scanning them again.
    ///
    /// Why it may: whether there is a cut at a position depends on the sizes and on the bytes up to the
    /// one at that position, nothing behind. So that chunk shows that none of its positions is a cut,
    /// with one exception, the position before the last byte of a stream of odd length, which is never
    /// looked at. What is left to be seen is its end: a cut by the hash, which the 64 bytes up to the
    /// next one decide; the largest size; or the end of the data.
    ///
    /// That the bytes are the same is the caller's to prove, before or after.
    #[must_use]
    pub fn confirms(&self, data: &[u8], length: usize, at_end: bool) -> bool {
        let window = &data[..data.len().min(self.sizes.max)];
        if length == 0 || length >= window.len() {
            return length > 0 && length == window.len() && (at_end || length == self.sizes.max);
        }
        let unseen_cut = length % 2 == 1 && self.is_cut(window, length - 1);
        self.is_cut(window, length) && !unseen_cut
    }

    /// Whether the hash says to cut at `position` of `window`, nothing before it considered.
    fn is_cut(&self, window: &[u8], position: usize) -> bool {
        let CdcSizes { min, avg, .. } = self.sizes;
        if position < min || position >= window.len() & !1 {
            return false;
        }
        let mask = if position < avg { self.strict } else { self.loose };
        let from = min.max((position + 1).saturating_sub(scan::REACH_BYTES));
        let roll = |hash: u64, byte: &u8| (hash << 1).wrapping_add(self.gear.0[usize::from(*byte)]);
        window[from..=position].iter().fold(0, roll) & mask == 0
    }

    /// Where in `window`, which is longer than `min`, the hash says to cut.
    fn scan(&self, window: &[u8], min: usize, avg: usize) -> Option<usize> {
        // The last byte of an odd window was never a candidate: the 2020 form tests in pairs.
        let end = window.len() & !1;
        let middle = avg.min(end);
        let mut hash = 0;
        scan::find(&window[min..middle.max(min)], &self.gear.0, &mut hash, self.strict)
            .map(|at| min + at)
            .or_else(|| {
                let at = scan::find(&window[middle.max(min)..end], &self.gear.0, &mut hash, self.loose)?;
                Some(middle.max(min) + at)
            })
    }
}
