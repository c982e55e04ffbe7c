//! Slots: known answers, who gets in, and what damage of each field looks like.

use super::*;
use capy_types::SeededEntropy;

/// The cheapest that Argon2 allows with one lane and two passes.
const CHEAP: KdfParams = KdfParams { memory_kib: 32, passes: 2, lanes: 1 };
const AAD: &[u8] = b"slot aad";

fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from + i as u8)
}

fn master() -> MasterKey {
    MasterKey::from_bytes(counting(0))
}

fn passphrase() -> Secret {
    Secret::from("correct horse".to_owned())
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    let bytes: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Hands out the salt, then the nonce of the known answers.
struct FixedEntropy;

impl Entropy for FixedEntropy {
    fn fill(&self, out: &mut [u8]) {
        let from = if out.len() == 16 { 0x60 } else { 0x90 };
        out.iter_mut().zip(from..).for_each(|(byte, value)| *byte = value);
    }
}

// Computed in Python from FORMAT.md, with the reference implementation of Argon2, libsodium and
// another BLAKE3. Never regenerate them: a difference locks old repositories out.
#[test]
fn wrapping_never_changes() {
    let two_lanes = KdfParams { memory_kib: 64, passes: 1, lanes: 2 };
    let key_file = Secret::new(counting::<40>(0x70).to_vec());
    let passphrase = passphrase();
    for (secret, kdf, commitment, sealed) in [
        (
            SlotSecret::Passphrase(&passphrase),
            CHEAP,
            "6ef45f3b49f6af3fa17cc27c22501b557c46425d4b5fd314f507b40987a7f64f",
            "f1187205de413d108decc1dc62b91f6411fc956e21cbebf25ce43c1085f2bd863f46e4c071374874b8cb77a0514c0488",
        ),
        (
            SlotSecret::Passphrase(&passphrase),
            two_lanes,
            "cd75b726acbea853ffc101d482bc33ba73e732940f27fe908fdd39995779f11f",
            "c72aade90cbd0d854ac4dacf0e4d3e111d099690b54dc3b974e2a0067ed52d4837b59074395737e206571d4ac64cc061",
        ),
        (
            SlotSecret::KeyFile(&key_file),
            CHEAP,
            "22d4faea7b772af6ac2b0da7d9ed90e76a7e491c31ea0335492a5039baaa145c",
            "fab0fb217ac6436c928553cf6af0744c2552261c5f82f7ee85de73eed1f28ca48d32ba3edb813b3681482211f12ce8b0",
        ),
    ] {
        let expected = WrappedKey {
            salt: counting(0x60),
            kdf: matches!(secret, SlotSecret::Passphrase(_)).then_some(kdf),
            commitment: unhex(commitment),
            nonce: counting(0x90),
            sealed: unhex::<48>(sealed).to_vec(),
        };
        assert_eq!(wrap_key(&master(), secret, kdf, AAD, &FixedEntropy), Ok(expected.clone()));
        assert_eq!(unwrap_key(&expected, secret, AAD).unwrap().expose(), master().expose());
    }
}

fn wrapped() -> WrappedKey {
    wrap_key(&master(), SlotSecret::Passphrase(&passphrase()), CHEAP, AAD, &SeededEntropy::new(1)).unwrap()
}

fn open_with(key: &WrappedKey, aad: &[u8]) -> Result<[u8; 32], UnwrapError> {
    unwrap_key(key, SlotSecret::Passphrase(&passphrase()), aad).map(|master| *master.expose())
}

#[test]
fn only_the_same_secret_of_the_same_kind_opens() {
    let key = wrapped();
    assert_eq!(open_with(&key, AAD), Ok(*master().expose()));
    for wrong in ["", "correct horsf", "correct horse ", "Correct horse"] {
        let wrong = Secret::from(wrong.to_owned());
        for secret in [SlotSecret::Passphrase(&wrong), SlotSecret::KeyFile(&wrong)] {
            assert_eq!(unwrap_key(&key, secret, AAD).unwrap_err(), UnwrapError::WrongSecret);
        }
    }
    let same_bytes = passphrase();
    assert_eq!(
        unwrap_key(&key, SlotSecret::KeyFile(&same_bytes), AAD).unwrap_err(),
        UnwrapError::WrongSecret
    );
    let file = wrap_key(&master(), SlotSecret::KeyFile(&same_bytes), CHEAP, AAD, &SeededEntropy::new(1));
    assert_eq!(open_with(&file.unwrap(), AAD), Err(UnwrapError::WrongSecret));
}

#[test]
fn a_slot_moved_elsewhere_does_not_open() {
    assert_eq!(open_with(&wrapped(), b"another slot"), Err(UnwrapError::WrongSecret));
}

#[test]
fn with_the_right_secret_a_damaged_key_is_called_damaged() {
    for bit in 0..48 * 8 {
        let mut key = wrapped();
        key.sealed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open_with(&key, AAD), Err(UnwrapError::Damaged), "bit {bit}");
    }
    for len in 0..48 {
        let mut key = wrapped();
        key.sealed.truncate(len);
        assert_eq!(open_with(&key, AAD), Err(UnwrapError::Damaged), "{len} bytes");
    }
    let mut key = wrapped();
    key.sealed.push(0);
    assert_eq!(open_with(&key, AAD), Err(UnwrapError::Damaged));
    key = wrapped();
    key.nonce[23] ^= 1;
    assert_eq!(open_with(&key, AAD), Err(UnwrapError::Damaged));
}

#[test]
fn a_damaged_salt_cost_or_commitment_opens_nothing() {
    let damage: [fn(&mut WrappedKey); 4] = [
        |key| key.salt[0] ^= 1,
        |key| key.commitment[31] ^= 0x80,
        |key| key.kdf = Some(KdfParams { passes: 3, ..CHEAP }),
        |key| key.kdf = None,
    ];
    for (index, damage) in damage.iter().enumerate() {
        let mut key = wrapped();
        damage(&mut key);
        assert_eq!(open_with(&key, AAD), Err(UnwrapError::WrongSecret), "damage {index}");
    }
}

#[test]
fn another_length_sealed_under_the_right_key_is_damaged() {
    let mut key = wrapped();
    let wrapping = WrappingKey::derive(SlotSecret::Passphrase(&passphrase()), &key.salt, key.kdf).unwrap();
    let payload = Payload { msg: &[7; 31], aad: AAD };
    key.sealed = wrapping.cipher().encrypt(&XNonce::from(key.nonce), payload).unwrap();
    assert_eq!(open_with(&key, AAD), Err(UnwrapError::Damaged));
}

#[test]
fn costs_beyond_the_limits_are_refused_when_wrapping_and_when_opening() {
    for kdf in [
        KdfParams { memory_kib: KdfParams::MEMORY_MAX_KIB + 1, ..CHEAP },
        KdfParams { memory_kib: u32::MAX, ..CHEAP },
        KdfParams { memory_kib: 7, ..CHEAP },
        KdfParams { memory_kib: 15, lanes: 2, ..CHEAP },
        KdfParams { passes: 0, ..CHEAP },
        KdfParams { passes: KdfParams::PASSES_MAX + 1, ..CHEAP },
        KdfParams { lanes: 0, ..CHEAP },
        KdfParams { lanes: KdfParams::LANES_MAX + 1, memory_kib: 1024, ..CHEAP },
    ] {
        let secret = passphrase();
        let secret = SlotSecret::Passphrase(&secret);
        let refused = wrap_key(&master(), secret, kdf, AAD, &SeededEntropy::new(1));
        assert_eq!(refused, Err(UnwrapError::BadParameters), "{kdf:?}");
        let slot = WrappedKey { kdf: Some(kdf), ..wrapped() };
        assert_eq!(open_with(&slot, AAD), Err(UnwrapError::BadParameters), "{kdf:?}");
    }
}

#[test]
fn two_slots_of_one_secret_share_nothing() {
    let entropy = SeededEntropy::new(1);
    let secret = passphrase();
    let wrap = || wrap_key(&master(), SlotSecret::Passphrase(&secret), CHEAP, AAD, &entropy).unwrap();
    let (one, two) = (wrap(), wrap());
    assert_ne!(one.salt, two.salt);
    assert_ne!(one.nonce, two.nonce);
    assert_ne!(one.commitment, two.commitment);
    assert_ne!(one.sealed, two.sealed);
}

#[test]
fn debug_never_shows_a_secret() {
    let secret = passphrase();
    let shown = format!("{:?} {:?}", SlotSecret::Passphrase(&secret), SlotSecret::KeyFile(&secret));
    assert_eq!(shown, "Passphrase(Secret(redacted)) KeyFile(Secret(redacted))");
}
