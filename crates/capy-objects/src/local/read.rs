//! Reading files of a local store: whole, in part, or just their size. Nothing is allocated
//! before the file's size is known, and no buffer is wiped first.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;

use super::buffers::Buffers;
use super::{LocalFault, is_absent};
use crate::StoreErrorKind;

pub(super) fn size(path: &Path) -> Result<u64, LocalFault> {
    Ok(open(path)?.1)
}

pub(super) fn whole(path: &Path, max_bytes: u64) -> Result<Bytes, LocalFault> {
    let (file, size) = open(path)?;
    if size > max_bytes {
        return Err(LocalFault::Kind(StoreErrorKind::TooLarge { size, max: max_bytes }));
    }
    read(&file, 0..size)
}

pub(super) fn range(buffers: &Arc<Buffers>, path: &Path, range: Range<u64>) -> Result<Bytes, LocalFault> {
    let (file, size) = open(path)?;
    if range.end > size {
        let found = size.saturating_sub(range.start);
        return Err(LocalFault::Kind(StoreErrorKind::Truncated { expected: range.end - range.start, found }));
    }
    match usize::try_from(range.end - range.start).ok().and_then(|length| buffers.lend(length)) {
        Some(mut buffer) => {
            fill(&file, range.start, buffer.as_mut())?;
            Ok(Bytes::from_owner(buffer))
        }
        None => read(&file, range),
    }
}

/// Opens an object; a directory is no object.
fn open(path: &Path) -> Result<(File, u64), LocalFault> {
    let absent = LocalFault::Kind(StoreErrorKind::NotFound);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_absent(&error) => return Err(absent),
        Err(error) => return Err(error.into()),
    };
    let facts = file.metadata()?;
    if facts.is_file() { Ok((file, facts.len())) } else { Err(absent) }
}

/// Reads exactly `range`, which lies within the file as it was a moment ago.
fn read(file: &File, range: Range<u64>) -> Result<Bytes, LocalFault> {
    let expected = range.end - range.start;
    let length = usize::try_from(expected).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let offset = range.start + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), offset) {
            Ok(0) => return Err(cut_short(expected, bytes.len())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    // The allocator may have given more room than asked for.
    bytes.truncate(length);
    Ok(bytes.into())
}

/// Fills `buffer` from `start`.
fn fill(file: &File, start: u64, buffer: &mut [u8]) -> Result<(), LocalFault> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], start + filled as u64) {
            Ok(0) => return Err(cut_short(buffer.len() as u64, filled)),
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(())
}

fn cut_short(expected: u64, found: usize) -> LocalFault {
    LocalFault::Kind(StoreErrorKind::Truncated { expected, found: found as u64 })
}
