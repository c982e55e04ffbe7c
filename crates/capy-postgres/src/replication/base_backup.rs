//! BASE_BACKUP on PostgreSQL 13 to 18.
//!
//! From 15 on there is one copy stream whose messages begin with a type byte: `n` a new archive,
//! `m` the manifest, `d` data, `p` progress. Before, there is one copy stream per tablespace, in
//! the order of the second result, and one more for the manifest.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use capy_types::{Lsn, TimelineId};
use postgres_protocol::message::frontend;

use super::ReplicationConnection;
use super::connection::unexpected;
use super::wire::row;
use crate::PostgresError;
use crate::source::{ArchiveKind, TablespaceFacts};

/// Most messages before the data of a backup: one for each tablespace and a few more.
const ROWS_MAX: usize = 65_536;

/// What to ask the server for.
#[derive(Debug, Clone)]
pub struct BaseBackupOptions {
    /// The label in `backup_label`.
    pub label: String,
    /// Checkpoint at once instead of spread over time.
    pub fast_checkpoint: bool,
    /// Include the WAL that makes the backup consistent by itself.
    pub include_wal: bool,
    /// The `backup_manifest` of an earlier backup: the server, 17 or later and with
    /// `summarize_wal = on`, then sends only the blocks that changed since.
    pub incremental_from: Option<Bytes>,
}

/// One step of a base backup.
#[derive(Debug)]
pub(crate) enum BaseBackupEvent {
    Archive(ArchiveKind),
    Data(Bytes),
    EndArchive,
    Progress(u64),
}

/// A running base backup.
#[derive(Debug)]
pub(crate) struct BaseBackup {
    connection: ReplicationConnection,
    /// Whether messages carry a type byte (15 and later).
    typed: bool,
    pub(crate) start_lsn: Lsn,
    pub(crate) timeline: TimelineId,
    pub(crate) tablespaces: Vec<TablespaceFacts>,
    /// The server's estimate of all bytes.
    pub(crate) estimate_bytes: u64,
    /// What the next untyped copy streams hold.
    upcoming: VecDeque<ArchiveKind>,
    open: bool,
    rows: Vec<Vec<Option<String>>>,
    pub(crate) stop_lsn: Option<Lsn>,
    /// Whether files come as the blocks that changed.
    pub(crate) incremental: bool,
    done: bool,
}

fn command(options: &BaseBackupOptions, version: u32) -> String {
    let label = options.label.replace('\'', "''");
    if version >= 150_000 {
        let checkpoint = if options.fast_checkpoint { "fast" } else { "spread" };
        // Only CRC-32C of a file put together is known without reading all of it again.
        let incremental = if options.incremental_from.is_some() {
            ", MANIFEST_CHECKSUMS 'CRC32C', INCREMENTAL"
        } else {
            ""
        };
        format!(
            "BASE_BACKUP (LABEL '{label}', PROGRESS, CHECKPOINT '{checkpoint}', WAL {}, WAIT false, TABLESPACE_MAP, MANIFEST 'yes'{incremental})",
            options.include_wal
        )
    } else {
        let fast = if options.fast_checkpoint { " FAST" } else { "" };
        let wal = if options.include_wal { " WAL" } else { "" };
        format!("BASE_BACKUP LABEL '{label}' PROGRESS{fast}{wal} NOWAIT TABLESPACE_MAP MANIFEST 'yes'")
    }
}

fn nonsense(what: &str) -> PostgresError {
    PostgresError::protocol(format!("BASE_BACKUP: {what}"))
}

impl BaseBackup {
    /// Starts the backup; returns once the server's checkpoint is done and data is about to come.
    pub(crate) async fn start(
        mut connection: ReplicationConnection,
        version: u32,
        options: &BaseBackupOptions,
    ) -> Result<Self, PostgresError> {
        if let Some(manifest) = &options.incremental_from {
            connection.upload_manifest(manifest).await?;
        }
        let text = command(options, version);
        connection.wire.send(|out| frontend::query(&text, out)).await?;
        let mut results: Vec<Vec<Vec<Option<String>>>> = vec![Vec::new()];
        let mut rows_seen = 0;
        loop {
            let message = connection.wire.next().await?;
            rows_seen += 1;
            match message.tag {
                b'T' => {}
                _ if rows_seen > ROWS_MAX => return Err(nonsense("more rows than there can be tablespaces")),
                b'D' => results.last_mut().expect("never empty").push(row(&message.body)?),
                b'C' => results.push(Vec::new()),
                b'H' => break,
                _ => return Err(unexpected(&message)),
            }
        }
        let (start_lsn, timeline) = results
            .first()
            .and_then(|rows| position(rows.first()?))
            .ok_or_else(|| nonsense("no start position"))?;
        let listed = results.get(1).ok_or_else(|| nonsense("no list of tablespaces"))?;
        let mut backup = Self {
            connection,
            typed: version >= 150_000,
            start_lsn,
            timeline,
            tablespaces: Vec::new(),
            estimate_bytes: 0,
            upcoming: VecDeque::new(),
            open: false,
            rows: Vec::new(),
            stop_lsn: None,
            incremental: options.incremental_from.is_some(),
            done: false,
        };
        backup.read_tablespaces(listed)?;
        if !backup.typed {
            backup.upcoming.push_back(ArchiveKind::BackupManifest);
        }
        Ok(backup)
    }

    fn read_tablespaces(&mut self, rows: &[Vec<Option<String>>]) -> Result<(), PostgresError> {
        for columns in rows {
            let column = |n: usize| columns.get(n).and_then(Option::as_deref);
            let size_bytes =
                column(2).and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib.saturating_mul(1024));
            self.estimate_bytes = self.estimate_bytes.saturating_add(size_bytes.unwrap_or_default());
            match column(0).filter(|oid| !oid.is_empty()) {
                None => self.upcoming.push_back(ArchiveKind::Base),
                Some(oid) => {
                    let oid = oid.parse().map_err(|_| nonsense("a tablespace without a number"))?;
                    let location = column(1).unwrap_or_default().to_owned();
                    self.upcoming.push_back(ArchiveKind::Tablespace { oid, location: location.clone() });
                    self.tablespaces.push(TablespaceFacts { oid, location, size_bytes });
                }
            }
        }
        Ok(())
    }

    /// The first copy stream of an old server has been announced already by the time the backup
    /// is made; later ones announce themselves.
    fn begin_untyped(&mut self) -> Result<BaseBackupEvent, PostgresError> {
        let kind = self.upcoming.pop_front().ok_or_else(|| nonsense("more archives than announced"))?;
        self.open = true;
        Ok(BaseBackupEvent::Archive(kind))
    }

    /// The next event; `None` once the server has confirmed the end.
    ///
    /// # Cancellation
    /// Safe: no event is lost.
    pub(crate) async fn next(&mut self) -> Result<Option<BaseBackupEvent>, PostgresError> {
        if !self.typed && !self.open && self.upcoming.len() == self.tablespaces.len() + 2 {
            return self.begin_untyped().map(Some);
        }
        while !self.done {
            let message = self.connection.wire.next().await?;
            match message.tag {
                b'd' if self.typed => {
                    if let Some(event) = self.typed_event(message.body)? {
                        return Ok(Some(event));
                    }
                }
                // 13 and 14 send the content of an empty file, like the status of a WAL segment.
                b'd' if message.body.is_empty() => {}
                b'd' => return Ok(Some(BaseBackupEvent::Data(message.body))),
                b'H' if !self.typed => return self.begin_untyped().map(Some),
                b'c' if self.open => {
                    self.open = false;
                    return Ok(Some(BaseBackupEvent::EndArchive));
                }
                b'c' | b'T' => {}
                b'D' if self.rows.len() < ROWS_MAX => self.rows.push(row(&message.body)?),
                b'C' => {
                    let rows = std::mem::take(&mut self.rows);
                    if let Some((lsn, _)) = rows.first().and_then(|columns| position(columns)) {
                        self.stop_lsn = Some(lsn);
                    }
                }
                b'Z' => self.done = true,
                _ => return Err(unexpected(&message)),
            }
        }
        if self.stop_lsn.is_none() {
            return Err(nonsense("the server did not say where the backup ends"));
        }
        Ok(None)
    }

    /// One typed message. A new archive ends the one before; the end event comes first and the
    /// message is kept for the next call.
    fn typed_event(&mut self, mut body: Bytes) -> Result<Option<BaseBackupEvent>, PostgresError> {
        if body.is_empty() {
            return Err(nonsense("an empty message"));
        }
        match body.get_u8() {
            b'd' if body.is_empty() => Ok(None),
            b'd' => Ok(Some(BaseBackupEvent::Data(body))),
            b'p' => {
                let done = body.first_chunk::<8>().map_or(0, |count| u64::from_be_bytes(*count));
                Ok(Some(BaseBackupEvent::Progress(done)))
            }
            kind @ (b'n' | b'm') => {
                let archive = if kind == b'm' { ArchiveKind::BackupManifest } else { archive(&body)? };
                self.open = true;
                Ok(Some(BaseBackupEvent::Archive(archive)))
            }
            other => Err(nonsense(&format!("a message of type {:?}", char::from(other)))),
        }
    }
}

/// `name\0path\0` of a new archive: `base.tar`, or `<oid>.tar` and where it was.
fn archive(body: &[u8]) -> Result<ArchiveKind, PostgresError> {
    let mut parts = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let name = parts.next().unwrap_or_default();
    let location = parts.next().unwrap_or_default().into_owned();
    let stem = name.strip_suffix(".tar").unwrap_or(&name);
    if stem == "base" {
        return Ok(ArchiveKind::Base);
    }
    let oid = stem.parse().map_err(|_| nonsense(&format!("an archive named {name:?}")))?;
    Ok(ArchiveKind::Tablespace { oid, location })
}

fn position(columns: &[Option<String>]) -> Option<(Lsn, TimelineId)> {
    let column = |n: usize| columns.get(n).and_then(Option::as_deref);
    Some((column(0)?.parse().ok()?, column(1)?.parse().ok()?))
}
