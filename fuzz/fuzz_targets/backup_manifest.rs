//! `backup_manifest`, however it is cut into pieces: the same files come out, or the same verdict.
#![no_main]

use capy_postgres::backup_manifest::{ManifestFile, ManifestParser};
use libfuzzer_sys::fuzz_target;

fn read(manifest: &[u8], piece: usize) -> (Vec<ManifestFile>, bool) {
    let (mut parser, mut files) = (ManifestParser::new(), Vec::new());
    for part in manifest.chunks(piece) {
        if parser.feed(part, |file| files.push(file)).is_err() {
            return (files, false);
        }
    }
    (files, parser.finish().is_ok())
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, manifest)) = input.split_first() else { return };
    let (pieces, whole) = (read(manifest, usize::from(*piece) + 1), read(manifest, usize::MAX));
    assert_eq!(pieces.1, whole.1, "accepted in one form, refused in the other");
    if whole.1 {
        assert_eq!(pieces.0, whole.0);
    }
});
