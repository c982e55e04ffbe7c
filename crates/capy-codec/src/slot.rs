//! Key slots: the master key wrapped for one passphrase or key file.
//!
//! Passphrases go through Argon2id (RFC 9106); key files through BLAKE3 `derive_key`. The wrapping
//! key is committed to, and the commitment is checked first: a wrong secret is told apart from
//! damage, and no secret can be tried against several keys at once.

use argon2::{Algorithm, Argon2, Params, Version};
use capy_types::{Entropy, Secret};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::key::MasterKey;

/// What opens a slot.
#[derive(Debug, Clone, Copy)]
pub enum SlotSecret<'a> {
    /// Something a person remembers.
    Passphrase(&'a Secret),
    /// The content of a key file: at least 32 random bytes.
    KeyFile(&'a Secret),
}

/// The cost of trying a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for KdfParams {
    /// 64 MiB and three passes: the second recommendation of RFC 9106 with one lane.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl KdfParams {
    /// Most memory a slot may demand: 1 GiB.
    const MEMORY_MAX_KIB: u32 = 1024 * 1024;
    const PASSES_MAX: u32 = 16;
    const LANES_MAX: u32 = 8;

    fn check(self) -> Result<Params, UnwrapError> {
        let within = self.memory_kib <= Self::MEMORY_MAX_KIB
            && self.passes <= Self::PASSES_MAX
            && self.lanes <= Self::LANES_MAX;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        params.ok().filter(|_| within).ok_or(UnwrapError::BadParameters)
    }
}

/// A wrapped master key, as stored in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Salt of the derivation.
    pub salt: [u8; 16],
    /// Cost of the derivation; `None` for a key file.
    pub kdf: Option<KdfParams>,
    /// Commitment to the wrapping key.
    pub commitment: [u8; 32],
    /// Nonce of the sealed key.
    pub nonce: [u8; 24],
    /// The master key, sealed: 48 bytes.
    pub sealed: Vec<u8>,
}

/// Why a slot does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The secret is not this slot's.
    #[error("the secret does not open this slot")]
    WrongSecret,
    /// The secret is right, but what it should open is damaged.
    #[error("the secret is right but the wrapped key is damaged")]
    Damaged,
    /// The derivation's parameters are beyond the limits.
    #[error("the key derivation parameters are beyond the limits")]
    BadParameters,
}

struct WrappingKey(Zeroizing<[u8; 32]>);

impl WrappingKey {
    fn derive(secret: SlotSecret<'_>, salt: &[u8; 16], kdf: Option<KdfParams>) -> Result<Self, UnwrapError> {
        let mut key = Zeroizing::new([0; 32]);
        match (secret, kdf) {
            (SlotSecret::Passphrase(secret), Some(kdf)) => {
                Argon2::new(Algorithm::Argon2id, Version::V0x13, kdf.check()?)
                    .hash_password_into(secret.expose(), salt, &mut *key)
                    .map_err(|_| UnwrapError::BadParameters)?;
            }
            (SlotSecret::KeyFile(secret), None) => {
                let mut hasher = blake3::Hasher::new_derive_key("capy-store 2026-11 v1 key file");
                hasher.update(salt).update(secret.expose());
                *key = *hasher.finalize().as_bytes();
            }
            _ => return Err(UnwrapError::WrongSecret),
        }
        Ok(Self(key))
    }

    fn commitment(&self, aad: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("capy-store 2026-11 v1 key slot commitment");
        hasher.update(&*self.0).update(aad);
        *hasher.finalize().as_bytes()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

/// Wraps `master` for `secret`; `aad` is what the slot is bound to.
///
/// # Errors
/// [`UnwrapError::BadParameters`] when `kdf` is beyond the limits.
pub fn wrap_key(
    master: &MasterKey,
    secret: SlotSecret<'_>,
    kdf: KdfParams,
    aad: &[u8],
    entropy: &dyn Entropy,
) -> Result<WrappedKey, UnwrapError> {
    let (mut salt, mut nonce) = ([0; 16], [0; 24]);
    entropy.fill(&mut salt);
    entropy.fill(&mut nonce);
    let kdf = matches!(secret, SlotSecret::Passphrase(_)).then_some(kdf);
    let wrapping = WrappingKey::derive(secret, &salt, kdf)?;
    let payload = Payload { msg: master.expose(), aad };
    let sealed = wrapping
        .cipher()
        .encrypt(&XNonce::from(nonce), payload)
        .expect("32 bytes are within the cipher's limits");
    Ok(WrappedKey { salt, kdf, commitment: wrapping.commitment(aad), nonce, sealed })
}

/// Opens a wrapped key.
///
/// # Errors
/// See [`UnwrapError`].
pub fn unwrap_key(key: &WrappedKey, secret: SlotSecret<'_>, aad: &[u8]) -> Result<MasterKey, UnwrapError> {
    let wrapping = WrappingKey::derive(secret, &key.salt, key.kdf)?;
    if !bool::from(wrapping.commitment(aad).ct_eq(&key.commitment)) {
        return Err(UnwrapError::WrongSecret);
    }
    let payload = Payload { msg: key.sealed.as_slice(), aad };
    let master =
        wrapping.cipher().decrypt(&XNonce::from(key.nonce), payload).map_err(|_| UnwrapError::Damaged)?;
    let master = Zeroizing::new(master);
    let bytes = <[u8; 32]>::try_from(master.as_slice()).map_err(|_| UnwrapError::Damaged)?;
    Ok(MasterKey::from_bytes(bytes))
}
