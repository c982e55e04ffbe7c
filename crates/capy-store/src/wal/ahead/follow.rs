//! The worker: follows the requests of one recovery and stays a budget ahead of them.
//!
//! Invariants: at most the budget's segments are there or being fetched, one at least; never more
//! than [`AT_ONCE_MAX`] at once, nor more bytes than [`AT_ONCE_MAX_BYTES`] unless one segment is
//! larger. Where the archive ends is asked anew with each request.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant};

use capy_types::{Ctx, ErrorKind, SegmentName, SegmentSize, WalFile};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::super::spool::{free_bytes, is_at, open_lock};
use super::shelf::Request;
use super::{AheadBudget, AheadReport, FetchAhead};
use crate::repository::cancellable;
use crate::{Error, Repository, Result};

/// Most segments fetched at once.
const AT_ONCE_MAX: usize = 8;
/// Most bytes of segments fetched at once: three times that is in memory.
const AT_ONCE_MAX_BYTES: u64 = 256 << 20;
/// Most segments flushed at once behind the fetching. Those that the disk is too slow for are left to the
/// server, which flushes each that it keeps.
const FLUSHED_AT_ONCE_MAX: usize = 2;
/// How often requests are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Looked for more often while segments are being used up.
const LOOK_OFTEN: Duration = Duration::from_millis(5);
const RECENTLY: Duration = Duration::from_secs(1);
/// How soon the archive is asked again for what it did not have.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long the lock is tried for: `has_worker` holds it for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What became of a segment.
type Fetched = (SegmentName, Result<Found>);

enum Found {
    Here,
    /// The archive has none now.
    Absent,
}

struct Follower<'a> {
    ahead: &'a FetchAhead,
    repository: &'a Repository,
    size: SegmentSize,
    /// Segments to be ahead by.
    window: u64,
    /// Segments fetched at once.
    jobs: usize,
    /// The last request.
    request: Option<Request>,
    last_request: Instant,
    /// The first segment the archive did not have.
    absent: Option<SegmentName>,
    /// Whether it may be asked for that one again: once for each request, and not too often.
    may_have_come: bool,
    last_asked: Instant,
    fetches: JoinSet<Fetched>,
    flushes: JoinSet<()>,
    coming: BTreeSet<SegmentName>,
    report: AheadReport,
}

pub(super) async fn run(
    ahead: &FetchAhead,
    ctx: &Ctx,
    repository: &Repository,
    budget: AheadBudget,
) -> Result<AheadReport> {
    ahead.make_directory()?;
    let none = AheadReport { fetched: 0, removed: 0 };
    let Some(lock) = lock(ahead).await? else { return Ok(none) };
    ahead.sweep();
    let archive = cancellable(ctx, async { Ok(repository.repo.archive(&ahead.cluster).await?) }).await?;
    let size = match archive {
        Some(identity) => identity.segment_size,
        None => {
            let what = format!("there is no WAL archive {}", ahead.cluster);
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
    };
    let mut follower = Follower {
        ahead,
        repository,
        size,
        window: budget.segments(size),
        jobs: (2 * std::thread::available_parallelism().map_or(1, usize::from)).min(AT_ONCE_MAX),
        request: None,
        last_request: Instant::now(),
        absent: None,
        may_have_come: false,
        last_asked: Instant::now(),
        fetches: JoinSet::new(),
        flushes: JoinSet::new(),
        coming: BTreeSet::new(),
        report: none,
    };
    let outcome = follower.follow(ctx, &lock).await;
    follower.tidy(outcome.is_ok())?;
    outcome.map(|()| follower.report)
}

/// The lock, which is given back when the file is closed; `None` when another worker has it.
async fn lock(ahead: &FetchAhead) -> Result<Option<File>> {
    let failed = |error| ahead.failed("lock", error);
    let begun = Instant::now();
    loop {
        let file = open_lock(&ahead.directory.join("lock")).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) if begun.elapsed() >= LOCK_PATIENCE => return Ok(None),
            Err(Errno::WOULDBLOCK) => tokio::time::sleep(LOOK_EVERY / 2).await,
            Err(error) => return Err(failed(error.into())),
        }
    }
}

impl Follower<'_> {
    async fn follow(&mut self, ctx: &Ctx, lock: &File) -> Result<()> {
        let mut fault = None;
        loop {
            if !is_at(lock, &self.ahead.directory.join("lock")) {
                // The directory was removed, and perhaps made anew: it is another recovery's.
                return Err(Error::new(ErrorKind::Cancelled, "the directory was removed"));
            }
            self.look();
            if fault.is_none() {
                self.refill()?;
            }
            if self.coming.is_empty() {
                match fault {
                    Some(fault) => return Err(fault),
                    None if self.last_request.elapsed() >= self.ahead.idle => return Ok(()),
                    None => {}
                }
            }
            let busy = !self.coming.is_empty() || self.last_request.elapsed() < RECENTLY;
            let pause = if busy { LOOK_OFTEN } else { LOOK_EVERY };
            tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "cancelled")),
                Some(ended) = self.fetches.join_next() => {
                    let (segment, outcome) =
                        ended.map_err(|_| Error::new(ErrorKind::Internal, "a thread panicked"))?;
                    self.coming.remove(&segment);
                    match outcome {
                        Ok(Found::Here) => {
                            self.report.fetched += 1;
                            self.absent = self.absent.filter(|absent| *absent != segment);
                            self.flush(segment);
                        }
                        Ok(Found::Absent) => {
                            let first = self.absent.filter(|other| other.timeline() == segment.timeline());
                            self.absent = Some(first.map_or(segment, |other| other.min(segment)));
                        }
                        Err(error) => fault = fault.or(Some(error)),
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes note of a new request.
    fn look(&mut self) {
        let request = self.ahead.request(self.size);
        if let Some(new) = request
            && request != self.request
        {
            self.request = request;
            self.last_request = Instant::now();
            let is_ahead =
                |absent: &SegmentName| absent.timeline() == new.segment.timeline() && *absent > new.segment;
            self.absent = self.absent.filter(is_ahead);
            self.may_have_come = true;
        }
    }

    /// Begins to fetch what is missing behind the last request, as far as there is room.
    fn refill(&mut self) -> Result<()> {
        let Some(Request { segment: wanted, .. }) = self.request else { return Ok(()) };
        let present: BTreeSet<SegmentName> = self.ahead.present(self.size)?.into_iter().collect();
        let last = wanted.number() + self.window;
        let ahead_of = |segment: &SegmentName| {
            segment.timeline() == wanted.timeline()
                && (wanted.number() + 1..=last).contains(&segment.number())
        };
        let mut held = (present.len() + self.coming.len()) as u64;
        if held >= self.window {
            for segment in present.iter().filter(|segment| !ahead_of(segment)) {
                if self.ahead.remove(*segment) {
                    self.report.removed += 1;
                    held -= 1;
                }
            }
        }
        let mut segment = wanted;
        while segment.number() < last && held < self.window && self.has_hands() {
            segment = segment.next();
            if self.is_absent(segment) {
                break;
            }
            if present.contains(&segment) || self.coming.contains(&segment) {
                continue;
            }
            // The server beside needs the room more: half of what is free is left.
            if free_bytes(&self.ahead.target)? < 2 * self.window.saturating_mul(self.size.bytes()) {
                break;
            }
            if self.absent == Some(segment) {
                (self.may_have_come, self.last_asked) = (false, Instant::now());
            }
            self.begin(segment);
            held += 1;
        }
        Ok(())
    }

    /// Whether the archive has said that it does not have a segment, or one before, and need not be asked.
    fn is_absent(&self, segment: SegmentName) -> bool {
        let may_ask = self.may_have_come && self.last_asked.elapsed() >= ASK_AGAIN;
        self.absent.is_some_and(|absent| absent < segment || (absent == segment && !may_ask))
    }

    fn has_hands(&self) -> bool {
        let bytes = (self.coming.len() as u64 + 1).saturating_mul(self.size.bytes());
        self.coming.is_empty() || (self.coming.len() < self.jobs && bytes <= AT_ONCE_MAX_BYTES)
    }

    fn begin(&mut self, segment: SegmentName) {
        let (ahead, repository, runtime) = (self.ahead.clone(), self.repository.clone(), Handle::current());
        self.coming.insert(segment);
        // On a thread of its own: opening a segment keeps a core busy.
        self.fetches.spawn_blocking(move || {
            let file = WalFile::from(segment);
            let found = fetch(&ahead, &repository, &runtime, &file);
            if !matches!(found, Ok(Found::Here)) {
                ahead.abandon(&file);
            }
            (segment, found)
        });
    }

    /// Has a segment written to disk that can be used already, so that the server, which will not go on
    /// with it before it is there, need not wait for that.
    fn flush(&mut self, segment: SegmentName) {
        while self.flushes.try_join_next().is_some() {}
        if self.flushes.len() < FLUSHED_AT_ONCE_MAX {
            let ahead = self.ahead.clone();
            self.flushes.spawn_blocking(move || ahead.flush(segment));
        }
    }

    /// Leaves nothing that no recovery will use.
    fn tidy(&mut self, is_over: bool) -> Result<()> {
        let Ok(present) = self.ahead.present(self.size) else { return Ok(()) };
        if is_over && !self.ahead.is_recovering() {
            self.report.removed += present.len() as u64;
            self.ahead.clear();
            return Ok(());
        }
        let Some(Request { segment: wanted, .. }) = self.request else { return Ok(()) };
        for segment in present.into_iter().filter(|segment| segment.number() <= wanted.number()) {
            self.report.removed += u64::from(self.ahead.remove(segment));
        }
        Ok(())
    }
}

fn fetch(ahead: &FetchAhead, repository: &Repository, runtime: &Handle, file: &WalFile) -> Result<Found> {
    let part = ahead.begin(file)?;
    match runtime.block_on(repository.repo.open_wal(&ahead.cluster, file)) {
        Ok(content) => {
            ahead.put(file, part, content.size_bytes(), |sink| content.unpack(sink))?;
            Ok(Found::Here)
        }
        Err(error) if error.is_missing_object() => Ok(Found::Absent),
        Err(error) => Err(error.into()),
    }
}
