//! A running server's files as a source, read in their places between the beginning and the end
//! of a low-level backup.
//!
//! The server says when a backup begins and ends, gives `backup_label` and `tablespace_map`, and
//! goes on working; its files are read here, by several threads, as its own base backup would read
//! them. What comes out is what the replication protocol gives: the same archives, the same
//! entries, a `backup_manifest`, so that nobody behind the source can tell the difference.
//!
//! The parts: [`rules`] says what belongs into a backup, [`walk`] finds it, [`ahead`] reads it piece by
//! [`piece`], [`identity`] proves that the directory is the server's, [`delivery`] puts it all in order.
//!
//! Invariants: the session lives until the last file is read, or the backup fails; `pg_control` is
//! read after all other files; dropping the source ends the session, and with it the backup.

mod ahead;
mod delivery;
mod identity;
mod piece;
mod rules;
mod sum;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use capy_types::{Ctx, Phase, Problem};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Recognizer, SourceEvent, SourceFacts, TablespaceFacts};
use crate::connect::ConnectSettings;
use crate::control::ControlFile;
use crate::server::BackupSession;
use crate::{ArchiveKind, PostgresError};
use delivery::Delivery;
use piece::ReadRules;
use walk::{Walk, WalkPlan};

/// The first major with WAL summaries.
const SUMMARIES_SINCE: u32 = 170_000;

/// Events that wait for whoever takes them: buffers are bounded where they are read.
const EVENTS_MAX: usize = 4;

/// How a server's files are read.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The server's data directory, as this host sees it.
    pub data_directory: PathBuf,
    /// The label in `backup_label`.
    pub label: String,
    /// Checkpoint at once instead of spread over time.
    pub fast_checkpoint: bool,
    /// Include the WAL that makes the backup consistent by itself.
    pub include_wal: bool,
    /// Read pages again that look torn, where the cluster has page checksums.
    pub check_pages: bool,
    /// Threads that read.
    pub threads: usize,
}

/// A backup being read from a server's own files.
#[derive(Debug)]
pub struct LocalSource {
    messages: mpsc::Receiver<Message>,
    /// What the task waits for: who knows cells, if anybody.
    begin: Option<oneshot::Sender<Option<Arc<dyn Recognizer>>>>,
    recognizer: Option<Arc<dyn Recognizer>>,
    task: JoinHandle<()>,
    facts: SourceFacts,
    total_bytes: u64,
    ended: bool,
}

/// What the delivering task tells.
#[derive(Debug)]
enum Message {
    Event(SourceEvent),
    Stopped(capy_types::Lsn),
    Failed(PostgresError),
    End,
}

impl LocalSource {
    /// Makes sure that the directory is the server's, gives advice, and begins the backup.
    ///
    /// # Errors
    /// `NotTheServersDirectory` (Invalid); `Read` for what may not be read (Denied) or is not there
    /// (NotFound); no connection; `Sql` when the role may not take backups (Denied) or the server
    /// refuses; `Unsupported`.
    ///
    /// # Cancellation
    /// Safe: the server ends the backup when the connection closes.
    pub async fn start(
        ctx: &Ctx,
        settings: &ConnectSettings,
        options: &LocalOptions,
    ) -> Result<Self, PostgresError> {
        ctx.progress.phase(Phase::Prepare, None);
        let (session, mut facts, advice) = BackupSession::open(settings).await?;
        advice.into_iter().for_each(|advice| tell(ctx, advice.subject, advice.message));
        let version_num = facts.version_num.unwrap_or_default();
        if !(130_000..190_000).contains(&version_num) {
            return Err(PostgresError::Unsupported {
                what: format!("PostgreSQL {}", facts.version.unwrap_or_else(|| version_num.to_string())),
                advice: "versions 13 to 18 are supported",
            });
        }
        let servers = session.data_directory().await?;
        let (directory, system_id) = (options.data_directory.clone(), facts.system_id);
        let control = blocking(move || {
            identity::check_directory(&directory, servers.as_deref(), system_id, version_num)
        });
        let control = control.await?;

        ctx.progress.phase(Phase::Checkpoint, None);
        let is_standby = facts.from_standby == Some(true);
        if options.include_wal
            && let Err(error) = session.keep_wal().await
        {
            let message = format!("no temporary slot keeps the WAL until it is read: {error}");
            tell(ctx, "WAL".to_owned(), message);
        }
        let base = base_plan(&session, options, version_num).await?;
        let estimate = tokio::task::spawn_blocking({
            let base = base.clone();
            move || Walk::size_bytes(base)
        });
        let start_lsn = session.start(&options.label, options.fast_checkpoint).await?;
        identity::check_alive(&session, &options.data_directory, is_standby).await?;
        let root = options.data_directory.clone();
        let spaces = blocking(move || tablespaces(&root, version_num, &control)).await?;
        // A walk that died has its reasons again when it counts.
        let mut total_bytes = estimate.await.unwrap_or_default();
        for (space, _) in &spaces {
            total_bytes += space.size_bytes.unwrap_or_default();
        }
        facts.timeline = None;
        facts.start_lsn = Some(start_lsn);
        facts.wal_included = Some(options.include_wal);
        facts.tablespaces = spaces.iter().map(|(space, _)| space.clone()).collect();
        let check_pages = options.check_pages && facts.data_checksums == Some(true);
        let rules = ReadRules {
            threads: options.threads,
            check_pages_from: check_pages.then_some(start_lsn),
            pages_unchecked: !options.check_pages || facts.data_checksums == Some(false),
            recognizer: None,
        };
        let (sender, messages) = mpsc::channel(EVENTS_MAX);
        let (begin, begun) = oneshot::channel();
        let (ctx, their_facts) = (ctx.clone(), facts.clone());
        let task = tokio::spawn(async move {
            if let Ok(recognizer) = begun.await {
                let rules = ReadRules { recognizer, ..rules };
                Delivery::new(ctx, session, their_facts, rules, sender).run(base, spaces).await;
            }
        });
        Ok(Self { messages, begin: Some(begin), recognizer: None, task, facts, total_bytes, ended: false })
    }

    /// From the first event on, cells that `recognizer` knows are not handed on.
    pub(super) fn recognize_with(&mut self, recognizer: Arc<dyn Recognizer>) {
        self.recognizer = Some(recognizer);
    }

    pub(super) async fn next(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        if let Some(begin) = self.begin.take() {
            // A task that is gone is noticed by the silence after it.
            let _ = begin.send(self.recognizer.take());
        }
        while !self.ended {
            let message = self.messages.recv().await;
            self.ended = !matches!(message, Some(Message::Event(_) | Message::Stopped(_)));
            match message {
                Some(Message::Event(event)) => return Ok(Some(event)),
                Some(Message::Stopped(lsn)) => self.facts.stop_lsn = Some(lsn),
                Some(Message::Failed(error)) => return Err(error),
                Some(Message::End) => {}
                None => return Err(PostgresError::protocol("the task of the backup died".to_owned())),
            }
        }
        Ok(None)
    }

    pub(super) const fn total_bytes(&self) -> Option<u64> {
        Some(self.total_bytes)
    }

    pub(super) fn facts(&self) -> SourceFacts {
        self.facts.clone()
    }
}

impl Drop for LocalSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How the data directory is walked.
async fn base_plan(
    session: &BackupSession,
    options: &LocalOptions,
    version_num: u32,
) -> Result<WalkPlan, PostgresError> {
    let statistics = session.statistics_directory().await?;
    let emptied = statistics.and_then(|path| match path.is_absolute() {
        true => path.strip_prefix(&options.data_directory).ok().map(Path::to_owned),
        false => Some(path),
    });
    Ok(WalkPlan {
        root: options.data_directory.clone(),
        archive: ArchiveKind::Base,
        only: None,
        emptied,
        has_summaries: version_num >= SUMMARIES_SINCE,
    })
}

/// The tablespaces outside of the data directory: where their links lead, and how to walk them.
fn tablespaces(
    root: &Path,
    version_num: u32,
    control: &ControlFile,
) -> Result<Vec<(TablespaceFacts, WalkPlan)>, PostgresError> {
    let links = root.join("pg_tblspc");
    let failed = |e| walk::failed(&links, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&links).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(oid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A directory in place of a link lies inside, and is walked with everything else; a link
        // that is gone was of a tablespace just dropped.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let location = target.to_string_lossy().into_owned();
        let plan = WalkPlan {
            root: links.join(&target),
            archive: ArchiveKind::Tablespace { oid, location: location.clone() },
            only: Some(format!("PG_{}_{}", version_num / 10_000, control.catalog_version)),
            emptied: None,
            has_summaries: false,
        };
        let size_bytes = Some(Walk::size_bytes(plan.clone()));
        found.push((TablespaceFacts { oid, location, size_bytes }, plan));
    }
    found.sort_by_key(|(space, _)| space.oid);
    Ok(found)
}

fn tell(ctx: &Ctx, subject: String, message: String) {
    ctx.progress.problem(Problem { subject, message });
}

/// Runs what waits for disks beside the tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PostgresError> + Send + 'static,
) -> Result<T, PostgresError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(PostgresError::protocol("a task that reads files died".to_owned())),
    }
}
