//! Sealing: ChaCha20-Poly1305 (RFC 8439) in place.
//!
//! A key serves one pack or one object, which one writer writes once; the nonce is the frame's
//! ordinal. So no nonce is stored, none repeats, and no limit on random nonces applies.

use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};

/// Length of the authentication tag in bytes.
pub const TAG_BYTES: usize = 16;

/// The sealing algorithm, as the byte in object headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Suite {
    /// ChaCha20-Poly1305, RFC 8439. Number 2 is reserved for AES-256-GCM.
    ChaCha20Poly1305 = 1,
}

/// The sealed bytes were altered, or belong elsewhere: to another key, ordinal or associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct OpenError;

/// The key of one pack or object. Wiped on drop, never printed.
#[derive(Clone)]
pub struct SealKey(ChaCha20Poly1305);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(redacted)")
    }
}

fn nonce(ordinal: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&ordinal.to_le_bytes());
    nonce.into()
}

impl SealKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(ChaCha20Poly1305::new(key.into()))
    }

    /// Encrypts `buffer[from..]` in place and appends the tag. An ordinal must not be used twice
    /// with one key: two plaintexts under one nonce reveal their difference, and forgeries.
    ///
    /// # Panics
    /// When `from` is beyond the end of `buffer`.
    pub fn seal(&self, ordinal: u32, aad: &[u8], buffer: &mut Vec<u8>, from: usize) {
        let tag = self
            .0
            .encrypt_inout_detached(&nonce(ordinal), aad, (&mut buffer[from..]).into())
            .expect("a frame is far below the 256 GiB one nonce may cover");
        buffer.extend_from_slice(&tag);
    }

    /// Decrypts in place; returns the length of the plaintext, the sealed length less the tag.
    ///
    /// # Errors
    /// [`OpenError`] when anything differs from what was sealed; `sealed` is then as it was, since
    /// the tag is checked before anything is decrypted.
    pub fn open(&self, ordinal: u32, aad: &[u8], sealed: &mut [u8]) -> Result<usize, OpenError> {
        let length = sealed.len().checked_sub(TAG_BYTES).ok_or(OpenError)?;
        let (body, tag) = sealed.split_at_mut(length);
        let tag = Tag::try_from(&*tag).map_err(|_| OpenError)?;
        self.0.decrypt_inout_detached(&nonce(ordinal), aad, body.into(), &tag).map_err(|_| OpenError)?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capy_types::{Entropy, SeededEntropy};
    use proptest::prelude::*;

    fn key(seed: u64) -> SealKey {
        let mut key = [0; 32];
        SeededEntropy::new(seed).fill(&mut key);
        SealKey::new(&key)
    }

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        SeededEntropy::new(seed).fill(&mut data);
        data
    }

    #[test]
    fn the_cipher_is_that_of_rfc_8439() {
        // Section 2.8.2; our own nonces have zeros where the RFC has 40..47.
        let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
        let nonce: [u8; 12] = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];
        let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let mut text = *b"Ladies and Gentlemen of the class of '99: If I could offer you \
            only one tip for the future, sunscreen would be it.";
        let cipher = SealKey::new(&key).0;
        let tag = cipher.encrypt_inout_detached(&nonce.into(), &aad, (&mut text[..]).into()).unwrap();
        assert_eq!(text[..8], [0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb]);
        assert_eq!(
            *tag,
            [0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a, 0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60, 0x06, 0x91]
        );
    }

    #[test]
    fn the_ordinal_is_the_first_four_bytes_of_the_nonce_in_little_endian() {
        assert_eq!(*nonce(0x0403_0201), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn anything_shorter_than_a_tag_does_not_open() {
        for len in 0..TAG_BYTES {
            assert_eq!(key(1).open(0, b"", &mut vec![0; len]), Err(OpenError), "{len} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_nothing_is_decrypted() {
        let mut sealed = b"attack at dawn".to_vec();
        key(1).seal(3, b"aad", &mut sealed, 0);
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let before = flipped.clone();
            assert_eq!(key(1).open(3, b"aad", &mut flipped), Err(OpenError), "bit {bit}");
            assert_eq!(flipped, before, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_only_in_its_place(
            seed: u64,
            len in 0_usize..5000,
            from in 0_usize..100,
            ordinal: u32,
            aad in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut buffer = random(seed, from + len);
            let before = buffer.clone();
            key(seed).seal(ordinal, &aad, &mut buffer, from);
            prop_assert_eq!(buffer.len(), from + len + TAG_BYTES);
            prop_assert!(buffer[..from] == before[..from]);
            prop_assert!(len < 16 || buffer[from..from + len] != before[from..]);
            let open = |seed, ordinal, aad: &[u8], sealed: &[u8]| {
                let mut sealed = sealed.to_vec();
                key(seed).open(ordinal, aad, &mut sealed).map(|len| sealed[..len].to_vec())
            };
            let sealed = &buffer[from..];
            prop_assert_eq!(open(seed, ordinal, &aad, sealed), Ok(before[from..].to_vec()));
            prop_assert_eq!(open(!seed, ordinal, &aad, sealed), Err(OpenError));
            prop_assert_eq!(open(seed, !ordinal, &aad, sealed), Err(OpenError));
            prop_assert_eq!(open(seed, ordinal, &[&aad[..], b"+"].concat(), sealed), Err(OpenError));
            prop_assert_eq!(open(seed, ordinal, &aad, &sealed[..sealed.len() - 1]), Err(OpenError));
        }
    }
}
