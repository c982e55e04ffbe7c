//! Tars, however they are cut into pieces: the same entries come out, or the same error.
#![no_main]

use capy_postgres::tar::{TarEntry, TarError, TarEvent, TarParser, clean_path};
use libfuzzer_sys::fuzz_target;

/// Headers met, bytes of data, and how it ended.
type Outcome = (Vec<TarEntry>, u64, Result<(), String>);

fn read(tar: &[u8], piece: usize) -> Outcome {
    let (mut parser, mut entries, mut data) = (TarParser::new(), Vec::new(), 0);
    let mut pass = || -> Result<(), TarError> {
        for mut input in tar.chunks(piece) {
            loop {
                let (taken, event) = parser.feed(input)?;
                input = input.get(taken..).expect("no more is taken than was given");
                match event {
                    TarEvent::Entry(entry) => {
                        let _ = clean_path(&entry.path);
                        entries.push(entry);
                    }
                    TarEvent::Data(bytes) => data += bytes.len() as u64,
                    TarEvent::EndEntry => {}
                    TarEvent::NeedMore => break,
                }
            }
        }
        Ok(())
    };
    let end = pass().and_then(|()| parser.finish().map(|_| ()));
    (entries, data, end.map_err(|error| error.to_string()))
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, tar)) = input.split_first() else { return };
    assert_eq!(read(tar, usize::from(*piece) + 1), read(tar, usize::MAX));
});
