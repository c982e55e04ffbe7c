//! Keys: one master key, and everything derived from it, each use with its own context.
//!
//! Derivation is BLAKE3 `derive_key` (BLAKE3 paper, section 2.3). The context strings are part of
//! the format and never change; the tests hold known answers.
//!
//! Invariants: keys are wiped when dropped and never printed; no key serves two purposes.

use std::fmt;
use std::sync::Arc;

use capy_types::{ChunkId, Entropy, Nonce, PackId, RepositoryId};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::chunk::Gear;
use crate::seal::SealKey;

/// The repository's one secret: 32 random bytes. Wiped on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// A new key.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut key = Self([0; 32]);
        entropy.fill(&mut key.0);
        key
    }

    /// From raw bytes.
    #[must_use]
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    pub(crate) const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of one use, which `context` names, in one repository.
    fn derive(&self, repository: &RepositoryId, context: &str) -> [u8; 32] {
        let mut material = Zeroizing::new([0; 32 + RepositoryId::LEN]);
        let (master, of) = material.split_at_mut(32);
        master.copy_from_slice(&self.0);
        of.copy_from_slice(repository.as_bytes());
        blake3::derive_key(context, &*material)
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

/// The keys of one repository. Cheap to clone: all clones share one copy.
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
        let gear = Gear::from_key(&Zeroizing::new(derive("capy-store 2026-11 v1 gear table")));
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

    /// The key of one pack. Pack ids are never reused, so neither is the key.
    #[must_use]
    pub fn pack_key(&self, pack: &PackId) -> SealKey {
        seal_key(&self.derived.pack, pack.as_bytes())
    }

    /// The key of one sealed object: of the object `kind`, with `nonce` in its header.
    #[must_use]
    pub fn object_key(&self, kind: u8, nonce: &Nonce) -> SealKey {
        let mut message = [kind; 1 + Nonce::LEN];
        message[1..].copy_from_slice(nonce.as_bytes());
        seal_key(&self.derived.object, &message)
    }

    /// The tag that proves the config unaltered.
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

fn seal_key(root: &[u8; 32], message: &[u8]) -> SealKey {
    SealKey::new(&Zeroizing::new(*blake3::keyed_hash(root, message).as_bytes()))
}

/// Names chunks: keyed BLAKE3 of the plaintext. Without the key, a name tells nothing: nobody can
/// ask the store whether a known file is in it.
///
/// It is `Copy` for the inner loops it serves, and therefore not wiped; it lives on the stacks of
/// worker threads.
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

    /// Begins to name a plaintext that comes in pieces.
    #[must_use]
    pub fn begin(&self) -> Naming {
        Naming(blake3::Hasher::new_keyed(&self.0))
    }
}

/// A name in the making: the same as [`ChunkNamer::name`] of all pieces put together. Pieces of many
/// KiB are hashed as fast as the whole would be.
pub struct Naming(blake3::Hasher);

impl fmt::Debug for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Naming(redacted)")
    }
}

impl Naming {
    /// Adds the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The name of what was added.
    #[must_use]
    pub fn finish(&self) -> ChunkId {
        ChunkId::from_bytes(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capy_types::SeededEntropy;

    fn counting<const N: usize>(from: u8) -> [u8; N] {
        std::array::from_fn(|i| from + i as u8)
    }

    fn keys() -> RepositoryKeys {
        RepositoryKeys::derive(&MasterKey::from_bytes(counting(0)), RepositoryId::from_bytes(counting(0x20)))
    }

    fn sealed(key: &SealKey, ordinal: u32, aad: &[u8], plain: &[u8]) -> String {
        let mut buffer = plain.to_vec();
        key.seal(ordinal, aad, &mut buffer, 0);
        buffer.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    // The known answers were computed in Python from FORMAT.md, with other implementations of
    // BLAKE3 and ChaCha20-Poly1305. Never regenerate them: a difference locks old repositories out.
    #[test]
    fn chunk_names_never_change() {
        let namer = keys().chunk_namer();
        let long: Vec<u8> = (0..131_072_u32).map(|i| (i % 251) as u8).collect();
        for (plain, expected) in [
            (&b"capy"[..], "d98fff7831ba4074565144a69cc890b27e32e24fe530daf48e9719b58dec0518"),
            (&long, "e200eacb43e56642838cda30f81af5b9d7e6b72e743be0b55838562dc2c1ee70"),
        ] {
            assert_eq!(namer.name(plain).to_string(), expected, "{} bytes", plain.len());
            let mut naming = namer.begin();
            plain.chunks(1000).for_each(|piece| naming.add(piece));
            assert_eq!(naming.finish().to_string(), expected, "{} bytes in pieces", plain.len());
        }
    }

    #[test]
    fn pack_and_object_keys_never_change() {
        let pack = keys().pack_key(&PackId::from_bytes(counting(0x30)));
        assert_eq!(sealed(&pack, 1, b"aad", b"plain"), "8f2d7791f880d116cc7504c832f626bb943f006408");
        assert_eq!(sealed(&pack, u32::MAX, b"", b""), "159deb9734a4ffc66d34abe3840955ac");
        let object = keys().object_key(3, &Nonce::from_bytes(counting(0x50)));
        assert_eq!(sealed(&object, 0, b"aad", b"plain"), "d84ff5c90232cfddf7f3c076674bd53533b3e7f8e7");
    }

    #[test]
    fn the_config_tag_never_changes_and_proves_the_config() {
        let keys = keys();
        let tag = keys.config_tag(b"{}");
        let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a53c0c7637b1cf200df62cd8fa091092ddcb3c1dc0da25f9f7c06ca9a3ba164d");
        assert!(keys.check_config_tag(b"{}", &tag));
        assert!(!keys.check_config_tag(b"{ }", &tag));
        for bit in 0..256 {
            let mut flipped = tag;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!keys.check_config_tag(b"{}", &flipped), "bit {bit}");
        }
    }

    #[test]
    fn another_master_repository_pack_kind_or_nonce_is_another_key() {
        let entropy = SeededEntropy::new(1);
        let (pack, nonce) = (PackId::random(&entropy), Nonce::random(&entropy));
        let answers = |keys: &RepositoryKeys| {
            vec![
                keys.chunk_namer().name(b"capy").to_string(),
                sealed(&keys.pack_key(&pack), 0, b"", b""),
                sealed(&keys.pack_key(&PackId::random(&entropy)), 0, b"", b""),
                sealed(&keys.object_key(3, &nonce), 0, b"", b""),
                sealed(&keys.object_key(4, &nonce), 0, b"", b""),
                sealed(&keys.object_key(3, &Nonce::random(&entropy)), 0, b"", b""),
                format!("{:?}", keys.config_tag(b"capy")),
            ]
        };
        let (one, two) = (MasterKey::generate(&entropy), MasterKey::generate(&entropy));
        let (here, there) = (RepositoryId::random(&entropy), RepositoryId::random(&entropy));
        let mut all: Vec<String> = [(&one, here), (&one, there), (&two, here)]
            .into_iter()
            .flat_map(|(master, repository)| answers(&RepositoryKeys::derive(master, repository)))
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 3 * 7);
    }

    #[test]
    fn debug_never_shows_a_key() {
        let keys = keys();
        let pack = keys.pack_key(&PackId::from_bytes([0; 24]));
        let shown =
            format!("{:?} {keys:?} {:?} {pack:?}", MasterKey::from_bytes([7; 32]), keys.chunk_namer());
        assert_eq!(
            shown,
            "MasterKey(redacted) RepositoryKeys(redacted) ChunkNamer(redacted) SealKey(redacted)"
        );
        assert_eq!(format!("{:?}", keys.chunk_namer().begin()), "Naming(redacted)");
    }
}
