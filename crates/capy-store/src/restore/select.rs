//! Single files of a backup, chosen by glob.
//!
//! Contained by: the restore. The paths matched are those of the backup as PostgreSQL's own
//! manifest spells them: relative to the data directory, tablespaces under `pg_tblspc/<oid>/`.
//! Invariant: a file appears under its name only when it is whole, checked and on disk; what was
//! there before is replaced in one step.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use capy_format::{ArchiveKind, Entry, FileEntry};
use capy_repo::{ReadOptions, Reader};
use capy_types::{ErrorKind, Phase};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::files::set_mode_and_owner;
use super::path::SafePath;
use super::{RestoreOptions, Restoring, owner};
use crate::{Error, Result};

/// Where the files of one archive lie in the paths that globs match.
pub(crate) fn prefix_of(kind: &ArchiveKind) -> PathBuf {
    match kind {
        ArchiveKind::Tablespace { oid, .. } => Path::new("pg_tblspc").join(oid.to_string()),
        _ => PathBuf::new(),
    }
}

pub(super) async fn restore(restoring: &mut Restoring<'_>, options: &RestoreOptions) -> Result<()> {
    let globs = compile(&options.files)?;
    let target = std::path::absolute(&options.target)
        .map_err(|error| Error::io(format!("find {}", options.target.display()), error))?;
    let owner = owner::choose(options.owner, &target, rustix::process::geteuid().is_root());
    let since = Instant::now();
    restoring.ctx.progress.phase(Phase::Restore, None);
    let reader = restoring.repository.repo.reader(restoring.ctx, ReadOptions::default()).await?;
    let mut manifest = reader.manifest(&restoring.record.manifest);
    let mut prefix = PathBuf::new();
    while let Some(entry) = manifest.next().await? {
        match entry {
            Entry::Archive(header) => prefix = prefix_of(&header.kind),
            Entry::File(file) => {
                let path = prefix.join(SafePath::parse(&file.meta.path)?.as_path());
                if globs.is_match(&path) {
                    write_one(restoring, &reader, &file, &target.join(&path), owner).await?;
                }
            }
            _ => {}
        }
    }
    if restoring.report.files == 0 {
        let what = format!("no file of the backup matches {}", options.files.join(", "));
        return Err(Error::new(ErrorKind::NotFound, what)
            .with_hint("paths are relative to the data directory, as in backup_manifest"));
    }
    restoring.stage("writing", since);
    restoring.report.target = Some(target);
    // A few files make no cluster: what recovery would need is beside the point.
    restoring.report.wal_needed = None;
    Ok(())
}

/// Globs in which `*` and `?` stop at a slash.
fn compile(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        set.add(glob.map_err(|error| Error::invalid(format!("not a glob: {pattern:?}: {}", error.kind())))?);
    }
    set.build().map_err(|error| Error::invalid(format!("these globs are too much: {error}")))
}

async fn write_one(
    restoring: &mut Restoring<'_>,
    reader: &Reader,
    file: &FileEntry,
    path: &Path,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let writing = |error| Error::io(format!("write {}", path.display()), error);
    let directory = path.parent().unwrap_or(path);
    std::fs::create_dir_all(directory).map_err(writing)?;
    let mut temporary =
        tempfile::Builder::new().prefix(".capy-restore").tempfile_in(directory).map_err(writing)?;
    let mut content = reader.content(&file.content);
    while let Some(bytes) = content.next().await? {
        temporary.write_all(&bytes).map_err(writing)?;
        restoring.ctx.progress.advance(bytes.len() as u64);
        restoring.report.restored_bytes += bytes.len() as u64;
    }
    set_mode_and_owner(temporary.path(), file.meta.mode, owner).map_err(writing)?;
    temporary.as_file().sync_all().map_err(writing)?;
    temporary.persist(path).map_err(|error| writing(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(writing)?;
    restoring.report.files += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        compile(&[pattern.to_owned()]).expect(pattern).is_match(path)
    }

    #[test]
    fn a_star_stops_at_a_slash_and_two_do_not() {
        assert!(matches("base/5/*", "base/5/1259"));
        assert!(!matches("base/*", "base/5/1259"));
        assert!(matches("base/**", "base/5/1259"));
        assert!(matches("backup_label", "backup_label"));
        assert!(!matches("backup_label", "global/backup_label"));
        assert!(compile(&["a[".to_owned()]).is_err());
    }
}
