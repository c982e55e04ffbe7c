//! Object names: where everything is in a store.

use capy_types::{BackupKey, ChunkId, IndexId, PackId, SlotId};

/// The repository's identity and parameters.
pub const CONFIG: &str = "config";
/// Key slots.
pub const KEYS_PREFIX: &str = "keys/";
/// Root generations.
pub const ROOT_PREFIX: &str = "root/";
/// Packs.
pub const PACKS_PREFIX: &str = "packs/";
/// Index objects.
pub const INDEX_PREFIX: &str = "index/";
/// Backup records.
pub const BACKUPS_PREFIX: &str = "backups/";

/// A key slot: `keys/<16 hex>`.
#[must_use]
pub fn key_slot(id: &SlotId) -> String {
    format!("{KEYS_PREFIX}{id}")
}

/// A root generation: `root/<16 hex of 2^64 - 1 - generation>`, so that the newest sorts first.
#[must_use]
pub fn root(generation: u64) -> String {
    format!("{ROOT_PREFIX}{:016x}", u64::MAX - generation)
}

/// The generation a root's name stands for.
#[must_use]
pub fn parse_root(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(ROOT_PREFIX)?;
    let inverse = u64::from_str_radix(digits, 16).ok()?;
    Some(u64::MAX - inverse).filter(|generation| root(*generation) == name)
}

/// A pack: `packs/<2 hex>/<48 hex>`; the first two digits spread packs over 256 directories.
#[must_use]
pub fn pack(id: &PackId) -> String {
    let hex = id.to_string();
    format!("{PACKS_PREFIX}{}/{hex}", &hex[..2])
}

/// The pack a name stands for.
#[must_use]
pub fn parse_pack(name: &str) -> Option<PackId> {
    let (_, hex) = name.strip_prefix(PACKS_PREFIX)?.split_once('/')?;
    hex.parse().ok().filter(|id| pack(id) == name)
}

/// An index object: `index/<48 hex>`.
#[must_use]
pub fn index(id: &IndexId) -> String {
    format!("{INDEX_PREFIX}{id}")
}

/// The index a name stands for.
#[must_use]
pub fn parse_index(name: &str) -> Option<IndexId> {
    name.strip_prefix(INDEX_PREFIX)?.parse().ok().filter(|id| index(id) == name)
}

/// A backup's record: `backups/<cluster>/<backup id>`.
#[must_use]
pub fn backup(key: &BackupKey) -> String {
    format!("{BACKUPS_PREFIX}{key}")
}

/// The backup a record's name stands for.
#[must_use]
pub fn parse_backup(name: &str) -> Option<BackupKey> {
    name.strip_prefix(BACKUPS_PREFIX)?.parse().ok()
}

/// How a chunk is called in messages.
#[must_use]
pub fn chunk(id: &ChunkId) -> String {
    format!("chunk {id}")
}
