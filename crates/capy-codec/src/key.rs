//! Keys: one master key, and everything derived from it, each use with its own context.
//!
//! Derivation is BLAKE3 `derive_key` (BLAKE3 paper, section 2.3): the context strings are part of
//! the format and never change.

use std::fmt;
use std::sync::Arc;

use capy_types::{ChunkId, Entropy, Nonce, PackId, RepositoryId};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::chunk::Gear;
use crate::seal::SealKey;

/// The repository's one secret: 32 random bytes. Wiped on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// A new key.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut key = [0; 32];
        entropy.fill(&mut key);
        Self(key)
    }

    /// From raw bytes.
    #[must_use]
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    pub(crate) const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn derive(&self, repository: &RepositoryId, context: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0).update(repository.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(redacted)")
    }
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Derived {
    chunk_id: [u8; 32],
    pack: [u8; 32],
    object: [u8; 32],
    config: [u8; 32],
}

/// The keys of one repository. Cheap to clone.
#[derive(Clone)]
pub struct RepositoryKeys {
    derived: Arc<Derived>,
    gear: Arc<Gear>,
}

impl fmt::Debug for RepositoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepositoryKeys(redacted)")
    }
}

impl RepositoryKeys {
    /// Derives all keys of `repository`.
    #[must_use]
    pub fn derive(master: &MasterKey, repository: RepositoryId) -> Self {
        let derive = |context| master.derive(&repository, context);
        let derived = Derived {
            chunk_id: derive("capy-store 2026-11 v1 chunk id"),
            pack: derive("capy-store 2026-11 v1 pack key"),
            object: derive("capy-store 2026-11 v1 object key"),
            config: derive("capy-store 2026-11 v1 config tag"),
        };
        let gear = Gear::from_key(&derive("capy-store 2026-11 v1 gear table"));
        Self { derived: Arc::new(derived), gear: Arc::new(gear) }
    }

    /// Names chunks.
    #[must_use]
    pub fn chunk_namer(&self) -> ChunkNamer {
        ChunkNamer(self.derived.chunk_id)
    }

    /// The table that decides where content is cut.
    #[must_use]
    pub fn gear(&self) -> &Gear {
        &self.gear
    }

    /// The key of one pack.
    #[must_use]
    pub fn pack_key(&self, pack: &PackId) -> SealKey {
        SealKey::new(blake3::keyed_hash(&self.derived.pack, pack.as_bytes()).as_bytes())
    }

    /// The key of one sealed object of `kind` with `nonce` in its header.
    #[must_use]
    pub fn object_key(&self, kind: u8, nonce: &Nonce) -> SealKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.derived.object);
        hasher.update(&[kind]).update(nonce.as_bytes());
        SealKey::new(hasher.finalize().as_bytes())
    }

    /// The tag that proves a config unaltered.
    #[must_use]
    pub fn config_tag(&self, config: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.derived.config, config).as_bytes()
    }

    /// Whether `tag` is that of `config`; in constant time.
    #[must_use]
    pub fn check_config_tag(&self, config: &[u8], tag: &[u8; 32]) -> bool {
        self.config_tag(config).ct_eq(tag).into()
    }
}

/// Names chunks: keyed BLAKE3 of the plaintext.
#[derive(Clone, Copy)]
pub struct ChunkNamer([u8; 32]);

impl fmt::Debug for ChunkNamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkNamer(redacted)")
    }
}

impl ChunkNamer {
    /// The name of a chunk.
    #[must_use]
    pub fn name(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId::from_bytes(*blake3::keyed_hash(&self.0, plaintext).as_bytes())
    }
}
