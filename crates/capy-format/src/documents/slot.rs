//! A key slot: the master key, wrapped.
//!
//! Stored in the clear; what it holds opens only with the slot's secret. How hard it may make
//! the derivation work is the codec's to limit, since that is where the work is done.

use capy_types::{SlotId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{check_label, checked, from_json};
use crate::FormatError;

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySlotKind {
    /// A passphrase.
    Passphrase,
    /// A key file.
    KeyFile,
}

/// Cost of deriving the wrapping key from a passphrase (Argon2id).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// Length of the sealed master key in bytes: 32 and a tag.
const SEALED_KEY_BYTES: usize = 48;

/// The wrapped key; byte strings in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Salt.
    #[serde(with = "hex_bytes")]
    pub salt: [u8; 16],
    /// Cost; absent for a key file.
    #[serde(default)]
    pub kdf: Option<KdfParams>,
    /// Commitment to the wrapping key.
    #[serde(with = "hex_bytes")]
    pub commitment: [u8; 32],
    /// Nonce.
    #[serde(with = "hex_bytes")]
    pub nonce: [u8; 24],
    /// The sealed master key: 48 bytes.
    #[serde(with = "hex_bytes")]
    pub sealed: Vec<u8>,
}

/// The key slot document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlot {
    /// The slot.
    pub id: SlotId,
    /// What opens it.
    pub kind: KeySlotKind,
    /// A name for people.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The wrapped key.
    pub wrapped: WrappedKey,
}

impl KeySlot {
    /// Reads the document.
    ///
    /// # Errors
    /// Not this document, or one that contradicts itself.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        checked(object, from_json(object, json)?, Self::check)
    }

    /// What must hold of every slot.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        check_label(&self.label)?;
        if self.wrapped.kdf.is_some() != (self.kind == KeySlotKind::Passphrase) {
            return Err("a slot has derivation costs exactly when it is opened by a passphrase".to_owned());
        }
        if self.wrapped.sealed.len() != SEALED_KEY_BYTES {
            return Err(format!("sealed key of {} bytes, not {SEALED_KEY_BYTES}", self.wrapped.sealed.len()));
        }
        Ok(())
    }
}

/// Byte strings as hex.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(d: D) -> Result<T, D::Error> {
        let bytes = hex::decode(String::deserialize(d)?).map_err(D::Error::custom)?;
        T::try_from(bytes).map_err(|_| D::Error::custom("a byte string of another length"))
    }
}
