//! The stored bytes of backups: every file read as a restore would, and thrown away.
//!
//! Contained by: verify at level `full`. The repository's bulk read opens, decompresses and hashes
//! every frame and checks every file's length and checksum; what is left to do here is to gather
//! defects by backup and file, and to compare `backup_manifest`.
//! Memory: the bulk read's window, and 16 bytes for every different file content when several
//! backups are verified together.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use capy_format::{BackupEntry, BackupRecord, Content, Entry};
use capy_repo::{FileSink, ReadOptions, Reader};
use capy_types::{BackupKey, Phase};

use super::Verifying;
use crate::manifest;
use crate::restore::prefix_of;
use crate::{Defect, Result};

/// What identifies a content without holding its list of chunks: 128 bits, so that a million
/// contents collide with a chance of 2^-88.
type Fingerprint = (u64, u64);

/// Contents that were read already, and what was wrong with those that were not whole.
#[derive(Default)]
struct Known {
    whole: HashSet<Fingerprint>,
    broken: HashMap<Fingerprint, Vec<capy_repo::Defect>>,
}

/// Reads everything of `backups`.
pub(super) async fn verify(
    verifying: &mut Verifying<'_>,
    backups: &[BackupEntry],
    options: &ReadOptions,
) -> Result<()> {
    let total = backups.iter().map(|entry| entry.size_bytes).sum();
    verifying.ctx.progress.phase(Phase::Verify, Some(total));
    let repo = &verifying.repository.repo;
    let reader = repo.reader(verifying.ctx, options.clone()).await?;
    let mut known = Known::default();
    for entry in backups {
        let record = match repo.record(entry).await {
            Ok(record) => record,
            Err(error) if error.kind().is_transient() => return Err(error.into()),
            // The structure level has said so.
            Err(_) => continue,
        };
        one_backup(verifying, &reader, entry, &record, &mut known, backups.len() > 1).await?;
    }
    Ok(())
}

async fn one_backup(
    verifying: &mut Verifying<'_>,
    reader: &Reader,
    entry: &BackupEntry,
    record: &BackupRecord,
    known: &mut Known,
    remember: bool,
) -> Result<()> {
    let sink = Arc::new(Discard::default());
    let mut bulk = reader.bulk(verifying.ctx, Arc::clone(&sink) as Arc<_>);
    let mut manifest = reader.manifest(&record.manifest);
    let mut prefix = std::path::PathBuf::new();
    let mut asked = Vec::new();
    let mut number = 0;
    loop {
        let file = match manifest.next().await {
            Ok(Some(Entry::File(file))) => file,
            Ok(Some(Entry::Archive(header))) => {
                prefix = prefix_of(&header.kind);
                continue;
            }
            Ok(Some(_)) => continue,
            Ok(None) => break,
            Err(error) if error.kind().is_transient() => return Err(error.into()),
            // The structure level has said where the manifest is broken.
            Err(_) => break,
        };
        verifying.files += 1;
        let path = prefix.join(String::from_utf8_lossy(&file.meta.path).trim_start_matches("./"));
        let fingerprint = fingerprint(&file.content);
        if known.whole.contains(&fingerprint) {
            verifying.ctx.progress.advance(file.content.length);
            continue;
        }
        if let Some(defects) = known.broken.get(&fingerprint) {
            for defect in defects {
                verifying.note(of_file(defect.clone(), &entry.key, &path.to_string_lossy()));
            }
            continue;
        }
        sink.announce(number, path.to_string_lossy().into_owned(), fingerprint);
        if remember {
            asked.push(fingerprint);
        }
        bulk.file(number, &file.content).await?;
        number += 1;
    }
    let done = bulk.finish().await?;
    verifying.hashed_bytes += done.bytes;
    let broken = sink.take_broken();
    let broken_files: HashSet<Fingerprint> = broken.iter().map(|(_, fingerprint, _)| *fingerprint).collect();
    // Beyond that many it is not known which files were whole.
    if remember && broken.len() < BROKEN_MAX {
        known.whole.extend(asked.into_iter().filter(|fingerprint| !broken_files.contains(fingerprint)));
    }
    for (path, fingerprint, defect) in broken {
        verifying.damaged_packs.extend(defect.pack);
        verifying.note(of_file(defect.clone(), &entry.key, &path));
        known.broken.entry(fingerprint).or_default().push(defect);
    }
    compare_manifest(verifying, reader, entry, record).await
}

/// Computes the checksums of `backup_manifest` anew.
async fn compare_manifest(
    verifying: &mut Verifying<'_>,
    reader: &Reader,
    entry: &BackupEntry,
    record: &BackupRecord,
) -> Result<()> {
    let has_manifest = record.postgres.as_ref().is_some_and(|facts| facts.backup_manifest.is_some());
    if !has_manifest {
        return Ok(());
    }
    let checked = match manifest::compare(verifying.ctx, reader, &record.manifest).await {
        Ok(checked) => checked,
        Err(error) if error.is_transient() || error.kind() == capy_types::ErrorKind::Cancelled => {
            return Err(error);
        }
        // The manifest itself, or what it is compared with, cannot be read: that is noted by now.
        Err(_) => return Ok(()),
    };
    verifying.manifest_files_checked += checked.checked;
    // What did not agree when the backup was taken is recorded on it, and is no new defect.
    if entry.state == capy_format::BackupState::Damaged {
        return Ok(());
    }
    for what in checked.problems.first {
        verifying.note(Defect {
            object: "backup_manifest".to_owned(),
            offset: None,
            what,
            backups: vec![entry.key.clone()],
            files: Vec::new(),
            files_total: 0,
        });
    }
    Ok(())
}

fn of_file(defect: capy_repo::Defect, backup: &BackupKey, path: &str) -> Defect {
    Defect {
        object: defect.object,
        offset: defect.offset,
        what: defect.problem,
        backups: vec![backup.clone()],
        files: vec![format!("{backup}: {path}")],
        files_total: 1,
    }
}

fn fingerprint(content: &Content) -> Fingerprint {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, content.length, content.crc32c, content.depth).hash(&mut hasher);
        for chunk in &content.refs {
            (chunk.id, chunk.len).hash(&mut hasher);
        }
        hasher.finish()
    };
    (half(0), half(1))
}

/// Defects kept of one backup: beyond these it is lost anyway, and the memory is not.
const BROKEN_MAX: usize = 100_000;

/// A file with something wrong in it: path, content, what.
type Broken = (String, Fingerprint, capy_repo::Defect);

/// A sink that keeps nothing but defects.
#[derive(Default)]
struct Discard {
    /// Path and content of the files in the window.
    pending: Mutex<HashMap<u64, (String, Fingerprint)>>,
    broken: Mutex<Vec<Broken>>,
}

impl Discard {
    fn announce(&self, file: u64, path: String, fingerprint: Fingerprint) {
        lock(&self.pending).insert(file, (path, fingerprint));
    }

    fn take_broken(&self) -> Vec<Broken> {
        std::mem::take(&mut *lock(&self.broken))
    }
}

impl FileSink for Discard {
    fn write(&self, _file: u64, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn finished(&self, file: u64) -> io::Result<()> {
        lock(&self.pending).remove(&file);
        Ok(())
    }

    fn defect(&self, file: u64, defect: capy_repo::Defect) {
        let known = lock(&self.pending).get(&file).cloned();
        let mut broken = lock(&self.broken);
        if let (Some((path, fingerprint)), true) = (known, broken.len() < BROKEN_MAX) {
            broken.push((path, fingerprint, defect));
        }
    }

    fn describe(&self, file: u64) -> String {
        lock(&self.pending).get(&file).map_or_else(|| format!("file {file}"), |(path, _)| path.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
