//! Verify: proof that what is stored is what was stored.
//!
//! `structure` asks the repository whether everything that says where bytes are exists and agrees.
//! `full` goes on to read every file of the backups as a restore would, every frame opened,
//! decompressed and hashed again, and computes the checksums of each `backup_manifest` anew from
//! what is stored. Content that several backups share is read once.
//!
//! The outcome is recorded on each backup in the root (running, then verified or failed), without
//! touching its record. Invariant: a backup is recorded as verified only by a run that went
//! through all of it and found nothing.

mod content;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use capy_format::BackupEntry;
use capy_repo::{AffectedDefect, ReadOptions};
use capy_types::{BackupKey, BackupSelector, ClusterName, Ctx, ErrorKind, PackId};
use tracing::instrument;

use crate::report::FINDINGS_MAX;
use crate::repository::cancellable;
use crate::{Defect, Error, Repository, Result, VerifyLevel, VerifyReport};

/// Which backups to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VerifyScope {
    /// Every backup of the repository.
    All,
    /// Every backup of one cluster.
    Cluster(ClusterName),
    /// These.
    Backups(Vec<BackupSelector>),
}

/// How to verify.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// How thorough.
    pub level: VerifyLevel,
    /// Record the outcome on the backups. Without it nothing is written.
    pub record: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { level: VerifyLevel::Structure, record: true }
    }
}

/// What a run has found so far.
pub(crate) struct Verifying<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) ctx: &'a Ctx,
    pub(crate) defects: Vec<Defect>,
    pub(crate) defects_total: u64,
    /// Every backup that a defect touches, also beyond the list above: the first and their number.
    pub(crate) failed: BTreeMap<BackupKey, (String, u64)>,
    pub(crate) damaged_packs: BTreeSet<PackId>,
    pub(crate) files: u64,
    pub(crate) chunks: u64,
    pub(crate) hashed_bytes: u64,
    pub(crate) manifest_files_checked: u64,
}

impl Verifying<'_> {
    /// Notes a defect, or another backup that an already noted one touches.
    pub(crate) fn note(&mut self, defect: Defect) {
        for backup in &defect.backups {
            let first = || (format!("{}: {}", defect.object, defect.what), 0);
            self.failed.entry(backup.clone()).or_insert_with(first).1 += 1;
        }
        let same = |other: &&mut Defect| {
            other.object == defect.object && other.offset == defect.offset && other.what == defect.what
        };
        if let Some(known) = self.defects.iter_mut().find(same) {
            merge(known, defect);
            return;
        }
        self.defects_total += 1;
        if self.defects.len() < FINDINGS_MAX {
            self.defects.push(defect);
        }
    }
}

/// Files named per defect; the rest are counted.
const FILES_NAMED_MAX: usize = 20;

fn merge(known: &mut Defect, more: Defect) {
    for backup in more.backups {
        if !known.backups.contains(&backup) {
            known.backups.push(backup);
        }
    }
    for file in more.files {
        if known.files.contains(&file) {
            continue;
        }
        known.files_total += 1;
        if known.files.len() < FILES_NAMED_MAX {
            known.files.push(file);
        }
    }
}

impl Repository {
    /// Verifies stored backups and records the outcome on them.
    ///
    /// Defects are the report's, not an error's: an error means that the verification did not get
    /// to its end.
    ///
    /// # Errors
    /// `NotFound` when a backup named does not exist, or there is none at all; `Corrupt` when the root itself cannot be
    /// read; `Unavailable`.
    ///
    /// # Cancellation
    /// Through `ctx`, or after an error, the backups get back what was recorded of them before.
    /// Safe to drop, too; they then stay recorded as `running` until the next verification.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let ctx = Ctx::default();
    /// # let repository = Repository::init(&ctx, &Location::new("memory://"), &[Key::passphrase("x")], InitOptions::default()).await?;
    /// # let source = BackupSource::stream("dump.sql", &b"select 1;"[..]);
    /// # repository.backup(&ctx, source, BackupOptions::new("main".parse().unwrap())).await?;
    /// let mut options = VerifyOptions::default();
    /// options.level = VerifyLevel::Full;
    /// let report = repository.verify(&ctx, &VerifyScope::All, options).await?;
    /// assert!(report.ok, "{}", report.verdict);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(level = options.level.as_str()))]
    pub async fn verify(
        &self,
        ctx: &Ctx,
        scope: &VerifyScope,
        options: VerifyOptions,
    ) -> Result<VerifyReport> {
        let backups = cancellable(ctx, self.backups_in(scope)).await?;
        let outcome = cancellable(ctx, self.verify_to_the_end(ctx, &backups, &options)).await;
        if outcome.is_err() && options.record {
            record::as_before(self, &backups).await;
        }
        outcome
    }

    async fn verify_to_the_end(
        &self,
        ctx: &Ctx,
        backups: &[BackupEntry],
        options: &VerifyOptions,
    ) -> Result<VerifyReport> {
        let begun = Instant::now();
        let read_before = self.meter.read_bytes();
        if options.record {
            record::running(self, backups, options.level).await?;
        }
        let read = ReadOptions::default();
        let structure = capy_repo::verify_structure(&self.repo, ctx, &read, backups).await?;
        let mut verifying = Verifying {
            repository: self,
            ctx,
            defects: Vec::new(),
            defects_total: 0,
            failed: BTreeMap::new(),
            damaged_packs: structure.damaged_packs.into_iter().collect(),
            files: 0,
            chunks: structure.chunks,
            hashed_bytes: 0,
            manifest_files_checked: 0,
        };
        for found in structure.defects {
            verifying.note(defect(found));
        }
        if options.level >= VerifyLevel::Full {
            content::verify(&mut verifying, backups, &read).await?;
        }
        let files = if options.level >= VerifyLevel::Full { verifying.files } else { structure.entries };
        let failed = std::mem::take(&mut verifying.failed);
        let damaged = std::mem::take(&mut verifying.damaged_packs);
        let report = VerifyReport {
            level: options.level,
            backups: backups.iter().map(|entry| entry.key.clone()).collect(),
            verdict: verdict(&verifying, failed.len(), backups.len(), options.level),
            ok: verifying.defects_total == 0,
            defects: verifying.defects,
            defects_total: verifying.defects_total,
            packs: structure.packs,
            chunks: verifying.chunks,
            files,
            manifest_files_checked: verifying.manifest_files_checked,
            read_bytes: self.meter.read_bytes() - read_before,
            hashed_bytes: verifying.hashed_bytes,
            elapsed: begun.elapsed(),
        };
        tracing::info!(verdict = %report.verdict, "verification ended");
        if options.record {
            record::outcome(self, backups, &failed, options.level).await?;
        }
        if options.record {
            // Later backups store these chunks anew, which heals the older ones too.
            let damaged: Vec<PackId> = damaged.into_iter().collect();
            self.repo.mark_damaged(&damaged).await?;
        }
        Ok(report)
    }

    async fn backups_in(&self, scope: &VerifyScope) -> Result<Vec<BackupEntry>> {
        match scope {
            VerifyScope::All => {
                let backups = self.repo.root().await?.backups;
                // A verification of nothing must not pass for a good one.
                if backups.is_empty() {
                    return Err(Error::new(ErrorKind::NotFound, "the repository has no backups to verify"));
                }
                Ok(backups)
            }
            VerifyScope::Cluster(cluster) => {
                let mut backups = self.repo.root().await?.backups;
                backups.retain(|entry| entry.key.cluster == *cluster);
                if backups.is_empty() {
                    let what = format!("no backups of cluster {cluster}");
                    return Err(Error::new(ErrorKind::NotFound, what));
                }
                Ok(backups)
            }
            VerifyScope::Backups(selectors) => {
                let mut backups: Vec<BackupEntry> = Vec::new();
                for selector in selectors {
                    let entry = self.repo.resolve(selector).await?;
                    if !backups.iter().any(|known| known.key == entry.key) {
                        backups.push(entry);
                    }
                }
                Ok(backups)
            }
        }
    }
}

fn defect(found: AffectedDefect) -> Defect {
    Defect {
        object: found.defect.object,
        offset: found.defect.offset,
        what: found.defect.problem,
        backups: found.backups,
        files: found.files,
        files_total: found.files_total,
    }
}

/// What is now known, in one line.
fn verdict(verifying: &Verifying<'_>, failed: usize, count: usize, level: VerifyLevel) -> String {
    let backups_word = if count == 1 { "backup" } else { "backups" };
    if verifying.defects_total == 0 {
        let proof = match level {
            VerifyLevel::Structure => {
                "everything they need is there (structure only: no data was read)".to_owned()
            }
            VerifyLevel::Full => format!(
                "every stored byte was hashed again ({} bytes, {} backup_manifest checksums)",
                verifying.hashed_bytes, verifying.manifest_files_checked
            ),
        };
        return format!("verified: {count} {backups_word}, no defects: {proof}");
    }
    let n = verifying.defects_total;
    let defects_word = if n == 1 { "defect" } else { "defects" };
    format!("FAILED: {n} {defects_word}; {failed} of {count} {backups_word} cannot be restored in full")
}
