//! The tar writer: header bytes, padding and end marker, the very ones PostgreSQL writes.
//!
//! Data itself does not pass through; the caller says how much of it went by, and the writer
//! refuses an entry that got more or less than its header says.

use super::header::{self, Block};
use super::{EntryKind, TarEntry, padding_bytes};

/// An entry that a tar cannot hold, or a writer used out of turn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarWriteError {
    /// A field's value has no form in a tar header.
    #[error("cannot write {path:?} to a tar: {problem}")]
    Entry {
        /// The entry's path, lossily as text.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The data given is not as long as the header says.
    #[error("wrong length of {path:?}: its tar header says {expected} bytes, {found} came")]
    Length {
        /// The entry's path, lossily as text.
        path: String,
        /// Bytes the header says.
        expected: u64,
        /// Bytes that came, at least.
        found: u64,
    },
}

/// Writes a tar's framing; it does no I/O.
///
/// For every entry: [`TarWriter::begin`], the data (told by [`TarWriter::passed`]),
/// [`TarWriter::end`]. Last comes [`TarWriter::finish`].
#[derive(Debug, Default)]
pub struct TarWriter {
    path: Vec<u8>,
    size: u64,
    passed: u64,
}

impl TarWriter {
    /// A writer at the start of a tar.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the header of `entry` to `out`. A name over 100 bytes is split into ustar's prefix
    /// where a slash allows it, and else written as GNU's long name, as a long link target is.
    /// Owner and group names are cut at 32 bytes.
    /// # Errors
    /// [`TarWriteError::Length`] when the entry before is not complete, [`TarWriteError::Entry`]
    /// for a path or link target with a NUL byte, a directory or link with data, or a number out
    /// of range. Nothing is appended then.
    pub fn begin(&mut self, entry: &TarEntry, out: &mut Vec<u8>) -> Result<(), TarWriteError> {
        self.check_complete()?;
        let headers = encode(entry).map_err(|problem| TarWriteError::Entry {
            path: String::from_utf8_lossy(&entry.path).into_owned(),
            problem,
        })?;
        out.extend_from_slice(&headers);
        self.path.clone_from(&entry.path);
        (self.size, self.passed) = (entry.size, 0);
        Ok(())
    }

    /// Notes that `bytes` of the entry's data were written behind its header.
    /// # Errors
    /// [`TarWriteError::Length`] when that is more than the header says.
    pub fn passed(&mut self, bytes: u64) -> Result<(), TarWriteError> {
        self.passed = self.passed.saturating_add(bytes);
        if self.passed > self.size { self.check_complete() } else { Ok(()) }
    }

    /// Ends the entry: appends its padding.
    /// # Errors
    /// [`TarWriteError::Length`] when less data passed than the header says.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), TarWriteError> {
        self.check_complete()?;
        append_zeros(out, padding_bytes(self.size));
        (self.size, self.passed) = (0, 0);
        Ok(())
    }

    /// Ends the tar with as many zeros as the original had: [`super::END_BYTES`] for a new one.
    /// # Errors
    /// [`TarWriteError::Length`] when the last entry is not complete.
    pub fn finish(self, trailing_zero_bytes: u32, out: &mut Vec<u8>) -> Result<(), TarWriteError> {
        self.check_complete()?;
        append_zeros(out, u64::from(trailing_zero_bytes));
        Ok(())
    }

    fn check_complete(&self) -> Result<(), TarWriteError> {
        if self.passed == self.size {
            return Ok(());
        }
        Err(TarWriteError::Length {
            path: String::from_utf8_lossy(&self.path).into_owned(),
            expected: self.size,
            found: self.passed,
        })
    }
}

fn append_zeros(out: &mut Vec<u8>, count: u64) {
    // Padding is below 512, trailing zeros fit in 32 bits.
    out.resize(out.len() + usize::try_from(count).unwrap_or_default(), 0);
}

/// All header blocks of an entry.
fn encode(entry: &TarEntry) -> Result<Vec<u8>, &'static str> {
    if entry.path.contains(&0) || entry.link_target.contains(&0) {
        return Err("its path or link target holds a NUL byte");
    }
    if entry.kind != EntryKind::File && entry.size > 0 {
        return Err("only files have data");
    }
    let signed = |value: u64| i64::try_from(value).map_err(|_| "a number is out of range");
    let mut out = Vec::new();
    let mut block = Block::zeroed();
    place_name(&mut block, &entry.path, &mut out)?;
    block.set_number(header::MODE, i64::from(entry.mode & 0o7777));
    block.set_number(header::UID, signed(entry.uid)?);
    block.set_number(header::GID, signed(entry.gid)?);
    block.set_number(header::SIZE, signed(entry.size)?);
    block.set_number(header::MTIME, entry.mtime);
    if entry.kind == EntryKind::Symlink {
        if entry.link_target.len() > LINK_MAX_BYTES {
            append_long(b'K', &entry.link_target, &mut out)?;
        }
        block.set_text(header::LINK, &entry.link_target);
    }
    block.set_text(header::OWNER, entry.owner.as_bytes());
    block.set_text(header::GROUP, entry.group.as_bytes());
    close(&mut block, type_flag(entry.kind));
    out.extend_from_slice(&block.0);
    Ok(out)
}

const NAME_MAX_BYTES: usize = 100;
const PREFIX_MAX_BYTES: usize = 155;
const LINK_MAX_BYTES: usize = 100;

/// GNU tar's name for an entry that is a long name.
const LONG_LINK: &[u8] = b"././@LongLink";

const fn type_flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::Directory => b'5',
        EntryKind::Symlink => b'2',
    }
}

/// What every header of ours ends with: type, magic, devices, checksum.
fn close(block: &mut Block, type_flag: u8) {
    block.set_text(header::TYPE, &[type_flag]);
    block.set_text(header::MAGIC, header::USTAR);
    block.set_number(header::DEVICE_MAJOR, 0);
    block.set_number(header::DEVICE_MINOR, 0);
    block.seal();
}

fn place_name(block: &mut Block, path: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    if path.len() <= NAME_MAX_BYTES {
        block.set_text(header::NAME, path);
    } else if let Some((prefix, name)) = split_name(path) {
        block.set_text(header::PREFIX, prefix);
        block.set_text(header::NAME, name);
    } else {
        append_long(b'L', path, out)?;
        block.set_text(header::NAME, path);
    }
    Ok(())
}

/// Prefix and name at a slash, such that both fit and neither is empty.
fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let earliest = path.len().checked_sub(NAME_MAX_BYTES + 1)?;
    let slash = (earliest.max(1)..path.len() - 1).find(|&at| path.get(at) == Some(&b'/'))?;
    if slash > PREFIX_MAX_BYTES {
        return None;
    }
    Some((path.get(..slash)?, path.get(slash + 1..)?))
}

/// A GNU long name or link: a header of its own, the text closed by a NUL, padding.
fn append_long(flag: u8, text: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let size = text.len() as u64 + 1;
    if size > super::EXTENSION_MAX_BYTES {
        return Err("its path or link target is longer than 64 KiB");
    }
    let mut block = Block::zeroed();
    block.set_text(header::NAME, LONG_LINK);
    for field in [header::MODE, header::UID, header::GID, header::MTIME] {
        block.set_number(field, 0);
    }
    block.set_number(header::SIZE, i64::try_from(size).map_err(|_| "a number is out of range")?);
    close(&mut block, flag);
    out.extend_from_slice(&block.0);
    out.extend_from_slice(text);
    append_zeros(out, 1 + padding_bytes(size));
    Ok(())
}
