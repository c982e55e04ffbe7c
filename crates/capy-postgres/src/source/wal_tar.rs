//! Puts the WAL of `pg_wal.tar` into the base archive, where `pg_basebackup -X fetch` has it.
//!
//! `pg_basebackup -Ft` writes WAL streamed beside the backup (`-X stream`, its default) into a tar
//! of its own, with names relative to `pg_wal`. As one archive the backup is complete in itself,
//! and every reader knows one layout only.
//!
//! Invariant: the base archive's bytes pass unchanged up to its end marker.

use bytes::Bytes;

use crate::PostgresError;
use crate::tar::{END_BYTES, TarEntry, TarError, TarEvent, TarParser, TarWriteError, TarWriter};

/// Follows the base archive and finds where its end marker begins.
#[derive(Debug, Default)]
pub(super) struct BaseEnd {
    parser: TarParser,
    held_zeros: usize,
}

impl BaseEnd {
    /// The part of `bytes` that lies before the end marker. `bytes` must be whole blocks, except
    /// at the end of the tar.
    pub(super) fn pass(&mut self, bytes: &Bytes) -> Result<Bytes, TarError> {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let (taken, _) = self.parser.feed(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        let zeros = usize::try_from(self.parser.trailing_zero_bytes()).unwrap_or(usize::MAX);
        let new_zeros = zeros.saturating_sub(self.held_zeros).min(bytes.len());
        self.held_zeros = zeros;
        Ok(bytes.slice(..bytes.len() - new_zeros))
    }

    /// # Errors
    /// [`TarError`] when the base archive ended inside an entry or a block.
    pub(super) fn finish(self) -> Result<(), TarError> {
        let end = self.parser.finish()?;
        if end.trailing_zero_bytes != self.held_zeros as u64 {
            let offset = end.bytes - end.trailing_zero_bytes;
            return Err(TarError::Header { offset, problem: "the last block is not whole" });
        }
        Ok(())
    }
}

/// Rewrites the headers of `pg_wal.tar` as entries of the base archive.
#[derive(Debug, Default)]
pub(super) struct WalEntries {
    parser: TarParser,
    writer: TarWriter,
}

/// Why `pg_wal.tar` could not be taken over.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum WalTarError {
    Read(#[from] TarError),
    Write(#[from] TarWriteError),
}

impl WalTarError {
    /// The error of the file `what`.
    pub(super) fn of(self, what: &str) -> PostgresError {
        match self {
            Self::Read(source) => PostgresError::tar(what, source),
            Self::Write(source) => PostgresError::WalTar { what: what.to_owned(), source },
        }
    }
}

impl WalEntries {
    /// The bytes that stand for `bytes` in the base archive; may be empty.
    pub(super) fn rewrite(&mut self, bytes: &[u8]) -> Result<Bytes, WalTarError> {
        let (mut rest, mut out) = (bytes, Vec::with_capacity(bytes.len()));
        loop {
            let (taken, event) = self.parser.feed(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
            match event {
                TarEvent::Entry(entry) => self.writer.begin(&below_pg_wal(entry), &mut out)?,
                TarEvent::Data(data) => {
                    self.writer.passed(data.len() as u64)?;
                    out.extend_from_slice(data);
                }
                TarEvent::EndEntry => self.writer.end(&mut out)?,
                TarEvent::NeedMore => return Ok(out.into()),
            }
        }
    }

    /// The end marker of the joined archive.
    pub(super) fn finish(self) -> Result<Bytes, WalTarError> {
        self.parser.finish()?;
        let mut out = Vec::new();
        self.writer.finish(END_BYTES as u32, &mut out)?;
        Ok(out.into())
    }
}

fn below_pg_wal(entry: TarEntry) -> TarEntry {
    TarEntry { path: [b"pg_wal/", entry.path.as_slice()].concat(), ..entry }
}
