//! Index objects.
#![no_main]

use capy_format::IndexObject;
use capy_fuzz::{one_form, points_inside};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match IndexObject::decode("index", input) {
    Ok(index) => one_form(input, &index.encode()),
    Err(error) => points_inside(&error, input.len() as u64),
});
