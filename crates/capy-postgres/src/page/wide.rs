//! The page checksum in the widest vectors of the processor at hand.
//!
//! The 32 lanes are four vectors of AVX2. What every x86-64 has lacks a multiplication of 32-bit lanes,
//! and puts it together from others: a third of the speed or less. The loop is the same; the compiler
//! makes it twice.
#![allow(unsafe_code, reason = "a function for AVX2 is called where AVX2 was found")]

use super::{Page, lane_sum};

/// `pg_checksum_block`, as [`lane_sum`] computes it.
pub(super) fn fastest_lane_sum(page: &Page) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the one thing that `lane_sum_avx2` needs beside its arguments is a processor with
        // AVX2, which was just found. It is otherwise safe code.
        return unsafe { lane_sum_avx2(page) };
    }
    lane_sum(page)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn lane_sum_avx2(page: &Page) -> u32 {
    lane_sum(page)
}
