//! Parts of segments in the making: what earlier receivers left, and what becomes of it.
//!
//! A segment whose timeline has ended stays in parts, which recovery reads like a segment; they go
//! when nobody needs them. They are not archived as `SEGMENT.partial`: that name is the server's own,
//! for a file that may be longer, and its push would be refused.

use bytes::Bytes;
use capy_format::names;
use capy_objects::StoreErrorKind;
use capy_postgres::TimelineHistory;
use capy_types::{SegmentName, SegmentSize, WalFile};

use super::failure::Outcome;
use super::{ReceiveEvent, Receiver};
use crate::{PushOutcome, PushedWal, Result};

/// What earlier receivers left of segments that are not whole.
pub(super) struct Leftovers {
    segments: Vec<SegmentName>,
}

impl Leftovers {
    /// The oldest segment of the server's history that has parts.
    pub(super) fn first_on(&self, history: &TimelineHistory) -> Option<SegmentName> {
        let is_on = |name: &SegmentName| history.contains(name.timeline(), name.start());
        self.segments.iter().copied().filter(is_on).min_by_key(|name| name.number())
    }
}

impl Receiver<'_> {
    /// Finds what earlier receivers left, archives the segments that their parts hold whole, and
    /// removes the parts of those that are archived.
    pub(super) async fn take_stock(&mut self) -> Outcome<Leftovers> {
        let size: SegmentSize = self.segment_size;
        let found = self.repository.repo.segments_in_parts(&self.options.cluster).await?;
        let mut segments = Vec::new();
        for (file, held) in found {
            let Some(name) = file.segment(size) else { continue };
            if self.has(&file).await? {
                self.forget_parts(&file).await?;
            } else if u64::from(held) != size.bytes() || !self.archive_from_parts(&file).await? {
                segments.push(name);
            }
        }
        self.left = segments.iter().copied().collect();
        Ok(Leftovers { segments })
    }

    /// Removes the parts of a segment that is archived, unless they say otherwise.
    async fn forget_parts(&mut self, file: &WalFile) -> Outcome<()> {
        let (cluster, repo) = (&self.options.cluster, &self.repository.repo);
        let parts = repo.read_wal_parts(cluster, file).await?;
        match repo.get_wal(cluster, file).await {
            Ok(whole) if whole.bytes.starts_with(&parts.bytes) => {
                repo.remove_wal_parts(cluster, file).await?;
            }
            Ok(_) => {
                self.notice(format!("{file} is archived, but a receiver had received other bytes of it"))
            }
            Err(error) if error.is_missing_object() => {}
            Err(error) if !error.kind().is_transient() => {
                self.notice(format!("{file} is archived, but damaged; its parts are kept: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Archives a segment that its parts hold whole; whether it is archived now.
    async fn archive_from_parts(&mut self, file: &WalFile) -> Outcome<bool> {
        let (cluster, repository) = (&self.options.cluster, self.repository);
        let parts = repository.repo.read_wal_parts(cluster, file).await?;
        if parts.bytes.len() as u64 != self.segment_size.bytes() {
            return Ok(false);
        }
        match repository.push_wal_bytes(cluster, file.clone(), parts.bytes).await {
            Ok(pushed) => {
                repository.repo.remove_wal_parts(cluster, file).await?;
                self.archived(pushed);
                Ok(true)
            }
            Err(error) if error.is_transient() => Err(error.into()),
            // Nothing to stop for: its bytes are kept, and the server may send it again.
            Err(error) => {
                self.notice(format!("{file} stays in parts: {}", error.chain()));
                Ok(false)
            }
        }
    }

    /// A segment is in the archive.
    pub(super) fn archived(&mut self, pushed: PushedWal) {
        match pushed.outcome {
            PushOutcome::AlreadyThere => self.report.segments_already_there += 1,
            _ => self.report.segments += 1,
        }
        self.report.stored_bytes += pushed.stored_bytes;
        (self.tell)(ReceiveEvent::Archived(pushed));
    }

    /// What is durable already of the segment that is received next.
    pub(super) async fn known_of(&mut self, leftovers: &Leftovers, start: SegmentName) -> Outcome<Bytes> {
        if !leftovers.segments.contains(&start) {
            return Ok(Bytes::new());
        }
        let file = WalFile::from(start);
        let parts = self.repository.repo.read_wal_parts(&self.options.cluster, &file).await?;
        if let Some(damage) = parts.damage {
            // The server is about to send it again.
            self.notice(format!("of {file}, what was stored of it before is damaged: {damage}"));
        }
        Ok(parts.bytes)
    }

    /// Whether the archive has this file.
    pub(super) async fn has(&self, file: &WalFile) -> Result<bool> {
        let name = names::wal(&self.options.cluster, file);
        match self.repository.repo.store().head(&name).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => Ok(false),
            Err(error) => Err(capy_repo::RepoError::from(error).into()),
        }
    }
}
