//! Nodes of content trees.
#![no_main]

use capy_format::{check_refs, decode_node, encode_node};
use capy_fuzz::{one_form, points_inside};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| match decode_node("node", input) {
    Ok(refs) => {
        one_form(input, &encode_node(&refs));
        for depth in 0..=7 {
            let _ = check_refs(&refs, input.len() as u64, depth);
        }
    }
    Err(error) => points_inside(&error, input.len() as u64),
});
