//! A server that is only bytes: what it says is written beforehand, what it is told is dropped.
//!
//! For the fuzz target and its short seeded run: whatever a server sends, the client must come to
//! an end with data or an error, without panic and in bounded memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BaseBackup, BaseBackupOptions, ReplicationConnection};
use crate::PostgresError;
use crate::connect::{Host, Transport};

/// Reads the script, accepts everything.
struct Script(io::Cursor<Vec<u8>>);

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Logs in, asks who the server is and takes a base backup from it; returns how many events came.
///
/// # Errors
/// Whatever the script brings about: a script that ends early is a lost connection.
pub async fn base_backup_from_script(script: &[u8], version: u32) -> Result<u64, PostgresError> {
    let stream = Box::new(Script(io::Cursor::new(script.to_vec())));
    let host = Host { name: "scripted".to_owned(), port: 0 };
    let mut connection = ReplicationConnection::over(Transport { stream, host }).await?;
    connection.identify_system().await?;
    let options = BaseBackupOptions {
        label: "label".to_owned(),
        fast_checkpoint: true,
        include_wal: false,
        incremental_from: None,
    };
    let mut backup = BaseBackup::start(connection, version, &options).await?;
    let mut events = 0;
    while backup.next().await?.is_some() {
        events += 1;
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use capy_types::{Entropy, SeededEntropy};

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short");
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn data_row(columns: &[&str]) -> Vec<u8> {
        let mut body = u16::try_from(columns.len()).expect("few").to_be_bytes().to_vec();
        for column in columns {
            body.extend(u32::try_from(column.len()).expect("short").to_be_bytes());
            body.extend(column.as_bytes());
        }
        message(b'D', &body)
    }

    /// A whole conversation with a server of version 15.
    fn conversation() -> Vec<Vec<u8>> {
        vec![
            message(b'R', &[0; 4]),
            message(b'S', b"server_version\x0015.1\0"),
            message(b'Z', b"I"),
            data_row(&["7428000000000000000", "1", "0/3000000"]),
            message(b'C', b"IDENTIFY_SYSTEM\0"),
            message(b'Z', b"I"),
            data_row(&["0/2000028", "1"]),
            message(b'C', b"SELECT\0"),
            data_row(&["16384", "/mnt/fast", "10"]),
            data_row(&["", "", "20000"]),
            message(b'C', b"SELECT\0"),
            message(b'H', &[0, 0, 0]),
            message(b'd', b"n16384.tar\0/mnt/fast\0"),
            message(b'd', b"dtable"),
            message(b'd', b"nbase.tar\0\0"),
            message(b'd', b"dbase"),
            message(b'd', b"p\0\0\0\0\0\0\0\x09"),
            message(b'd', b"m"),
            message(b'd', b"d{}"),
            message(b'c', b""),
            data_row(&["0/2000100", "1"]),
            message(b'C', b"SELECT\0"),
            message(b'C', b"BASE_BACKUP\0"),
            message(b'Z', b"I"),
        ]
    }

    #[tokio::test]
    async fn a_whole_conversation_is_understood_and_a_cut_one_is_a_lost_connection() {
        let whole = conversation().concat();
        let events = base_backup_from_script(&whole, 150_000).await.expect("a good server");
        assert_eq!(events, 8);
        for length in 0..whole.len() {
            let error = base_backup_from_script(&whole[..length], 150_000).await.expect_err("cut off");
            assert!(matches!(error, PostgresError::ConnectionLost { .. }), "at {length}: {error}");
        }
    }

    #[tokio::test]
    async fn numbers_without_measure_do_no_harm() {
        let mut script = conversation();
        script[9] = data_row(&["", "", "18446744073709551615"]);
        base_backup_from_script(&script.concat(), 150_000).await.expect("an estimate is only that");
    }

    #[tokio::test]
    async fn noise_ends_in_an_answer() {
        const SEED: u64 = 20_261_121;
        println!("seed {SEED}");
        let entropy = SeededEntropy::new(SEED);
        let random = || {
            let mut bytes = [0; 8];
            entropy.fill(&mut bytes);
            u64::from_le_bytes(bytes) as usize
        };
        for _ in 0..20_000 {
            let mut messages = conversation();
            let at = random() % messages.len();
            match random() % 4 {
                0 => drop(messages.remove(at)),
                1 => messages.swap(at, random() % 24),
                2 => messages.insert(at, messages[random() % 24].clone()),
                _ => {}
            }
            let mut script = messages.concat();
            for _ in 0..random() % 4 {
                let at = random() % script.len();
                script[at] = random() as u8;
            }
            let version = [130_000, 150_000][random() % 2];
            let _ = base_backup_from_script(&script, version).await;
        }
    }
}
