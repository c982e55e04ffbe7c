//! Deltas (capy-codec): what was encoded against a base comes back whole, and what anybody else wrote
//! gives at most the length that was asked for.
//!
//! The first byte says which: encode and decode a chunk that is the base with an edit, or decode the
//! rest as a delta on a base. The next two bytes split what follows.
#![no_main]

use capy_codec::{DeltaDecoder, DeltaEncoder, can_be_base};
use libfuzzer_sys::fuzz_target;

/// Longest chunk asked of a foreign delta in bytes.
const PLAIN_MAX_BYTES: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some(([kind, low, high], rest)) = input.split_first_chunk() else { return };
    let number = usize::from(u16::from_le_bytes([*low, *high]));
    let (base, other) = rest.split_at(number.min(rest.len()));
    let mut plain = Vec::new();
    if kind % 2 == 0 {
        round_trip(base, other, usize::from(*kind), &mut plain);
        return;
    }
    let asked = number * 17 % PLAIN_MAX_BYTES;
    match DeltaDecoder::new().decode(base, other, asked, &mut plain) {
        Ok(()) => assert_eq!(plain.len(), asked, "another length than was asked for"),
        Err(_) => assert!(plain.is_empty(), "bytes of a delta that was refused"),
    }
    assert!(plain.capacity() <= asked.max(64) * 2, "more room than the chunk needs");
});

/// `base` with `edit` somewhere in it is encoded and decoded, and with another base is never taken for
/// longer than it is.
fn round_trip(base: &[u8], edit: &[u8], place: usize, plain: &mut Vec<u8>) {
    let at = base.len() * place / 255;
    let chunk = [base.get(..at).unwrap_or_default(), edit, base.get(at..).unwrap_or_default()].concat();
    let Ok(mut encoder) = DeltaEncoder::new(3) else { return };
    let mut stored = b"before".to_vec();
    let limit = chunk.len();
    match encoder.encode(base, &chunk, limit, &mut stored) {
        Ok(true) => {
            assert!(can_be_base(base), "a base that is none");
            let (before, delta) = stored.split_at(6);
            assert!(before == b"before" && delta.len() < limit, "what was before, and the limit");
            DeltaDecoder::new().decode(base, delta, chunk.len(), plain).expect("what was encoded decodes");
            assert_eq!(*plain, chunk);
            let _ = DeltaDecoder::new().decode(edit, delta, chunk.len(), plain);
            assert!(plain.is_empty() || plain.len() == chunk.len());
        }
        Ok(false) | Err(_) => assert_eq!(stored, b"before", "nothing is left of what was not worth it"),
    }
}
