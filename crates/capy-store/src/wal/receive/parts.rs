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
        let odd =
            pushed.notices.iter().map(|notice| format!("{}: {notice}", pushed.file)).collect::<Vec<_>>();
        (self.tell)(ReceiveEvent::Archived(pushed));
        odd.into_iter().for_each(|notice| self.notice(notice));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use capy_types::Ctx;

    use super::*;
    use crate::{InitOptions, Key, Location, PostgresServer, ReceiveOptions, Repository};

    #[tokio::test]
    async fn what_is_odd_about_a_segment_is_told_and_reported() {
        let (ctx, location) = (Ctx::default(), Location::new("memory://receive-parts"));
        let key = Key::passphrase("receive");
        let quick = InitOptions { kdf_memory_kib: Some(64), ..InitOptions::default() };
        Repository::init(&ctx, &location, &[key], quick).await.unwrap();
        let repository = Repository::open(&ctx, &location, &Key::passphrase("receive")).await.unwrap();
        let server = PostgresServer::connect_with("host=/nowhere user=postgres", |_| None).unwrap();
        let options = ReceiveOptions::new("main".parse().unwrap(), server);
        let mut told = Vec::new();
        let mut tell = |event| told.push(event);
        let mut receiver = Receiver::new(&repository, &ctx, options, &mut tell).unwrap();
        receiver.archived(PushedWal {
            cluster: "main".parse().unwrap(),
            file: "000000010000000000000003".parse().unwrap(),
            outcome: PushOutcome::Archived,
            size_bytes: 1 << 24,
            stored_bytes: 5000,
            elapsed: Duration::ZERO,
            notices: vec!["its valid WAL ends early".to_owned()],
        });
        let notice = "000000010000000000000003: its valid WAL ends early";
        assert_eq!((&*receiver.report.notices, receiver.report.segments), (&[notice.to_owned()][..], 1));
        assert_eq!(told.last(), Some(&ReceiveEvent::Notice(notice.to_owned())));
    }
}
