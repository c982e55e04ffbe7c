//! Files read ahead by several threads, handed on in their order.
//!
//! Under one lock a thread takes the next piece of work and its place in the line; it opens and reads
//! ([`super::piece`]) outside of it. A small file is one piece, a large one many, which several
//! threads read at once.
//!
//! Invariants: at most [`IN_LINE_MAX`] pieces and one per thread are held; dropping the receiving
//! side ends the threads at their next piece; the end is told explicitly, so that threads that die
//! cannot pass for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot};

use super::piece::{Part, ReadRules, Stretch};
use super::walk::{Found, FoundFile, failed, is_gone};
use crate::PostgresError;
use crate::source::buffer::{BUFFER_BYTES, BufferPool};
use crate::tar::TarEntry;

/// Pieces in line: 12 MiB of full ones, a few milliseconds of hashing ahead of the workers.
pub(super) const IN_LINE_MAX: usize = 12;

/// What comes out, in order.
#[derive(Debug)]
pub(super) enum Read {
    /// A directory.
    Directory(TarEntry),
    /// Left out.
    Passed { path: PathBuf, what: &'static str },
    /// Bytes of a file.
    Piece(Piece),
}

/// Bytes of a file that follow those before.
#[derive(Debug)]
pub(super) struct Piece {
    /// The file's entry, with its first piece.
    pub(super) begins: Option<TarEntry>,
    /// At most 1 MiB together; none for an empty file only.
    pub(super) parts: Vec<Part>,
    /// Whether it is the file's last.
    pub(super) ends: bool,
}

/// The receiving side.
#[derive(Debug)]
pub(super) struct ReadAhead {
    line: mpsc::Receiver<Place>,
    ended: bool,
}

#[derive(Debug)]
enum Place {
    Ready(Read),
    /// `None` for a file that has vanished.
    Reading(oneshot::Receiver<Result<Option<Piece>, PostgresError>>),
    Failed(PostgresError),
    End,
}

impl ReadAhead {
    /// Starts reading what `found` names.
    pub(super) fn start(
        found: impl Iterator<Item = Result<Found, PostgresError>> + Send + 'static,
        rules: &ReadRules,
        pool: &BufferPool,
    ) -> io::Result<Self> {
        let (sender, line) = mpsc::channel(IN_LINE_MAX);
        let supply = Supply { found: Box::new(found), open: None, line: sender, ended: false };
        let supply = Arc::new(Mutex::new(supply));
        for _ in 0..rules.threads.max(1) {
            let (supply, pool, rules) = (Arc::clone(&supply), pool.clone(), rules.clone());
            std::thread::Builder::new().name("capy-files".to_owned()).spawn(move || {
                while let Some(job) = next_job(&supply) {
                    let outcome = job.work.run(&pool, &rules);
                    // If nobody waits for it, the next job finds out.
                    let _ = job.place.send(outcome);
                }
            })?;
        }
        Ok(Self { line, ended: false })
    }

    /// What comes next; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Read>, PostgresError> {
        while !self.ended {
            let outcome = match self.line.recv().await {
                Some(Place::Ready(read)) => Ok(Some(read)),
                Some(Place::Reading(piece)) => match piece.await {
                    Ok(Ok(Some(piece))) => Ok(Some(Read::Piece(piece))),
                    Ok(Ok(None)) => continue,
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(died()),
                },
                Some(Place::Failed(error)) => Err(error),
                Some(Place::End) => Ok(None),
                None => Err(died()),
            };
            self.ended = !matches!(outcome, Ok(Some(_)));
            return outcome;
        }
        Ok(None)
    }
}

fn died() -> PostgresError {
    PostgresError::read("the data directory", io::Error::other("a reading thread died"))
}

/// Where the work comes from.
struct Supply {
    found: Box<dyn Iterator<Item = Result<Found, PostgresError>> + Send>,
    /// The large file that is being handed out.
    open: Option<OpenFile>,
    line: mpsc::Sender<Place>,
    ended: bool,
}

struct OpenFile {
    begins: Option<TarEntry>,
    file: Arc<File>,
    path: Arc<Path>,
    first_block: Option<u32>,
    offset: u64,
    size: u64,
}

/// A piece of work and whom to give the outcome.
struct Job {
    work: Work,
    place: oneshot::Sender<Result<Option<Piece>, PostgresError>>,
}

enum Work {
    /// A file of one piece.
    Whole(FoundFile),
    /// One piece of a larger one.
    Part(OpenFile),
}

/// The next job; `None` when there is nothing more to do, or nobody to do it for.
fn next_job(supply: &Mutex<Supply>) -> Option<Job> {
    let mut supply = match supply.lock() {
        Ok(supply) => supply,
        Err(poisoned) => {
            // Whoever panicked may have lost a file: nothing may follow.
            let mut supply = poisoned.into_inner();
            supply.put(Place::Failed(died()));
            return None;
        }
    };
    while !supply.ended {
        if let Some(part) = supply.open.as_mut().and_then(OpenFile::take_part) {
            return supply.job(Work::Part(part));
        }
        supply.open = None;
        match supply.found.next() {
            None => supply.put(Place::End),
            Some(Err(error)) => supply.put(Place::Failed(error)),
            Some(Ok(Found::Directory(entry))) => supply.put(Place::Ready(Read::Directory(entry))),
            Some(Ok(Found::Empty(entry))) => {
                let piece = Piece { begins: Some(entry), parts: Vec::new(), ends: true };
                supply.put(Place::Ready(Read::Piece(piece)));
            }
            Some(Ok(Found::Passed { path, what })) => supply.put(Place::Ready(Read::Passed { path, what })),
            Some(Ok(Found::File(file))) if file.entry.size <= BUFFER_BYTES as u64 => {
                return supply.job(Work::Whole(file));
            }
            Some(Ok(Found::File(file))) => match OpenFile::open(file) {
                Ok(open) => supply.open = open,
                Err(error) => supply.put(Place::Failed(error)),
            },
        }
    }
    None
}

impl Supply {
    /// Waits for room in the line; the threads that wait for this lock would wait for it too.
    fn put(&mut self, place: Place) {
        let last = matches!(place, Place::Failed(_) | Place::End);
        if self.ended {
            return;
        }
        self.ended = self.line.blocking_send(place).is_err() || last;
    }

    fn job(&mut self, work: Work) -> Option<Job> {
        let (place, outcome) = oneshot::channel();
        self.put(Place::Reading(outcome));
        (!self.ended).then_some(Job { work, place })
    }
}

impl OpenFile {
    /// Opens a file; `None` when it has vanished.
    fn open(found: FoundFile) -> Result<Option<Self>, PostgresError> {
        let Some(file) = open(&found.path, found.required)? else { return Ok(None) };
        Ok(Some(Self {
            size: found.entry.size,
            begins: Some(found.entry),
            file: Arc::new(file),
            path: found.path.into(),
            first_block: found.first_block,
            offset: 0,
        }))
    }

    /// The next piece of it; `None` when it is all handed out.
    fn take_part(&mut self) -> Option<Self> {
        let length = (self.size - self.offset).min(BUFFER_BYTES as u64);
        let part = Self {
            begins: self.begins.take(),
            file: Arc::clone(&self.file),
            path: Arc::clone(&self.path),
            ..*self
        };
        self.offset += length;
        (length > 0).then_some(part)
    }

    /// Reads one piece.
    fn read(self, pool: &BufferPool, rules: &ReadRules) -> Result<Piece, PostgresError> {
        // At most the buffer's size.
        let length = (self.size - self.offset).min(BUFFER_BYTES as u64) as usize;
        let (file, offset, first_block) = (&self.file, self.offset, self.first_block);
        let stretch = Stretch { file, offset, length, first_block };
        let parts = stretch.read(rules, pool).map_err(|e| failed(&self.path, e))?;
        let ends = self.offset + length as u64 == self.size;
        Ok(Piece { begins: self.begins, parts, ends })
    }
}

impl Work {
    fn run(self, pool: &BufferPool, rules: &ReadRules) -> Result<Option<Piece>, PostgresError> {
        let part = match self {
            Self::Part(part) => Some(part),
            Self::Whole(found) => OpenFile::open(found)?,
        };
        part.map(|part| part.read(pool, rules)).transpose()
    }
}

/// Opens a file for reading; `None` when it has vanished, or become a link.
fn open(path: &Path, required: bool) -> Result<Option<File>, PostgresError> {
    // Who runs this may read more than the server's user, who could put a link there, or a pipe.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => {
            // Only a hint: what is refused is left as it was.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
            Ok(Some(file))
        }
        Err(e) if !required && (is_gone(&e) || e.raw_os_error() == Some(Errno::LOOP.raw_os_error())) => {
            Ok(None)
        }
        Err(e) => Err(failed(path, e)),
    }
}

#[cfg(test)]
mod tests;
