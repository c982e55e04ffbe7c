//! The masks of FastCDC's cut test, by chunk size.
//!
//! They come from the reference implementation in destor (up to 128 KiB) and from restic-FastCDC,
//! by way of crate `fastcdc`, and are copied here because they are part of the format.

/// Mask for chunks of 2^n bytes at position n - 7: more bits set, longer chunks.
const MASKS: [u64; 17] = [
    0x0000_0000_1803_5100, // 128 B
    0x0000_0018_0003_5300, // 256 B
    0x0000_0190_0035_3000,
    0x0000_5900_0353_0000, // 1 KiB
    0x0000_d900_0353_0000,
    0x0000_d901_0353_0000,
    0x0000_d903_0353_0000, // 8 KiB
    0x0000_d903_1353_0000,
    0x0000_d90f_0353_0000,
    0x0000_d903_0353_7000, // 64 KiB
    0x0000_d907_0353_7000,
    0x0000_d907_0753_7000,
    0x0000_d917_0753_7000, // 512 KiB
    0x0000_d917_4753_7000,
    0x0000_d917_6753_7000,
    0x0000_d937_6753_7000, // 4 MiB
    0x0000_d937_7753_7000,
];

/// The strict and the loose mask for chunks of `avg` bytes, 256 bytes to 4 MiB: those of the next
/// larger and the next smaller power of two (normalization level 1).
pub(super) const fn for_average(avg: usize) -> (u64, u64) {
    let bits = rounded_log2(avg) as usize;
    (MASKS[bits - 6], MASKS[bits - 8])
}

/// log2, rounded to the nearest integer.
const fn rounded_log2(value: usize) -> u32 {
    let below = value.ilog2();
    // value >= 2^(below + 1/2), squared to stay among integers.
    below + ((value as u64).pow(2) >> (2 * below + 1) != 0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastcdc::v2020::{AVERAGE_MAX, AVERAGE_MIN, Normalization, select_masks};

    #[test]
    fn masks_are_those_of_the_fastcdc_crate_for_every_average() {
        for avg in (AVERAGE_MIN..=AVERAGE_MAX).step_by(2) {
            assert_eq!(for_average(avg), select_masks(avg, Normalization::Level1), "average {avg}");
        }
    }
}
