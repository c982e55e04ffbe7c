//! Sealing: ChaCha20-Poly1305 (RFC 8439) in place.
//!
//! A key serves one pack or one object; the nonce is the frame's ordinal, so no nonce is stored
//! and none repeats.

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

/// The sealed bytes were altered, or belong elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct OpenError;

/// The key of one pack or object.
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
    /// with one key.
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
    /// [`OpenError`] when anything differs from what was sealed; `sealed` is then unspecified.
    pub fn open(&self, ordinal: u32, aad: &[u8], sealed: &mut [u8]) -> Result<usize, OpenError> {
        let length = sealed.len().checked_sub(TAG_BYTES).ok_or(OpenError)?;
        let (body, tag) = sealed.split_at_mut(length);
        let tag = Tag::try_from(&*tag).map_err(|_| OpenError)?;
        self.0.decrypt_inout_detached(&nonce(ordinal), aad, body.into(), &tag).map_err(|_| OpenError)?;
        Ok(length)
    }
}
