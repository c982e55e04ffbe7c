//! Joining CRC-32C checksums: that of two pieces of data, one after the other, from those of each, and
//! that of the first from those of both and of the second.
//!
//! A file's checksum is joined from its chunks' in their order, which is work for one thread while
//! the others compute; so a join must cost nothing beside a chunk (about 0.1 µs; squaring bit
//! matrices, as is usual, takes 10).
//!
//! Method: a CRC is a remainder of polynomials over GF(2). Data followed by n bits is multiplied by
//! x^n, and what follows is added; x^n is a product of the powers x^(2^k) in the table.

/// The Castagnoli polynomial without its highest term; as everywhere here, the highest bit is the
/// coefficient of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;
/// Powers of two in a length in bits: 64 of a length in bytes, times 8.
const POWERS: usize = 64 + 3;

/// x^(2^k) for every k.
const X_TO_POWER_OF_TWO: [u32; POWERS] = {
    let mut powers = [ONE >> 1; POWERS];
    let mut k = 1;
    while k < POWERS {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// The product of two polynomials, modulo the CRC's.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut power = 0;
    while power < 32 {
        // All ones when `a` has this power of x.
        let has = 0_u32.wrapping_sub((a >> (31 - power)) & 1);
        product ^= b & has;
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
        power += 1;
    }
    product
}

/// The CRC-32C of data whose first part has the checksum `before`, and whose remaining `length`
/// bytes have the checksum `after`.
#[must_use]
pub fn join_crc32c(before: u32, after: u32, length: u64) -> u32 {
    let mut shifted = before;
    let mut rest = length;
    while rest != 0 {
        let k = rest.trailing_zeros() as usize;
        shifted = multiply(X_TO_POWER_OF_TWO[k + 3], shifted);
        rest &= rest - 1;
    }
    shifted ^ after
}

/// How often x must be multiplied by itself to be 1 again: the polynomial is x + 1 times a primitive
/// one of degree 31.
const ORDER_OF_X: u64 = (1 << 31) - 1;

/// The CRC-32C of the first part of data that has the checksum `whole`, and whose remaining `length`
/// bytes have the checksum `after`: what [`join_crc32c`] was given first.
#[must_use]
pub fn part_crc32c(whole: u32, after: u32, length: u64) -> u32 {
    // To divide by x^n is to multiply by what is missing to a multiple of the order.
    join_crc32c(whole ^ after, 0, ORDER_OF_X - length % ORDER_OF_X)
}

#[cfg(test)]
mod tests {
    use capy_types::{Entropy, SeededEntropy};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_value_of_the_standard_comes_out_of_any_two_parts() {
        // RFC 3720, B.4: 32 bytes of zeros; and "123456789", the customary check.
        for (data, expected) in [(&[0; 32][..], 0x8a91_36aa), (b"123456789", 0xe306_9283)] {
            for at in 0..=data.len() {
                let (a, b) = data.split_at(at);
                let joined = join_crc32c(crc32c::crc32c(a), crc32c::crc32c(b), b.len() as u64);
                assert_eq!(joined, expected, "parted at {at}");
            }
        }
    }

    #[test]
    fn lengths_beyond_memory_join_as_their_parts_do() {
        // Zeros of 2^k bytes, doubled: the checksum of 2^(k+1) of them, up to more than any file.
        let mut zeros = crc32c::crc32c(&[0]);
        for k in 0..62 {
            let twice = join_crc32c(zeros, zeros, 1 << k);
            let thrice = [join_crc32c(twice, zeros, 1 << k), join_crc32c(zeros, twice, 2 << k)];
            assert_eq!(thrice[0], thrice[1], "2^{k}");
            assert_eq!(part_crc32c(thrice[1], twice, 2 << k), zeros, "2^{k}");
            zeros = twice;
        }
    }

    proptest! {
        #[test]
        fn two_parts_join_to_the_checksum_of_the_whole(seed: u64, first in 0_usize..5000, second in 0_usize..300_000) {
            let mut data = vec![0; first + second];
            SeededEntropy::new(seed).fill(&mut data);
            let (a, b) = data.split_at(first);
            let joined = join_crc32c(crc32c::crc32c(a), crc32c::crc32c(b), second as u64);
            prop_assert_eq!(joined, crc32c::crc32c(&data));
            prop_assert_eq!(part_crc32c(joined, crc32c::crc32c(b), second as u64), crc32c::crc32c(a));
        }
    }
}
