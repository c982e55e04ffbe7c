//! The JSON documents: each takes the input, and what is accepted survives a round trip.
#![no_main]

use std::fmt::Debug;

use capy_format::{ArchiveIdentity, BackupRecord, Config, FormatError, KeySlot, RestorePoint, Root, WalFacts};
use capy_fuzz::points_inside;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;

fn check<T: Serialize + PartialEq + Debug>(
    input: &[u8],
    read: impl Fn(&str, &[u8]) -> Result<T, FormatError>,
) {
    match read("document", input) {
        Ok(document) => {
            let json = serde_json::to_vec(&document).expect("documents are plain data");
            assert_eq!(read("document", &json), Ok(document));
        }
        Err(error) => points_inside(&error, input.len() as u64),
    }
}

fuzz_target!(|input: &[u8]| {
    check(input, Config::from_json);
    check(input, KeySlot::from_json);
    check(input, Root::from_json);
    check(input, BackupRecord::from_json);
    check(input, WalFacts::from_json);
    check(input, ArchiveIdentity::from_json);
    check(input, RestorePoint::from_json);
});
