//! A file's identity: enough to know it again, and never to take another life of its name for it.
//!
//! The server recycles segments: one inode lives on under later names, and after a restore the same
//! names come again. Device and inode, size, time of the last change in nanoseconds, and the first
//! bytes (magic, timeline, address and system identifier of a segment) together tell them apart.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// First bytes that are a part of the identity: the long page header of a segment.
const HEAD_BYTES: usize = 40;
/// Largest file read in bytes: the largest segment PostgreSQL can be built for.
const FILE_MAX_BYTES: u64 = 1 << 30;

/// What tells one file from every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceId {
    device: u64,
    inode: u64,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// The last change, in nanoseconds since the Unix epoch.
    mtime_ns: i64,
    /// The first bytes, in hex.
    head: String,
}

impl SourceId {
    /// The identity of the file at `path`.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let read = || Self::of(&File::open(path)?);
        read().map_err(|error| Error::io(format!("read {}", path.display()), error))
    }

    fn of(file: &File) -> std::io::Result<Self> {
        let meta = file.metadata()?;
        let mut head = [0; HEAD_BYTES];
        let mut filled = 0;
        while filled < head.len() {
            let rest = head.get_mut(filled..).unwrap_or_default();
            match file.read_at(rest, filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
            head: hex::encode(head.get(..filled).unwrap_or_default()),
        })
    }
}

/// Reads a file that must not change meanwhile.
pub(crate) fn read_source(path: &Path) -> Result<(SourceId, Bytes)> {
    let failed = |error| Error::io(format!("read {}", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let before = SourceId::of(&file).map_err(failed)?;
    if before.size > FILE_MAX_BYTES {
        let what = format!("{}: {} bytes are more than the largest segment", path.display(), before.size);
        return Err(Error::invalid(what));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.size).unwrap_or(0) + 1);
    Read::by_ref(&mut file).take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 != before.size || SourceId::of(&file).map_err(failed)? != before {
        return Err(Error::changing(path));
    }
    Ok((before, bytes.into()))
}

impl Error {
    /// A file that was written to while it was archived: whoever asks again gets an answer.
    pub(super) fn changing(path: &Path) -> Self {
        Self::new(capy_types::ErrorKind::Unavailable, format!("{} changed while it was read", path.display()))
    }
}
