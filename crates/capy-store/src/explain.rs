//! What a backup cost, and which relations and files cost it.
//!
//! A chunk counts for the first file of the backup that has it, if no file of the backup before it
//! has it. Memory: 16 bytes for each chunk of the two backups, and one line for each relation.

use std::collections::{HashMap, HashSet};

use capy_format::{BackupEntry, Entry};
use capy_repo::{ReadOptions, Reader};
use capy_types::{BackupKey, BackupSelector, ChunkId, Ctx};
use serde::Serialize;

use crate::{Repository, Result};

/// What the new chunks of a relation, or of a file that is none, cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// The relation's main file, or the file, as `<archive>:<path>`; empty in a sum.
    pub path: String,
    /// Its files: segments and forks.
    pub files: u64,
    /// Their length in bytes.
    pub size_bytes: u64,
    /// Chunks that the backup before did not have.
    pub new_chunks: u64,
    /// Their length in bytes.
    pub new_bytes: u64,
    /// How many of them are stored as differences.
    pub deltas: u64,
    /// What they take in the repository, in bytes.
    pub stored_bytes: u64,
}

impl Cost {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.size_bytes += other.size_bytes;
        self.new_chunks += other.new_chunks;
        self.new_bytes += other.new_bytes;
        self.deltas += other.deltas;
        self.stored_bytes += other.stored_bytes;
    }
}

/// What a backup cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The backup.
    pub backup_key: BackupKey,
    /// The one before it, of the same cluster and kind.
    pub previous: Option<BackupKey>,
    /// Everything.
    pub total: Cost,
    /// What cost most, in descending order.
    pub top: Vec<Cost>,
    /// Everything else together.
    pub rest: Cost,
}

type Seen = HashSet<[u8; 16]>;

fn short(chunk: &ChunkId) -> [u8; 16] {
    *chunk.as_bytes().first_chunk().expect("32 bytes hold 16")
}

impl Repository {
    /// Tells which relations and files cost the room that a backup takes beside the one before it,
    /// at most `top` of them by name.
    ///
    /// # Errors
    /// `NotFound` when there is no such backup; Corrupt when a manifest cannot be read; Cancelled;
    /// store errors.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn explain(&self, ctx: &Ctx, backup: &BackupSelector, top: usize) -> Result<Explanation> {
        let entry = self.repo.resolve(backup).await?;
        let root = self.repo.root().await?;
        let before = root.backups.iter().filter(|other| {
            other.key.cluster == entry.key.cluster
                && other.kind == entry.kind
                && other.order() < entry.order()
        });
        let previous = before.max_by_key(|other| other.order());
        let reader = self.repo.reader(ctx, ReadOptions::default()).await?;
        let mut seen = Seen::new();
        if let Some(previous) = previous {
            self.costs(ctx, &reader, previous, &mut seen).await?;
        }
        let costs = self.costs(ctx, &reader, &entry, &mut seen).await?;
        let mut costs: Vec<Cost> = costs.into_iter().map(|(path, cost)| Cost { path, ..cost }).collect();
        costs.sort_by(|a, b| b.stored_bytes.cmp(&a.stored_bytes).then_with(|| a.path.cmp(&b.path)));
        let mut total = Cost::default();
        costs.iter().for_each(|cost| total.add(cost));
        let paying = costs.iter().take_while(|cost| cost.new_chunks > 0).count();
        let mut rest = Cost::default();
        costs.split_off(top.min(paying)).iter().for_each(|cost| rest.add(cost));
        let previous = previous.map(|previous| previous.key.clone());
        Ok(Explanation { backup_key: entry.key, previous, total, top: costs, rest })
    }

    /// The costs of a backup by relation, of chunks not seen before.
    async fn costs(
        &self,
        ctx: &Ctx,
        reader: &Reader,
        backup: &BackupEntry,
        seen: &mut Seen,
    ) -> Result<HashMap<String, Cost>> {
        let record = self.repo.record(backup).await?;
        let mut manifest = reader.manifest(&record.manifest);
        let mut costs: HashMap<String, Cost> = HashMap::new();
        let mut archive = String::new();
        while let Some(entry) = manifest.next().await? {
            match entry {
                Entry::Archive(header) => archive = header.kind.place(),
                Entry::File(file) => {
                    let mut cost = Cost { files: 1, size_bytes: file.content.length, ..Cost::default() };
                    let mut chunks = reader.chunks(&file.content);
                    loop {
                        let refs = chunks.next(ctx).await?;
                        if refs.is_empty() {
                            break;
                        }
                        for chunk in refs.iter().filter(|chunk| seen.insert(short(&chunk.id))) {
                            cost.new_chunks += 1;
                            cost.new_bytes += chunk.len;
                            if let Some(place) = reader.locate(&chunk.id)? {
                                cost.stored_bytes += u64::from(place.stored_len);
                                cost.deltas += u64::from(place.delta);
                            }
                        }
                    }
                    let path = String::from_utf8_lossy(&file.meta.path);
                    costs.entry(format!("{archive}{}", relation(&path))).or_default().add(&cost);
                }
                _ => {}
            }
        }
        Ok(costs)
    }
}

/// The main file of the relation that a path is a segment or fork of; any other path as it is.
fn relation(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let digits = path[name..].bytes().take_while(u8::is_ascii_digit).count();
    let main = name + digits;
    match path.as_bytes().get(main) {
        Some(b'.' | b'_') if digits > 0 && name > 0 => &path[..main],
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_forks_count_for_their_relation() {
        for (path, main) in [
            ("base/5/16384", "base/5/16384"),
            ("base/5/16384.1", "base/5/16384"),
            ("base/5/16384_fsm", "base/5/16384"),
            ("base/5/16384_vm.2", "base/5/16384"),
            ("base/5/PG_VERSION", "base/5/PG_VERSION"),
            ("pg_wal/000000010000000000000001", "pg_wal/000000010000000000000001"),
            ("pg_xact/0000", "pg_xact/0000"),
            ("16384.txt", "16384.txt"),
        ] {
            assert_eq!(relation(path), main);
        }
    }
}
