//! The gear scan: the one loop of content-defined chunking that sees every byte.
//!
//! The hash of a position depends on the 64 bytes before it only; the masks have no bit above the
//! 48th, so the last 48 bytes decide.

use super::pin::pin;

/// Bytes that a position's hash depends on, its own included: the shift drops those before.
pub(super) const REACH_BYTES: usize = 64;

/// Bytes a turn: where unrolling stopped paying (4 and 16 are within 3 %).
const UNROLL: usize = 8;

/// Rolls `hash` over `bytes` and returns the first position whose hash has no bit of `mask` set.
/// That byte is the first of the next chunk. If there is none, `hash` is left for what follows.
#[inline]
pub(super) fn find(bytes: &[u8], gear: &[u64; 256], hash: &mut u64, mask: u64) -> Option<usize> {
    let mut rolled = *hash;
    let (turns, rest) = bytes.as_chunks::<UNROLL>();
    for (turn, bytes) in turns.iter().enumerate() {
        for (at, byte) in bytes.iter().enumerate() {
            rolled = (rolled << 1).wrapping_add(pin(gear[usize::from(*byte)]));
            if rolled & mask == 0 {
                return Some(turn * UNROLL + at);
            }
        }
    }
    for (at, byte) in rest.iter().enumerate() {
        rolled = (rolled << 1).wrapping_add(gear[usize::from(*byte)]);
        if rolled & mask == 0 {
            return Some(turns.len() * UNROLL + at);
        }
    }
    *hash = rolled;
    None
}
