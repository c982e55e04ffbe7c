//! The envelope, alone and around a body.
#![no_main]

use capy_format::{Header, ObjectKind, split_object};
use capy_fuzz::{one_form, points_inside};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match Header::decode("object", input) {
        Ok(header) => one_form(input, &header.encode()),
        Err(error) => points_inside(&error, input.len() as u64),
    }
    for kind in ObjectKind::ALL {
        if let Ok((header, body)) = split_object("object", input, kind) {
            assert_eq!((header.kind, header.stored_len as usize), (kind, body.len()));
        }
    }
});
