//! Key slots: the master key wrapped for one passphrase or key file.
//!
//! Passphrases go through Argon2id (RFC 9106); key files, which are random, through BLAKE3
//! `derive_key`. The wrapping key seals the master key with XChaCha20-Poly1305
//! (draft-irtf-cfrg-xchacha), bound to the slot.
//!
//! The wrapping key is committed to, and the commitment is checked first: a wrong secret is told
//! apart from damage, and one forged slot cannot try many passphrases at once (Len, Grubbs,
//! Ristenpart, "Partitioning Oracle Attacks", USENIX Security 2021).
//!
//! Invariants: costs read from a slot are bounded before memory is taken; nothing secret is left
//! in memory or shown.

#[cfg(test)]
mod tests;

use argon2::{Algorithm, Argon2, Block, Params, Version};
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
    /// Memory in KiB: at least 8 a lane, at most [`KdfParams::MEMORY_MAX_KIB`].
    pub memory_kib: u32,
    /// Passes over it: 1 to [`KdfParams::PASSES_MAX`].
    pub passes: u32,
    /// Lanes that could be computed at once: 1 to [`KdfParams::LANES_MAX`].
    pub lanes: u32,
}

impl Default for KdfParams {
    /// 64 MiB and three passes: the second recommendation of RFC 9106 (section 4), with one lane.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl KdfParams {
    /// Most memory a slot may demand, in KiB: 1 GiB. Whoever can write to the store can write
    /// slots, and must not be able to exhaust a reader.
    pub const MEMORY_MAX_KIB: u32 = 1024 * 1024;
    /// Most passes a slot may demand: about half a minute over the most memory.
    pub const PASSES_MAX: u32 = 16;
    /// Most lanes a slot may demand.
    pub const LANES_MAX: u32 = 8;

    fn check(self) -> Result<Params, UnwrapError> {
        let within = self.memory_kib <= Self::MEMORY_MAX_KIB
            && self.passes <= Self::PASSES_MAX
            && self.lanes <= Self::LANES_MAX;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        params.ok().filter(|_| within).ok_or(UnwrapError::BadParameters)
    }
}

/// A wrapped master key, as stored in a slot. Nothing in it is secret.
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
    /// The master key, sealed: 32 bytes and a tag of 16.
    pub sealed: Vec<u8>,
}

/// Why a slot does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// The secret is not this slot's, or the slot's salt, costs or commitment are damaged: from
    /// outside they look the same.
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
                let params = kdf.check()?;
                // Memory of our own, because Argon2 leaves it as it is: it tells a passphrase apart.
                let mut memory = Zeroizing::new(vec![Block::new(); params.block_count()]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into_with_memory(secret.expose(), salt, &mut *key, &mut *memory)
                    .map_err(|_| UnwrapError::BadParameters)?;
            }
            (SlotSecret::KeyFile(secret), None) => {
                let material = Zeroizing::new([salt, secret.expose()].concat());
                *key = blake3::derive_key("capy-store 2026-11 v1 key file", &material);
            }
            _ => return Err(UnwrapError::WrongSecret),
        }
        Ok(Self(key))
    }

    fn commitment(&self, aad: &[u8]) -> [u8; 32] {
        let material = Zeroizing::new([&self.0[..], aad].concat());
        blake3::derive_key("capy-store 2026-11 v1 key slot commitment", &material)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

/// Wraps `master` for `secret`; `aad` is what the slot is bound to. `kdf` matters for a passphrase
/// only. How strong the secret must be is the caller's to decide.
///
/// Takes as long as `kdf` demands, a quarter of a second or more: not for an async thread.
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

/// Opens a wrapped key; takes as long as wrapping it did.
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
