//! The worker: reads what the server waits for, uploads several files at once, and says so.
//!
//! Invariants: one worker at a time holds a spool's lock; at most [`AT_ONCE_MAX`] files, and
//! [`AT_ONCE_MAX_BYTES`] unless one file is larger, are in memory; a kill at any point loses only
//! work. What it knows beyond the files in the spool is a help to itself.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capy_types::{Clock, Ctx, ErrorKind, SystemClock, WalFile};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use tokio::task::JoinSet;

use super::note::Failure;
use super::queue::Queue;
use super::upload::{OpenArchive, Trouble, upload};
use super::{Holder, Kind, SourceId, Spool, SpoolFault, note};
use crate::{Error, Repository, Result};

/// Most files uploaded at once: at 16 MiB each and three copies (the file, its object, what the
/// object opens to again) these are 384 MiB.
const AT_ONCE_MAX: usize = 8;
/// Most bytes of files uploaded at once; one file may always be, so that 1 GiB segments pass.
const AT_ONCE_MAX_BYTES: u64 = 512 << 20;
/// How often a worker without work looks around, and one that had some in the last seconds.
const LOOK_SELDOM: Duration = Duration::from_millis(50);
const LOOK_OFTEN: Duration = Duration::from_millis(5);
const RECENTLY: Duration = Duration::from_secs(5);
/// Directories are read when they changed, and this often in any case: times of change are coarse.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Reading the server's directory may take this share of the time: it can hold 100,000 names.
const READ_SHARE: u32 = 20;
/// A worker started on demand ends after this long without work.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// And after this long in any case, so that the next one sees a new program and new credentials.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// Answers that nobody took and nobody waits for are removed after this long.
const ANSWER_LIFE: Duration = Duration::from_secs(600);
/// How long a lock is tried for: `has_worker` holds it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How a worker works.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SpoolOptions {
    /// Files uploaded at once, 1 to 8. The default is twice the number of cores: a file spends
    /// half its time waiting for the store.
    pub jobs: Option<usize>,
    /// Whether it goes on without work, waits for another worker to end, and keeps its place
    /// whatever others ask for.
    pub resident: bool,
    /// End after this long without work, when not resident. The default is a minute.
    pub idle: Option<Duration>,
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpoolEnd {
    /// There was nothing to do for a while.
    Idle,
    /// It had lived long enough; the next push starts another.
    Aged,
    /// Somebody waits for a file of another directory or for another repository, or the spool was
    /// removed.
    Displaced,
    /// The repository could not be opened; whoever waited was told.
    NoRepository,
    /// The server's directory is gone.
    NoDirectory,
    /// It was told to.
    Cancelled,
}

/// What a worker did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SpoolReport {
    /// Files that were archived and acknowledged.
    pub archived: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Why it ended.
    pub end: SpoolEnd,
}

/// The one worker of a spool.
#[derive(Debug)]
pub struct SpoolWorker {
    spool: Spool,
    pgwal: PathBuf,
    options: SpoolOptions,
    /// Locked as long as it is open.
    lock: File,
}

impl SpoolWorker {
    /// Becomes the worker of `spool` for the server's directory `pgwal`. `None` when another one
    /// is; a resident worker waits for it to end.
    ///
    /// # Errors
    /// `NotFound` when there is no such directory; `Denied`, `Unavailable`; `Cancelled`.
    ///
    /// # Cancellation
    /// Safe to drop.
    pub async fn claim(
        ctx: &Ctx,
        spool: Spool,
        pgwal: impl AsRef<Path>,
        options: SpoolOptions,
    ) -> Result<Option<Self>> {
        let pgwal = pgwal.as_ref();
        let pgwal = std::fs::canonicalize(pgwal)
            .map_err(|error| Error::io(format!("find {}", pgwal.display()), error))?;
        let begun = Instant::now();
        let mut told = false;
        loop {
            let lock = spool.lock_file()?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let holder =
                        Holder { pid: std::process::id(), place: spool.place.clone(), pgwal: pgwal.clone() };
                    note::sign(&lock, &holder).map_err(|error| spool.failed("sign the lock of", error))?;
                    return Ok(Some(Self { spool, pgwal, options, lock }));
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(spool.failed("lock", error.into())),
            }
            if begun.elapsed() >= LOCK_PATIENCE {
                if !options.resident {
                    return Ok(None);
                }
                if !told {
                    tracing::warn!(spool = %spool.directory.display(), "waiting for another worker to end");
                    told = true;
                }
            }
            tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "cancelled")),
                () = tokio::time::sleep(LOOK_SELDOM / 2) => {}
            }
        }
    }

    /// Archives what the server waits for, until there is nothing to do. `open` is called for the
    /// repository when there is something, and again when it was replaced.
    ///
    /// # Errors
    /// When the spool cannot be read or written. What goes wrong with files and the repository is
    /// told to those who wait, and in the report.
    ///
    /// # Cancellation
    /// Safe to drop: what was not acknowledged will be archived again.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn run<F>(self, ctx: &Ctx, open: F) -> Result<SpoolReport>
    where
        F: AsyncFn() -> std::result::Result<Repository, SpoolFault>,
    {
        note::sweep(&self.spool.directory);
        let mut shift = Shift::of(&self);
        shift.adopt_acknowledged()?;
        let end = shift.run(ctx, open).await?;
        Ok(SpoolReport { archived: shift.archived, failures: shift.failures, end })
    }

    fn jobs(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.options.jobs.unwrap_or(2 * cores).clamp(1, AT_ONCE_MAX)
    }
}

/// One worker's life.
struct Shift<'a> {
    worker: &'a SpoolWorker,
    spool: &'a Spool,
    queue: Queue,
    archive: Option<Arc<OpenArchive>>,
    uploads: JoinSet<(WalFile, std::result::Result<(), Box<Trouble>>)>,
    /// Files uploaded at once. Asked for once: it takes the system several files to say.
    jobs: usize,
    /// Being uploaded, with their lengths in bytes.
    busy: HashMap<WalFile, u64>,
    /// Asked for and not answered.
    asked: HashSet<WalFile>,
    /// What was last said in the log about a file.
    told: HashMap<WalFile, String>,
    spool_dir: Watched,
    ready_dir: Watched,
    last_work: Instant,
    last_prune: Option<Instant>,
    archived: u64,
    failures: u64,
}

/// A directory, and when it was last read.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    changed: Option<(i64, i64)>,
    read: Option<Instant>,
    took: Duration,
}

impl Watched {
    const fn new(path: PathBuf) -> Self {
        Self { path, changed: None, read: None, took: Duration::ZERO }
    }

    /// Whether it is time to read it, which the caller then does. `eager`: at once when it changed.
    fn is_due(&mut self, now: Instant, eager: bool) -> bool {
        let changed = std::fs::metadata(&self.path).ok().map(|meta| (meta.mtime(), meta.mtime_nsec()));
        let interval = READ_EVERY.max(self.took * READ_SHARE);
        let waited = self.read.map(|at| now.duration_since(at));
        let has_rested = waited.is_none_or(|waited| waited >= self.took * READ_SHARE);
        let is_due = waited.is_none_or(|waited| waited >= interval)
            || (eager && has_rested && changed != self.changed);
        if is_due {
            (self.changed, self.read) = (changed, Some(now));
        }
        is_due
    }
}

impl<'a> Shift<'a> {
    fn of(worker: &'a SpoolWorker) -> Self {
        Self {
            worker,
            spool: &worker.spool,
            queue: Queue::default(),
            archive: None,
            uploads: JoinSet::new(),
            jobs: worker.jobs(),
            busy: HashMap::new(),
            asked: HashSet::new(),
            told: HashMap::new(),
            spool_dir: Watched::new(worker.spool.directory.clone()),
            ready_dir: Watched::new(worker.pgwal.join("archive_status")),
            last_work: Instant::now(),
            last_prune: None,
            archived: 0,
            failures: 0,
        }
    }

    /// Acknowledgements an earlier worker left are as good as one's own, for the files they name.
    fn adopt_acknowledged(&mut self) -> Result<()> {
        for file in self.spool.noted(Kind::Ok)? {
            if self.is_acknowledged(&file) {
                self.queue.succeeded(&file);
            } else {
                self.spool.forget(&file, Kind::Ok);
            }
        }
        Ok(())
    }

    fn is_acknowledged(&self, file: &WalFile) -> bool {
        self.spool.read_acknowledgement(file).is_some_and(|note| {
            SourceId::at(&self.worker.pgwal.join(file.as_str())).is_ok_and(|source| source == note.source)
        })
    }

    async fn run<F>(&mut self, ctx: &Ctx, open: F) -> Result<SpoolEnd>
    where
        F: AsyncFn() -> std::result::Result<Repository, SpoolFault>,
    {
        let begun = Instant::now();
        let mut displaced = false;
        loop {
            let now = Instant::now();
            if ctx.cancel.is_cancelled() {
                return Ok(SpoolEnd::Cancelled);
            }
            displaced |= self.look(now)? || !note::is_at(&self.worker.lock, &self.spool.lock_path());
            let resident = self.worker.options.resident;
            let aged = !resident && begun.elapsed() >= LIFE_MAX;
            // What is begun is brought to its end; nothing new is begun.
            if displaced || aged {
                if self.busy.is_empty() {
                    return Ok(if displaced { SpoolEnd::Displaced } else { SpoolEnd::Aged });
                }
            } else if let Some(file) = self.next(now) {
                if self.archive.is_none() && !self.open(&open, &file).await? && !resident {
                    return Ok(SpoolEnd::NoRepository);
                }
                self.begin(file);
                continue;
            }
            if !self.worker.pgwal.is_dir() && self.busy.is_empty() {
                return Ok(SpoolEnd::NoDirectory);
            }
            if !self.busy.is_empty() || !self.queue.is_idle() {
                self.last_work = now;
            }
            let idle = self.worker.options.idle.unwrap_or(IDLE_MAX);
            if !resident && self.last_work.elapsed() >= idle {
                return Ok(SpoolEnd::Idle);
            }
            let pause = if self.last_work.elapsed() < RECENTLY { LOOK_OFTEN } else { LOOK_SELDOM };
            tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => {}
                Some(ended) = self.uploads.join_next() => self.end(ended)?,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads the directories that are due. Says whether somebody asks for another worker.
    fn look(&mut self, now: Instant) -> Result<bool> {
        let mut displaced = false;
        if self.spool_dir.is_due(now, true) {
            for (file, _) in self.spool.notes()?.into_iter().filter(|(_, kind)| *kind == Kind::Ask) {
                displaced |= self.hear(file)?;
            }
            self.spool_dir.took = now.elapsed();
        }
        let eager = self.queue.is_idle();
        if self.ready_dir.is_due(now, eager) {
            self.queue.list(ready_files(&self.ready_dir.path)?);
            self.ready_dir.took = now.elapsed();
        }
        if self.last_prune.is_none_or(|at| now.duration_since(at) >= ANSWER_LIFE / 10) {
            self.last_prune = Some(now);
            self.prune()?;
        }
        Ok(displaced)
    }

    /// Somebody waits for `file`. Says whether it takes another worker.
    fn hear(&mut self, file: WalFile) -> Result<bool> {
        if self.asked.contains(&file) {
            return Ok(false);
        }
        let Some(ask) = self.spool.read_ask(&file) else { return Ok(false) };
        if ask.place != self.spool.place || ask.pgwal != self.worker.pgwal {
            if !self.worker.options.resident {
                return Ok(true);
            }
            let what = format!(
                "the agent of this spool archives {} to {}, not {} to {}",
                self.worker.pgwal.display(),
                self.spool.place,
                ask.pgwal.display(),
                ask.place
            );
            let hint = "give every server and repository a --spool of its own".to_owned();
            let fault = SpoolFault::new(ErrorKind::Invalid, what, Some(hint));
            // For those of another repository, whose notes this one's are not.
            let theirs = Spool { place: ask.place, ..self.spool.clone() };
            theirs.write_failure(&file, &Failure::of(&theirs, &fault, None, 1, SystemClock.now()))?;
            self.spool.forget(&file, Kind::Ask);
            return Ok(false);
        }
        if !self.busy.contains_key(&file) && self.is_acknowledged(&file) {
            self.spool.forget(&file, Kind::Ask);
            return Ok(false);
        }
        self.asked.insert(file.clone());
        if !self.busy.contains_key(&file) {
            self.queue.ask(file);
        }
        Ok(false)
    }

    /// The next file there is room for.
    fn next(&mut self, now: Instant) -> Option<WalFile> {
        if self.busy.len() >= self.jobs || self.busy.values().sum::<u64>() >= AT_ONCE_MAX_BYTES {
            return None;
        }
        let busy = &self.busy;
        self.queue.next(now, |file| busy.contains_key(file))
    }

    /// Opens the repository. When that fails, whoever waits is told.
    async fn open<F>(&mut self, open: &F, file: &WalFile) -> Result<bool>
    where
        F: AsyncFn() -> std::result::Result<Repository, SpoolFault>,
    {
        let opened = match open().await {
            Ok(repository) => OpenArchive::of(repository).await.map_err(|error| SpoolFault::from(&error)),
            Err(fault) => Err(fault),
        };
        match opened {
            Ok(archive) => {
                self.archive = Some(Arc::new(archive));
                Ok(true)
            }
            Err(fault) => {
                let trouble = Trouble { source: None, error: fault.into(), is_gone: false };
                self.fail(file, &trouble, ErrorKind::Unavailable)?;
                let fault = SpoolFault::from(&trouble.error);
                self.spool.refuse_all(&fault, SystemClock.now())?;
                self.asked.clear();
                Ok(false)
            }
        }
    }

    fn begin(&mut self, file: WalFile) {
        let Some(archive) = self.archive.clone() else { return };
        let (spool, pgwal) = (self.spool.clone(), self.worker.pgwal.clone());
        let size = std::fs::metadata(pgwal.join(file.as_str())).map_or(0, |meta| meta.len());
        self.busy.insert(file.clone(), size);
        let runtime = tokio::runtime::Handle::current();
        self.uploads.spawn_blocking(move || {
            let outcome = upload(&runtime, &archive, &spool, &pgwal, &file);
            (file, outcome)
        });
    }

    fn end(
        &mut self,
        ended: std::result::Result<(WalFile, std::result::Result<(), Box<Trouble>>), tokio::task::JoinError>,
    ) -> Result<()> {
        let (file, outcome) = ended.map_err(|_| Error::new(ErrorKind::Internal, "a thread panicked"))?;
        self.busy.remove(&file);
        match outcome {
            Ok(()) => {
                self.archived += 1;
                self.queue.succeeded(&file);
                self.told.remove(&file);
            }
            // The server needs it no more, and nobody waits for it.
            Err(trouble) if trouble.is_gone && !self.asked.contains(&file) => return Ok(()),
            Err(trouble) => {
                let kind = if trouble.is_gone { ErrorKind::Invalid } else { trouble.error.kind() };
                self.fail(&file, &trouble, kind)?;
            }
        }
        self.answered(&file);
        Ok(())
    }

    fn answered(&mut self, file: &WalFile) {
        if self.asked.remove(file) {
            self.spool.forget(file, Kind::Ask);
        }
    }

    /// Leaves word that `file` failed; `kind` decides who has to wait.
    fn fail(&mut self, file: &WalFile, trouble: &Trouble, kind: ErrorKind) -> Result<()> {
        self.failures += 1;
        let attempts = self.queue.failed(file, kind, Instant::now());
        if !super::queue::is_of_one_file(kind) {
            // It may be the repository itself that is gone, or another in its place.
            self.archive = None;
        }
        let fault = SpoolFault::from(&trouble.error);
        if self.told.get(file) != Some(&fault.message) {
            tracing::warn!(%file, attempts, "not archived: {}", fault.message);
            self.told.insert(file.clone(), fault.message.clone());
        }
        let failure = Failure::of(self.spool, &fault, trouble.source.clone(), attempts, SystemClock.now());
        self.spool.write_failure(file, &failure)
    }

    /// Removes answers nobody took and nobody waits for any more.
    fn prune(&mut self) -> Result<()> {
        let now = SystemClock.now().as_seconds();
        let waiting: HashSet<WalFile> = ready_files(&self.ready_dir.path)?.into_iter().collect();
        for (file, kind) in self.spool.notes()? {
            let is_old = self.spool.stamp(&file, kind).is_some_and(|(_, written, _)| {
                u64::try_from(now.saturating_sub(written)).is_ok_and(|age| age >= ANSWER_LIFE.as_secs())
            });
            if is_old && kind != Kind::Ask && !waiting.contains(&file) {
                self.spool.forget(&file, kind);
                self.told.remove(&file);
            }
        }
        Ok(())
    }
}

/// The files the server waits to have archived. A directory that is not a server's has none.
pub(super) fn ready_files(archive_status: &Path) -> Result<Vec<WalFile>> {
    let failed = |error| Error::io(format!("read {}", archive_status.display()), error);
    let entries = match std::fs::read_dir(archive_status) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.strip_suffix(".ready")?.parse::<WalFile>().ok()));
    }
    Ok(found)
}
