//! The hidden directory: what is in it, how a segment gets there and out.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use capy_postgres::wal;
use capy_repo::RepoError;
use capy_types::{SegmentName, SegmentSize, WalFile};

use super::super::fetch::make_room;
use super::super::spool::{replace, replace_with, sweep};
use super::FetchAhead;
use crate::Result;

/// Bytes of a segment that say which one it is.
const HEAD_BYTES: u64 = 40;
/// Bytes that have a sum of their own: few enough for the processor's second-level cache.
const SUM_BLOCK_BYTES: usize = 256 * 1024;

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

    /// The segment that was last asked for and found.
    pub(super) fn wanted(&self, size: SegmentSize) -> Option<SegmentName> {
        let mut text = String::new();
        File::open(self.directory.join("wanted")).ok()?.take(64).read_to_string(&mut text).ok()?;
        SegmentName::parse(&text, size).ok()
    }

    /// Says that a segment was asked for and found.
    pub(super) fn want(&self, file: &WalFile) -> std::io::Result<()> {
        replace(&self.directory, "wanted", file.as_str().as_bytes())
    }

    /// Which writing of that this is.
    pub(super) fn want_stamp(&self) -> Option<(u64, i64, i64)> {
        let meta = std::fs::metadata(self.directory.join("wanted")).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    pub(super) fn part(&self, file: &WalFile) -> PathBuf {
        self.directory.join(format!(".{file}.part"))
    }

    fn whole(&self, file: &WalFile) -> PathBuf {
        self.directory.join(file.as_str())
    }

    /// The sums of a segment as it was when it came out of the archive.
    fn sum(&self, file: &WalFile) -> PathBuf {
        self.directory.join(format!(".{file}.sum"))
    }

    /// Renames a whole segment to `target` and returns its length in bytes. `None` when there is
    /// none, or none that may be used.
    pub(super) fn move_into_place(&self, file: &WalFile, target: &Path) -> Option<u64> {
        let path = self.whole(file);
        let mut opened = File::open(&path).ok()?;
        match check(&mut opened, file).and_then(|size| self.check_content(&mut opened, file).map(|()| size)) {
            Ok(size) => {
                let flushed = if Self::is_for_recovery(target) { Ok(()) } else { opened.sync_all() };
                // Said before it is moved: the worker must not see it gone and fetch it again.
                let moved =
                    flushed.and_then(|()| self.want(file)).and_then(|()| std::fs::rename(&path, target));
                moved.inspect_err(|error| tracing::debug!(%file, %error, "cannot be moved")).ok()?;
                let _ = std::fs::remove_file(self.sum(file));
                Some(size)
            }
            Err(problem) => {
                tracing::warn!(%file, problem, "fetched ahead, but not used");
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_file(self.sum(file));
                None
            }
        }
    }

    /// Whether the bytes are still those that were put there: a disk or a person may have changed
    /// them since they were checked against the archive's content id.
    fn check_content(&self, opened: &mut File, file: &WalFile) -> std::result::Result<(), String> {
        let io = |error: std::io::Error| error.to_string();
        let expected =
            std::fs::read_to_string(self.sum(file)).map_err(|error| format!("no sums of it: {error}"))?;
        opened.rewind().map_err(io)?;
        let (mut sums, mut block) = (Sums::default(), vec![0; SUM_BLOCK_BYTES]);
        loop {
            let read = opened.read(&mut block).map_err(io)?;
            if read == 0 {
                break;
            }
            sums.add(block.get(..read).unwrap_or_default());
        }
        if sums.finish() != expected {
            return Err("its content is not what was fetched".to_owned());
        }
        Ok(())
    }

    /// The segments that are there whole.
    pub(super) fn present(&self, size: SegmentSize) -> Result<Vec<SegmentName>> {
        let failed = |error| self.failed("read", error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(|name| SegmentName::parse(name, size).ok()));
        }
        Ok(found)
    }

    /// Says that a segment is being fetched.
    pub(super) fn begin(&self, file: &WalFile) -> std::io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.part(file))?;
        Ok(())
    }

    /// Puts a segment there, whose bytes `fill` gives: written, renamed. Its sums come first: one without
    /// them is not used, nor one that a crash of the machine left with other bytes. So nobody waits until
    /// it is on disk; see [`flush`](Self::flush).
    pub(super) fn put(
        &self,
        file: &WalFile,
        size_bytes: u64,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::result::Result<(), RepoError>,
    ) -> Result<()> {
        let written = replace_with(&self.directory, file.as_str(), |new| {
            let mut sums = Sums::default();
            make_room(new, size_bytes);
            fill(&mut |block| {
                sums.add(block);
                new.write_all(block)
            })?;
            let sums = sums.finish();
            Ok(replace(&self.directory, &format!(".{file}.sum"), sums.as_bytes())?)
        });
        written.map_err(|failed| match failed {
            PutError::Repo(error) => error.into(),
            PutError::Io(error) => self.failed(&format!("write {file} in"), error),
        })?;
        self.abandon(file);
        Ok(())
    }

    /// No longer being fetched.
    pub(super) fn abandon(&self, file: &WalFile) {
        let _ = std::fs::remove_file(self.part(file));
    }

    /// Writes a segment to disk, if it is still there. One of which the disk refuses a part is not used:
    /// the system says so once, and the server's own flush might not hear of it.
    pub(super) fn flush(&self, segment: SegmentName) {
        let file = WalFile::from(segment);
        let Ok(opened) = File::open(self.whole(&file)) else { return };
        if let Err(error) = opened.sync_all() {
            tracing::warn!(%file, %error, "fetched ahead, but the disk does not take it");
            self.remove(segment);
        }
    }

    pub(super) fn remove(&self, segment: SegmentName) -> bool {
        let file = segment.into();
        let removed = std::fs::remove_file(self.whole(&file)).is_ok();
        let _ = std::fs::remove_file(self.sum(&file));
        removed
    }

    /// Removes what killed workers were at. Only for the one that holds the lock.
    pub(super) fn sweep(&self) {
        sweep(&self.directory);
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let hashed = name.strip_prefix('.').and_then(|name| name.strip_suffix(".sum"));
            let is_orphan = hashed.is_some_and(|segment| !self.directory.join(segment).exists());
            if name.ends_with(".part") || is_orphan {
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

/// Why a segment cannot be put there.
enum PutError {
    Repo(RepoError),
    Io(std::io::Error),
}

impl From<RepoError> for PutError {
    fn from(error: RepoError) -> Self {
        Self::Repo(error)
    }
}

impl From<std::io::Error> for PutError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// CRC-32C of each block of a segment, which comes in pieces of any size. They tell accidents, as the
/// content id in the archive tells everything, at a quarter of the time: whoever may write here may
/// write what the server reads anyway.
#[derive(Default)]
struct Sums {
    text: String,
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
        self.text.push_str(&format!("{:08x}", self.sum));
        (self.sum, self.length) = (0, 0);
    }

    /// All of them in hex, one after the other.
    fn finish(mut self) -> String {
        if self.length > 0 {
            self.end_block();
        }
        self.text
    }
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
