//! The entry stream, record after record.
#![no_main]

use capy_format::{decode_entry, encode_entry};
use capy_fuzz::{one_form, points_inside};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    loop {
        match decode_entry("manifest", rest) {
            Ok(Some((entry, length))) => {
                let mut encoded = Vec::new();
                encode_entry(&entry, &mut encoded);
                one_form(rest, &encoded);
                assert_eq!(entry.check(), Ok(()));
                rest = rest.get(length..).expect("a record is not longer than the stream");
            }
            Ok(None) => return,
            Err(error) => return points_inside(&error, rest.len() as u64),
        }
    }
});
