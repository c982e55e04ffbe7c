//! A replication connection: startup, authentication, and simple commands.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use capy_types::{Lsn, Secret, SystemId, TimelineId};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend::{self, CopyData};

use super::wire::{Message, Wire, raw_row, row};
use crate::connect::{self, ConnectSettings};
use crate::{PostgresError, ServerError};

/// How long a server may say nothing after a simple command: it looks something up or makes a small
/// file. One that was stopped or lost its disk would else be waited for without end and without a word.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes sent as one message of a copy.
const COPY_BYTES: usize = 64 * 1024;

/// What `IDENTIFY_SYSTEM` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster.
    pub system_id: SystemId,
    /// Its present timeline.
    pub timeline: TimelineId,
    /// Its present flush position.
    pub flush_lsn: Lsn,
}

/// A connection in replication mode.
pub struct ReplicationConnection {
    pub(super) wire: Wire,
    answer_timeout: Duration,
}

impl std::fmt::Debug for ReplicationConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicationConnection").field("host", &self.wire.host()).finish()
    }
}

impl ReplicationConnection {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// No host answers (Unavailable), the server refuses us (Denied), TLS does not come about.
    ///
    /// # Cancellation
    /// Safe: the connection is closed.
    pub async fn open(settings: &ConnectSettings) -> Result<Self, PostgresError> {
        let transport = connect::open(settings).await?;
        let password = settings.password_for(&transport.host);
        let mut wire = Wire::new(transport);
        let parameters = [
            ("user", settings.user.as_str()),
            ("replication", "true"),
            ("application_name", settings.application_name.as_str()),
            ("client_encoding", "UTF8"),
        ];
        let authenticate = async {
            wire.send(|out| frontend::startup_message(parameters, out)).await?;
            authenticate(&mut wire, &settings.user, password.as_ref()).await
        };
        match tokio::time::timeout(settings.connect_timeout, authenticate).await {
            Ok(done) => done?,
            Err(_) => {
                let source = io::Error::new(io::ErrorKind::TimedOut, "no answer within the connect timeout");
                return Err(PostgresError::Connect { host: wire.host(), source });
            }
        }
        Ok(Self { wire, answer_timeout: ANSWER_TIMEOUT })
    }

    /// Logs in without a password on a byte stream that is there already.
    pub(super) async fn over(transport: connect::Transport) -> Result<Self, PostgresError> {
        let mut wire = Wire::new(transport);
        authenticate(&mut wire, "postgres", None).await?;
        Ok(Self { wire, answer_timeout: ANSWER_TIMEOUT })
    }

    /// Runs one command and returns the rows of its results, one list per result.
    pub(super) async fn command(
        &mut self,
        text: &str,
    ) -> Result<Vec<Vec<Vec<Option<String>>>>, PostgresError> {
        self.run(text, row).await
    }

    /// As `command`, with the columns as they came, for commands that answer bytes.
    pub(super) async fn raw_command(
        &mut self,
        text: &str,
    ) -> Result<Vec<Vec<Vec<Option<Bytes>>>>, PostgresError> {
        self.run(text, raw_row).await
    }

    async fn run<R>(
        &mut self,
        text: &str,
        read_row: fn(&Bytes) -> Result<R, PostgresError>,
    ) -> Result<Vec<Vec<R>>, PostgresError> {
        self.wire.send(|out| frontend::query(text, out)).await?;
        let (mut results, mut rows) = (Vec::new(), Vec::new());
        let mut failure = None;
        loop {
            match self.answer(text).await {
                Ok(Message { tag: b'D', body }) => rows.push(read_row(&body)?),
                Ok(Message { tag: b'C', .. }) => results.push(std::mem::take(&mut rows)),
                Ok(Message { tag: b'T' | b'I', .. }) => {}
                Ok(Message { tag: b'Z', .. }) => return failure.map_or(Ok(results), Err),
                Ok(other) => return Err(unexpected(&other)),
                // After its error the server still says that it is ready.
                Err(error @ PostgresError::Server(_)) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message of the answer to `text`.
    async fn answer(&mut self, text: &str) -> Result<Message, PostgresError> {
        let limit = self.answer_timeout;
        let answer = tokio::time::timeout(limit, self.wire.next()).await;
        answer.unwrap_or_else(|_| {
            let what = format!("the server has not answered {text} for {limit:?}");
            Err(self.wire.lost(io::Error::new(io::ErrorKind::TimedOut, what)))
        })
    }

    /// Which cluster this is.
    ///
    /// # Errors
    /// The server's, or a broken connection; so, too, when it does not answer for a minute, as with
    /// every simple command of this connection.
    ///
    /// # Cancellation
    /// The connection cannot be used afterwards.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, PostgresError> {
        let results = self.command("IDENTIFY_SYSTEM").await?;
        let columns = results.first().and_then(|rows| rows.first());
        let column = |n: usize| columns.and_then(|row| row.get(n)).and_then(Option::as_deref);
        let identity = || {
            Some(SystemIdentity {
                system_id: SystemId::from_u64(column(0)?.parse().ok()?),
                timeline: column(1)?.parse().ok()?,
                flush_lsn: column(2)?.parse().ok()?,
            })
        };
        identity().ok_or_else(|| PostgresError::protocol("IDENTIFY_SYSTEM answered nonsense".to_owned()))
    }

    /// Gives the server the `backup_manifest` that the next base backup on this connection builds
    /// on (`UPLOAD_MANIFEST`, PostgreSQL 17 and later).
    ///
    /// # Errors
    /// The server's: WAL is not summarised, or the manifest is another system's. The connection
    /// can be used all the same.
    pub(super) async fn upload_manifest(&mut self, manifest: &Bytes) -> Result<(), PostgresError> {
        self.wire.send(|out| frontend::query("UPLOAD_MANIFEST", out)).await?;
        let mut failure = None;
        loop {
            match self.wire.next().await {
                Ok(Message { tag: b'G', .. }) => {
                    for piece in manifest.chunks(COPY_BYTES) {
                        let data = CopyData::new(piece).map_err(|error| {
                            PostgresError::protocol(format!("a backup manifest: {error}"))
                        })?;
                        self.wire
                            .send(|out| {
                                data.write(out);
                                Ok(())
                            })
                            .await?;
                    }
                    self.wire
                        .send(|out| {
                            frontend::copy_done(out);
                            Ok(())
                        })
                        .await?;
                }
                Ok(Message { tag: b'C', .. }) => {}
                Ok(Message { tag: b'Z', .. }) => return failure.map_or(Ok(()), Err),
                Ok(other) => return Err(unexpected(&other)),
                // After its error the server still says that it is ready.
                Err(error @ PostgresError::Server(_)) => failure = Some(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// The server's, or a broken connection.
    ///
    /// # Cancellation
    /// The connection cannot be used afterwards.
    pub async fn show(&mut self, setting: &str) -> Result<String, PostgresError> {
        let results = self.command(&format!("SHOW {setting}")).await?;
        let value = results.into_iter().flatten().flatten().flatten().next();
        value.ok_or_else(|| PostgresError::protocol(format!("SHOW {setting} answered nothing")))
    }
}

pub(super) fn unexpected(message: &Message) -> PostgresError {
    PostgresError::protocol(format!("unexpected message {:?} from the server", char::from(message.tag)))
}

async fn authenticate(wire: &mut Wire, user: &str, password: Option<&Secret>) -> Result<(), PostgresError> {
    let password = || {
        password.ok_or_else(|| {
            PostgresError::Server(Box::new(ServerError::local(
                "28P01",
                "the server asks for a password and none was given",
                "set PGPASSWORD, or put a line into the password file (mode 0600)",
            )))
        })
    };
    loop {
        let message = wire.next().await?;
        match message.tag {
            b'Z' => return Ok(()),
            b'R' => {}
            _ => return Err(unexpected(&message)),
        }
        let broken = || PostgresError::protocol("an authentication request that does not parse".to_owned());
        let (code, rest) = message.body.split_first_chunk::<4>().ok_or_else(broken)?;
        match u32::from_be_bytes(*code) {
            0 => {}
            3 => {
                let password = password()?.clone();
                wire.send(|out| frontend::password_message(password.expose(), out)).await?;
            }
            5 => {
                let salt = *rest.first_chunk::<4>().ok_or_else(broken)?;
                let hash = md5_hash(user.as_bytes(), password()?.expose(), salt);
                wire.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
            }
            10 => scram(wire, rest, password()?).await?,
            other => {
                return Err(PostgresError::Server(Box::new(ServerError::local(
                    "28000",
                    &format!("the server asks for authentication method {other}, which is not supported"),
                    "use scram-sha-256, md5, password, cert-less TLS or trust in pg_hba.conf",
                ))));
            }
        }
    }
}

/// SCRAM-SHA-256 (RFC 7677), without channel binding.
async fn scram(wire: &mut Wire, mechanisms: &[u8], password: &Secret) -> Result<(), PostgresError> {
    if !mechanisms.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
        return Err(PostgresError::protocol("the server offers no SCRAM-SHA-256".to_owned()));
    }
    let refused = |error: io::Error| {
        PostgresError::Server(Box::new(ServerError::local(
            "28P01",
            &format!("password authentication failed: {error}"),
            "check the password",
        )))
    };
    let mut scram = ScramSha256::new(password.expose(), ChannelBinding::unsupported());
    wire.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
    let step = sasl_step(wire, 11).await?;
    scram.update(&step).map_err(refused)?;
    wire.send(|out: &mut BytesMut| frontend::sasl_response(scram.message(), out)).await?;
    let last = sasl_step(wire, 12).await?;
    // Proves that the server knows the password too.
    scram.finish(&last).map_err(refused)
}

async fn sasl_step(wire: &mut Wire, expected: u32) -> Result<Vec<u8>, PostgresError> {
    let message = wire.next().await?;
    match message.body.split_first_chunk::<4>() {
        Some((code, rest)) if message.tag == b'R' && u32::from_be_bytes(*code) == expected => {
            Ok(rest.to_vec())
        }
        _ => Err(unexpected(&message)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::connect::{Host, Transport};

    #[tokio::test]
    async fn a_server_that_does_not_answer_a_command_is_lost() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        // It lets us in, and never says more.
        theirs.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await.expect("there is room");
        let host = Host { name: "frozen".to_owned(), port: 0 };
        let mut connection =
            ReplicationConnection::over(Transport { stream: Box::new(ours), host }).await.expect("let in");
        connection.answer_timeout = Duration::from_millis(50);
        let error = connection.identify_system().await.expect_err("no answer");
        assert!(
            matches!(&error, PostgresError::ConnectionLost { source, .. } if source.kind() == io::ErrorKind::TimedOut),
            "{error}"
        );
        drop(connection);
        let mut asked = Vec::new();
        theirs.read_to_end(&mut asked).await.expect("read");
        assert_eq!(asked, b"Q\0\0\0\x14IDENTIFY_SYSTEM\0");
    }
}
