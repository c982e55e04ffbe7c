//! The end of an ingest: everything made durable, then visible at one stroke, or given up.

use std::time::Instant;

use capy_format::{BackupEntry, BackupRecord, BackupState, ObjectKind, names};
use capy_objects::StoreErrorKind;
use capy_types::Nonce;

use super::{Flushed, Ingest, last, session};
use crate::repository::entry_of;
use crate::{ReadOptions, Reader, RepoError, sealed};

impl Ingest {
    /// Waits until every chunk, the manifest and the index are durable. Nothing is visible yet.
    ///
    /// # Errors
    /// The first failure of a worker or upload; Cancelled; Invalid when a file is open.
    ///
    /// # Cancellation
    /// Dropping loses the ingest; packs stored and indexed are reused by the next backup.
    pub async fn flush(&mut self) -> Result<Flushed, RepoError> {
        if let Some(flushed) = &self.flushed {
            return Ok(flushed.clone());
        }
        if self.file.is_some() {
            return Err(RepoError::Invalid { what: "the ingest ends inside an open file".to_owned() });
        }
        if let Some(batch) = self.batch.take() {
            self.send(batch).await?;
        }
        self.to_workers = None;
        while self.received < self.sent {
            self.next_result().await?;
        }
        self.join_workers().await?;
        let manifest = self.assembler.finish(&self.shared)?;
        let draining = Instant::now();
        self.store_full_meta_packs().await?;
        last::store(&self.shared).await?;
        self.shared.uploads.drain(&self.shared).await?;
        self.write_indexes().await?;
        // Workers are idle both when their feeder is slow and when the store is. In the first case it
        // does not wait for them.
        let workers_waited = self.shared.workers_waited() / u32::try_from(self.options.jobs).unwrap_or(1);
        let waited_for_store =
            self.waited_for_workers.min(workers_waited) + self.waited_for_parent + draining.elapsed();
        let mut stats = self.shared.stats();
        self.assembler.add_counts(&mut stats);
        let mut stages = self.shared.stages();
        stages.insert(0, ("cut", self.cutting));
        stages.push(("wait for workers", self.waited_for_workers));
        let flushed = Flushed { manifest, stats, stages, waited_for_store };
        self.flushed = Some(flushed.clone());
        Ok(flushed)
    }

    /// Workers end by themselves once their channel is closed and their last pack handed on.
    async fn join_workers(&mut self) -> Result<(), RepoError> {
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            workers.into_iter().filter_map(|worker| worker.join().err()).count()
        })
        .await;
        self.shared.check()?;
        match joined {
            Ok(0) => Ok(()),
            _ => Err(RepoError::Internal { what: "a worker thread panicked".to_owned() }),
        }
    }

    /// A reader over what was stored, for checks before the commit.
    ///
    /// # Errors
    /// Invalid before [`flush`](Self::flush).
    pub fn reader(&self, options: ReadOptions) -> Result<Reader, RepoError> {
        if self.flushed.is_none() {
            return Err(RepoError::Invalid { what: "nothing is readable before flush".to_owned() });
        }
        Ok(Reader::over(self.repo.clone(), self.shared.index().clone(), options))
    }

    /// Makes the backup visible: stores its record and commits it to the root.
    ///
    /// # Errors
    /// `Fenced` when the session was ended; `PackRemoved` when a pack it builds on is gone;
    /// `BackupExists`; commit errors. After an error nothing is visible.
    ///
    /// # Cancellation
    /// Either committed or not.
    pub async fn commit(
        mut self,
        record: BackupRecord,
        state: BackupState,
    ) -> Result<BackupEntry, RepoError> {
        if self.flushed.is_none() {
            return Err(RepoError::Invalid {
                what: "an ingest is flushed before it is committed".to_owned(),
            });
        }
        self.ctx.check()?;
        let nonce = Nonce::random(&*self.repo.env().entropy);
        let name = names::backup(&record.key);
        record.check().map_err(|problem| RepoError::Invalid { what: format!("backup record: {problem}") })?;
        let json = serde_json::to_vec(&record).expect("a record is plain data");
        let object = sealed::seal(self.repo.keys(), self.repo.id(), ObjectKind::Backup, &name, nonce, &json)?;
        match self.repo.store().put_new(&name, object).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {
                return Err(RepoError::BackupExists { key: record.key });
            }
            Err(error) => return Err(error.into()),
        }
        let entry = entry_of(&record, state, nonce);
        let used = self.shared.used_packs();
        let own_indexes = std::mem::take(&mut self.own_indexes);
        session::commit(&self.repo, self.session, entry, &own_indexes, &used).await
    }

    /// Gives the ingest up and removes its session. What was stored and indexed stays for the
    /// next backup.
    ///
    /// # Errors
    /// Commit errors of removing the session; the ingest is over in any case.
    pub async fn abandon(mut self) -> Result<(), RepoError> {
        self.to_workers = None;
        self.shared.fail(RepoError::Cancelled);
        session::remove(&self.repo, self.session).await
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Workers that still hold batches stop at the next one; finished uploads stay.
        self.to_workers = None;
        self.shared.fail(RepoError::Cancelled);
    }
}
