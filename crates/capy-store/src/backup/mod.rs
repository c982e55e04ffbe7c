//! Backup: a source's archives into the repository, checked on the way, visible at one stroke.
//!
//! An incremental backup is built on an earlier one ([`incremental`]): the server sends what changed
//! since, [`changed`] puts it together with what is stored, and the outcome is a backup like any other.
//! Where that does not come about, everything is received, by the same command.
//!
//! The parts: [`feed`] takes the source's bytes apart and hands entries to the repository; page
//! checksums are looked at on the workers ([`pages`]); when all is stored, `backup_manifest` is
//! compared with what was stored; [`facts`] puts together what is known of the cluster; then the
//! record is committed.
//!
//! Invariants: a source that fails, or does not hold what a base backup must hold, commits
//! nothing; a backup whose checksums do not agree is committed as damaged, and the report says so.

mod attempt;
mod changed;
mod facts;
mod feed;
mod incremental;
mod pages;
mod postgres;
mod recognize;
mod required;
mod source;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capy_format::BackupRecord;
use capy_objects::CacheCounts;
use capy_postgres::Source;
use capy_repo::{Flushed, Ingest, ReadOptions, RepoError};
use capy_types::limits::LABEL_MAX_BYTES;
use capy_types::{BackupId, BackupKey, ClusterName, Ctx, Phase, Timestamp};
use tracing::instrument;

pub use incremental::{Incremental, IncrementalReport};
pub use postgres::{Checkpoint, PostgresSource};
pub use source::BackupSource;

use crate::rate::Pace;
use crate::report::{CacheReport, Findings, Stage};
use crate::repository::cancellable;
use crate::{BackupReport, Error, Limits, Repository, Result, convert, manifest};
use feed::{Fed, Feeder};
use pages::PageChecker;

/// How a backup is taken.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BackupOptions {
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// Its id inside the cluster; made from time and chance when `None`.
    pub id: Option<BackupId>,
    /// A name for people, at most 512 bytes.
    pub label: Option<String>,
    /// The database it is of, as a remark.
    pub database: Option<String>,
    /// Check the checksums of pages, where the cluster has them.
    pub check_pages: bool,
    /// Worker threads; one per processor, at most 16, when `None`.
    pub jobs: Option<usize>,
    /// Memory in bytes it may take; 256 MiB when `None`. Packs get smaller, and requests more, where
    /// many jobs would not fit.
    pub memory_bytes: Option<usize>,
    /// Bytes a second to read from the source at most: from a server over the network, or from its
    /// disks.
    pub read_rate: Option<NonZeroU64>,
    /// Most differences on a whole chunk: a changed chunk is stored as its difference to the previous
    /// backup's where that is much smaller. 0 stores every chunk whole; the default, when `None`,
    /// keeps restores near the speed of a backup without any.
    pub delta_depth: Option<u8>,
    /// Whether a server (17 or later, with `summarize_wal = on`) may send only what changed since an
    /// earlier backup of the cluster. What is stored is a whole backup all the same.
    pub incremental: Incremental,
}

impl BackupOptions {
    /// The defaults, for one cluster.
    #[must_use]
    pub const fn new(cluster: ClusterName) -> Self {
        Self {
            cluster,
            id: None,
            label: None,
            database: None,
            check_pages: true,
            jobs: None,
            memory_bytes: None,
            read_rate: None,
            delta_depth: None,
            incremental: Incremental::Off,
        }
    }
}

impl Repository {
    /// Takes a backup.
    ///
    /// A report that is not [complete](BackupReport::is_complete) is of a backup that was stored
    /// as received, but whose page checksums or `backup_manifest` did not agree: it is kept, marked
    /// as damaged, and the report lists what is wrong.
    ///
    /// # Errors
    /// `Invalid` when the input is no base backup or lacks a file it must have; `Corrupt` when a tar
    /// is truncated or broken (the message names entry and offset); `Conflict` when the key is
    /// taken; `Denied`, `Unavailable` from server, disk or store; `Invalid` when the backup had to be
    /// incremental and cannot be. After an error nothing is visible.
    ///
    /// # Cancellation
    /// Dropping or cancelling commits nothing. What was uploaded and indexed by then is reused by
    /// the next backup; the rest is for the collector.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let ctx = Ctx::default();
    /// # let repository = Repository::init(&ctx, &Location::new("memory://"), &[Key::passphrase("x")], InitOptions::default()).await?;
    /// let source = BackupSource::stream("dump.sql", &b"select 1;"[..]);
    /// let mut options = BackupOptions::new("main".parse().unwrap());
    /// options.label = Some("before the migration".to_owned());
    /// let report = repository.backup(&ctx, source, options).await?;
    /// println!("{}: {} new bytes", report.backup.backup_key, report.stats.new_bytes);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %options.cluster))]
    pub async fn backup(
        &self,
        ctx: &Ctx,
        source: BackupSource,
        options: BackupOptions,
    ) -> Result<BackupReport> {
        check(&options)?;
        ctx.progress.phase(Phase::Prepare, None);
        let begun = Instant::now();
        let store_read_bytes = self.meter.read_bytes();
        let cached = self.repo.cache().map(|cache| cache.counts()).unwrap_or_default();
        let created_at = self.clock().now();
        let made = || BackupId::generate(created_at, self.entropy());
        let key = BackupKey { cluster: options.cluster.clone(), id: options.id.clone().unwrap_or_else(made) };
        if options.id.is_some() {
            cancellable(ctx, self.refuse_taken(&key)).await?;
        }
        let pages = Arc::new(PageChecker::default());
        let taking = Taking {
            repository: self,
            ctx,
            options: &options,
            key,
            created_at,
            begun,
            store_read_bytes,
            cached,
            pages,
        };
        let asked = source.server().cloned().filter(|_| options.incremental != Incremental::Off);
        let Some(server) = asked else { return taking.whole(source, None).await };
        match taking.incremental(server).await? {
            Ok(report) => Ok(report),
            Err(not) if options.incremental == Incremental::Require => Err(incremental::refused(&not.reason)),
            Err(not) => taking.whole(source, Some(not)).await,
        }
    }
}

impl Repository {
    /// Refuses a key that is taken, before a server is asked for anything. The commit asks again, and
    /// that is enough where the key is made by chance.
    async fn refuse_taken(&self, key: &BackupKey) -> Result<()> {
        let root = self.repo.root().await?;
        match root.backups.iter().find(|entry| entry.key == *key) {
            Some(_) => Err(RepoError::BackupExists { key: key.clone() }.into()),
            None => Ok(()),
        }
    }
}

fn check(options: &BackupOptions) -> Result<()> {
    for (what, text) in [("label", &options.label), ("database name", &options.database)] {
        let length = text.as_ref().map_or(0, String::len);
        if length > LABEL_MAX_BYTES {
            return Err(Error::invalid(format!(
                "the {what} has {length} bytes, at most {LABEL_MAX_BYTES} are allowed"
            )));
        }
    }
    Ok(())
}

/// A backup being taken.
struct Taking<'a> {
    repository: &'a Repository,
    ctx: &'a Ctx,
    options: &'a BackupOptions,
    key: BackupKey,
    created_at: Timestamp,
    begun: Instant,
    /// Bytes read from the store before.
    store_read_bytes: u64,
    /// What the local cache had counted before.
    cached: CacheCounts,
    pages: Arc<PageChecker>,
}

/// Everything stored and checked, not yet visible.
struct Stored {
    fed: Fed,
    earlier: Option<BackupKey>,
    flushed: Flushed,
    findings: Findings,
    facts: Option<capy_format::PostgresFacts>,
    notices: Vec<String>,
    stages: Vec<Stage>,
    limits: Limits,
}

impl Taking<'_> {
    async fn store(&self, mut source: Source, ingest: &mut Ingest) -> Result<Stored> {
        let began = Instant::now();
        let since = began;
        // What a server estimates is the size of everything.
        let total = source.total_bytes().filter(|_| !source.facts().incremental);
        self.ctx.progress.phase(Phase::Backup, total);
        if let Some(recognizer) = ingest.recognizer() {
            source.recognize_with(recognize::for_source(recognizer));
        }
        let checker = self.options.check_pages.then(|| Arc::clone(&self.pages));
        let mut fed = Feeder::new(self.ctx, ingest, checker, self.options.read_rate.map(Pace::new))
            .run(&mut source)
            .await?;
        let mut stages = vec![stage("reading and storing", since)];

        let since = Instant::now();
        self.ctx.progress.phase(Phase::Commit, None);
        let flushed = ingest.flush().await?;
        stages.push(stage("flushing", since));
        let limits = Limits::of(began.elapsed(), fed.waited, flushed.waited_for_store);
        stages.extend(flushed.stages.iter().map(|(name, elapsed)| Stage { name, elapsed: *elapsed }));

        let since = Instant::now();
        let mut findings = Findings::default();
        let (mut facts, mut notices) = (None, Vec::new());
        if fed.is_base {
            let reader = ingest.reader(ReadOptions::default())?;
            let compared = manifest::compare(self.ctx, &reader, &flushed.manifest).await?;
            let known = facts::gather(&fed, &source.facts(), &compared)?;
            let (bad, total) = self.pages.judge(&known);
            pages::report(&reader, &flushed.manifest, &bad, total, &mut findings).await?;
            if let (Some(verdict), true) = (&fed.server_verdict, findings.is_empty()) {
                findings.add(|| format!("the server found damaged pages: {verdict}"));
            }
            notices = facts::notices(&known, &fed, &compared);
            findings.extend(compared.problems);
            if let Some(together) = &mut fed.together {
                findings.extend(std::mem::take(&mut together.findings));
            }
            facts = Some(known);
            stages.push(stage("comparing backup_manifest", since));
        }
        let earlier = ingest.patched_from().cloned();
        Ok(Stored { fed, earlier, flushed, findings, facts, notices, stages, limits })
    }

    /// Makes it visible. `asked`: it was to be incremental.
    async fn commit(
        &self,
        ingest: Ingest,
        stored: Stored,
        asked: Option<IncrementalReport>,
    ) -> Result<BackupReport> {
        let since = Instant::now();
        let Stored { fed, earlier, flushed, findings, facts, mut notices, mut stages, limits } = stored;
        let incremental = match (asked, fed.together) {
            (Some(asked), Some(together)) => {
                Some(IncrementalReport { from: earlier, reason: asked.reason, ..together.report })
            }
            (asked, _) => asked,
        };
        if let Some(reason) = incremental.as_ref().and_then(|incremental| incremental.reason.as_ref()) {
            notices.push(format!("everything was sent, for an incremental backup is not possible: {reason}"));
        }
        let from = incremental.as_ref().and_then(|incremental| incremental.from.as_ref());
        let state = if findings.is_empty() {
            capy_format::BackupState::Complete
        } else {
            capy_format::BackupState::Damaged
        };
        let record = BackupRecord {
            key: self.key.clone(),
            label: self.options.label.clone(),
            created_at: self.created_at,
            finished_at: self.repository.clock().now(),
            kind: if fed.is_base { capy_format::BackupKind::Base } else { capy_format::BackupKind::Stream },
            database: self.options.database.clone(),
            incremental_from: from.map(|key| key.id.clone()),
            manifest: flushed.manifest,
            stats: flushed.stats,
            postgres: facts,
            problems: findings.first.clone(),
            problems_total: findings.total,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let stats = convert::stats(&record.stats);
        let wal_needed = record.postgres.as_ref().and_then(convert::wal_needed);
        let entry = ingest.commit(record, state).await?;
        tracing::info!(backup = %entry.key, stored_bytes = entry.stored_bytes, "committed");
        stages.push(stage("committing", since));
        stages.retain(|stage| stage.elapsed > Duration::ZERO);
        Ok(BackupReport {
            backup: convert::info(&entry),
            stats,
            read_bytes: fed.read_bytes,
            elapsed: self.begun.elapsed(),
            stages,
            limits,
            problems: findings.first,
            problems_total: findings.total,
            notices,
            wal_needed,
            incremental,
            store_read_bytes: self.repository.meter.read_bytes() - self.store_read_bytes,
            cache: self.repository.repo.cache().map(|cache| CacheReport::since(&self.cached, cache)),
        })
    }
}

fn stage(name: &'static str, since: Instant) -> Stage {
    Stage { name, elapsed: since.elapsed() }
}
