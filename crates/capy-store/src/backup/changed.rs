//! Files of changed blocks on their way into the repository, and the `backup_manifest` of what they
//! become.
//!
//! Contained by: the feeder. The server's own manifest lists the files as they were sent; what was
//! rewritten on the way is compared with it here, by size and checksum, and listed as it is stored in a
//! manifest of our own, which is then compared with what is stored like any other.
//! Memory: 40 bytes for each rewritten file, and some 20 for each file of the manifest.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use capy_format::Meta;
use capy_postgres::backup_manifest::{ManifestDraft, ManifestFile, ManifestParser, ManifestText};
use capy_postgres::incremental::{IncrementalEvent, IncrementalHeader, IncrementalReader, segment_path};
use capy_repo::{Ingest, Patch, Strategy};
use capy_types::ErrorKind;
use capy_types::limits::PAGE_SIZE_BYTES;

use super::incremental::IncrementalReport;
use crate::report::Findings;
use crate::{Error, Result};

/// Size and CRC-32C.
type Sum = (u64, u32);

/// A file of changed blocks being received.
pub(super) struct Changed {
    reader: IncrementalReader,
    /// The segment's, until it is begun.
    meta: Option<Meta>,
    tag: Option<u64>,
    sent: Sum,
    changed_bytes: u64,
}

impl Changed {
    /// `meta` is the segment's, `size` that of the file of changed blocks.
    pub(super) fn new(meta: Meta, tag: Option<u64>, size: u64) -> Self {
        let reader = IncrementalReader::new(size);
        Self { reader, meta: Some(meta), tag, sent: (0, 0), changed_bytes: 0 }
    }

    /// The file's next bytes.
    pub(super) async fn feed(&mut self, ingest: &mut Ingest, mut data: &[u8]) -> Result<()> {
        self.sent.0 += data.len() as u64;
        self.sent.1 = crc32c::crc32c_append(self.sent.1, data);
        loop {
            let (taken, event) = self.reader.feed(data).map_err(|error| Error::wrap(error.kind(), error))?;
            data = data.get(taken..).unwrap_or_default();
            match event {
                IncrementalEvent::Header(header) => {
                    let meta = self.meta.take().unwrap_or_default();
                    ingest.begin_patched(meta, Strategy::Grid, self.tag, patch_of(&header)).await?;
                }
                IncrementalEvent::Block { data, .. } => {
                    self.changed_bytes += data.len() as u64;
                    ingest.patch(data).await?;
                }
                IncrementalEvent::NeedMore => return Ok(()),
            }
        }
    }
}

/// What is to be done with the earlier backup's segment: as `reconstruct.c` of `pg_combinebackup` does.
fn patch_of(header: &IncrementalHeader) -> Patch {
    let block = PAGE_SIZE_BYTES as u64;
    let mut changed: Vec<Range<u64>> = Vec::new();
    for number in &header.blocks {
        let start = u64::from(*number) * block;
        match changed.last_mut() {
            Some(last) if last.end == start => last.end += block,
            _ => changed.push(start..start + block),
        }
    }
    let kept = u64::from(header.truncation_blocks) * block;
    Patch { kept, block, length: header.length_bytes(), changed }
}

/// What an incremental backup becomes.
#[derive(Debug, Default)]
pub(super) struct Together {
    notes: Vec<Note>,
    pub(super) report: IncrementalReport,
    pub(super) findings: Findings,
}

/// A file that is stored otherwise than it was sent.
#[derive(Debug)]
struct Note {
    path: (u64, u64),
    sent: Sum,
    stored: Sum,
}

fn path_hash(path: &[u8]) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, path).hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}

impl Together {
    /// Ends a file of changed blocks that the manifest lists by `path`.
    pub(super) async fn end(&mut self, changed: Changed, path: &[u8], ingest: &mut Ingest) -> Result<()> {
        let name = || String::from_utf8_lossy(path).into_owned();
        let early = |error| Error::wrap(ErrorKind::Corrupt, error);
        changed.reader.finish().map_err(early)?;
        if changed.meta.is_some() {
            return Err(Error::new(ErrorKind::Internal, format!("{} was never begun", name())));
        }
        let stored = ingest.end_patched().await?;
        self.report.files += 1;
        self.report.changed_files += u64::from(changed.changed_bytes > 0);
        self.report.changed_bytes += changed.changed_bytes;
        self.report.known_bytes += stored.known_bytes;
        self.note(path, changed.sent, (stored.length, stored.crc32c));
        Ok(())
    }

    /// The file that the manifest lists by `path` was sent so and is stored otherwise.
    pub(super) fn note(&mut self, path: &[u8], sent: Sum, stored: Sum) {
        self.notes.push(Note { path: path_hash(path), sent, stored });
    }

    /// The server's manifest begins: all files are there.
    pub(super) fn rewriting(&mut self) -> Rewriting {
        self.notes.sort_unstable_by_key(|note| note.path);
        Rewriting { parser: ManifestParser::new(), draft: ManifestDraft::new() }
    }

    fn file(&mut self, draft: &mut ManifestDraft, file: &ManifestFile) {
        let shown = || String::from_utf8_lossy(&file.path);
        let Some(listed) = file.checksum.as_ref().and_then(|checksum| checksum.as_crc32c()) else {
            self.findings.add(|| format!("backup_manifest: {} has no CRC-32C", shown()));
            return;
        };
        let hash = path_hash(&file.path);
        let note = self.notes.binary_search_by_key(&hash, |note| note.path);
        let Some(note) = note.ok().and_then(|at| self.notes.get(at)) else {
            draft.add(&file.path, file.size_bytes, file.modified, listed);
            return;
        };
        if note.sent != (file.size_bytes, listed) {
            self.findings.add(|| format!("backup_manifest: {} came otherwise than it is listed", shown()));
        }
        let path = segment_path(&file.path).unwrap_or_else(|| file.path.clone());
        draft.add(&path, note.stored.0, file.modified, note.stored.1);
    }
}

/// The server's manifest being rewritten.
pub(super) struct Rewriting {
    parser: ManifestParser,
    draft: ManifestDraft,
}

impl Rewriting {
    /// The server's next bytes.
    pub(super) fn feed(&mut self, together: &mut Together, bytes: &[u8]) -> Result<()> {
        let draft = &mut self.draft;
        let fed = self.parser.feed(bytes, |file| together.file(draft, &file));
        fed.map_err(|error| Error::wrap(ErrorKind::Corrupt, error))
    }

    /// The text of the manifest to store.
    pub(super) fn finish(self, version_num: u32) -> Result<ManifestText> {
        let summary = self.parser.finish().map_err(|error| Error::wrap(ErrorKind::Corrupt, error))?;
        let Some(system_id) = summary.system_id else {
            return Err(Error::new(ErrorKind::Corrupt, "backup_manifest does not name the cluster"));
        };
        Ok(self.draft.finish(version_num, system_id, summary.wal_ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_a_row_are_one_change_and_truncation_says_what_is_kept() {
        let patch = |truncation_blocks, blocks: &[u32]| {
            let patch = patch_of(&IncrementalHeader { truncation_blocks, blocks: blocks.to_vec() });
            (patch.kept / 8192, patch.length / 8192, patch.changed)
        };
        assert_eq!(patch(10, &[]), (10, 10, vec![]));
        assert_eq!(patch(10, &[2, 3, 5]), (10, 10, vec![16384..32768, 40960..49152]));
        assert_eq!(patch(2, &[4]), (2, 5, std::iter::once(32768..40960).collect()), "zeros");
        assert_eq!(patch(0, &[]), (0, 0, vec![]));
    }
}
