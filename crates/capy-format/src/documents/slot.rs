//! A key slot: the master key, wrapped.

use capy_types::{SlotId, Timestamp};
use serde::{Deserialize, Serialize};

use super::from_json;
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

/// The wrapped key; byte strings in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Salt.
    #[serde(with = "hex_bytes")]
    pub salt: [u8; 16],
    /// Cost; absent for a key file.
    pub kdf: Option<KdfParams>,
    /// Commitment to the wrapping key.
    #[serde(with = "hex_bytes")]
    pub commitment: [u8; 32],
    /// Nonce.
    #[serde(with = "hex_bytes")]
    pub nonce: [u8; 24],
    /// The sealed master key.
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
    /// Not this document.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        from_json(object, json)
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
