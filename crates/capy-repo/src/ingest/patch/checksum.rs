//! The CRC-32C of a file whose bytes are not all at hand.
//!
//! A CRC is linear: exchanging a part of a file for another of its length changes the file's by the
//! difference of the parts', moved by what follows. So that of the old file, cut to its cells that have
//! a counterpart (the prefix), and those of the cells exchanged are enough.

use capy_codec::{join_crc32c, part_crc32c};

/// The checksum so far.
#[derive(Debug, Default)]
pub(super) struct Checksum {
    /// Bytes at the start of the file that are counted by their difference to the old ones.
    prefix: u64,
    /// The checksum of the old ones.
    prefix_crc32c: u32,
    /// Bytes seen.
    at: u64,
    sum: u32,
}

impl Checksum {
    /// Of a file of which every byte will be seen.
    pub(super) fn of_all() -> Self {
        Self::default()
    }

    /// Of a file of which `prefix` bytes are those of an old one, or of the length of its cells. The
    /// old one has the checksum `old`, and behind the prefix `tail` bytes with `tail_crc32c`.
    pub(super) fn over(old: u32, tail_crc32c: u32, prefix: u64, tail: u64) -> Self {
        Self { prefix, prefix_crc32c: part_crc32c(old, tail_crc32c, tail), ..Self::default() }
    }

    /// The next bytes are the old ones.
    pub(super) fn kept(&mut self, bytes: u64) {
        self.sum = join_crc32c(self.sum, 0, bytes);
        self.at += bytes;
    }

    /// The next bytes are `new`; within the prefix, in the place of `old`, which are as many.
    pub(super) fn replaced(&mut self, old: Option<&[u8]>, new: &[u8]) {
        let before = if self.at < self.prefix { crc32c::crc32c(old.unwrap_or_default()) } else { 0 };
        self.sum = join_crc32c(self.sum, crc32c::crc32c(new) ^ before, new.len() as u64);
        self.at += new.len() as u64;
    }

    /// The checksum of all `length` bytes.
    pub(super) fn finish(&self, length: u64) -> u32 {
        debug_assert_eq!(self.at, length, "every byte was kept or replaced");
        self.sum ^ join_crc32c(self.prefix_crc32c, 0, length - self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use capy_types::{Entropy, SeededEntropy};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_that_of_the_bytes_though_few_of_them_were_seen(
            seed: u64,
            prefix in 0_usize..8,
            tail in 0_usize..30,
            added in 0_usize..30,
            exchanged: [bool; 8],
        ) {
            const CELL: usize = 16;
            let (mut old, mut fresh) = (vec![0; prefix * CELL + tail], vec![0; prefix * CELL + added]);
            let entropy = SeededEntropy::new(seed);
            entropy.fill(&mut old);
            entropy.fill(&mut fresh);
            let (old_crc, at) = (crc32c::crc32c(&old), prefix * CELL);
            let mut sum = Checksum::over(old_crc, crc32c::crc32c(&old[at..]), at as u64, tail as u64);
            let mut new = Vec::new();
            for (before, after) in old.chunks(CELL).zip(fresh.chunks(CELL)).take(prefix) {
                if exchanged[new.len() / CELL] {
                    sum.replaced(Some(before), after);
                    new.extend_from_slice(after);
                } else {
                    sum.kept(CELL as u64);
                    new.extend_from_slice(before);
                }
            }
            sum.replaced(None, &fresh[at..]);
            new.extend_from_slice(&fresh[at..]);
            prop_assert_eq!(sum.finish(new.len() as u64), crc32c::crc32c(&new));
        }
    }
}
