//! Batches on their way: to the workers, back as results, and the packs and indexes they fill.

use std::time::Instant;

use super::batch::{Batch, FileCut};
use super::worker::{BatchResult, Job};
use super::{Ingest, upload};
use crate::RepoError;

impl Ingest {
    pub(super) async fn take_batch(&mut self) -> Result<Batch, RepoError> {
        if let Some(batch) = self.batch.take() {
            return Ok(batch);
        }
        self.ctx.check()?;
        let started = Instant::now();
        let batch = tokio::select! {
            batch = self.free.recv() => batch,
            () = self.ctx.cancel.cancelled() => return Err(RepoError::Cancelled),
        };
        self.waited_for_workers += started.elapsed();
        self.shared.check()?;
        batch.map_err(|_| RepoError::Internal { what: "all workers are gone".to_owned() })
    }

    /// Keeps a batch that has room, or sends it on and starts a new one with the bytes of the
    /// open file that are not cut yet.
    pub(super) async fn put_batch(&mut self, mut batch: Batch) -> Result<(), RepoError> {
        let needs = self.file.as_ref().map_or(0, FileCut::room_needed);
        if batch.has_room(needs) {
            self.batch = Some(batch);
            return Ok(());
        }
        let tail = self.file.as_mut().map(|file| file.detach_tail(&mut batch)).unwrap_or_default();
        self.send(batch).await?;
        if !tail.is_empty() {
            let mut next = self.take_batch().await?;
            if let Some(file) = &mut self.file {
                file.attach_tail(&mut next, &tail);
            }
            self.batch = Some(next);
        }
        Ok(())
    }

    pub(super) async fn send(&mut self, mut batch: Batch) -> Result<(), RepoError> {
        batch.sequence = self.sent;
        self.sent += 1;
        self.ctx.check()?;
        self.shared.check()?;
        if let Some(channel) = &self.to_workers {
            // As many places as batches: this never waits.
            channel
                .send(Job::Fresh(batch, channel.clone()))
                .await
                .map_err(|_| RepoError::Internal { what: "all workers are gone".to_owned() })?;
        }
        while let Ok(result) = self.results.try_recv() {
            self.take_result(result)?;
        }
        self.store_full_meta_packs().await?;
        self.index_if_due().await
    }

    /// Waits for the results of one batch on its way.
    pub(super) async fn next_result(&mut self) -> Result<(), RepoError> {
        let waiting = Instant::now();
        let result = tokio::select! {
            result = self.results.recv() => result,
            () = self.ctx.cancel.cancelled() => return Err(RepoError::Cancelled),
        };
        self.waited_for_workers += waiting.elapsed();
        self.shared.check()?;
        let result =
            result.map_err(|_| RepoError::Internal { what: "a worker left without a result".to_owned() })?;
        self.take_result(result)?;
        self.store_full_meta_packs().await?;
        self.index_if_due().await
    }

    fn take_result(&mut self, result: BatchResult) -> Result<(), RepoError> {
        self.received += 1;
        self.assembler.results(result, &self.shared)
    }

    pub(super) async fn store_full_meta_packs(&mut self) -> Result<(), RepoError> {
        for pack in self.assembler.take_full_packs() {
            self.shared.uploads.submit(&self.shared, pack).await?;
        }
        Ok(())
    }

    /// Writes an index object once enough packs are stored but not indexed, so that an
    /// interrupted backup's packs are found by the next one. The number due grows with what is
    /// indexed already: the number of index objects stays logarithmic in the backup's size.
    pub(super) async fn index_if_due(&mut self) -> Result<(), RepoError> {
        let due = (self.indexed_packs / 8).clamp(8, 256);
        if self.shared.uploads.fill_an_index(due) { self.write_indexes().await } else { Ok(()) }
    }

    pub(super) async fn write_indexes(&mut self) -> Result<(), RepoError> {
        while let Some((index, packs)) = upload::write_index(&self.repo, &self.shared).await? {
            self.own_indexes.push(index);
            self.indexed_packs += packs;
        }
        Ok(())
    }
}
