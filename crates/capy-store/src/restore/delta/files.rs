//! The files of a delta restore: what is right stays, chunk by chunk, and the rest is written.
//!
//! Contained by: the delta restore, as the sink of the repository's bulk read.
//! Invariants: no link is followed; a chunk counts as there only when its bytes have its name; a file
//! has its length, mode and owner only once its whole checksum matched.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use capy_codec::ChunkNamer;
use capy_repo::{Defect, FileSink};
use capy_types::ChunkId;
use rustix::fs::OFlags;

use crate::report::Findings;
use crate::restore::files::set_owner;

/// Mode of a file while it is being written: its owner's alone.
const WRITING_MODE: u32 = 0o600;

/// Files from this length on are kept open while their chunks are looked at.
const KEPT_OPEN_FROM_BYTES: u64 = 1 << 20;

/// Handles kept open: far below the usual limit of 1024.
const HANDLES_MAX: u64 = 256;

struct Pending {
    path: PathBuf,
    mode: u32,
    length: u64,
    handle: Mutex<Option<Arc<File>>>,
}

/// Completes the files of a directory.
pub(super) struct DeltaFiles {
    namer: ChunkNamer,
    owner: Option<(u32, u32)>,
    pending: Mutex<HashMap<u64, Arc<Pending>>>,
    open_handles: AtomicU64,
    defects: Mutex<Findings>,
    written_bytes: AtomicU64,
}

impl DeltaFiles {
    pub(super) fn new(namer: ChunkNamer, owner: Option<(u32, u32)>) -> Self {
        Self {
            namer,
            owner,
            pending: Mutex::default(),
            open_handles: AtomicU64::new(0),
            defects: Mutex::default(),
            written_bytes: AtomicU64::new(0),
        }
    }

    /// Announces a file, before its first chunk is asked for.
    pub(super) fn announce(&self, file: u64, path: PathBuf, mode: u32, length: u64) {
        let pending = Pending { path, mode, length, handle: Mutex::new(None) };
        lock(&self.pending).insert(file, Arc::new(pending));
    }

    pub(super) fn take_defects(&self) -> Findings {
        std::mem::take(&mut *lock(&self.defects))
    }

    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    fn pending(&self, file: u64) -> io::Result<Arc<Pending>> {
        let found = lock(&self.pending).get(&file).map(Arc::clone);
        found.ok_or_else(|| io::Error::other("a file that was not announced"))
    }

    /// The file, opened; `None` when it is not there and shall not be made.
    fn open(&self, pending: &Pending, make: bool) -> io::Result<Option<Arc<File>>> {
        let mut handle = lock(&pending.handle);
        if let Some(file) = &*handle {
            return Ok(Some(Arc::clone(file)));
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(make)
            .truncate(false)
            .mode(WRITING_MODE)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&pending.path);
        let file = match opened {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
            Err(error) => return Err(error),
        };
        if pending.length >= KEPT_OPEN_FROM_BYTES {
            if self.open_handles.fetch_add(1, Ordering::Relaxed) < HANDLES_MAX {
                *handle = Some(Arc::clone(&file));
            } else {
                self.open_handles.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Ok(Some(file))
    }
}

impl FileSink for DeltaFiles {
    fn asks_first(&self) -> bool {
        true
    }

    fn holds(&self, file: u64, offset: u64, chunk: &ChunkId, size: u32) -> io::Result<Option<u32>> {
        let pending = self.pending(file)?;
        let Some(open) = self.open(&pending, false)? else { return Ok(None) };
        let mut bytes = vec![0; size as usize];
        match open.read_exact_at(&mut bytes, offset) {
            Ok(()) if self.namer.name(&bytes) == *chunk => Ok(Some(crc32c::crc32c(&bytes))),
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, file: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let pending = self.pending(file)?;
        if let Some(open) = self.open(&pending, true)? {
            open.write_all_at(data, offset)?;
        }
        self.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn finished(&self, file: u64) -> io::Result<()> {
        let pending = self.pending(file)?;
        if let Some(open) = self.open(&pending, true)? {
            open.set_len(pending.length)?;
            open.set_permissions(Permissions::from_mode(pending.mode & 0o7777))?;
        }
        if lock(&pending.handle).take().is_some() {
            self.open_handles.fetch_sub(1, Ordering::Relaxed);
        }
        set_owner(&pending.path, self.owner)?;
        lock(&self.pending).remove(&file);
        Ok(())
    }

    fn defect(&self, file: u64, defect: Defect) {
        let path = self.describe(file);
        lock(&self.defects).add(|| format!("{path}: {defect}"));
    }

    fn describe(&self, file: u64) -> String {
        self.pending(file).map_or_else(|_| format!("file {file}"), |p| shown(&p.path))
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The data under these locks is whole after every statement: a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
