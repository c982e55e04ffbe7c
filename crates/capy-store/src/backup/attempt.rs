//! One attempt at a backup: of everything, or of what changed since an earlier one.
//!
//! Contained by: the backup. Invariant: an attempt at an incremental backup that comes to nothing has
//! committed nothing, and says why; what it stored is reused by the next.

use std::sync::Arc;

use capy_repo::{Ingest, IngestOptions};
use capy_types::{BackupKey, PackId, Problem};

use super::incremental::{self, Earlier, NotPossible};
use super::{BackupSource, Incremental, IncrementalReport, PostgresSource, Taking};
use crate::repository::cancellable;
use crate::{BackupReport, Result};

impl Taking<'_> {
    /// Receives everything. `not`: why it was not to be helped.
    pub(super) async fn whole(&self, source: BackupSource, not: Option<NotPossible>) -> Result<BackupReport> {
        let kind = source.kind();
        let (reason, damaged) = not.map(|not| (not.reason, not.damaged_packs)).unzip();
        let source = cancellable(self.ctx, source.open(self.ctx, self.options.check_pages)).await?;
        let asked = reason.map(|reason| IncrementalReport { reason: Some(reason), ..Default::default() });
        let mut ingest = cancellable(self.ctx, self.begin(kind, None, &damaged.unwrap_or_default())).await?;
        match cancellable(self.ctx, self.store(source, &mut ingest)).await {
            Ok(stored) => self.commit(ingest, stored, asked).await,
            Err(error) => {
                abandon(ingest).await;
                Err(error)
            }
        }
    }

    /// Receives what changed since an earlier backup; where that does not come about, says why.
    pub(super) async fn incremental(
        &self,
        server: PostgresSource,
    ) -> Result<std::result::Result<BackupReport, NotPossible>> {
        let chosen = incremental::choose(self.repository, self.ctx, &server, &self.options.cluster);
        let Earlier { key, manifest, damaged_packs } = match cancellable(self.ctx, chosen).await? {
            Ok(earlier) => earlier,
            Err(not) => return Ok(Err(self.told(not))),
        };
        let opened = server.open(self.ctx, self.options.check_pages, Some(manifest));
        let source = cancellable(self.ctx, opened).await?;
        let refused = source.facts().not_incremental;
        if refused.is_some() && self.options.incremental == Incremental::Require {
            return Ok(Err(NotPossible::from(refused.unwrap_or_default())));
        }
        let earlier = refused.is_none().then(|| key.clone());
        let begun =
            cancellable(self.ctx, self.begin(capy_format::BackupKind::Base, earlier, &damaged_packs)).await;
        let mut ingest = match begun {
            Err(error) if refused.is_none() && !error.is_transient() && self.ctx.check().is_ok() => {
                let reason = format!("{key} cannot be built on: {}", error.chain());
                let damaged_packs = error.damaged_pack().into_iter().collect();
                return Ok(Err(self.told(NotPossible { reason, damaged_packs })));
            }
            begun => begun?,
        };
        match cancellable(self.ctx, self.store(source, &mut ingest)).await {
            Ok(stored) => {
                let report = IncrementalReport { reason: refused, ..Default::default() };
                self.commit(ingest, stored, Some(report)).await.map(Ok)
            }
            Err(error) => {
                let lost = ingest.lost_parent().map(|why| format!("{key} cannot be built on: {why}"));
                let damaged_packs = ingest.damaged_packs().to_vec();
                abandon(ingest).await;
                match lost {
                    Some(reason) if self.ctx.check().is_ok() => {
                        self.pages.forget();
                        Ok(Err(self.told(NotPossible { reason, damaged_packs })))
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Says why.
    fn told(&self, not: NotPossible) -> NotPossible {
        let consequence = match self.options.incremental {
            Incremental::Require => "",
            _ => ", so everything is sent",
        };
        self.ctx.progress.problem(Problem {
            subject: "incremental backup".to_owned(),
            message: format!("not possible{consequence}: {}", not.reason),
        });
        not
    }

    /// Begins the ingest; with `earlier`, of files made from that backup's. It does not rest on
    /// `damaged` packs, and neither will later ones.
    async fn begin(
        &self,
        kind: capy_format::BackupKind,
        earlier: Option<BackupKey>,
        damaged: &[PackId],
    ) -> Result<Ingest> {
        if !damaged.is_empty() {
            self.repository.repo.mark_damaged(damaged).await?;
        }
        let mut options = IngestOptions::new(self.key.clone());
        options.jobs = self.options.jobs.unwrap_or(options.jobs);
        options.memory_bytes = self.options.memory_bytes.unwrap_or(options.memory_bytes);
        options.parent = Some(kind);
        options.delta.depth_max = self.options.delta_depth.unwrap_or(options.delta.depth_max);
        options.patch_from = earlier;
        if self.options.check_pages {
            options.inspector = Some(Arc::clone(&self.pages) as Arc<_>);
        }
        Ok(self.repository.repo.begin(self.ctx, options).await?)
    }
}

/// Gives an ingest up. The first error is the one to report; a session that could not be removed is
/// fenced off by the collector.
async fn abandon(ingest: Ingest) {
    if let Err(left) = ingest.abandon().await {
        tracing::warn!(error = %left, "the session of the failed backup stays registered");
    }
}
