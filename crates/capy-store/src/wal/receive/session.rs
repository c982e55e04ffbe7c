//! One connection: reading the stream while segments are archived beside it.

use std::sync::Arc;
use std::time::Duration;

use capy_postgres::{ReplicationConnection, StreamEvent, WalStream, WalStreamSettings};
use capy_types::{Lsn, SegmentName, TimelineId};
use tokio::time::{Instant, sleep, sleep_until};

use super::assembly::Assembly;
use super::failure::Outcome;
use super::pace::Haste;
use super::place::Place;
use super::{ReceiveEnd, ReceiveEvent, Receiver};

/// How often the server hears of us while nothing can be read: well within any `wal_sender_timeout`
/// that is not absurd.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How a stream ended.
enum Followed {
    /// Receiving is over.
    Ended(ReceiveEnd),
    /// The timeline is.
    Switched(Box<ReplicationConnection>),
}

impl Receiver<'_> {
    /// Connects and receives until something ends it; `None` when it is to connect again at once,
    /// behind a gap.
    pub(super) async fn session(&mut self) -> Outcome<Option<ReceiveEnd>> {
        let cancel = self.ctx.cancel.clone();
        let place = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(Some(ReceiveEnd::Stopped)),
            place = self.connect() => place?,
        };
        let Place { mut connection, kept_from, flushed } = place;
        loop {
            let followed = match self.stream(connection).await {
                Ok(followed) => followed,
                Err(failure) if failure.is_removed_wal() => {
                    self.lost_wal(&failure, kept_from, flushed).await?;
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            };
            match followed {
                Followed::Ended(end) => return Ok(Some(end)),
                Followed::Switched(next) => connection = *next,
            }
        }
    }

    /// Streams one timeline.
    async fn stream(&mut self, connection: ReplicationConnection) -> Outcome<Followed> {
        let assembly = self.assembly();
        let settings = WalStreamSettings {
            slot: self.slot.clone(),
            start: assembly.received(),
            timeline: assembly.timeline(),
            silence_timeout: self.options.silence_timeout,
        };
        let clock = Arc::clone(&self.repository.repo.env().clock);
        let mut stream = connection.start_physical(&settings, clock).await?;
        (self.tell)(ReceiveEvent::Streaming {
            timeline: settings.timeline,
            from: settings.start,
            synchronous: self.synchronous,
        });
        let Some((next, at)) = self.follow(&mut stream).await? else {
            let end = if self.ctx.cancel.is_cancelled() {
                ReceiveEnd::Stopped
            } else {
                ReceiveEnd::ReachedPosition
            };
            // Everything is durable and told: how the connection ends does not matter.
            if let Err(error) = stream.stop().await {
                tracing::debug!("the stream did not end in good order: {error}");
            }
            return Ok(Followed::Ended(end));
        };
        let mut connection = stream.stop().await?;
        self.switch_timeline(&mut connection, next, at).await?;
        Ok(Followed::Switched(Box::new(connection)))
    }

    /// Reads until the timeline ends, and returns what follows; `None` once receiving is over and
    /// everything is durable.
    async fn follow(&mut self, stream: &mut WalStream) -> Outcome<Option<(TimelineId, Lsn)>> {
        let cancel = self.ctx.cancel.clone();
        let mut reported = Lsn::INVALID;
        loop {
            let over = cancel.is_cancelled() || self.is_reached();
            let due = self.start_uploads(if over { Haste::Now } else { self.haste() });
            let durable = self.assembly().durable();
            if let Some(more) = self.assembly_mut().acknowledge(reported) {
                reported = more;
                stream.report(more, more, more).await?;
            }
            if over && durable == self.assembly().received() {
                return Ok(None);
            }
            let reads = !over && self.assembly().has_room();
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !over => {}
                uploaded = self.uploads.next() => self.settle(uploaded)?,
                event = stream.next(), if reads => if let Some(switch) = self.take(event?)? {
                    return Ok(Some(switch));
                },
                synchronous = self.watch.next(), if reads => self.is_synchronous(synchronous),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                // What was reported last says that we live.
                () = sleep(SIGN_OF_LIFE), if !reads => stream.report(reported, reported, reported).await?,
            }
        }
    }

    fn is_reached(&self) -> bool {
        self.options.until.is_some_and(|until| self.assembly().received() >= until)
    }

    fn is_synchronous(&mut self, synchronous: bool) {
        if std::mem::replace(&mut self.synchronous, synchronous) != synchronous {
            (self.tell)(ReceiveEvent::Synchronous(synchronous));
        }
    }

    /// One thing the server told; the next timeline when this one has ended.
    fn take(&mut self, event: StreamEvent) -> Outcome<Option<(TimelineId, Lsn)>> {
        self.got_on = true;
        match event {
            StreamEvent::Data { bytes, .. } => {
                self.report.received_bytes += bytes.len() as u64;
                self.assembly_mut().accept(bytes)?;
                self.pace.came(Instant::now());
            }
            StreamEvent::Keepalive { reply_requested: true, .. } => self.pace.asked(),
            StreamEvent::Keepalive { .. } => {}
            StreamEvent::TimelineEnd { next_timeline, switch_lsn } => {
                return Ok(Some((next_timeline, switch_lsn)));
            }
        }
        Ok(None)
    }

    /// Puts the end of a timeline into the archive, and begins the next one where it does.
    async fn switch_timeline(
        &mut self,
        connection: &mut ReplicationConnection,
        next: TimelineId,
        at: Lsn,
    ) -> Outcome<()> {
        let from = self.assembly().timeline();
        // First, so that nobody takes the end of the old timeline's segment for the new one's.
        self.archive_history(connection, next).await?;
        self.leave().await?;
        // The new timeline's copy of the segment begins with what the old one had before the switch.
        let name = SegmentName::containing(next, at, self.segment_size);
        self.assembly = Some(Assembly::at(name, bytes::Bytes::new()));
        self.report.timeline = Some(next);
        (self.tell)(ReceiveEvent::TimelineSwitch { from, to: next, at });
        Ok(())
    }

    pub(super) fn assembly(&self) -> &Assembly {
        self.assembly.as_ref().expect("connecting has settled where to receive")
    }

    fn assembly_mut(&mut self) -> &mut Assembly {
        self.assembly.as_mut().expect("connecting has settled where to receive")
    }
}
