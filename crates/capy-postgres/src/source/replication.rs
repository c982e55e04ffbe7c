//! A running server as a source: its base backup over the replication protocol.

use capy_types::{Ctx, Phase, Problem};

use super::{ArchiveStart, SourceEvent, SourceFacts};
use crate::PostgresError;
use crate::connect::ConnectSettings;
use crate::replication::{BaseBackup, BaseBackupEvent, BaseBackupOptions, ReplicationConnection};
use crate::server::{self, Advice, IncrementalServer};

/// A base backup being received.
#[derive(Debug)]
pub struct ReplicationSource {
    backup: BaseBackup,
    facts: SourceFacts,
    in_archive: bool,
    /// The archive that began while another was open: its end is told first.
    next_archive: Option<ArchiveStart>,
}

impl ReplicationSource {
    /// Asks the server about itself, gives advice, and starts the base backup.
    ///
    /// What the role may not ask is left out; a role with only `REPLICATION` can be backed up.
    ///
    /// # Errors
    /// No connection, a server that refuses, a server of a kind that is not supported.
    ///
    /// # Cancellation
    /// Safe: the server ends the backup when the connection closes.
    pub async fn start(
        ctx: &Ctx,
        settings: &ConnectSettings,
        options: &BaseBackupOptions,
    ) -> Result<Self, PostgresError> {
        ctx.progress.phase(Phase::Prepare, None);
        let mut connection = ReplicationConnection::open(settings).await?;
        let identity = connection.identify_system().await?;
        let mut facts = server::facts_over_replication(&mut connection).await?;
        facts.system_id = Some(identity.system_id);
        match server::facts_over_sql(settings, &mut facts).await {
            Ok(advice) => advice.into_iter().for_each(|advice: Advice| {
                ctx.progress.problem(Problem { subject: advice.subject, message: advice.message });
            }),
            Err(error) => ctx.progress.problem(Problem {
                subject: "server facts".to_owned(),
                message: format!("not recorded, because plain SQL is not possible: {error}"),
            }),
        }
        let version = facts.version_num.unwrap_or_default();
        if !(130_000..190_000).contains(&version) {
            return Err(PostgresError::Unsupported {
                what: format!("PostgreSQL {}", facts.version.unwrap_or_else(|| version.to_string())),
                advice: "versions 13 to 18 are supported",
            });
        }
        ctx.progress.phase(Phase::Checkpoint, None);
        let (backup, refused) = begin(ctx, settings, connection, version, options).await?;
        facts.incremental = backup.incremental;
        facts.not_incremental = refused;
        facts.timeline = Some(backup.timeline);
        facts.start_lsn = Some(backup.start_lsn);
        facts.tablespaces.clone_from(&backup.tablespaces);
        facts.wal_included = Some(options.include_wal);
        Ok(Self { backup, facts, in_archive: false, next_archive: None })
    }

    /// Whether the server sends only what changed since the backup it was told of. It is `false`
    /// also when that was asked for and is not possible: the reason was reported as a problem.
    #[must_use]
    pub const fn is_incremental(&self) -> bool {
        self.backup.incremental
    }

    pub(super) async fn next(&mut self) -> Result<Option<SourceEvent>, PostgresError> {
        if let Some(archive) = self.next_archive.take() {
            self.in_archive = true;
            return Ok(Some(SourceEvent::Archive(archive)));
        }
        let event = self.backup.next().await?;
        Ok(match event {
            Some(BaseBackupEvent::Archive(kind)) => {
                let archive = ArchiveStart { kind };
                if self.in_archive {
                    self.in_archive = false;
                    self.next_archive = Some(archive);
                    Some(SourceEvent::EndArchive)
                } else {
                    self.in_archive = true;
                    Some(SourceEvent::Archive(archive))
                }
            }
            Some(BaseBackupEvent::Data(bytes)) => Some(SourceEvent::Data(bytes)),
            Some(BaseBackupEvent::EndArchive) => {
                self.in_archive = false;
                Some(SourceEvent::EndArchive)
            }
            Some(BaseBackupEvent::Progress(bytes)) => Some(SourceEvent::Progress(bytes)),
            None => None,
        })
    }

    pub(super) fn total_bytes(&self) -> Option<u64> {
        Some(self.backup.estimate_bytes)
    }

    pub(super) fn facts(&self) -> SourceFacts {
        // The server tells it before the last thing it says, which may be an error about bad pages.
        SourceFacts { stop_lsn: self.backup.stop_lsn, ..self.facts.clone() }
    }
}

/// Starts the base backup: of what changed, if that is asked for and the server can do it, and
/// otherwise of everything, with the reason said and returned.
async fn begin(
    ctx: &Ctx,
    settings: &ConnectSettings,
    connection: ReplicationConnection,
    version: u32,
    options: &BaseBackupOptions,
) -> Result<(BaseBackup, Option<String>), PostgresError> {
    if options.incremental_from.is_none() {
        return Ok((BaseBackup::start(connection, version, options).await?, None));
    }
    let whole = BaseBackupOptions { incremental_from: None, ..options.clone() };
    let not_possible = |reason: &str| {
        ctx.progress.problem(Problem {
            subject: "incremental backup".to_owned(),
            message: format!("not possible, so everything is sent: {reason}"),
        });
    };
    if let Err(reason) = IncrementalServer::check_version(version) {
        not_possible(&reason);
        return Ok((BaseBackup::start(connection, version, &whole).await?, Some(reason)));
    }
    match BaseBackup::start(connection, version, options).await {
        Err(PostgresError::Server(refusal)) if !refusal.is_about_access() => {
            let reason = refusal.to_string();
            not_possible(&reason);
            // The server ends the command; a connection of its own leaves no doubt about its state.
            let connection = ReplicationConnection::open(settings).await?;
            Ok((BaseBackup::start(connection, version, &whole).await?, Some(reason)))
        }
        other => Ok((other?, None)),
    }
}
