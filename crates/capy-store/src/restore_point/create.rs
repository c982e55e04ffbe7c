//! Making a restore point, and taking it away.

use capy_format::{BackupKind, RestorePoint, RestorePointKind};
use capy_postgres::SqlConnection;
use capy_postgres::recovery::check_restore_point_name;
use capy_types::limits::LABEL_MAX_BYTES;
use capy_types::{BackupId, BackupSelector, ClusterName, Ctx, ErrorKind, Lsn, SystemId, Timestamp};
use tracing::instrument;

use super::state::Judge;
use super::{RestorePointAt, RestorePointInfo, RestorePointOptions};
use crate::repository::cancellable;
use crate::wal::archive::Archive;
use crate::{Error, PostgresServer, Repository, Result};

/// Longest note in bytes: a screen full.
const NOTE_MAX_BYTES: usize = 4096;
/// Longest name of who made it in bytes.
const CREATED_BY_MAX_BYTES: usize = 200;

impl Repository {
    /// Makes a restore point. With a server the name goes into its log first, and recovery can stop
    /// at it by name; the role needs `pg_create_restore_point`.
    ///
    /// # Errors
    /// `Conflict` when the label is taken (also in the archived WAL: recovery stops at the first
    /// point of a name), or when the server is not the one whose WAL and backups the cluster has;
    /// `NotFound` when the repository has neither WAL nor backups of the cluster, or no such backup;
    /// `Invalid` for a label that cannot be one, and for a standby; `Denied`, `Unavailable` from
    /// server and store.
    ///
    /// # Cancellation
    /// Safe to drop: the point is stored or not. With a server its name may be in the log by then,
    /// where it stays; the label is not free any more once that WAL is archived.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let server = PostgresServer::connect_with("host=/run/postgresql user=postgres", |_| None)?;
    /// let options = RestorePointOptions::new("before_migration", RestorePointAt::Server(server));
    /// let point = repository.create_restore_point(ctx, &"main".parse().unwrap(), options).await?;
    /// println!("{} at {:?}: {}", point.label, point.lsn, point.state.as_str());
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %cluster, label = options.label))]
    pub async fn create_restore_point(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        options: RestorePointOptions,
    ) -> Result<RestorePointInfo> {
        check(&options)?;
        let work = async {
            let making = Making::begin(self, ctx, cluster).await?;
            let point = making.point(options).await?;
            self.repo.put_restore_point(&point).await?;
            tracing::info!(id = point.id, in_wal = point.in_wal, "restore point stored");
            making.judge.info(ctx, point).await
        };
        cancellable(ctx, work).await
    }

    /// Deletes a restore point. The backup it names stays, and so does its name in the log, if it is
    /// there.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop: it is deleted or not.
    #[instrument(skip_all, fields(cluster = %cluster, id = %id))]
    pub async fn delete_restore_point(&self, ctx: &Ctx, cluster: &ClusterName, id: &BackupId) -> Result<()> {
        let work = async {
            let deleted = self.repo.delete_restore_point(cluster, id.as_str()).await;
            deleted.map_err(|error| {
                let is_missing = error.kind() == ErrorKind::NotFound;
                let error = Error::from(error);
                if is_missing { error.with_hint("`restore-point list` shows them") } else { error }
            })
        };
        cancellable(ctx, work).await
    }
}

fn check(options: &RestorePointOptions) -> Result<()> {
    check_line("label", &options.label, LABEL_MAX_BYTES)?;
    if options.label.is_empty() {
        return Err(Error::invalid("a restore point needs a label"));
    }
    if let Some(created_by) = &options.created_by {
        check_line("name of who makes it", created_by, CREATED_BY_MAX_BYTES)?;
    }
    let note_bytes = options.note.as_ref().map_or(0, String::len);
    if note_bytes > NOTE_MAX_BYTES {
        let what = format!("the note has {note_bytes} bytes, at most {NOTE_MAX_BYTES} are allowed");
        return Err(Error::invalid(what));
    }
    match options.at {
        RestorePointAt::Server(_) => {
            Ok(check_restore_point_name(&options.label).map_err(|error| Error::wrap(error.kind(), error))?)
        }
        RestorePointAt::Lsn(Lsn::INVALID) => Err(Error::invalid("no record is at the position 0/0")),
        _ => Ok(()),
    }
}

fn check_line(what: &str, text: &str, max_bytes: usize) -> Result<()> {
    if text.len() > max_bytes {
        let found = text.len();
        return Err(Error::invalid(format!("the {what} has {found} bytes, at most {max_bytes} are allowed")));
    }
    if text.contains(char::is_control) {
        return Err(Error::invalid(format!("the {what} is not one line of text")));
    }
    Ok(())
}

/// A restore point in the making.
struct Making<'a> {
    repository: &'a Repository,
    cluster: &'a ClusterName,
    judge: Judge<'a>,
    others: Vec<RestorePoint>,
}

impl<'a> Making<'a> {
    async fn begin(repository: &'a Repository, ctx: &Ctx, cluster: &'a ClusterName) -> Result<Self> {
        let judge = Judge::load(repository, ctx, cluster).await?;
        let others = repository.repo.restore_points(cluster).await?;
        Ok(Self { repository, cluster, judge, others })
    }

    async fn point(&self, options: RestorePointOptions) -> Result<RestorePoint> {
        self.refuse_unknown_cluster()?;
        let is_backup = matches!(options.at, RestorePointAt::Backup(_));
        let kind = if is_backup { RestorePointKind::Backup } else { RestorePointKind::Pitr };
        self.refuse_taken(&options.label, kind)?;
        let created_at = self.repository.clock().now();
        let id = BackupId::generate(created_at, self.repository.entropy());
        let mut point = RestorePoint {
            id: id.to_string(),
            cluster: self.cluster.clone(),
            kind,
            label: options.label,
            note: options.note,
            created_by: options.created_by,
            created_at,
            backup_key: None,
            pitr_time: None,
            lsn: None,
            in_wal: false,
        };
        match options.at {
            RestorePointAt::Server(server) => {
                point.lsn = Some(self.write_into_wal(&server, &point.label).await?);
                point.pitr_time = Some(self.repository.clock().now());
                point.in_wal = true;
            }
            RestorePointAt::Now => point.pitr_time = Some(self.now(created_at)?),
            RestorePointAt::Time(time) => point.pitr_time = Some(time),
            RestorePointAt::Lsn(lsn) => point.lsn = Some(lsn),
            RestorePointAt::Backup(selector) => point.backup_key = Some(self.backup(&selector).await?),
        }
        Ok(point)
    }

    /// A mistyped name would otherwise get points that lead nowhere.
    fn refuse_unknown_cluster(&self) -> Result<()> {
        if self.judge.backups().next().is_some() || self.judge.archive().is_some() {
            return Ok(());
        }
        let what = format!("there is neither WAL nor a backup of {}", self.cluster);
        Err(Error::new(ErrorKind::NotFound, what).with_hint("`list` shows the clusters that have backups"))
    }

    fn refuse_taken(&self, label: &str, kind: RestorePointKind) -> Result<()> {
        if let Some(other) = self.others.iter().find(|other| other.label == *label && other.kind == kind) {
            let what = format!("there is a restore point {label:?} already: {}/{}", self.cluster, other.id);
            return Err(Error::new(ErrorKind::Conflict, what).with_hint("choose another label"));
        }
        match self.judge.named(label).first() {
            Some(known) if kind == RestorePointKind::Pitr => {
                let what = format!(
                    "the WAL has a restore point {label:?} already, at {} on timeline {}",
                    known.at,
                    known.timeline()
                );
                Err(Error::new(ErrorKind::Conflict, what)
                    .with_hint("choose another label: recovery stops at the first point of a name"))
            }
            _ => Ok(()),
        }
    }

    /// Only an archive makes a moment worth a name.
    fn now(&self, now: Timestamp) -> Result<Timestamp> {
        match self.judge.archive() {
            Some(_) => Ok(now),
            None => Err(no_archive(self.cluster)),
        }
    }

    async fn backup(&self, selector: &BackupSelector) -> Result<capy_types::BackupKey> {
        if selector.cluster() != self.cluster {
            return Err(Error::invalid(format!("{selector} is no backup of {}", self.cluster)));
        }
        Ok(self.repository.repo.resolve(selector).await?.key)
    }

    async fn write_into_wal(&self, server: &PostgresServer, label: &str) -> Result<Lsn> {
        let connection = server.open().await?;
        let settings = connection.archiving_settings().await?;
        if settings.in_recovery {
            let what = format!("{} is a standby, which cannot create restore points", connection.host());
            return Err(Error::invalid(what).with_hint("connect to the primary"));
        }
        self.refuse_foreign(&connection, settings.system_id)?;
        Ok(connection.create_restore_point(label).await?)
    }

    fn refuse_foreign(&self, connection: &SqlConnection, found: SystemId) -> Result<()> {
        let expected = match self.judge.archive() {
            Some(archive) => Some((archive.identity.system_id, "WAL")),
            None => self.newest_system().map(|id| (id, "backups")),
        };
        match expected {
            Some((expected, what)) if expected != found => {
                let cluster = self.cluster;
                let message = format!(
                    "{} is the system {found}; the {what} of {cluster} are of {expected}",
                    connection.host()
                );
                Err(Error::new(ErrorKind::Conflict, message).with_hint("name that server's cluster"))
            }
            _ => Ok(()),
        }
    }

    fn newest_system(&self) -> Option<SystemId> {
        let bases = self.judge.backups().filter(|entry| entry.kind == BackupKind::Base);
        bases.max_by_key(|entry| entry.finished_at).and_then(|entry| entry.system_id)
    }
}

/// The archive that a moment needs is not there.
pub(super) fn no_archive(cluster: &ClusterName) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no WAL archive {cluster}"))
        .with_hint("archive_command = 'capy-store … wal push --cluster NAME %p' makes one; or name a backup")
}

/// Loads the archive of a cluster, if there is one.
pub(super) async fn load_archive(
    repository: &Repository,
    ctx: &Ctx,
    cluster: &ClusterName,
) -> Result<Option<Archive>> {
    match repository.repo.archive(cluster).await? {
        Some(_) => Ok(Some(Archive::load(repository, ctx, cluster).await?)),
        None => Ok(None),
    }
}
