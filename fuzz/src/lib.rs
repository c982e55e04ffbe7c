//! What every target checks beyond "no panic": that an accepted input has one form, and that an
//! error points into the object.

use capy_format::FormatError;

/// A structure was accepted: encoding it must give the bytes it was read from.
///
/// # Panics
/// When it has another form as well, which is a finding.
pub fn one_form(input: &[u8], encoded: &[u8]) {
    assert_eq!(input.get(..encoded.len()), Some(encoded), "a second form of the same value was accepted");
}

/// A structure was refused: the error must say where, within `end` bytes of the object.
///
/// # Panics
/// When it points elsewhere, which is a finding.
pub fn points_inside(error: &FormatError, end: u64) {
    assert!(error.offset <= end, "an error points beyond the object: {error}");
}
