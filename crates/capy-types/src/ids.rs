//! Fixed-width binary identities, each its own type, written as lower-case hex.
//!
//! Invariant: an identity is never a bare array or string outside this file's newtypes, so a
//! pack id cannot be passed where a chunk id is meant.

use std::fmt;
use std::str::FromStr;

use crate::Entropy;

/// A text that is not the hex form of the identity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: expected {expected} hex digits")]
pub struct ParseIdError {
    /// Which identity was expected.
    pub what: &'static str,
    /// How many hex digits it has.
    pub expected: usize,
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Width in bytes.
            pub const LEN: usize = $len;

            /// Wraps raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// A new identity from `entropy`.
            #[must_use]
            pub fn random(entropy: &dyn Entropy) -> Self {
                let mut bytes = [0; $len];
                entropy.fill(&mut bytes);
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| ParseIdError { what: $what, expected: $len * 2 })?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

identity!(
    /// The name of a chunk: keyed BLAKE3 of its plaintext. Equal plaintext in one repository
    /// has one chunk id; without the repository's key nothing can be learned from it.
    ChunkId, 32, "chunk id"
);
identity!(
    /// The name of a pack: 192 random bits, never reused. The pack's key is derived from it.
    PackId, 24, "pack id"
);
identity!(
    /// The name of an index object: 192 random bits, never reused.
    IndexId, 24, "index id"
);
identity!(
    /// 192 random bits from which the key of one sealed object is derived.
    Nonce, 24, "nonce"
);
identity!(
    /// BLAKE3 of a root object's stored bytes; each root carries its predecessor's.
    RootHash, 32, "root hash"
);
identity!(
    /// One writing process's registration in the root.
    SessionId, 16, "session id"
);
identity!(
    /// The identity of a repository, chosen at `init`, bound into everything sealed.
    RepositoryId, 16, "repository id"
);
identity!(
    /// One key slot: one way to open the master key.
    SlotId, 8, "key slot id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_form_round_trips_and_wrong_lengths_are_refused() {
        let id = ChunkId::from_bytes([0xab; 32]);
        assert_eq!(id.to_string().parse::<ChunkId>(), Ok(id));
        assert_eq!(
            "abcd".parse::<PackId>().unwrap_err().to_string(),
            "not a pack id: expected 48 hex digits"
        );
    }

    #[test]
    fn json_form_is_the_hex_string() {
        let id = SlotId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let json = serde_json::to_string(&id).expect("a string");
        assert_eq!(json, "\"0102030405060708\"");
        assert_eq!(serde_json::from_str::<SlotId>(&json).expect("parses"), id);
    }
}
