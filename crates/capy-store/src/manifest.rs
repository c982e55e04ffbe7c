//! `backup_manifest` against what is stored.
//!
//! Contained by: the backup, before its commit, and verify. Both lists are read as streams and
//! merged: PostgreSQL writes its manifest in the order in which it sends files, so almost nothing
//! has to be remembered; what comes out of order waits in a map.
//! Invariants: every file the manifest lists is found or reported, every stored file that it should
//! list and does not is reported; a checksum that is not CRC-32C is computed from stored bytes.
//!
//! Source: PostgreSQL's `pg_verifybackup.c`, whose exceptions are the same.

use std::collections::{HashMap, VecDeque};

use capy_format::{Content, Entry, ManifestCheck};
use capy_postgres::backup_manifest::{
    ChecksumAlgorithm, FileChecksum, ManifestFile, ManifestParser, ManifestSummary,
};
use capy_postgres::tar::clean_path;
use capy_repo::{ContentReader, ManifestReader, Reader};
use capy_types::Ctx;

use crate::report::Findings;
use crate::{Error, Result};

/// Files that may wait for their counterpart: at about 250 bytes each this is 64 MB, and more out
/// of order than any server sends.
const WAITING_MAX: usize = 250_000;

/// Paths that pg_verifybackup passes over, because tools write them after the manifest is made.
const IGNORED: [&[u8]; 5] =
    [b"backup_manifest", b"pg_wal", b"postgresql.auto.conf", b"recovery.signal", b"standby.signal"];

/// How a manifest compared.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// The manifest itself, unless there is none.
    pub(crate) manifest: Option<Summary>,
    /// Files whose size and checksum were compared.
    pub(crate) checked: u64,
    /// What did not agree.
    pub(crate) problems: Findings,
}

/// What the manifest says of itself.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) algorithm: Option<ChecksumAlgorithm>,
    /// Absent when the manifest could not be read to its end.
    pub(crate) whole: Option<ManifestSummary>,
    pub(crate) files: u64,
}

impl Compared {
    /// As the backup's record keeps it.
    pub(crate) fn as_check(&self) -> Option<ManifestCheck> {
        let manifest = self.manifest.as_ref()?;
        Some(ManifestCheck {
            algorithm: manifest.algorithm.map_or("NONE", ChecksumAlgorithm::as_str).to_owned(),
            files: manifest.files,
            checked: self.checked,
            mismatches: self.problems.total,
        })
    }
}

/// Compares the `backup_manifest` among the entries of `entries` with the others.
pub(crate) async fn compare(ctx: &Ctx, reader: &Reader, entries: &Content) -> Result<Compared> {
    let Some(manifest) = find_manifest(ctx, reader, entries).await? else {
        return Ok(Compared::default());
    };
    let mut merge = Merge {
        ctx,
        reader,
        stored: Stored::new(reader.manifest(entries)),
        listed: Listed::new(reader.content(&manifest)),
        stored_waiting: HashMap::new(),
        listed_waiting: HashMap::new(),
        compared: Compared::default(),
    };
    merge.run().await?;
    Ok(merge.compared)
}

/// The content of the backup's manifest: a file of the base archive, or an archive of its own.
pub(crate) async fn find_manifest(ctx: &Ctx, reader: &Reader, entries: &Content) -> Result<Option<Content>> {
    let mut stored = Stored::new(reader.manifest(entries));
    let mut found = None;
    while let Some((path, content)) = stored.next().await? {
        ctx.check()?;
        if path == b"backup_manifest" {
            found = Some(content);
        }
    }
    Ok(found)
}

/// The stored files, by their paths below the data directory.
struct Stored {
    entries: ManifestReader,
    prefix: Vec<u8>,
}

impl Stored {
    const fn new(entries: ManifestReader) -> Self {
        Self { entries, prefix: Vec::new() }
    }

    async fn next(&mut self) -> Result<Option<(Vec<u8>, Content)>> {
        while let Some(entry) = self.entries.next().await? {
            match entry {
                Entry::Archive(header) => {
                    self.prefix = header.kind.place().into_bytes();
                }
                Entry::File(file) => {
                    let clean =
                        clean_path(&file.meta.path).map_err(|error| Error::invalid(error.to_string()))?;
                    return Ok(Some(([self.prefix.as_slice(), &clean].concat(), file.content)));
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The files a manifest lists, in its order.
struct Listed {
    content: ContentReader,
    parser: Option<ManifestParser>,
    ready: VecDeque<ManifestFile>,
    summary: Summary,
    /// Why nothing more can be read.
    broken: Option<String>,
}

impl Listed {
    fn new(content: ContentReader) -> Self {
        Self {
            content,
            parser: Some(ManifestParser::new()),
            ready: VecDeque::new(),
            summary: Summary::default(),
            broken: None,
        }
    }

    async fn next(&mut self) -> Result<Option<ManifestFile>> {
        loop {
            if let Some(file) = self.ready.pop_front() {
                self.summary.files += 1;
                let algorithm = file.checksum.as_ref().map(FileChecksum::algorithm);
                self.summary.algorithm = self.summary.algorithm.or(algorithm);
                return Ok(Some(file));
            }
            let Some(mut parser) = self.parser.take() else { return Ok(None) };
            match self.content.next().await? {
                Some(bytes) => match parser.feed(&bytes, |file| self.ready.push_back(file)) {
                    Ok(()) => self.parser = Some(parser),
                    Err(error) => self.broken = Some(error.to_string()),
                },
                None => match parser.finish() {
                    Ok(summary) => self.summary.whole = Some(summary),
                    Err(error) => self.broken = Some(error.to_string()),
                },
            }
        }
    }
}

/// The two lists being merged.
struct Merge<'a> {
    ctx: &'a Ctx,
    reader: &'a Reader,
    stored: Stored,
    listed: Listed,
    stored_waiting: HashMap<Vec<u8>, Content>,
    listed_waiting: HashMap<Vec<u8>, ManifestFile>,
    compared: Compared,
}

impl Merge<'_> {
    async fn run(&mut self) -> Result<()> {
        loop {
            self.ctx.check()?;
            let listed = self.listed.next().await?;
            let stored = self.next_stored().await?;
            match (listed, stored) {
                (None, None) => break,
                (Some(listed), Some((path, content))) if listed.path == path => {
                    self.check(&listed, &content).await?;
                }
                (listed, stored) => {
                    self.keep_listed(listed).await?;
                    self.keep_stored(stored).await?;
                }
            }
            if self.stored_waiting.len() + self.listed_waiting.len() > WAITING_MAX {
                return Err(Error::invalid("backup_manifest lists files in an order unlike the backup's"));
            }
        }
        self.report_unmatched();
        self.compared.manifest = Some(std::mem::take(&mut self.listed.summary));
        Ok(())
    }

    /// The next stored file that a manifest lists.
    async fn next_stored(&mut self) -> Result<Option<(Vec<u8>, Content)>> {
        while let Some((path, content)) = self.stored.next().await? {
            if !is_ignored(&path) {
                return Ok(Some((path, content)));
            }
        }
        Ok(None)
    }

    async fn keep_listed(&mut self, listed: Option<ManifestFile>) -> Result<()> {
        let Some(listed) = listed else { return Ok(()) };
        if is_ignored(&listed.path) {
            return Ok(());
        }
        match self.stored_waiting.remove(&listed.path) {
            Some(content) => self.check(&listed, &content).await,
            None => {
                let earlier = self.listed_waiting.insert(listed.path.clone(), listed);
                if let Some(twice) = earlier {
                    self.problem(&twice.path, "is listed twice");
                }
                Ok(())
            }
        }
    }

    async fn keep_stored(&mut self, stored: Option<(Vec<u8>, Content)>) -> Result<()> {
        let Some((path, content)) = stored else { return Ok(()) };
        match self.listed_waiting.remove(&path) {
            Some(listed) => self.check(&listed, &content).await,
            None => {
                self.stored_waiting.insert(path, content);
                Ok(())
            }
        }
    }

    async fn check(&mut self, listed: &ManifestFile, content: &Content) -> Result<()> {
        self.compared.checked += 1;
        if listed.size_bytes != content.length {
            let what = format!("has {} bytes, the manifest says {}", content.length, listed.size_bytes);
            self.problem(&listed.path, &what);
            return Ok(());
        }
        let Some(expected) = &listed.checksum else { return Ok(()) };
        let found = match expected.algorithm() {
            ChecksumAlgorithm::Crc32c => FileChecksum::of_crc32c(content.crc32c),
            other => self.hash(other, content).await?,
        };
        if found != *expected {
            let name = expected.algorithm().as_str();
            self.problem(&listed.path, &format!("{name} is {found}, the manifest says {expected}"));
        }
        Ok(())
    }

    /// The checksum of a file's stored bytes.
    async fn hash(&self, algorithm: ChecksumAlgorithm, content: &Content) -> Result<FileChecksum> {
        let mut hasher = algorithm.hasher();
        let mut bytes = self.reader.content(content);
        while let Some(piece) = bytes.next().await? {
            self.ctx.check()?;
            hasher.update(&piece);
        }
        Ok(hasher.finish())
    }

    fn problem(&mut self, path: &[u8], what: &str) {
        self.compared.problems.add(|| format!("backup_manifest: {} {what}", String::from_utf8_lossy(path)));
    }

    fn report_unmatched(&mut self) {
        if let Some(broken) = self.listed.broken.take() {
            // The rest of the list is unknown: nothing can be said of files not seen in it.
            self.compared.problems.add(|| broken);
            return;
        }
        let mut missing: Vec<_> = std::mem::take(&mut self.listed_waiting).into_keys().collect();
        missing.sort();
        for path in missing {
            self.problem(&path, "is listed, but not in the backup");
        }
        let mut extra: Vec<_> = std::mem::take(&mut self.stored_waiting).into_keys().collect();
        extra.sort();
        for path in extra {
            self.problem(&path, "is in the backup, but not listed");
        }
    }
}

/// Whether the path, or a directory it lies in, is one that pg_verifybackup passes over.
fn is_ignored(path: &[u8]) -> bool {
    IGNORED.iter().any(|ignored| {
        path.strip_prefix(*ignored).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_passed_over() {
        for ignored in ["backup_manifest", "pg_wal/0001", "pg_wal", "standby.signal", "postgresql.auto.conf"]
        {
            assert!(is_ignored(ignored.as_bytes()), "{ignored}");
        }
        for checked in ["pg_wal2/x", "backup_manifest2", "base/pg_wal/x", "postgresql.conf", "pg_xact/0000"] {
            assert!(!is_ignored(checked.as_bytes()), "{checked}");
        }
    }
}
