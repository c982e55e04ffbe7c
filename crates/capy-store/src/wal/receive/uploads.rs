//! What is on its way into the store, beside the reading.
//!
//! Contained by: the receiver. At most one segment, one part of a segment and one tidying of parts
//! at a time. Compressing and sealing takes a processor for as long as a tenth of a second for 16
//! MiB, so each upload has a thread; the stream is read, and the server answered, meanwhile.

use std::future::Future;

use bytes::Bytes;
use capy_repo::StoredPart;
use capy_types::{ClusterName, ErrorKind, SegmentName, WalFile};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use super::assembly::Piece;
use crate::{Error, PushedWal, Repository, Result};

/// Uploads under way.
pub(super) struct Uploads {
    repository: Repository,
    cluster: ClusterName,
    segment: Option<JoinHandle<Result<PushedWal>>>,
    part: Option<JoinHandle<Result<PartDone>>>,
    /// The segment whose part is under way.
    part_of: Option<SegmentName>,
    sweep: Option<JoinHandle<Result<()>>>,
    compaction: Option<JoinHandle<Result<()>>>,
}

/// A part that was stored, or that could not be.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartDone {
    pub(super) segment: SegmentName,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) stored: StoredPart,
}

/// An upload that has ended.
#[derive(Debug)]
pub(super) enum Uploaded {
    /// The whole segment.
    Segment(Result<PushedWal>),
    /// A part.
    Part(Result<PartDone>),
    /// Parts that nobody needs any more are gone.
    Tidied(Tidying, Result<()>),
}

/// What is done about parts that are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tidying {
    /// Those of a segment that is archived are removed.
    Sweep,
    /// Those of one that is not are made one.
    Compaction,
}

impl Uploads {
    pub(super) fn new(repository: Repository, cluster: ClusterName) -> Self {
        Self { repository, cluster, segment: None, part: None, part_of: None, sweep: None, compaction: None }
    }

    pub(super) fn has_segment(&self) -> bool {
        self.segment.is_some()
    }

    pub(super) fn has_part(&self) -> bool {
        self.part.is_some()
    }

    pub(super) fn has_part_of(&self, segment: SegmentName) -> bool {
        self.part.is_some() && self.part_of == Some(segment)
    }

    /// One at a time: a part must not be made of others while these are removed.
    pub(super) fn is_tidying(&self) -> bool {
        self.sweep.is_some() || self.compaction.is_some()
    }

    pub(super) fn start_segment(&mut self, name: SegmentName, bytes: Bytes) {
        let (repository, cluster) = (self.repository.clone(), self.cluster.clone());
        let push = async move { repository.push_wal_bytes(&cluster, WalFile::from(name), bytes).await };
        self.segment = Some(on_a_thread(push));
    }

    pub(super) fn start_part(&mut self, piece: Piece) {
        let (repository, cluster) = (self.repository.clone(), self.cluster.clone());
        self.part_of = Some(piece.segment);
        let put = async move {
            let Piece { segment, start, bytes } = &piece;
            let offset = u32::try_from(*start).expect("a segment has at most 1 GiB");
            let file = WalFile::from(*segment);
            let stored = repository.repo.put_wal_part(&cluster, &file, offset, bytes).await?;
            Ok(PartDone { segment: *segment, start: *start, end: piece.end(), stored })
        };
        self.part = Some(on_a_thread(put));
    }

    pub(super) fn start_sweep(&mut self, name: SegmentName) {
        let (repository, cluster) = (self.repository.clone(), self.cluster.clone());
        let sweep =
            async move { Ok(repository.repo.remove_wal_parts(&cluster, &WalFile::from(name)).await?) };
        self.sweep = Some(on_a_thread(sweep));
    }

    pub(super) fn start_compaction(&mut self, name: SegmentName) {
        let (repository, cluster) = (self.repository.clone(), self.cluster.clone());
        let compact = async move {
            let many = repository.repo.compact_wal_parts(&cluster, &WalFile::from(name)).await?;
            tracing::debug!(%name, many, "parts made one");
            Ok(())
        };
        self.compaction = Some(on_a_thread(compact));
    }

    /// The next upload that ends; waits for ever when there is none.
    ///
    /// # Cancellation
    /// Safe: nothing is lost.
    pub(super) async fn next(&mut self) -> Uploaded {
        tokio::select! {
            biased;
            part = ended(&mut self.part) => Uploaded::Part(part),
            segment = ended(&mut self.segment) => Uploaded::Segment(segment),
            sweep = ended(&mut self.sweep) => Uploaded::Tidied(Tidying::Sweep, sweep),
            compaction = ended(&mut self.compaction) => Uploaded::Tidied(Tidying::Compaction, compaction),
        }
    }
}

/// Runs a future that may compute for long.
fn on_a_thread<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let runtime = Handle::current();
    spawn_blocking(move || runtime.block_on(work))
}

async fn ended<T>(upload: &mut Option<JoinHandle<Result<T>>>) -> Result<T> {
    let Some(running) = upload else { return std::future::pending().await };
    let outcome = running.await;
    *upload = None;
    outcome.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a thread panicked")))
}
