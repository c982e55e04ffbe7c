//! A backup's manifest as a list of entries.

use capy_format::{ArchiveKind, Entry};
use capy_repo::ReadOptions;
use capy_types::{BackupKey, BackupSelector, Ctx};
use serde::Serialize;

use crate::{Repository, Result};

/// The entries of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ManifestInspection {
    /// The backup.
    pub backup_key: BackupKey,
    /// Its entries in stored order.
    pub entries: Vec<ManifestEntry>,
    /// Whether there are more than were asked for.
    pub truncated: bool,
    /// What could not be decoded; the entries before it are shown.
    pub problems: Vec<String>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ManifestEntry {
    /// `archive`, `file`, `directory`, `symlink` or `end`.
    pub kind: &'static str,
    /// The path as the archive spells it; for an archive, what it is.
    pub path: String,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Length of a file.
    pub size_bytes: Option<u64>,
    /// CRC-32C of a file's content, in hex.
    pub crc32c: Option<String>,
    /// How a file is cut: `content` or `grid`.
    pub chunking: Option<&'static str>,
    /// Where a link points.
    pub target: Option<String>,
}

impl ManifestEntry {
    fn of(entry: &Entry) -> Self {
        let plain = |kind, path: String| Self {
            kind,
            path,
            mode: None,
            size_bytes: None,
            crc32c: None,
            chunking: None,
            target: None,
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match entry {
            Entry::Archive(header) => plain("archive", archive_name(&header.kind)),
            Entry::EndArchive { trailing_zeros } => plain("end", format!("{trailing_zeros} zero bytes")),
            Entry::Directory(meta) => Self { mode: Some(meta.mode), ..plain("directory", text(&meta.path)) },
            Entry::Symlink { meta, target } => Self {
                mode: Some(meta.mode),
                target: Some(text(target)),
                ..plain("symlink", text(&meta.path))
            },
            Entry::File(file) => Self {
                mode: Some(file.meta.mode),
                size_bytes: Some(file.content.length),
                crc32c: Some(format!("{:08x}", file.content.crc32c)),
                chunking: Some(if file.chunking == 0 { "content" } else { "grid" }),
                ..plain("file", text(&file.meta.path))
            },
        }
    }
}

fn archive_name(kind: &ArchiveKind) -> String {
    match kind {
        ArchiveKind::Base => "base".to_owned(),
        ArchiveKind::Tablespace { oid, location } => format!("tablespace {oid} at {location}"),
        ArchiveKind::BackupManifest => "backup_manifest".to_owned(),
        ArchiveKind::Stream => "stream".to_owned(),
    }
}

pub(super) async fn inspect(
    repository: &Repository,
    ctx: &Ctx,
    backup: &BackupSelector,
    limit: usize,
) -> Result<ManifestInspection> {
    let entry = repository.repo.resolve(backup).await?;
    let record = repository.repo.record(&entry).await?;
    let reader = repository.repo.reader(ctx, ReadOptions::default()).await?;
    let mut manifest = reader.manifest(&record.manifest);
    let mut found = ManifestInspection {
        backup_key: entry.key,
        entries: Vec::new(),
        truncated: false,
        problems: Vec::new(),
    };
    loop {
        match manifest.next().await {
            Ok(None) => return Ok(found),
            Ok(Some(_)) if found.entries.len() >= limit => {
                found.truncated = true;
                return Ok(found);
            }
            Ok(Some(entry)) => found.entries.push(ManifestEntry::of(&entry)),
            Err(error) if error.kind().is_transient() => return Err(error.into()),
            Err(error) => {
                found.problems.push(error.to_string());
                return Ok(found);
            }
        }
    }
}
