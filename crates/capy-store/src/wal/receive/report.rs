//! What a receiver tells while it runs, and when it ends.

use std::time::Duration;

use capy_types::{ClusterName, Lsn, SystemId, TimelineId, WalFile};
use serde::Serialize;

use crate::PushedWal;

/// WAL that the archive lacks and that will not come any more: a recovery cannot pass it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WalGap {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte that is missing.
    pub from: Lsn,
    /// The first byte after it that is there, or will be.
    pub to: Lsn,
}

/// Something that happened while receiving.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ReceiveEvent {
    /// The server sends WAL.
    Streaming {
        /// The timeline.
        timeline: TimelineId,
        /// From where on.
        from: Lsn,
        /// Whether the server waits for us when it commits.
        synchronous: bool,
    },
    /// The server waits for us when it commits, or no longer does.
    Synchronous(bool),
    /// A file is in the archive.
    Archived(PushedWal),
    /// The timeline has ended.
    TimelineSwitch {
        /// The one that ended.
        from: TimelineId,
        /// The one that follows.
        to: TimelineId,
        /// The first position of it.
        at: Lsn,
    },
    /// WAL is missing.
    Gap(WalGap),
    /// What failed will be tried again.
    Retry {
        /// What failed.
        problem: String,
        /// After how long.
        wait: Duration,
    },
    /// Something to know; the report has it too.
    Notice(String),
}

/// Why receiving ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReceiveEnd {
    /// It was asked to end.
    Stopped,
    /// Everything up to the position asked for is durable.
    ReachedPosition,
}

/// What was received. Everything before [`durable_lsn`](Self::durable_lsn) is durable.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReceiveReport {
    /// The archive.
    pub cluster: ClusterName,
    /// Why it ended.
    pub ended: ReceiveEnd,
    /// The server; null when it never answered.
    pub system_id: Option<SystemId>,
    /// The last timeline received.
    pub timeline: Option<TimelineId>,
    /// Where the first stream began.
    pub start_lsn: Option<Lsn>,
    /// The end of what is durable.
    pub durable_lsn: Option<Lsn>,
    /// Segments archived by this receiver.
    pub segments: u64,
    /// Segments that somebody else had archived before, with the same content.
    pub segments_already_there: u64,
    /// Segments that timelines ended in, as `SEGMENT.partial`: the name under which a fetch gives what
    /// there is of them.
    pub partials: Vec<WalFile>,
    /// Timeline histories archived by this receiver.
    pub histories: Vec<WalFile>,
    /// Pieces of segments in the making that were stored, so that they were durable at once.
    pub parts: u64,
    /// Bytes of WAL received, those again that were received before.
    pub received_bytes: u64,
    /// Bytes it stored.
    pub stored_bytes: u64,
    /// How often it connected again.
    pub reconnects: u64,
    /// WAL that the archive lacks.
    pub gaps: Vec<WalGap>,
    /// What the operator should know, among it what it means that receiving ended.
    pub notices: Vec<String>,
    /// How long it ran.
    #[serde(rename = "elapsed_seconds", serialize_with = "crate::report::seconds")]
    pub elapsed: Duration,
}

impl ReceiveReport {
    pub(super) fn new(cluster: ClusterName) -> Self {
        Self {
            cluster,
            ended: ReceiveEnd::Stopped,
            system_id: None,
            timeline: None,
            start_lsn: None,
            durable_lsn: None,
            segments: 0,
            segments_already_there: 0,
            partials: Vec::new(),
            histories: Vec::new(),
            parts: 0,
            received_bytes: 0,
            stored_bytes: 0,
            reconnects: 0,
            gaps: Vec::new(),
            notices: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }
}
