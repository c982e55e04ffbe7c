//! Round trips of every shape, the choice of raw, and stored bytes that lie.

use capy_types::{Entropy, SeededEntropy};
use proptest::prelude::*;

use super::*;

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    SeededEntropy::new(seed).fill(&mut data);
    data
}

fn compress(plain: &[u8]) -> (Compression, Vec<u8>) {
    let mut out = Vec::new();
    let compression = Compressor::new(3).unwrap().compress(plain, &mut out).unwrap();
    (compression, out)
}

fn decompress(stored: &[u8], plain_len: usize) -> Result<Vec<u8>, DecompressError> {
    let mut out = b"left over".to_vec();
    let result = Decompressor::new().decompress(Compression::Zstd, stored, plain_len, &mut out);
    assert!(result.is_ok() || out.is_empty(), "nothing is left behind by a failure");
    assert!(out.capacity() <= plain_len.max(9), "{} bytes held for {plain_len}", out.capacity());
    result.map(|()| out)
}

#[test]
fn text_is_compressed_and_noise_is_kept_as_it_is() {
    let text = b"the same words over and over, ".repeat(1000);
    let (compression, stored) = compress(&text);
    assert_eq!(compression, Compression::Zstd);
    assert!(stored.len() < text.len() / 100, "{} of {}", stored.len(), text.len());
    for len in [0, 1, 2, 31, 32, 33, 100, 131_072, 1 << 20] {
        let noise = random(7, len);
        assert_eq!(compress(&noise), (Compression::Raw, noise), "{len} random bytes");
    }
}

#[test]
fn a_saving_below_one_part_in_32_is_not_taken() {
    // Noise with a run of zeros at the end saves about the run.
    let stored = |zeros: usize| compress(&[random(1, 100_000 - zeros), vec![0; zeros]].concat()).0;
    assert_eq!(stored(3000), Compression::Raw);
    assert_eq!(stored(4000), Compression::Zstd);
}

#[test]
fn stored_bytes_are_appended() {
    let mut out = b"before".to_vec();
    let mut compressor = Compressor::new(1).unwrap();
    for plain in [vec![7; 1000], random(3, 1000)] {
        let from = out.len();
        let compression = compressor.compress(&plain, &mut out).unwrap();
        let mut back = Vec::new();
        Decompressor::new().decompress(compression, &out[from..], 1000, &mut back).unwrap();
        assert_eq!(back, plain);
    }
    assert!(out.starts_with(b"before"));
}

#[test]
fn a_frame_of_another_length_is_refused_before_room_is_made() {
    let (_, stored) = compress(&vec![0; 1 << 20]);
    for wrong in [0, 1, (1 << 20) - 1, (1 << 20) + 1] {
        let expected = DecompressError::Length { expected: wrong, found: 1 << 20 };
        assert_eq!(decompress(&stored, wrong), Err(expected), "expected {wrong} bytes");
    }
}

/// A frame as a stream writes it: without a length in its header.
fn without_length(plain: &[u8]) -> Vec<u8> {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
    let mut stored = vec![0; plain.len() + 1000];
    let written = context.compress2(&mut stored[..], plain).unwrap();
    stored.truncate(written);
    stored
}

#[test]
fn a_frame_that_does_not_say_its_length_is_bounded_all_the_same() {
    let stored = without_length(&[5; 10_000]);
    assert_eq!(get_frame_content_size(&stored).ok(), Some(None));
    assert_eq!(decompress(&stored, 10_000), Ok(vec![5; 10_000]));
    assert!(matches!(decompress(&stored, 9_999), Err(DecompressError::Damaged(_))));
    assert_eq!(decompress(&stored, 10_001), Err(DecompressError::Length { expected: 10_001, found: 10_000 }));
}

#[test]
fn bytes_after_the_frame_are_refused() {
    let (_, stored) = compress(&[1; 5000]);
    for extra in [&b"x"[..], &[0; 64], &stored] {
        let stored = [&stored, extra].concat();
        assert!(matches!(decompress(&stored, 5000), Err(DecompressError::Damaged(_))), "{extra:?}");
    }
}

#[test]
fn a_truncated_frame_is_damaged_at_every_length() {
    let plain = random(5, 200).repeat(20);
    let (compression, stored) = compress(&plain);
    assert_eq!(compression, Compression::Zstd);
    for len in 0..stored.len() {
        assert!(decompress(&stored[..len], plain.len()).is_err(), "{len} of {} bytes", stored.len());
    }
    assert_eq!(decompress(&stored, plain.len()), Ok(plain));
}

#[test]
fn raw_bytes_of_another_length_are_refused() {
    let mut out = Vec::new();
    let error = Decompressor::new().decompress(Compression::Raw, b"four", 5, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "decompresses to 4 bytes, not 5");
}

#[test]
fn unknown_bytes_and_levels_are_refused() {
    for compression in [Compression::Raw, Compression::Zstd] {
        assert_eq!(Compression::try_from(compression.as_u8()), Ok(compression));
    }
    assert_eq!(Compression::try_from(2).unwrap_err().to_string(), "unknown compression 2");
    for level in [-1, 0, 20] {
        let error = Compressor::new(level).unwrap_err();
        assert_eq!(error.to_string(), format!("zstd: level {level} is not from 1 to 19"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One context for all: nothing of one chunk reaches the next.
    #[test]
    fn many_chunks_through_one_context_come_back(
        chunks in prop::collection::vec((any::<u64>(), 0_usize..50_000, 0_u8..=8), 1..8),
        level in Compressor::LEVELS,
    ) {
        let mut compressor = Compressor::new(level).unwrap();
        let mut decompressor = Decompressor::new();
        let mut back = Vec::new();
        for (seed, len, bits) in chunks {
            let plain: Vec<u8> = random(seed, len).iter().map(|b| b & (0xff >> (8 - bits.min(8)).min(7))).collect();
            let mut stored = Vec::new();
            let compression = compressor.compress(&plain, &mut stored).unwrap();
            prop_assert!(stored.len() <= plain.len());
            decompressor.decompress(compression, &stored, plain.len(), &mut back).unwrap();
            prop_assert!(back == plain, "{} bytes of seed {}", len, seed);
        }
    }

    /// Whatever is flipped: an error, or exactly the length asked for.
    #[test]
    fn flipped_bits_never_panic_and_never_change_the_length(
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let plain = random(11, 300).repeat(10);
        let (_, mut stored) = compress(&plain);
        *at.get_mut(&mut stored) ^= 1 << bit;
        if let Ok(found) = decompress(&stored, plain.len()) {
            prop_assert_eq!(found.len(), plain.len());
        }
    }
}

fn unpack(compression: Compression, stored: &[u8], plain_len: usize) -> Result<Vec<u8>, DecompressError> {
    let mut unpacking = Unpacking::new(compression, stored, plain_len)?;
    let mut out = Vec::new();
    while let Some(block) = unpacking.next_block()? {
        out.extend_from_slice(block);
    }
    Ok(out)
}

#[test]
fn a_long_plaintext_is_stored_in_the_same_way_and_unpacked_in_blocks() {
    let text: Vec<u8> =
        (0..300_000_u32).flat_map(|n| format!("row {n} of {}\n", n % 97).into_bytes()).collect();
    let noise = random(5, 1 << 20);
    for level in [1, 3, 9] {
        for plain in [&text[..], &text[..262_144], &text[..262_145], &noise, b"", b"x"] {
            let (mut long, mut short) = (b"before".to_vec(), b"before".to_vec());
            let mut compressor = Compressor::for_wal(level).unwrap();
            let compression = compressor.compress_long(plain, &mut long).unwrap();
            assert_eq!(compressor.compress(plain, &mut short).unwrap(), compression);
            assert!(long == short, "level {level}, {} bytes", plain.len());
            let back = unpack(compression, &long[6..], plain.len());
            assert!(back.unwrap() == plain, "level {level}, {} bytes", plain.len());
        }
    }
}

#[test]
fn blocks_are_refused_that_are_damaged_or_of_another_length() {
    let plain: Vec<u8> = (0..600_000_u32).map(|n| (n / 7 % 251) as u8).collect();
    let (compression, stored) = compress(&plain);
    assert_eq!(compression, Compression::Zstd);
    for len in [0, plain.len() - 1, plain.len() + 1] {
        let expected = DecompressError::Length { expected: len, found: plain.len() };
        assert_eq!(unpack(compression, &stored, len), Err(expected));
    }
    for cut in (0..stored.len()).step_by(stored.len() / 40 + 1) {
        assert!(unpack(compression, &stored[..cut], plain.len()).is_err(), "cut at {cut}");
    }
    let longer = [&stored[..], &stored[..]].concat();
    assert!(unpack(compression, &longer, plain.len()).is_err());
    assert!(unpack(compression, &longer, 2 * plain.len()).is_err());
    assert!(unpack(Compression::Raw, &plain, plain.len() + 1).is_err());
}
