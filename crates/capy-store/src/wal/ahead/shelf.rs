//! The hidden directory: what is in it, how a segment gets there and out.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use capy_postgres::wal;
use capy_repo::RepoError;
use capy_types::{SegmentName, SegmentSize, WalFile};
use sha2::{Digest, Sha256};

use super::super::fetch::make_room;
use super::FetchAhead;
use crate::Result;

/// Bytes of a segment that say which one it is.
const HEAD_BYTES: u64 = 40;
/// Bytes that have a sum of their own: few enough for the processor's second-level cache.
const SUM_BLOCK_BYTES: usize = 256 * 1024;
/// Hex digits of a segment's sum.
const SUM_DIGITS: usize = 16;

/// A segment that was asked for, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) segment: SegmentName,
    /// Seconds and nanoseconds, as coarse as the file system's clock.
    at: (i64, i64),
}

impl FetchAhead {
    pub(super) fn make_directory(&self) -> Result<()> {
        // Never the server's own directory: that one may just have been removed.
        let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        let above = self.directory.parent().map_or(Ok(()), make);
        above.and_then(|()| make(&self.directory)).map_err(|error| self.failed("make", error))
    }

    /// What was last asked for and found.
    pub(super) fn request(&self, size: SegmentSize) -> Option<Request> {
        let (mut text, file) = (String::new(), File::open(self.wanted()).ok()?);
        let meta = file.metadata().ok()?;
        file.take(64).read_to_string(&mut text).ok()?;
        let segment = SegmentName::parse(&text, size).ok()?;
        Some(Request { segment, at: (meta.mtime(), meta.mtime_nsec()) })
    }

    /// Says that a segment was asked for and found. In place, without a new file for each: whoever reads
    /// a name that is half another one would fetch what is not needed, at worst.
    pub(super) fn want(&self, file: &WalFile) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(self.wanted())?.write_all_at(file.as_str().as_bytes(), 0)
    }

    fn wanted(&self) -> PathBuf {
        self.directory.join("wanted")
    }

    pub(super) fn part(&self, file: &WalFile) -> PathBuf {
        self.directory.join(format!(".{file}.part"))
    }

    /// A segment that is there whole, and the sum of its bytes as they came out of the archive.
    fn whole(&self, file: &WalFile) -> Option<(PathBuf, String)> {
        let mut entries = std::fs::read_dir(&self.directory).ok()?.flatten();
        entries.find_map(|entry| {
            let name = entry.file_name();
            let sum = name.to_str()?.strip_prefix(file.as_str())?.strip_prefix('.')?;
            Some((entry.path(), sum.to_owned()))
        })
    }

    /// Renames a whole segment to `target` and returns its length in bytes. `None` when there is
    /// none, or none that may be used.
    pub(super) fn move_into_place(&self, file: &WalFile, target: &Path) -> Option<u64> {
        let (path, sum) = self.whole(file)?;
        let mut opened = File::open(&path).ok()?;
        match check(&mut opened, file).and_then(|size| check_content(&mut opened, &sum).map(|()| size)) {
            Ok(size) => {
                let flushed = if Self::is_for_recovery(target) { Ok(()) } else { opened.sync_all() };
                // Said before it is moved: the worker must not see it gone and fetch it again.
                let moved =
                    flushed.and_then(|()| self.want(file)).and_then(|()| std::fs::rename(&path, target));
                moved.inspect_err(|error| tracing::debug!(%file, %error, "cannot be moved")).ok()?;
                Some(size)
            }
            Err(problem) => {
                tracing::warn!(%file, problem, "fetched ahead, but not used");
                let _ = std::fs::remove_file(&path);
                None
            }
        }
    }

    /// The segments that are there whole.
    pub(super) fn present(&self, size: SegmentSize) -> Result<Vec<SegmentName>> {
        let failed = |error| self.failed("read", error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let segment = name.to_str().and_then(|name| name.split_once('.')).map(|(segment, _)| segment);
            found.extend(segment.and_then(|segment| SegmentName::parse(segment, size).ok()));
        }
        Ok(found)
    }

    /// Says that a segment is being fetched, and gives the file to write it to.
    pub(super) fn begin(&self, file: &WalFile) -> Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(self.part(file)).map_err(|error| self.failed(&format!("make {file} in"), error))
    }

    /// Puts a segment there that was [begun](Self::begin), whose bytes `fill` gives: written, renamed. Its
    /// new name holds its sum, so that what a crash of the machine left with other bytes is not used, and
    /// nobody waits until it is on disk; see [`flush`](Self::flush).
    pub(super) fn put(
        &self,
        file: &WalFile,
        mut part: File,
        size_bytes: u64,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::result::Result<(), RepoError>,
    ) -> Result<()> {
        let mut sums = Sums::default();
        make_room(&part, size_bytes);
        fill(&mut |block| {
            sums.add(block);
            part.write_all(block)
        })?;
        let whole = self.directory.join(format!("{file}.{}", sums.finish()));
        std::fs::rename(self.part(file), whole)
            .map_err(|error| self.failed(&format!("rename {file} in"), error))
    }

    /// No longer being fetched.
    pub(super) fn abandon(&self, file: &WalFile) {
        let _ = std::fs::remove_file(self.part(file));
    }

    /// Writes a segment to disk, if it is still there. One of which the disk refuses a part is not used:
    /// the system says so once, and the server's own flush might not hear of it.
    pub(super) fn flush(&self, segment: SegmentName) {
        let file = WalFile::from(segment);
        let Some(opened) = self.whole(&file).and_then(|(path, _)| File::open(path).ok()) else { return };
        if let Err(error) = opened.sync_all() {
            tracing::warn!(%file, %error, "fetched ahead, but the disk does not take it");
            self.remove(segment);
        }
    }

    pub(super) fn remove(&self, segment: SegmentName) -> bool {
        self.whole(&segment.into()).is_some_and(|(path, _)| std::fs::remove_file(path).is_ok())
    }

    /// Removes what killed workers were at. Only for the one that holds the lock.
    pub(super) fn sweep(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.ends_with(".part")) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Whether the server beside is still recovering, or will be when it starts: the directory
    /// above the target's holds a signal file until recovery has ended.
    pub(super) fn is_recovering(&self) -> bool {
        self.target.parent().is_some_and(|data| {
            ["recovery.signal", "standby.signal"].iter().any(|name| data.join(name).exists())
        })
    }

    /// Removes all of it, and the directory above when it is empty then.
    pub(super) fn clear(&self) {
        let _ = std::fs::remove_dir_all(&self.directory);
        if let Some(above) = self.directory.parent() {
            let _ = std::fs::remove_dir(above);
        }
    }
}

/// The sum of a segment, which comes in pieces of any size: the CRC-32C of each block, hashed. It tells
/// accidents, as the content id in the archive tells everything, at a quarter of the time: whoever may write
/// here may write what the server reads anyway.
#[derive(Default)]
struct Sums {
    blocks: Sha256,
    /// Of the block that is not whole yet, and its length so far.
    sum: u32,
    length: usize,
}

impl Sums {
    fn add(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(SUM_BLOCK_BYTES - self.length));
            self.sum = crc32c::crc32c_append(self.sum, now);
            self.length += now.len();
            piece = later;
            if self.length == SUM_BLOCK_BYTES {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        self.blocks.update(self.sum.to_le_bytes());
        (self.sum, self.length) = (0, 0);
    }

    /// In hex.
    fn finish(mut self) -> String {
        if self.length > 0 {
            self.end_block();
        }
        let mut text = hex::encode(self.blocks.finalize());
        text.truncate(SUM_DIGITS);
        text
    }
}

/// Whether the bytes are still those that were put there: a disk or a person may have changed them since
/// they were checked against the archive's content id.
fn check_content(opened: &mut File, expected: &str) -> std::result::Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    opened.rewind().map_err(io)?;
    let (mut sums, mut block) = (Sums::default(), vec![0; SUM_BLOCK_BYTES]);
    loop {
        let read = opened.read(&mut block).map_err(io)?;
        if read == 0 {
            break;
        }
        sums.add(block.get(..read).unwrap_or_default());
    }
    if sums.finish() == expected { Ok(()) } else { Err("its content is not what was fetched".to_owned()) }
}

/// Whether the file is the segment its name says, by its header and length; returns the length.
fn check(opened: &mut File, file: &WalFile) -> std::result::Result<u64, String> {
    let io = |error: std::io::Error| error.to_string();
    let length = opened.metadata().map_err(io)?.len();
    let mut head = Vec::new();
    opened.take(HEAD_BYTES).read_to_end(&mut head).map_err(io)?;
    let header = wal::read_header(&head).map_err(|error| error.to_string())?;
    if length != header.segment_size.bytes() {
        return Err(format!("{length} bytes, a segment has {}", header.segment_size.bytes()));
    }
    // A segment in which a timeline began may open with a page of the one before.
    header.check_name(file.as_str()).map_err(|error| error.to_string())?;
    Ok(length)
}
