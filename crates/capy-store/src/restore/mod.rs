//! Restore: a backup back into files, proven byte by byte.
//!
//! Order of things: every destination is checked before the first byte is written; directories
//! are made as the manifest names them; files are written in the order in which packs hold them,
//! from several requests at once; links come after all files, so that nothing is ever written
//! through one; everything is flushed; `global/pg_control` comes last.
//!
//! Invariants: bytes are written only after their chunk id matched; a file counts only when its
//! whole checksum matched; a restore that did not end well leaves a directory that does not start.

mod delta;
mod durable;
mod files;
mod full;
mod owner;
mod path;
mod recovery;
mod relocate;
mod select;
mod tar;
mod target;

use std::path::PathBuf;
use std::time::Instant;

use capy_format::BackupRecord;
use capy_types::{BackupSelector, Ctx, Phase};
use tracing::instrument;

pub use delta::{Delta, DeltaPlan};
pub use owner::Owner;
pub use recovery::Recovery;
pub(crate) use select::prefix_of;
pub use tar::TarTarget;
pub use target::TablespaceMapping;

use recovery::Aimed;

use crate::report::Stage;
use crate::repository::cancellable;
use crate::{Error, Repository, RestoreReport, Result, convert};

/// How a backup is restored into a directory.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// The directory: empty or absent (unless `files` are chosen).
    pub target: PathBuf,
    /// Where tablespaces go that shall not lie where they lay on the server.
    pub tablespace_mapping: Vec<TablespaceMapping>,
    /// Globs over the paths of the backup (tablespaces under `pg_tblspc/<oid>/`); when not empty,
    /// only files that match are restored, each replacing what is there.
    pub files: Vec<String>,
    /// Who gets the files.
    pub owner: Owner,
    /// Bring an existing directory to the backup's state: what is right stays, what differs is fetched,
    /// and what the backup does not have is removed.
    pub delta: Option<Delta>,
    /// Point-in-time recovery: the directory is set up to replay the archive up to a target.
    pub recovery: Option<Recovery>,
}

impl RestoreOptions {
    /// Everything, into `target`.
    pub fn to(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            tablespace_mapping: Vec::new(),
            files: Vec::new(),
            owner: Owner::default(),
            delta: None,
            recovery: None,
        }
    }
}

/// The backup being restored, and what is counted on the way.
pub(crate) struct Restoring<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) ctx: &'a Ctx,
    pub(crate) record: BackupRecord,
    begun: Instant,
    read_before: u64,
    pub(crate) report: RestoreReport,
}

impl<'a> Restoring<'a> {
    async fn begin(repository: &'a Repository, ctx: &'a Ctx, backup: &BackupSelector) -> Result<Self> {
        ctx.progress.phase(Phase::Prepare, None);
        let begun = Instant::now();
        let read_before = repository.meter.read_bytes();
        let entry = repository.repo.resolve(backup).await?;
        let record = repository.repo.record(&entry).await?;
        let mut notices = Vec::new();
        if entry.state == capy_format::BackupState::Damaged {
            notices.push(format!(
                "this backup was damaged when it was taken: {} problems, see `show`",
                record.problems_total
            ));
        }
        let report = RestoreReport {
            backup_key: entry.key,
            target: None,
            files: 0,
            directories: 0,
            restored_bytes: 0,
            kept_bytes: 0,
            removed: 0,
            read_bytes: 0,
            elapsed: std::time::Duration::ZERO,
            stages: Vec::new(),
            notices,
            wal_needed: record.postgres.as_ref().and_then(convert::wal_needed),
            recovery: None,
        };
        Ok(Self { repository, ctx, record, begun, read_before, report })
    }

    /// Notes how long a stage took that began at `since`.
    pub(crate) fn stage(&mut self, name: &'static str, since: Instant) {
        self.report.stages.push(Stage { name, elapsed: since.elapsed() });
    }

    /// Notes the recovery that was set up, which brings the WAL that is needed.
    fn recovered(&mut self, prepared: Option<recovery::Prepared>) {
        let Some(prepared) = prepared else { return };
        let choice = prepared.into_choice();
        self.report.notices.extend(choice.notices.iter().cloned());
        self.report.wal_needed = None;
        self.report.recovery = Some(choice);
    }

    fn finish(mut self) -> RestoreReport {
        self.report.read_bytes = self.repository.meter.read_bytes() - self.read_before;
        self.report.elapsed = self.begun.elapsed();
        self.report
    }
}

impl Repository {
    /// Restores a backup into a directory: everything, or the files that match a glob.
    ///
    /// # Errors
    /// `NotFound` when there is no such backup or no file matches, or a recovery's target cannot be
    /// reached (the message says why, the hint what can); `Conflict` when a destination is
    /// not empty or holds a `postmaster.pid`, found before anything is written; `Corrupt`, naming
    /// files, objects and offsets, when stored data cannot be read as it was written; `Invalid`
    /// for a mapping that fits no tablespace; `Denied`, `Unavailable` from disk or store.
    ///
    /// # Cancellation
    /// Dropping, cancelling or failing leaves what was written so far. It holds no
    /// `global/pg_control`, so PostgreSQL does not start on it; remove it before the next try. (A
    /// restore dropped during its last flush may still complete.)
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let mut options = RestoreOptions::to("/var/lib/postgresql/15/restored");
    /// options.tablespace_mapping.push("/mnt/fast=/mnt/restored-fast".parse()?);
    /// let report = repository.restore(ctx, &"main/latest".parse().unwrap(), options).await?;
    /// println!("{} files, {} bytes", report.files, report.restored_bytes);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(backup = %backup, target = %options.target.display()))]
    pub async fn restore(
        &self,
        ctx: &Ctx,
        backup: &BackupSelector,
        mut options: RestoreOptions,
    ) -> Result<RestoreReport> {
        let work = async {
            let Aimed { backup, prepared, notice } = match options.recovery.take() {
                Some(_) if !options.files.is_empty() => {
                    return Err(Error::invalid("single files cannot be recovered to a point in time"));
                }
                Some(recovery) => self.aim_recovery(ctx, backup, recovery).await?,
                None => Aimed { backup: backup.clone(), prepared: None, notice: None },
            };
            let mut restoring = Restoring::begin(self, ctx, &backup).await?;
            restoring.report.notices.extend(notice);
            if options.delta.is_some() && !options.files.is_empty() {
                return Err(Error::invalid("a delta restore is of a whole backup, not of single files"));
            }
            if options.delta.is_some() {
                delta::restore(&mut restoring, &options, prepared.as_ref()).await?;
                restoring.recovered(prepared);
            } else if options.files.is_empty() {
                full::restore(&mut restoring, &options, prepared.as_ref()).await?;
                restoring.recovered(prepared);
            } else {
                select::restore(&mut restoring, &options).await?;
            }
            let report = restoring.finish();
            tracing::info!(files = report.files, bytes = report.restored_bytes, "restored");
            Ok(report)
        };
        cancellable(ctx, work).await
    }

    /// Writes a backup as the stream it came from: one archive into a writer, byte for byte as it
    /// was read, or all archives and the `backup_manifest` into a directory.
    ///
    /// # Errors
    /// As [`restore`](Self::restore); `Invalid` when the backup has several archives and the target
    /// is a writer.
    ///
    /// # Cancellation
    /// Dropping leaves a stream cut short, or files named `*.partial`.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let target = TarTarget::directory("/tmp/tars");
    /// repository.restore_tar(ctx, &"main/latest".parse().unwrap(), target).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(backup = %backup))]
    pub async fn restore_tar(
        &self,
        ctx: &Ctx,
        backup: &BackupSelector,
        target: TarTarget,
    ) -> Result<RestoreReport> {
        let work = async {
            let mut restoring = Restoring::begin(self, ctx, backup).await?;
            tar::restore(&mut restoring, target).await?;
            Ok(restoring.finish())
        };
        cancellable(ctx, work).await
    }
}
