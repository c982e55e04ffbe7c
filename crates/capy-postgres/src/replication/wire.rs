//! Messages on a byte stream: `[tag][length][body]`.
//!
//! Invariants: reading and writing are safe to cancel at any await: bytes read stay for the next
//! call, bytes not yet written go out before anything else does. A message longer than the limit
//! is refused before anything is allocated for it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connect::Transport;
use crate::{PostgresError, ServerError};

/// Longest message accepted in bytes: the server sends at most 40 KiB of a base backup at once and
/// error texts of a few KiB.
const MESSAGE_MAX_BYTES: usize = 64 << 20;
/// Room kept for reading: several messages per system call.
const READ_BYTES: usize = 256 * 1024;
/// With less room than this a new buffer is taken. Messages share a buffer, so that one of 100 bytes
/// that somebody keeps does not hold 256 KiB for itself; those kept hold at most twice their size.
const READ_MIN_BYTES: usize = 32 * 1024;

/// One message of the server.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// A connection that speaks messages.
pub(super) struct Wire {
    transport: Transport,
    read: BytesMut,
    write: BytesMut,
}

impl Wire {
    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, read: BytesMut::with_capacity(READ_BYTES), write: BytesMut::new() }
    }

    pub(super) fn host(&self) -> String {
        self.transport.host.to_string()
    }

    pub(super) fn lost(&self, source: io::Error) -> PostgresError {
        PostgresError::ConnectionLost { host: self.host(), source }
    }

    /// Encodes with `encode` and sends, after what an earlier, cancelled call left.
    ///
    /// Safe to cancel: what was encoded goes out with the next call of this or of `flush`.
    pub(super) async fn send(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), PostgresError> {
        self.flush().await?;
        self.queue(encode)?;
        self.flush().await
    }

    /// Encodes with `encode` and leaves the sending to `flush`.
    ///
    /// The caller has flushed since it last queued: at most one message waits.
    pub(super) fn queue(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), PostgresError> {
        let before = self.write.len();
        encode(&mut self.write).map_err(|error| {
            self.write.truncate(before);
            PostgresError::protocol(format!("cannot encode a request: {error}"))
        })
    }

    /// Sends what is queued. Safe to cancel.
    pub(super) async fn flush(&mut self) -> Result<(), PostgresError> {
        while !self.write.is_empty() {
            let sent = self.transport.stream.write_buf(&mut self.write).await;
            if sent.map_err(|error| self.lost(error))? == 0 {
                return Err(self.lost(io::ErrorKind::WriteZero.into()));
            }
        }
        self.transport.stream.flush().await.map_err(|error| self.lost(error))
    }

    /// Gives up what is queued: nobody is there to take it.
    pub(super) fn forget_queued(&mut self) {
        self.write.clear();
    }

    /// The next message that is neither a notice nor a parameter; errors of the server become
    /// errors here.
    pub(super) async fn next(&mut self) -> Result<Message, PostgresError> {
        loop {
            let message = self.any().await?;
            match message.tag {
                b'E' => return Err(PostgresError::Server(Box::new(ServerError::parse(&message.body)))),
                b'N' => {
                    let notice = ServerError::parse(&message.body);
                    tracing::info!(code = notice.code, "server: {}", notice.message);
                }
                b'S' | b'K' | b'A' | b'v' => {}
                _ => return Ok(message),
            }
        }
    }

    async fn any(&mut self) -> Result<Message, PostgresError> {
        loop {
            if let Some((tag, length)) = self.header()? {
                if self.read.len() > length {
                    let mut message = self.read.split_to(length + 1);
                    message.advance(5);
                    return Ok(Message { tag, body: message.freeze() });
                }
                self.make_room(length + 1 - self.read.len());
            } else {
                self.make_room(READ_MIN_BYTES);
            }
            let read =
                self.transport.stream.read_buf(&mut self.read).await.map_err(|error| self.lost(error))?;
            if read == 0 {
                return Err(self
                    .lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")));
            }
        }
    }

    fn make_room(&mut self, needed: usize) {
        if self.read.capacity() - self.read.len() < needed.max(READ_MIN_BYTES) {
            self.read.reserve(needed.max(READ_BYTES));
        }
    }

    /// Tag and length (without the tag) of the message at the front.
    fn header(&self) -> Result<Option<(u8, usize)>, PostgresError> {
        let Some([tag, a, b, c, d]) = self.read.first_chunk::<5>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MESSAGE_MAX_BYTES).contains(&length) {
            return Err(PostgresError::protocol(format!("a message of {length} bytes")));
        }
        Ok(Some((tag, length)))
    }
}

/// The columns of a data row as text.
pub(super) fn row(body: &Bytes) -> Result<Vec<Option<String>>, PostgresError> {
    let text = |value: Bytes| String::from_utf8_lossy(&value).into_owned();
    Ok(raw_row(body)?.into_iter().map(|column| column.map(text)).collect())
}

/// The columns of a data row as they came.
pub(super) fn raw_row(body: &Bytes) -> Result<Vec<Option<Bytes>>, PostgresError> {
    let broken = || PostgresError::protocol("a data row that does not parse".to_owned());
    let mut rest = body.clone();
    let count = rest.try_get_u16().map_err(|_| broken())?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let length = rest.try_get_i32().map_err(|_| broken())?;
        if length == -1 {
            columns.push(None);
            continue;
        }
        let length = usize::try_from(length).map_err(|_| broken())?;
        if length > rest.len() {
            return Err(broken());
        }
        columns.push(Some(rest.split_to(length)));
    }
    Ok(columns)
}
