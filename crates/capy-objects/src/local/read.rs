//! Reading files of a local store: whole, in part, or just their size. Nothing is allocated
//! before the file's size is known, and no buffer is zeroed first.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use rustix::buffer::spare_capacity;

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

pub(super) fn range(path: &Path, range: Range<u64>) -> Result<Bytes, LocalFault> {
    let (file, size) = open(path)?;
    if range.end > size {
        let found = size.saturating_sub(range.start);
        return Err(LocalFault::Kind(StoreErrorKind::Truncated { expected: range.end - range.start, found }));
    }
    read(&file, range)
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
            Ok(0) => {
                let found = bytes.len() as u64;
                return Err(LocalFault::Kind(StoreErrorKind::Truncated { expected, found }));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    // The allocator may have given more room than asked for.
    bytes.truncate(length);
    Ok(bytes.into())
}
