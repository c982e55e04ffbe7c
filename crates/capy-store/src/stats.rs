//! What a repository holds, in numbers: objects, chunks whole and as differences.
//!
//! Contained by: the façade. Reads the root and the indexes, and no pack.

use std::collections::HashSet;

use capy_format::{ChunkClass, FrameKind, IndexedPack};
use capy_types::{Ctx, PackId};
use serde::Serialize;

use crate::{Repository, Result};

/// Chunks of one sort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChunkSum {
    /// How many.
    pub chunks: u64,
    /// Their length in bytes.
    pub size_bytes: u64,
    /// What they take in packs, in bytes.
    pub stored_bytes: u64,
}

impl ChunkSum {
    fn add(&mut self, size: u32, stored: u32) {
        self.chunks += 1;
        self.size_bytes += u64::from(size);
        self.stored_bytes += u64::from(stored);
    }
}

/// What a repository holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RepositoryStats {
    /// Backups listed.
    pub backups: u64,
    /// What they would take without deduplication and compression, in bytes.
    pub backup_bytes: u64,
    /// Index objects that backups rely on.
    pub indexes: u64,
    /// Packs these list.
    pub packs: u64,
    /// Their length in bytes.
    pub pack_bytes: u64,
    /// Chunks of files stored whole.
    pub whole: ChunkSum,
    /// Chunks of files stored as differences to others.
    pub deltas: ChunkSum,
    /// Chunks of manifests.
    pub manifests: ChunkSum,
}

impl Repository {
    /// Counts what is stored. Chunks stored twice are counted twice.
    ///
    /// # Errors
    /// Corrupt when the root or an index cannot be read; Cancelled; store errors.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn stats(&self, ctx: &Ctx) -> Result<RepositoryStats> {
        let root = self.repo.root().await?;
        let mut stats = RepositoryStats {
            backups: root.backups.len() as u64,
            backup_bytes: root.backups.iter().map(|backup| backup.size_bytes).sum(),
            indexes: root.indexes.len() as u64,
            ..RepositoryStats::default()
        };
        let mut seen: HashSet<PackId> = HashSet::new();
        for index in &root.indexes {
            ctx.check()?;
            for pack in self.repo.inspect_index(index).await?.packs {
                if seen.insert(pack.id) {
                    stats.add(&pack);
                }
            }
        }
        Ok(stats)
    }
}

impl RepositoryStats {
    fn add(&mut self, pack: &IndexedPack) {
        self.packs += 1;
        self.pack_bytes += u64::from(pack.size);
        for frame in &pack.frames {
            let sum = match (frame.class, frame.kind) {
                (ChunkClass::Meta, _) => &mut self.manifests,
                (ChunkClass::Data, FrameKind::Full) => &mut self.whole,
                (ChunkClass::Data, FrameKind::Delta) => &mut self.deltas,
            };
            sum.add(frame.plain_len, frame.stored_len);
        }
    }
}
