//! The CRC-32C of a file from those of its parts.
//!
//! What comes before a part counts as multiplied by a power of x that the part's length gives: a linear
//! map of 32 bits. Nearly all parts have one length, whose map is kept; to make one takes longer than
//! to read 100 KiB.

use std::sync::LazyLock;

use crate::source::buffer::BUFFER_BYTES;

/// What each bit of a checksum becomes when a full buffer follows.
static BEFORE_A_BUFFER: LazyLock<[u32; 32]> =
    LazyLock::new(|| std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, BUFFER_BYTES)));

/// The checksum of bytes with the checksum `before`, followed by `length` others with `after`.
pub(super) fn join(before: u32, after: u32, length: u64) -> u32 {
    if length != BUFFER_BYTES as u64 {
        // A part is at most a buffer long.
        return crc32c::crc32c_combine(before, after, length as usize);
    }
    let bits = (0..).zip(BEFORE_A_BUFFER.iter()).filter(|(bit, _)| before >> bit & 1 == 1);
    bits.fold(after, |sum, (_, becomes)| sum ^ becomes)
}

#[cfg(test)]
mod tests {
    use capy_types::{Entropy, SeededEntropy};

    use super::*;

    #[test]
    fn it_is_the_checksum_of_everything_whatever_the_lengths() {
        let seed = 6;
        println!("seed {seed}");
        let mut bytes = vec![0; 4 * BUFFER_BYTES];
        SeededEntropy::new(seed).fill(&mut bytes);
        for length in [1, 8192, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1] {
            let joined = bytes
                .chunks(length.max(4096))
                .fold(0, |before, part| join(before, crc32c::crc32c(part), part.len() as u64));
            assert_eq!(joined, crc32c::crc32c(&bytes), "parts of {length}");
        }
    }
}
