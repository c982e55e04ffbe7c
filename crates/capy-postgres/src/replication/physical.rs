//! Physical streaming: the write-ahead log as the server writes it, and our answers to it.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol", and `walsender.c`.
//!
//! Invariants: the stream has no gap and no overlap (the server's positions are checked against
//! what was received); a position is reported as flushed only because the caller said so; nothing
//! waits longer than the silence timeout for a server that says nothing; dropping a future of
//! [`WalStream::next`] loses no event. At most one message of ours waits to be sent, and received
//! bytes are held by the one read buffer and by whoever keeps a [`StreamEvent`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use capy_types::{Clock, Lsn, TimelineId, Timestamp};
use postgres_protocol::message::frontend;
use tokio::time::{Instant, timeout, timeout_at};

use super::ReplicationConnection;
use super::connection::unexpected;
use super::slot::SlotName;
use super::wire::{Message, row};
use crate::{PostgresError, ServerError};

#[cfg(test)]
mod tests;

/// PostgreSQL's epoch, 2000-01-01, in microseconds after the Unix one: 10 957 days.
const EPOCH_MICROS: i64 = 10_957 * 86_400 * 1_000_000;

/// Where and how to stream.
#[derive(Debug, Clone)]
pub struct WalStreamSettings {
    /// The slot whose promise to keep WAL moves with the reports.
    pub slot: Option<SlotName>,
    /// The first byte wanted: the start of a segment for an archive.
    pub start: Lsn,
    /// The timeline of that byte.
    pub timeline: TimelineId,
    /// How long the server may say nothing. It is asked for a sign of life after half of it.
    pub silence_timeout: Duration,
}

impl WalStreamSettings {
    /// PostgreSQL's own `wal_receiver_timeout`.
    pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
}

/// One thing the server told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// A piece of WAL, right after the one before.
    Data {
        /// The position of its first byte.
        start: Lsn,
        /// The end of the WAL that the server has.
        server_end: Lsn,
        /// The server's clock.
        server_time: Timestamp,
        /// At most 128 KiB from any server so far. Kept, they hold up to twice as much memory.
        bytes: Bytes,
    },
    /// A sign of life, or the answer to a question of ours.
    Keepalive {
        /// The end of the WAL that the server has.
        server_end: Lsn,
        /// The server's clock.
        server_time: Timestamp,
        /// Whether it asked for an answer, which it has been given.
        reply_requested: bool,
    },
    /// The timeline ends here, and everything of it has been received. Last event, told again
    /// by every further call.
    TimelineEnd {
        /// The timeline that follows: fetch its history and stream it on the connection that
        /// [`WalStream::stop`] gives back.
        next_timeline: TimelineId,
        /// The first position that is no longer on the old one. A server that was itself following
        /// may have sent the beginning of a record that was never finished: bytes from here on
        /// are not part of the new history.
        switch_lsn: Lsn,
    },
}

/// What the server was told last.
#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    written: Lsn,
    flushed: Lsn,
    applied: Lsn,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Streaming,
    /// The server has ended the copy, and says next what follows.
    Ending(Option<Switch>),
    Ended(Switch),
    /// After an error nothing that comes can be trusted to fit.
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Switch {
    next_timeline: TimelineId,
    switch_lsn: Lsn,
}

/// A running stream of WAL.
pub struct WalStream {
    connection: ReplicationConnection,
    clock: Arc<dyn Clock>,
    timeline: TimelineId,
    /// The end of what was received.
    received: Lsn,
    reported: Reported,
    silence_timeout: Duration,
    /// When the server last said something.
    heard: Instant,
    /// When it was asked for a sign of life that it has not given yet.
    asked: Option<Instant>,
    state: State,
    /// A keepalive whose answer is still to be sent.
    ready: Option<StreamEvent>,
}

impl std::fmt::Debug for WalStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalStream")
            .field("connection", &self.connection)
            .field("timeline", &self.timeline)
            .field("received", &self.received)
            .field("reported", &self.reported)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl ReplicationConnection {
    /// Starts streaming. `clock` stamps the reports.
    ///
    /// A start that is exactly where the server left the timeline gives a stream whose first event
    /// is [`StreamEvent::TimelineEnd`].
    ///
    /// # Errors
    /// The server's: [`PostgresError::stream_refusal`] tells the known cases apart. That the WAL has
    /// been removed is noticed by the server only when it reads it, and comes with the first
    /// [`WalStream::next`]. `ConnectionLost` (Unavailable) when the connection breaks, or the server
    /// says nothing for the silence timeout.
    ///
    /// # Cancellation
    /// Safe: the connection is closed.
    pub async fn start_physical(
        self,
        settings: &WalStreamSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<WalStream, PostgresError> {
        let slot = settings.slot.as_ref().map_or(String::new(), |name| format!(" SLOT \"{name}\""));
        let (start, timeline) = (settings.start, settings.timeline);
        let mut stream = WalStream {
            connection: self,
            clock,
            timeline,
            received: start,
            reported: Reported::default(),
            silence_timeout: settings.silence_timeout,
            heard: Instant::now(),
            asked: None,
            state: State::Ending(None),
            ready: None,
        };
        let text = format!("START_REPLICATION{slot} PHYSICAL {start} TIMELINE {timeline}");
        stream.connection.wire.queue(|out| frontend::query(&text, out))?;
        stream.flush().await?;
        while let State::Ending(_) = stream.state {
            let message = stream.hear().await?;
            match message.tag {
                // CopyBothResponse.
                b'W' => stream.state = State::Streaming,
                // No copy: there is nothing after the start on this timeline.
                _ => stream.ending(&message)?,
            }
        }
        Ok(stream)
    }
}

impl WalStream {
    /// The timeline being streamed.
    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The end of what was received: where the next [`StreamEvent::Data`] starts.
    #[must_use]
    pub const fn received(&self) -> Lsn {
        self.received
    }

    /// The next event. When the server asks for an answer it is given what was last reported.
    ///
    /// The server ends a connection it has not heard of for its `wal_sender_timeout`: call this, or
    /// [`WalStream::report`], more often than that.
    ///
    /// # Errors
    /// `ConnectionLost` (Unavailable) when the connection breaks or the server says nothing for the
    /// silence timeout; the server's, of which [`PostgresError::stream_refusal`] tells the known
    /// cases apart and SQLSTATE 57P01 (Unavailable) is its shutdown; `Protocol` (Corrupt) when WAL
    /// does not follow what was received. After an error the stream is of no more use.
    ///
    /// # Cancellation
    /// Safe: no event is lost, and the timeout goes on.
    pub async fn next(&mut self) -> Result<StreamEvent, PostgresError> {
        let event = self.advance().await;
        if event.is_err() {
            self.state = State::Failed;
        }
        event
    }

    async fn advance(&mut self) -> Result<StreamEvent, PostgresError> {
        loop {
            self.check_usable()?;
            self.flush().await?;
            if let Some(event) = self.ready.take() {
                return Ok(event);
            }
            if let State::Ended(Switch { next_timeline, switch_lsn }) = self.state {
                return Ok(StreamEvent::TimelineEnd { next_timeline, switch_lsn });
            }
            let message = self.hear().await?;
            if !matches!(self.state, State::Streaming) {
                self.ending(&message)?;
            } else if let Some(event) = self.streaming(message)? {
                return Ok(event);
            }
        }
    }

    /// Tells the server how far WAL is written, flushed and applied here. What is flushed it may
    /// remove, and commits that wait for us as synchronous standby return: report it only once it
    /// is durable. `applied` may stay [`Lsn::INVALID`] where nothing is applied.
    ///
    /// A server that shuts down in good order waits until all WAL is reported as flushed (as written,
    /// while nothing was ever reported as flushed): who never reports holds it up.
    /// After [`StreamEvent::TimelineEnd`] the server takes no reports, and this does nothing.
    ///
    /// # Errors
    /// `ConnectionLost` (Unavailable) when the server takes nothing for half the silence timeout, or
    /// `Protocol` (Corrupt) when the stream has failed before. That the connection is broken comes
    /// with [`WalStream::next`], after what the server said last.
    ///
    /// # Cancellation
    /// Safe: the report goes out with the next call of any method, or not at all.
    pub async fn report(&mut self, written: Lsn, flushed: Lsn, applied: Lsn) -> Result<(), PostgresError> {
        self.check_usable()?;
        self.reported = Reported { written, flushed, applied };
        let sent = async {
            self.flush().await?;
            if matches!(self.state, State::Streaming) {
                self.queue_status(false)?;
            }
            self.flush().await
        };
        let sent = sent.await;
        if sent.is_err() {
            self.state = State::Failed;
        }
        sent
    }

    /// Ends the stream in good order and gives the connection back. WAL that is under way is
    /// dropped: it comes again when streaming restarts at [`WalStream::received`].
    ///
    /// # Errors
    /// As [`WalStream::next`]; also when the end takes longer than the silence timeout.
    ///
    /// # Cancellation
    /// Safe: the connection is closed.
    pub async fn stop(mut self) -> Result<ReplicationConnection, PostgresError> {
        let limit = self.silence_timeout;
        let stopped = timeout(limit, self.wind_down()).await;
        stopped.unwrap_or_else(|_| Err(self.silent()))?;
        Ok(self.connection)
    }

    async fn wind_down(&mut self) -> Result<(), PostgresError> {
        self.check_usable()?;
        self.flush().await?;
        let asked_by_us = matches!(self.state, State::Streaming);
        if asked_by_us {
            self.state = State::Ending(None);
            self.connection.wire.queue(copy_done)?;
            self.flush().await?;
        }
        while let State::Ending(_) = self.state {
            let message = self.hear().await?;
            match message.tag {
                b'd' | b'c' if asked_by_us => {}
                b'Z' if asked_by_us => return Ok(()),
                _ => self.ending(&message)?,
            }
        }
        Ok(())
    }

    fn check_usable(&self) -> Result<(), PostgresError> {
        match self.state {
            State::Failed => Err(PostgresError::protocol("the WAL stream has failed before".to_owned())),
            _ => Ok(()),
        }
    }

    /// One message. The server is asked for a sign of life after half the silence timeout: it
    /// says nothing by itself while it is idle and hears of us, or when its own timeout is off.
    async fn hear(&mut self) -> Result<Message, PostgresError> {
        loop {
            let since = self.asked.unwrap_or(self.heard);
            let message = timeout_at(since + self.silence_timeout / 2, self.connection.wire.next()).await;
            match message {
                Ok(message) => {
                    self.heard = Instant::now();
                    self.asked = None;
                    return message;
                }
                Err(_) if self.asked.is_some() => return Err(self.silent()),
                Err(_) => {
                    self.asked = Some(Instant::now());
                    if matches!(self.state, State::Streaming) {
                        self.queue_status(true)?;
                        self.flush().await?;
                    }
                }
            }
        }
    }

    /// Sends what is queued. A server that reads nothing is as silent as one that says nothing; one
    /// that is gone may have said why, which is read next, and after that the end is found.
    async fn flush(&mut self) -> Result<(), PostgresError> {
        match timeout(self.silence_timeout / 2, self.connection.wire.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::debug!("not told to the server: {error}");
                self.connection.wire.forget_queued();
                Ok(())
            }
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> PostgresError {
        let limit = self.silence_timeout;
        let source = std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("the server has been silent for {limit:?}"),
        );
        self.connection.wire.lost(source)
    }

    /// A message of the copy. WAL is handed on at once: nothing may come between counting it as
    /// received and the caller's having it.
    fn streaming(&mut self, message: Message) -> Result<Option<StreamEvent>, PostgresError> {
        match message.tag {
            b'd' => {
                let event = self.event(message.body)?;
                if !matches!(event, StreamEvent::Keepalive { reply_requested: true, .. }) {
                    return Ok(Some(event));
                }
                self.queue_status(false)?;
                self.ready = Some(event);
                Ok(None)
            }
            b'c' => {
                self.connection.wire.queue(copy_done)?;
                self.state = State::Ending(None);
                Ok(None)
            }
            // A sender whose server stops completes the command in the middle of the copy.
            b'C' => Err(PostgresError::Server(Box::new(ServerError::local(
                "57P01",
                "the server has ended the stream because it shuts down",
                "connect again once it is back",
            )))),
            _ => Err(unexpected(&message)),
        }
    }

    /// A message after the copy: the one row that says what follows, and the end.
    fn ending(&mut self, message: &Message) -> Result<(), PostgresError> {
        let nonsense = |what: &str| PostgresError::protocol(format!("START_REPLICATION: {what}"));
        let State::Ending(switch) = &mut self.state else { return Err(unexpected(message)) };
        match message.tag {
            b'T' | b'C' => {}
            b'D' => {
                let columns = row(&message.body)?;
                let column = |n: usize| columns.get(n).and_then(Option::as_deref);
                let found = || {
                    Some(Switch {
                        next_timeline: column(0)?.parse().ok()?,
                        switch_lsn: column(1)?.parse().ok()?,
                    })
                };
                *switch = Some(found().ok_or_else(|| nonsense("the next timeline does not parse"))?);
            }
            b'Z' => {
                let switch = switch.ok_or_else(|| nonsense("an end without a next timeline"))?;
                let Switch { next_timeline, switch_lsn } = switch;
                if next_timeline <= self.timeline || switch_lsn > self.received {
                    return Err(nonsense(&format!(
                        "timeline {} came up to {}, but {next_timeline} follows at {switch_lsn}",
                        self.timeline, self.received
                    )));
                }
                self.state = State::Ended(switch);
            }
            _ => return Err(unexpected(message)),
        }
        Ok(())
    }

    /// Reads WAL data or a keepalive.
    fn event(&mut self, mut body: Bytes) -> Result<StreamEvent, PostgresError> {
        let short = |_| PostgresError::protocol("a message of the WAL stream is cut short".to_owned());
        match body.try_get_u8().map_err(short)? {
            b'w' => {
                let start = Lsn::from_u64(body.try_get_u64().map_err(short)?);
                let server_end = Lsn::from_u64(body.try_get_u64().map_err(short)?);
                let server_time = timestamp(body.try_get_i64().map_err(short)?);
                let end = start.as_u64().checked_add(body.len() as u64).map(Lsn::from_u64);
                match end {
                    Some(end) if start == self.received => self.received = end,
                    _ => {
                        return Err(PostgresError::protocol(format!(
                            "{} bytes of WAL at {start} where {} is due",
                            body.len(),
                            self.received
                        )));
                    }
                }
                Ok(StreamEvent::Data { start, server_end, server_time, bytes: body })
            }
            b'k' => Ok(StreamEvent::Keepalive {
                server_end: Lsn::from_u64(body.try_get_u64().map_err(short)?),
                server_time: timestamp(body.try_get_i64().map_err(short)?),
                reply_requested: body.try_get_u8().map_err(short)? != 0,
            }),
            other => {
                let other = char::from(other);
                Err(PostgresError::protocol(format!("a message of type {other:?} in the WAL stream")))
            }
        }
    }

    /// Queues a standby status update.
    fn queue_status(&mut self, reply_requested: bool) -> Result<(), PostgresError> {
        let Reported { written, flushed, applied } = self.reported;
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        for position in [written, flushed, applied] {
            body.put_u64(position.as_u64());
        }
        body.put_i64(self.clock.now().as_micros().saturating_sub(EPOCH_MICROS));
        body.put_u8(u8::from(reply_requested));
        self.connection.wire.queue(|out| {
            frontend::CopyData::new(body.freeze())?.write(out);
            Ok(())
        })
    }
}

fn copy_done(out: &mut BytesMut) -> std::io::Result<()> {
    frontend::copy_done(out);
    Ok(())
}

/// A time of the server's, in microseconds since 2000.
fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros.saturating_add(EPOCH_MICROS))
}
