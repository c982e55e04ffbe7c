//! Structural verification: do root, records, manifests, indexes and packs exist, agree with each
//! other, and name each other completely?
//!
//! Finds every defect, not the first, and says which backups and files each one touches. Reads
//! the small objects whole, of each pack its header and footer, and no frame of data.

mod packs;
mod walk;

use std::collections::HashMap;

use capy_format::BackupEntry;
use capy_types::{BackupKey, Ctx, PackId, Phase};

use crate::index::{ChunkIndex, SharedIndex, list_indexes, load_indexes};
use crate::{Defect, DefectKind, ReadOptions, Reader, RepoError, Repository};

/// Files named per defect; the count beyond is kept.
pub(crate) const AFFECTED_FILES_MAX: usize = 20;

/// A defect and what it touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AffectedDefect {
    /// What is wrong.
    pub defect: Defect,
    /// The backups that cannot be restored whole because of it.
    pub backups: Vec<BackupKey>,
    /// Some of the files, as `<archive>:<path>`.
    pub files: Vec<String>,
    /// How many files there are in all.
    pub files_total: u64,
}

impl AffectedDefect {
    fn new(defect: Defect) -> Self {
        Self { defect, backups: Vec::new(), files: Vec::new(), files_total: 0 }
    }

    fn touch(&mut self, backup: &BackupKey, file: Option<&str>) {
        if !self.backups.contains(backup) {
            self.backups.push(backup.clone());
        }
        if let Some(file) = file {
            self.files_total += 1;
            if self.files.len() < AFFECTED_FILES_MAX {
                self.files.push(file.to_owned());
            }
        }
    }
}

/// What a structural verification found.
#[derive(Debug, Clone, Default)]
pub struct StructureReport {
    /// Backups looked at.
    pub backups: u64,
    /// Index objects read.
    pub indexes: u64,
    /// Packs whose header and footer were read.
    pub packs: u64,
    /// Manifest entries walked.
    pub entries: u64,
    /// Chunk references followed into the index.
    pub chunks: u64,
    /// Everything that is wrong.
    pub defects: Vec<AffectedDefect>,
    /// Packs that are damaged or lost.
    pub damaged_packs: Vec<PackId>,
}

/// Verifies the structure of `backups` and of everything they rely on.
///
/// # Errors
/// Cancelled; the store being unavailable; a root that cannot be read. Everything else is a
/// defect of the report.
///
/// # Cancellation
/// Safe to drop; nothing is written.
pub async fn verify_structure(
    repo: &Repository,
    ctx: &Ctx,
    options: &ReadOptions,
    backups: &[BackupEntry],
) -> Result<StructureReport, RepoError> {
    ctx.progress.phase(Phase::Verify, None);
    let root = repo.root().await?;
    let mut report = StructureReport { indexes: root.indexes.len() as u64, ..StructureReport::default() };
    let mut index = ChunkIndex::new(options.spill_dir.clone());
    let listed = list_indexes(&**repo.store()).await?;
    let loaded = load_indexes(repo, &root, listed, &mut index, false).await?;
    for problem in loaded.problems.into_iter().filter(|problem| problem.committed) {
        let kind = if problem.error.is_missing_object() { DefectKind::Missing } else { DefectKind::Corrupt };
        let object = capy_format::names::index(&problem.index);
        let defect = Defect::of_object(object, kind, problem.error.to_string());
        report.defects.push(AffectedDefect::new(defect));
    }
    let reader = Reader::over(repo.clone(), SharedIndex::new(index), options.clone());
    let pack_defects = packs::check(&reader, ctx, &mut report).await?;
    let mut bad_packs: HashMap<PackId, usize> = HashMap::new();
    for (pack, defect) in pack_defects {
        bad_packs.insert(pack, report.defects.len());
        report.defects.push(AffectedDefect::new(defect));
    }
    for backup in backups {
        walk::walk(&reader, ctx, backup, &bad_packs, &mut report).await?;
        report.backups += 1;
    }
    // A damaged pack that no verified backup refers to is still worth telling, but it is the
    // backups asked about whose fate the report decides: those defects have no backups listed.
    report.damaged_packs = bad_packs.into_keys().collect();
    report.damaged_packs.sort_unstable();
    Ok(report)
}
