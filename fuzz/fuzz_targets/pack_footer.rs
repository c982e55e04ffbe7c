//! A pack's footer. The first four bytes say where it starts in its pack.
#![no_main]

use capy_format::{PackFooter, pack_len};
use capy_fuzz::{one_form, points_inside};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((offset, footer)) = input.split_first_chunk() else { return };
    let offset = u64::from(u32::from_le_bytes(*offset));
    match PackFooter::decode("pack", footer, offset) {
        Ok(decoded) => {
            one_form(footer, &decoded.encode());
            assert!(pack_len(&decoded.frames) > offset);
        }
        Err(error) => points_inside(&error, offset + footer.len() as u64),
    }
});
