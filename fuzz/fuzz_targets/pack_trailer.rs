//! A pack's trailer.
#![no_main]

use capy_format::PackTrailer;
use capy_fuzz::one_form;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(trailer) = input.first_chunk() else { return };
    if let Ok(decoded) = PackTrailer::decode("pack", trailer, 1000) {
        one_form(trailer, &decoded.encode());
    }
});
