//! Receive: WAL as the server writes it, over the replication protocol straight into the archive.
//!
//! [`Repository::receive_wal`] is a loop of sessions, each a connection that is looked at (`place`:
//! whose WAL, which timeline, from where) and then read (`session`). What was received and not
//! yet archived outlives a session (`assembly`), as do the uploads under way (`uploads`).
//!
//! Invariants: a position is reported to the server only when everything before it is durable in
//! the archive and was compared with what was there; segments are archived in order, so that the
//! archive of a receiver has no hole that it does not name; of segments, one is filled while at most
//! one other is archived.
//!
//! What is to be durable before its segment is whole is stored in parts (`parts`), small objects
//! beside the archive: nothing is ever rewritten, and whoever receives next begins with what they
//! hold. Recovery reads them as the end of the WAL (`wal::tail`), so that what was acknowledged is
//! there when the server is gone for good.

mod assembly;
mod backoff;
mod behind;
mod crowd;
mod drain;
mod failure;
mod history;
mod pace;
mod parts;
mod place;
mod report;
mod session;
mod standby;
mod start;
mod uploads;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use capy_postgres::{SlotName, WalStreamSettings};
use capy_types::{ClusterName, Ctx, Lsn, SegmentName, SegmentSize, TimelineId};
use tokio::time::sleep;
use tracing::instrument;

use crate::{PostgresServer, Repository, Result};
use assembly::Assembly;
use backoff::Backoff;
use crowd::Crowd;
use failure::{Failure, Outcome};
use pace::Pace;
use standby::Watch;
use uploads::Uploads;

/// Notices in a report: one that comes with every segment must not fill the memory of a receiver that
/// runs for months.
const NOTICES_MAX: usize = 1000;

pub use report::{ReceiveEnd, ReceiveEvent, ReceiveReport, WalGap};

/// How to receive WAL.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// The archive.
    pub cluster: ClusterName,
    /// The server. Its role needs REPLICATION, and `application_name` of the connection is what
    /// `synchronous_standby_names` names.
    pub server: PostgresServer,
    /// The physical replication slot that makes the server keep WAL until it is durable here.
    /// Without it, WAL that the server removes while nobody receives is lost to the archive.
    pub slot: Option<String>,
    /// Make the slot where there is none; also on the server that takes over after a failover.
    pub create_slot: bool,
    /// How long WAL of a segment that is not full may wait to be archived. `None`: until the server
    /// asks for it. When the server waits for us in a commit, nothing waits, whatever is said here.
    pub partial_interval: Option<Duration>,
    /// Start behind WAL that the server no longer has. The archive then has a gap that no recovery
    /// passes: take a base backup right after.
    pub accept_gap: bool,
    /// End once everything before this position is durable.
    pub until: Option<Lsn>,
    /// Connect again after errors that may pass.
    pub reconnect: bool,
    /// How long the server may say nothing, though it was asked after half of it: then the connection
    /// is lost, whatever the network says.
    pub silence_timeout: Duration,
}

impl ReceiveOptions {
    /// For ten seconds, about what a crash of the receiver's machine may cost where no commit
    /// waits: six requests to the store a minute.
    pub const PARTIAL_INTERVAL: Duration = Duration::from_secs(10);

    /// PostgreSQL's own `wal_receiver_timeout`.
    pub const SILENCE_TIMEOUT: Duration = WalStreamSettings::SILENCE_TIMEOUT;

    /// Receives without a slot, for ever.
    #[must_use]
    pub fn new(cluster: ClusterName, server: PostgresServer) -> Self {
        Self {
            cluster,
            server,
            slot: None,
            create_slot: false,
            partial_interval: Some(Self::PARTIAL_INTERVAL),
            accept_gap: false,
            until: None,
            reconnect: true,
            silence_timeout: Self::SILENCE_TIMEOUT,
        }
    }
}

impl Repository {
    /// Receives WAL from a running server into the archive, until cancelled: whole segments as they
    /// complete, timeline histories, and what there is of the segment that is being written, which a
    /// fetch serves with zeros behind it until the whole one is there.
    /// `observer` is told what happens; it must not block.
    ///
    /// Starts after the newest segment of the server's history that the archive has; for a new
    /// archive where the slot stands, or at the beginning of the server's present segment. The
    /// server is told that WAL is flushed only once it is durable in the archive. When
    /// `synchronous_standby_names` names us, that is done as soon as WAL arrives, so that a commit
    /// that has returned is never lost; a setting changed meanwhile is noticed within half a minute.
    ///
    /// Takes memory of about four segments, however large these are: one that is filled, and one that
    /// is archived, which is held sealed and opened again for a moment too. A push of the same cluster's
    /// WAL at the same time does no harm: both store the same bytes.
    ///
    /// # Errors
    /// `Conflict` when the archive is another system's, or has other content of the same segment;
    /// `NotFound` when the slot is missing, or the server no longer has the WAL that is due (the
    /// message says how much is lost); `Invalid`, `Denied`; what may pass only when `reconnect` is
    /// off. What was received by then is made durable first where that is possible.
    ///
    /// # Cancellation
    /// Cancel through `ctx`: what was received is made durable, reported, and the call returns a
    /// report. Dropping the future is safe too; WAL that was not durable then comes again.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let server = PostgresServer::connect_with("host=/run/postgresql user=postgres", |_| None)?;
    /// let mut options = ReceiveOptions::new("main".parse().unwrap(), server);
    /// (options.slot, options.create_slot) = (Some("capy_store".to_owned()), true);
    /// let report = repository.receive_wal(ctx, options, |event| println!("{event:?}")).await?;
    /// println!("durable up to {:?}", report.durable_lsn);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %options.cluster))]
    pub async fn receive_wal(
        &self,
        ctx: &Ctx,
        options: ReceiveOptions,
        mut observer: impl FnMut(ReceiveEvent) + Send,
    ) -> Result<ReceiveReport> {
        let begun = Instant::now();
        let mut receiver = Receiver::new(self, ctx, options, &mut observer)?;
        let ended = receiver.run().await;
        // However it ended: what was received is worth keeping.
        let kept = receiver.drain().await;
        receiver.say_what_it_means();
        let outcome = ended.and_then(|end| kept.map(|()| end));
        match outcome {
            Ok(end) => {
                let mut report = receiver.report;
                (report.ended, report.elapsed) = (end, begun.elapsed());
                Ok(report)
            }
            Err(failure) => Err(failure.into_error()),
        }
    }
}

/// A receiver over all its connections.
struct Receiver<'a> {
    repository: &'a Repository,
    ctx: &'a Ctx,
    options: ReceiveOptions,
    slot: Option<SlotName>,
    /// Whether the slot was there and kept no WAL: the server has given it up, or never made it keep any.
    slot_is_void: bool,
    /// Whether such a slot is to be made again, because a gap is accepted.
    renews_slot: bool,
    tell: &'a mut (dyn FnMut(ReceiveEvent) + Send),
    report: ReceiveReport,
    uploads: Uploads,
    /// The segments in the making, once it is known where to begin.
    assembly: Option<Assembly>,
    segment_size: SegmentSize,
    /// Histories that are in the archive as the server has them.
    histories: BTreeSet<TimelineId>,
    /// Whether the server waits for us when it commits.
    synchronous: bool,
    watch: Watch,
    /// What of the segments in the making is not durable.
    pace: Pace,
    /// A segment that is archived, and whose parts are still there.
    to_sweep: Option<SegmentName>,
    /// Segments of which earlier receivers left parts.
    left: BTreeSet<SegmentName>,
    /// The parts of the segment that is filled.
    crowd: Crowd,
    /// Whether this session has received anything.
    got_on: bool,
}

impl<'a> Receiver<'a> {
    fn new(
        repository: &'a Repository,
        ctx: &'a Ctx,
        options: ReceiveOptions,
        tell: &'a mut (dyn FnMut(ReceiveEvent) + Send),
    ) -> Result<Self> {
        let slot: Option<SlotName> = options.slot.as_deref().map(str::parse).transpose()?;
        if options.create_slot && slot.is_none() {
            return Err(crate::Error::invalid("a slot that is to be made needs a name"));
        }
        Ok(Self {
            repository,
            ctx,
            slot,
            slot_is_void: false,
            renews_slot: false,
            tell,
            report: ReceiveReport::new(options.cluster.clone()),
            uploads: Uploads::new(repository.clone(), options.cluster.clone()),
            assembly: None,
            segment_size: SegmentSize::DEFAULT,
            histories: BTreeSet::new(),
            synchronous: false,
            watch: Watch::new(options.server.settings().clone()),
            pace: Pace::default(),
            to_sweep: None,
            left: BTreeSet::new(),
            crowd: Crowd::default(),
            got_on: false,
            options,
        })
    }

    /// Sessions, one after the other.
    async fn run(&mut self) -> Outcome<ReceiveEnd> {
        let mut backoff = Backoff::default();
        loop {
            let failure = match self.session().await {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => continue,
                Err(failure) => self.judge(failure)?,
            };
            if std::mem::take(&mut self.got_on) {
                backoff.reset();
            }
            let wait = backoff.next(self.repository.entropy());
            (self.tell)(ReceiveEvent::Retry { problem: failure.to_string(), wait });
            tokio::select! {
                () = self.ctx.cancel.cancelled() => return Ok(ReceiveEnd::Stopped),
                () = sleep(wait) => self.report.reconnects += 1,
            }
        }
    }

    /// A failure after which another session may do better.
    fn judge(&mut self, failure: Failure) -> Outcome<Failure> {
        if self.options.reconnect && failure.is_transient() { Ok(failure) } else { Err(failure) }
    }

    fn notice(&mut self, text: impl Into<String>) {
        let text = text.into();
        // Once, not at each connection.
        if self.report.notices.contains(&text) {
            return;
        }
        if self.report.notices.len() < NOTICES_MAX {
            self.report.notices.push(text.clone());
        }
        (self.tell)(ReceiveEvent::Notice(text));
    }

    fn gap(&mut self, gap: WalGap) {
        self.report.gaps.push(gap);
        (self.tell)(ReceiveEvent::Gap(gap));
    }

    /// What follows from nobody receiving any more.
    fn say_what_it_means(&mut self) {
        if self.report.system_id.is_none() {
            return;
        }
        if self.synchronous {
            let name = &self.options.server.settings().application_name;
            self.notice(format!(
                "the server names {name:?} in synchronous_standby_names: where no other standby stands in, \
                 commits wait until it receives again or the name is taken out"
            ));
        }
        match &self.slot {
            Some(slot) => self.notice(format!(
                "the slot {slot} makes the server keep its WAL until somebody receives again: pg_wal grows; \
                 if nobody will, drop the slot"
            )),
            None => self.notice(
                "without a slot the server may remove WAL before somebody receives again: then the archive \
                 has a gap",
            ),
        }
    }
}
