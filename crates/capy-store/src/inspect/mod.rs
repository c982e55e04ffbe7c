//! Looking into stored objects: for people who want to see, and for the day something is broken.
//!
//! Every object is taken apart in the order of its layers (header, seal, compression, content);
//! what fails is noted as a problem and the rest is still shown as far as it makes sense.
//! Invariant: nothing here ever writes to the store.

mod manifest;
mod object;
mod pack;
mod wal;

use capy_format::{KeySlot, ObjectKind, names};
use capy_objects::{ObjectInfo, StoreError, open_store};
use capy_types::{ChunkId, Ctx, IndexId, PackId};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::{Value, json};

pub use manifest::{ManifestEntry, ManifestInspection};
pub use wal::WalObject;

use crate::repository::cancellable;
use crate::{Location, Repository, Result};

/// Largest object taken apart in bytes: the largest index and record that readers accept.
const OBJECT_MAX_BYTES: u64 = 256 << 20;

/// One stored object, decoded as far as possible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Its name in the store.
    pub object: String,
    /// Its size as stored.
    pub size_bytes: u64,
    /// The fields of its header, or null when there is none to read.
    pub header: Value,
    /// Its content; the shape follows the stored format.
    pub content: Value,
    /// What could not be decoded or does not agree.
    pub problems: Vec<String>,
}

impl Inspection {
    fn of(object: String, size_bytes: u64) -> Self {
        Self { object, size_bytes, ..Self::default() }
    }

    fn problem(&mut self, what: impl ToString) {
        self.problems.push(what.to_string());
    }
}

/// The key slots of a repository as they are stored, wrapped keys left out. Needs no key.
///
/// # Errors
/// `NotFound` when there is no such place; `Denied`, `Unavailable` from the store.
///
/// # Cancellation
/// Safe to drop; nothing is written.
///
/// # Example
/// ```no_run
/// # use capy_store::*;
/// # async fn example(ctx: &Ctx) -> Result<()> {
/// for slot in capy_store::inspect::key_slots(ctx, &Location::new("/backup/repo")).await? {
///     println!("{}: {}", slot.object, slot.content);
/// }
/// # Ok(()) }
/// ```
pub async fn key_slots(ctx: &Ctx, location: &Location) -> Result<Vec<Inspection>> {
    let work = async {
        let store = open_store(&location.url, &location.store, false).await?;
        let mut listed: Vec<ObjectInfo> = store.list(names::KEYS_PREFIX).try_collect().await?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        let mut found = Vec::new();
        for info in listed {
            let bytes = store.get(&info.name, OBJECT_MAX_BYTES).await?;
            found.push(key_slot(info.name, &bytes));
        }
        Ok(found)
    };
    cancellable(ctx, work).await
}

fn key_slot(name: String, bytes: &[u8]) -> Inspection {
    let mut found = Inspection::of(name.clone(), bytes.len() as u64);
    let Some(body) = object::header_and_body(&mut found, bytes, ObjectKind::KeySlot) else { return found };
    match KeySlot::from_json(&name, body) {
        Err(error) => found.problem(error),
        Ok(slot) => {
            let kdf = slot.wrapped.kdf.as_ref();
            found.content = json!({
                "id": slot.id,
                "kind": slot.kind,
                "label": slot.label,
                "created_at": slot.created_at,
                "kdf": kdf.map(|kdf| json!({
                    "memory_kib": kdf.memory_kib, "passes": kdf.passes, "lanes": kdf.lanes,
                })),
            });
        }
    }
    found
}

impl Repository {
    /// The repository's config, and how many objects of each kind there are.
    ///
    /// # Errors
    /// `Unavailable`, `Denied` from the store. What is damaged is in the answer.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn inspect_repo(&self, ctx: &Ctx) -> Result<Inspection> {
        let work = async {
            let bytes = self.repo.store().get(names::CONFIG, OBJECT_MAX_BYTES).await?;
            let mut found = Inspection::of(names::CONFIG.to_owned(), bytes.len() as u64);
            object::header_and_body(&mut found, &bytes, ObjectKind::Config);
            let mut objects = serde_json::Map::new();
            for (kind, prefix) in object::PREFIXES {
                objects.insert((*kind).to_owned(), self.count(prefix).await?);
            }
            let config = serde_json::to_value(self.repo.config()).unwrap_or_default();
            found.content = json!({ "url": self.url(), "config": config, "objects": objects });
            Ok(found)
        };
        cancellable(ctx, work).await
    }

    async fn count(&self, prefix: &str) -> Result<Value> {
        let (mut count, mut bytes) = (0_u64, 0_u64);
        let mut listed = self.repo.store().list(prefix);
        while let Some(info) = listed.next().await {
            let info = info?;
            count += 1;
            bytes += info.size;
        }
        Ok(json!({ "count": count, "bytes": bytes }))
    }

    /// A root: the newest, or the one of `generation`.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let ctx = Ctx::default();
    /// # let repository = Repository::init(&ctx, &Location::new("memory://"), &[Key::passphrase("x")], InitOptions::default()).await?;
    /// let root = repository.inspect_root(&ctx, None).await?;
    /// assert!(root.problems.is_empty());
    /// println!("{} {}", root.object, root.content["backups"]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `NotFound` when there is no such root; `Unavailable`, `Denied` from the store.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn inspect_root(&self, ctx: &Ctx, generation: Option<u64>) -> Result<Inspection> {
        let work = async {
            let name = match generation {
                Some(generation) => names::root(generation),
                None => self.newest_root_name().await?,
            };
            self.inspect_sealed(&name, ObjectKind::Root).await
        };
        cancellable(ctx, work).await
    }

    async fn newest_root_name(&self) -> Result<String> {
        let first = self.repo.store().first(names::ROOT_PREFIX).await?;
        first.map(|info| info.name).ok_or_else(|| {
            crate::Error::new(capy_types::ErrorKind::Corrupt, "the repository has no root object")
        })
    }

    /// An index object: the packs and frames it lists.
    ///
    /// # Errors
    /// `NotFound` when there is no such index; `Unavailable`, `Denied` from the store.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn inspect_index(&self, ctx: &Ctx, index: IndexId) -> Result<Inspection> {
        cancellable(ctx, self.inspect_sealed(&names::index(&index), ObjectKind::Index)).await
    }

    /// A pack: its header, trailer, and the frames its footer lists.
    ///
    /// # Errors
    /// `NotFound` when there is no such pack; `Unavailable`, `Denied` from the store.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn inspect_pack(&self, ctx: &Ctx, pack: PackId) -> Result<Inspection> {
        cancellable(ctx, pack::inspect(self, pack)).await
    }

    /// Where a chunk is stored, and its plaintext if it can be read.
    ///
    /// # Errors
    /// `NotFound` when no index knows the chunk; `Unavailable`, `Denied` from the store.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn inspect_chunk(&self, ctx: &Ctx, chunk: ChunkId) -> Result<(Inspection, Option<Vec<u8>>)> {
        cancellable(ctx, pack::inspect_chunk(self, ctx, chunk)).await
    }

    /// An object of a WAL archive: header, facts, what is in the file, and trailer, each as far as it
    /// can be read. Where the facts cannot, they are read from the file again.
    ///
    /// # Errors
    /// `NotFound` when there is no such object; `Unavailable`, `Denied` from the store.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn inspect_wal(&self, ctx: &Ctx, what: &WalObject) -> Result<Inspection> {
        cancellable(ctx, wal::inspect(self, what)).await
    }

    /// The entries of a backup's manifest, at most `limit` of them.
    ///
    /// # Errors
    /// `NotFound` when there is no such backup; `Corrupt` when its record cannot be read;
    /// `Unavailable`, `Denied` from the store.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn inspect_manifest(
        &self,
        ctx: &Ctx,
        backup: &capy_types::BackupSelector,
        limit: usize,
    ) -> Result<ManifestInspection> {
        cancellable(ctx, manifest::inspect(self, ctx, backup, limit)).await
    }

    async fn inspect_sealed(&self, name: &str, kind: ObjectKind) -> Result<Inspection> {
        let bytes = self.repo.store().get(name, OBJECT_MAX_BYTES).await?;
        Ok(object::sealed(self.repo.keys(), name, &bytes, kind))
    }
}

/// Whether a store's answer is about this one object, and so part of what is being shown.
fn is_about_object(error: &StoreError) -> bool {
    use capy_objects::StoreErrorKind as Kind;
    matches!(error.kind, Kind::NotFound | Kind::Truncated { .. } | Kind::TooLarge { .. })
}
