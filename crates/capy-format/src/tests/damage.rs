//! Damage: every truncation and every flipped byte of every structure, and seeded noise, give a
//! value or a typed error. A panic or a second accepted form fails the test.

use capy_types::SeededEntropy;

use super::decoders::{self, Decoder};

/// How many damaged inputs of each structure the seeded run tries.
const ROUNDS: u64 = 4_000;

#[test]
fn valid_bytes_decode_and_encode_to_themselves() {
    for decoder in decoders::all() {
        assert_eq!((decoder.decode)(&decoder.valid), Ok(Some(decoder.valid.clone())), "{}", decoder.name);
    }
}

#[test]
fn every_truncation_is_a_typed_error() {
    for decoder in decoders::all() {
        for length in 0..decoder.valid.len() {
            let what = format!("{} cut to {length} bytes", decoder.name);
            let cut = decoder.valid.get(..length).expect("shorter");
            decoder.check(cut, &what).ok();
            let accepted = matches!((decoder.decode)(cut), Ok(Some(_)));
            assert!(!accepted, "{what} was accepted");
        }
    }
}

#[test]
fn every_flipped_byte_is_a_value_or_a_typed_error() {
    for decoder in decoders::all() {
        for at in 0..decoder.valid.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut flipped = decoder.valid.clone();
                flipped[at] ^= mask;
                decoder.check(&flipped, &format!("{} with byte {at} ^ {mask:#04x}", decoder.name)).ok();
            }
        }
    }
}

#[test]
fn appended_bytes_are_refused() {
    for decoder in decoders::all().into_iter().filter(|decoder| decoder.name != "entry") {
        let mut longer = decoder.valid.clone();
        longer.push(b'x');
        // A header and a trailer are read from the start of what is there.
        let prefix = ["header", "trailer"].contains(&decoder.name);
        assert_eq!((decoder.decode)(&longer).is_ok(), prefix, "{}", decoder.name);
    }
}

#[test]
fn seeded_noise_is_a_value_or_a_typed_error() {
    let seed = 0x5eed_2026_1121;
    println!("seed {seed:#x}");
    let mut decoded = 0u64;
    for (number, decoder) in decoders::all().iter().enumerate() {
        let entropy = SeededEntropy::new(seed + number as u64);
        for round in 0..ROUNDS {
            let input = damaged(decoder, &entropy);
            let what = format!("{}, seed {seed:#x} + {number}, round {round}", decoder.name);
            decoded += u64::from(decoder.check(&input, &what).is_ok());
        }
    }
    assert!(decoded > 0, "some damage must leave a valid structure, or the test reaches nothing");
}

/// A valid structure with up to eight edits: bytes set, cut out, put in, or moved.
fn damaged(decoder: &Decoder, entropy: &SeededEntropy) -> Vec<u8> {
    let mut bytes = decoder.valid.clone();
    let below = |limit: usize| usize::try_from(entropy.next_u64() % limit.max(1) as u64).expect("small");
    for _ in 0..=below(8) {
        if bytes.is_empty() {
            break;
        }
        let at = below(bytes.len());
        let value = entropy.next_u64().to_le_bytes()[0];
        match below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, value),
            2 => drop(bytes.remove(at)),
            3 => bytes.swap(at, 0),
            4 => bytes[at] = [0x00, 0x7f, 0x80, 0xff][below(4)],
            _ => bytes[at] = value,
        }
    }
    bytes
}
