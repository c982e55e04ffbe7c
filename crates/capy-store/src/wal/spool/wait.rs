//! The process that archive_command waits for: takes an acknowledgement, or asks for one.
//!
//! Invariant: it answers `Ok` only on the worker's word about this very file, and takes that word
//! away, so that nobody is answered by it twice.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use capy_types::{Ctx, ErrorKind, WalFile};
use tracing::instrument;

use super::{Kind, SourceId, Spool, server_directory};
use crate::wal::push::{PushOutcome, PushedWal, file_name};
use crate::{Error, Result};

/// How often the spool is looked at: a worker that is at the file takes some 50 ms.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// And after a second of waiting.
const LOOK_SELDOM: Duration = Duration::from_millis(20);
/// How often it is asked whether a worker runs, and the wish is renewed: after a second without
/// one another is started.
const CHECK_WORKER_EVERY: Duration = Duration::from_secs(1);

impl Spool {
    /// Answers for a WAL file once it is durable in the archive, without opening the repository:
    /// at once when a worker was ahead, else when it has done it. `start_worker` is called when no
    /// worker runs, at most once a second.
    ///
    /// # Errors
    /// `NotFound` when there is no such file; what the worker met, of its kind; `Unavailable` after
    /// `timeout`. After any error the server must keep the file; the worker goes on trying.
    ///
    /// # Cancellation
    /// Safe to drop: the worker may still archive the file, and the next call is then answered at
    /// once.
    ///
    /// # Example
    /// ```no_run
    /// # use std::time::Duration;
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, location: &Location) -> Result<()> {
    /// let spool = Spool::open("/var/spool/capy", &"main".parse().unwrap(), location)?;
    /// let segment = "/var/lib/postgresql/15/main/pg_wal/000000010000000000000003";
    /// let start = || std::process::Command::new("my-wal-agent").spawn().map(|_| ());
    /// spool.push(ctx, segment, Duration::from_secs(60), start).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %self.cluster))]
    pub async fn push(
        &self,
        ctx: &Ctx,
        path: impl Into<PathBuf>,
        timeout: Duration,
        mut start_worker: impl FnMut() -> std::io::Result<()>,
    ) -> Result<PushedWal> {
        let begun = Instant::now();
        let path = path.into();
        let file = file_name(&path)?;
        let source = SourceId::at(&path)?;
        if let Some(pushed) = self.take(&file, &source, begun) {
            return Ok(pushed);
        }
        let pgwal = server_directory(&path)?;
        let old_failure = self.stamp(&file, Kind::Error);
        self.write_ask(&file, &pgwal)?;
        let mut checked: Option<Instant> = None;
        loop {
            // In this order: a file that failed and was then archived is archived.
            let failure = self.fresh_failure(&file, &source, old_failure);
            if let Some(pushed) = self.take(&file, &source, begun) {
                return Ok(pushed);
            }
            if let Some(error) = failure {
                return Err(error);
            }
            let waited = begun.elapsed();
            if waited >= timeout {
                return Err(self.late(&file, timeout));
            }
            if checked.is_none_or(|at| at.elapsed() >= CHECK_WORKER_EVERY) {
                checked = Some(Instant::now());
                if self.stamp(&file, Kind::Ask).is_none() {
                    // It was answered, and another process took the answer.
                    self.write_ask(&file, &pgwal)?;
                }
                if !self.has_worker()? {
                    start_worker().map_err(|error| Error::io("start a worker", error))?;
                }
            }
            let pause = if waited < CHECK_WORKER_EVERY { LOOK_EVERY } else { LOOK_SELDOM };
            tokio::select! {
                biased;
                () = ctx.cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "cancelled")),
                () = tokio::time::sleep(pause.min(timeout.saturating_sub(waited))) => {}
            }
        }
    }

    /// Takes the acknowledgement of `file`, if it is of this file. One of another is removed: it
    /// will never be right again.
    fn take(&self, file: &WalFile, source: &SourceId, begun: Instant) -> Option<PushedWal> {
        let note = self.read_acknowledgement(file)?;
        self.forget(file, Kind::Ok);
        if note.source != *source {
            return None;
        }
        Some(PushedWal {
            cluster: self.cluster.clone(),
            file: file.clone(),
            outcome: if note.new { PushOutcome::Archived } else { PushOutcome::AlreadyThere },
            size_bytes: source.size,
            stored_bytes: note.stored_bytes,
            elapsed: begun.elapsed(),
            notices: note.notices,
        })
    }

    /// What was written about this file since `old`.
    fn fresh_failure(
        &self,
        file: &WalFile,
        source: &SourceId,
        old: Option<(u64, i64, i64)>,
    ) -> Option<Error> {
        let stamp = self.stamp(file, Kind::Error);
        if stamp.is_none() || stamp == old {
            return None;
        }
        let note = self.read_failure(file)?;
        let is_this = note.source.as_ref().is_none_or(|failed| failed == source);
        is_this.then(|| note.fault().into())
    }

    fn late(&self, file: &WalFile, timeout: Duration) -> Error {
        let worker = match self.holder() {
            Some(holder) if self.has_worker().unwrap_or(false) => {
                let elsewhere = holder.place != self.place;
                let whose =
                    if elsewhere { format!(", which archives to {}", holder.place) } else { String::new() };
                format!("process {} is at it{whose}", holder.pid)
            }
            _ => "no worker came up".to_owned(),
        };
        let what = format!("{file} is not archived after {} s: {worker}", timeout.as_secs());
        Error::new(ErrorKind::Unavailable, what)
            .with_hint(format!("the worker goes on; its log is {}", self.log().display()))
    }
}
