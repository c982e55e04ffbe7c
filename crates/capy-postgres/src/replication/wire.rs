//! Messages on a byte stream: `[tag][length][body]`.
//!
//! Invariant: reading is safe to cancel at any await; a message longer than the limit is refused
//! before anything is allocated for it.

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

    fn lost(&self, source: io::Error) -> PostgresError {
        PostgresError::ConnectionLost { host: self.host(), source }
    }

    /// Encodes with `encode` and sends.
    pub(super) async fn send(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), PostgresError> {
        self.write.clear();
        encode(&mut self.write)
            .map_err(|error| PostgresError::protocol(format!("cannot encode a request: {error}")))?;
        let sent = self.transport.stream.write_all(&self.write).await;
        sent.map_err(|error| self.lost(error))?;
        self.transport.stream.flush().await.map_err(|error| self.lost(error))
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
                self.read.reserve((length + 1 - self.read.len()).max(READ_BYTES));
            } else {
                self.read.reserve(READ_BYTES);
            }
            let read =
                self.transport.stream.read_buf(&mut self.read).await.map_err(|error| self.lost(error))?;
            if read == 0 {
                return Err(self
                    .lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")));
            }
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
pub(super) fn row(body: &[u8]) -> Result<Vec<Option<String>>, PostgresError> {
    let broken = || PostgresError::protocol("a data row that does not parse".to_owned());
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(broken)?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        rest = after;
        let length = i32::from_be_bytes(*length);
        if length == -1 {
            columns.push(None);
            continue;
        }
        let length = usize::try_from(length).map_err(|_| broken())?;
        let (value, after) = rest.split_at_checked(length).ok_or_else(broken)?;
        columns.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    Ok(columns)
}
