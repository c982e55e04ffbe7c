//! A whole backup into an empty directory.
//!
//! Contained by: the restore. One pass over the manifest makes directories and asks for files;
//! what must come late (links, modes of directories, `pg_control`) is remembered and done at the
//! end. Memory: the bulk read's window, and one path for every link and every directory whose
//! mode is not the usual 0700.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use capy_format::{ArchiveKind, Entry, FileEntry, Meta};
use capy_repo::{BulkRead, ReadOptions, Reader};
use capy_types::{ErrorKind, Phase};

use super::files::{RestoredFiles, set_mode_and_owner, set_owner};
use super::path::SafePath;
use super::recovery::{Prepared, keep_apart};
use super::target::{TablespaceTarget, check_all, place_tablespaces};
use super::{Owner, RestoreOptions, Restoring, durable, owner, relocate};
use crate::report::Findings;
use crate::{Error, Result};

/// The file without which PostgreSQL does not start.
pub(super) const CONTROL_FILE: &str = "global/pg_control";
/// Mode of the data directory and of everything made on the way: PostgreSQL insists.
pub(super) const DIRECTORY_MODE: u32 = 0o700;
/// Most links of one backup: PostgreSQL has one per tablespace. Bounds what is remembered.
const LINKS_MAX: usize = 100_000;
/// Defects told in the error of a failed restore.
const DEFECTS_TOLD: usize = 5;

/// A file to be written when everything else is on disk.
pub(super) struct Last {
    pub(super) path: PathBuf,
    pub(super) entry: FileEntry,
}

/// What one pass over the manifest leaves to be done.
#[derive(Default)]
pub(super) struct Later {
    directories: Vec<(PathBuf, u32)>,
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    pub(super) control: Option<Last>,
}

/// Where things go.
pub(super) struct Places<'a> {
    pub(super) target: &'a Path,
    tablespaces: &'a [TablespaceTarget],
    pub(super) owner: Option<(u32, u32)>,
    /// Directories known to exist, so that each is made once. Bounded: see `DIRECTORIES_KNOWN_MAX`.
    known: HashSet<PathBuf>,
    /// Directories made below the roots.
    made: u64,
}

/// Directories remembered as existing: a cluster has a few hundred; beyond this, forgotten anew.
const DIRECTORIES_KNOWN_MAX: usize = 10_000;

pub(super) async fn restore(
    restoring: &mut Restoring<'_>,
    options: &RestoreOptions,
    recovery: Option<&Prepared>,
) -> Result<()> {
    let target = std::path::absolute(&options.target)
        .map_err(|error| Error::io(format!("find {}", options.target.display()), error))?;
    let facts = restoring.record.postgres.as_ref();
    let known = facts.map(|facts| facts.tablespaces.as_slice()).unwrap_or_default();
    let tablespaces = place_tablespaces(
        &target,
        known.iter().map(|t| (t.oid, t.location.as_str())),
        &options.tablespace_mapping,
    )?;
    check_all(&target, &tablespaces)?;
    let mut places = Places::new(&target, &tablespaces, options.owner);
    places.make_roots(recovery)?;

    let since = Instant::now();
    restoring.ctx.progress.phase(Phase::Restore, Some(restoring.record.stats.size_bytes));
    let reader = restoring.repository.repo.reader(restoring.ctx, ReadOptions::default()).await?;
    let later = write_files(restoring, &reader, &mut places).await?;
    restoring.stage("writing", since);
    complete(restoring, &reader, &places, later, recovery).await?;
    restoring.report.target = Some(target);
    Ok(())
}

/// Everything after the last chunk of the last file but one.
pub(super) async fn complete(
    restoring: &mut Restoring<'_>,
    reader: &Reader,
    places: &Places<'_>,
    later: Later,
    recovery: Option<&Prepared>,
) -> Result<()> {
    let target = places.target;
    let since = Instant::now();
    restoring.ctx.progress.phase(Phase::Sync, None);
    let control = match &later.control {
        Some(last) => Some(read_whole(reader, &last.entry).await?),
        None => None,
    };
    if relocate::rewrite_tablespace_map(target, places.tablespaces)? {
        let what = "tablespaces moved: tablespace_map, and its line in backup_manifest, say where to";
        restoring.report.notices.push(what.to_owned());
    }
    let owner = places.owner;
    if let Some(prepared) = recovery {
        let control = control.as_deref().ok_or_else(no_control_file)?;
        restoring.repository.set_up_recovery(restoring.ctx, prepared, target, control, owner).await?;
    }
    if control.is_some() {
        restoring.report.notices.extend(keep_apart(target, recovery.is_some(), owner)?);
    }
    // Flushing may take minutes: not on an async thread.
    let (flushed, roots) = (later, places.roots());
    let finishing = tokio::task::spawn_blocking(move || finish(&flushed, &roots, control, owner));
    restoring.report.directories +=
        finishing.await.map_err(|_| internal("the flushing thread panicked"))??;
    restoring.stage("flushing", since);
    if rustix::process::geteuid().is_root()
        && owner.is_none_or(|(uid, _)| uid == 0)
        && restoring.record.postgres.is_some()
    {
        restoring.report.notices.push(
            "the files belong to root, as whom PostgreSQL does not start: give them to its user with chown -R"
                .to_owned(),
        );
    }
    Ok(())
}

fn no_control_file() -> Error {
    Error::invalid(format!("the backup has no {CONTROL_FILE}: it is not of a PostgreSQL cluster"))
}

fn internal(what: &str) -> Error {
    Error::new(ErrorKind::Internal, what)
}

impl<'a> Places<'a> {
    pub(super) fn new(target: &'a Path, tablespaces: &'a [TablespaceTarget], owner: Owner) -> Self {
        let owner = owner::choose(owner, target, rustix::process::geteuid().is_root());
        Self { target, tablespaces, owner, known: HashSet::new(), made: 0 }
    }

    /// Directories made, or there before.
    pub(super) fn count(&self) -> u64 {
        self.roots().len() as u64 + self.made
    }

    /// Makes the target and the tablespaces' directories, those that replay makes included.
    pub(super) fn make_roots(&mut self, recovery: Option<&Prepared>) -> Result<()> {
        if let Some(prepared) = recovery {
            prepared.make_tablespaces(self.owner)?;
        }
        for root in self.roots() {
            make_root(&root, self.owner)?;
            self.known.insert(root);
        }
        Ok(())
    }

    /// The target and the tablespaces outside of it.
    fn roots(&self) -> Vec<PathBuf> {
        let linked = self.tablespaces.iter().filter(|t| t.linked).map(|t| t.directory.clone());
        std::iter::once(self.target.to_owned()).chain(linked).collect()
    }

    /// The directory an archive's paths are relative to.
    pub(super) fn base_of(&self, kind: &ArchiveKind) -> Result<PathBuf> {
        match kind {
            ArchiveKind::Tablespace { oid, .. } => {
                let found = self.tablespaces.iter().find(|t| t.oid == *oid);
                let directory = found.map(|t| t.directory.clone()).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Corrupt,
                        format!("the backup's record does not know tablespace {oid}"),
                    )
                })?;
                Ok(directory)
            }
            _ => Ok(self.target.to_owned()),
        }
    }

    /// Makes `directory` and what is missing above it, up to a root.
    pub(super) fn make(&mut self, directory: &Path) -> Result<()> {
        if self.known.contains(directory) {
            return Ok(());
        }
        let mut missing = Vec::new();
        for ancestor in directory.ancestors().take_while(|ancestor| !self.known.contains(*ancestor)) {
            match ancestor.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => break,
                Ok(_) => return Err(not_a_directory(ancestor)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor.to_owned()),
                Err(error) => return Err(Error::io(format!("look at {}", ancestor.display()), error)),
            }
        }
        for path in missing.iter().rev() {
            make_directory(path, self.owner)?;
            self.made += 1;
        }
        if self.known.len() >= DIRECTORIES_KNOWN_MAX {
            self.known = self.roots().into_iter().collect();
        }
        self.known.insert(directory.to_owned());
        Ok(())
    }
}

/// Makes a directory that a restore or the server fills, with what is missing above it.
pub(super) fn make_root(root: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    std::fs::create_dir_all(root)
        .and_then(|()| set_mode_and_owner(root, DIRECTORY_MODE, owner))
        .map_err(|error| Error::io(format!("make {}", root.display()), error))
}

fn not_a_directory(path: &Path) -> Error {
    let what = format!("the backup names {} as a directory and as something else", path.display());
    Error::new(ErrorKind::Corrupt, what)
}

fn make_directory(path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .create(path)
        .and_then(|()| set_owner(path, owner))
        .map_err(|error| Error::io(format!("make {}", path.display()), error))
}

/// One pass over the manifest.
async fn write_files(
    restoring: &mut Restoring<'_>,
    reader: &Reader,
    places: &mut Places<'_>,
) -> Result<Later> {
    let sink = Arc::new(RestoredFiles::new(places.owner));
    let mut bulk = reader.bulk(restoring.ctx, Arc::clone(&sink) as Arc<_>);
    let mut manifest = reader.manifest(&restoring.record.manifest);
    let mut later = later_links(places)?;
    let mut base = places.target.to_owned();
    let mut in_base_archive = false;
    let mut number = 0;
    while let Some(entry) = manifest.next().await? {
        match entry {
            Entry::Archive(header) => {
                base = places.base_of(&header.kind)?;
                in_base_archive = matches!(header.kind, ArchiveKind::Base);
            }
            Entry::EndArchive { .. } => {}
            Entry::Directory(meta) => directory(places, &base, &meta, &mut later)?,
            Entry::Symlink { meta, target } => link(places, &base, &meta, &target, &mut later)?,
            Entry::File(file) => {
                let path = SafePath::parse(&file.meta.path)?;
                let full = path.under(&base);
                places.make(full.parent().unwrap_or(&base))?;
                if in_base_archive && path.as_path() == Path::new(CONTROL_FILE) {
                    later.control = Some(Last { path: full, entry: file });
                    continue;
                }
                ask(&mut bulk, &sink, number, full, &file).await?;
                number += 1;
            }
        }
    }
    let done = bulk.finish().await?;
    restoring.report.files += done.files;
    restoring.report.restored_bytes += done.bytes;
    restoring.report.directories += places.count();
    refuse_defects(&sink.take_defects())?;
    if let Some(control) = &later.control {
        restoring.report.files += 1;
        restoring.report.restored_bytes += control.entry.content.length;
    }
    Ok(later)
}

async fn ask(
    bulk: &mut BulkRead,
    sink: &RestoredFiles,
    number: u64,
    path: PathBuf,
    file: &FileEntry,
) -> Result<()> {
    sink.announce(number, path, file.meta.mode, file.content.length);
    Ok(bulk.file(number, &file.content).await?)
}

/// Foreign tars begin with an entry for the directory itself.
pub(super) fn is_root_entry(meta: &Meta) -> bool {
    meta.path.iter().all(|b| matches!(b, b'.' | b'/')) && !meta.path.windows(2).any(|w| w == b"..")
}

pub(super) fn directory(places: &mut Places<'_>, base: &Path, meta: &Meta, later: &mut Later) -> Result<()> {
    if is_root_entry(meta) {
        return Ok(());
    }
    let path = SafePath::parse(&meta.path)?.under(base);
    // The place of a tablespace's link: servers before the link existed as a directory here.
    places.make(&path)?;
    if meta.mode & 0o7777 != DIRECTORY_MODE {
        later.directories.push((path, meta.mode));
    }
    Ok(())
}

/// A link of the backup: its path and where it leads. Links of tablespaces are made from the record,
/// where the mapping is known.
pub(super) fn own_link(
    places: &Places<'_>,
    base: &Path,
    meta: &Meta,
    target: &[u8],
) -> Result<Option<(PathBuf, PathBuf)>> {
    use std::os::unix::ffi::OsStrExt;
    let full = SafePath::parse(&meta.path)?.under(base);
    let mut linked = places.tablespaces.iter().filter(|t| t.linked);
    let is_tablespace = linked.any(|t| full == tablespace_link(places.target, t.oid));
    Ok((!is_tablespace).then(|| (full, PathBuf::from(std::ffi::OsStr::from_bytes(target)))))
}

pub(super) fn link(
    places: &mut Places<'_>,
    base: &Path,
    meta: &Meta,
    target: &[u8],
    later: &mut Later,
) -> Result<()> {
    let Some((full, target)) = own_link(places, base, meta, target)? else { return Ok(()) };
    if later.links.len() >= LINKS_MAX {
        return Err(Error::new(ErrorKind::Corrupt, format!("the backup has more than {LINKS_MAX} links")));
    }
    places.make(full.parent().unwrap_or(base))?;
    later.links.push((full, target));
    Ok(())
}

/// The links in `pg_tblspc`.
pub(super) fn tablespace_links(places: &Places<'_>) -> Vec<(PathBuf, PathBuf)> {
    let linked = places.tablespaces.iter().filter(|tablespace| tablespace.linked);
    linked.map(|t| (tablespace_link(places.target, t.oid), t.directory.clone())).collect()
}

/// Made with all others at the end.
pub(super) fn later_links(places: &mut Places<'_>) -> Result<Later> {
    let links = tablespace_links(places);
    if !links.is_empty() {
        places.make(&places.target.join("pg_tblspc"))?;
    }
    Ok(Later { links, ..Later::default() })
}

fn tablespace_link(target: &Path, oid: u32) -> PathBuf {
    target.join("pg_tblspc").join(oid.to_string())
}

/// Everything after the last chunk: links, modes, flush, `pg_control`. Returns the links made.
fn finish(
    later: &Later,
    roots: &[PathBuf],
    control: Option<Vec<u8>>,
    owner: Option<(u32, u32)>,
) -> Result<u64> {
    for (path, target) in &later.links {
        std::os::unix::fs::symlink(target, path)
            .and_then(|()| set_owner(path, owner))
            .map_err(|error| Error::io(format!("link {}", path.display()), error))?;
    }
    // Deepest first: a mode without write permission must not stand in the way.
    for (path, mode) in later.directories.iter().rev() {
        set_mode_and_owner(path, *mode, owner)
            .map_err(|error| Error::io(format!("set the mode of {}", path.display()), error))?;
    }
    let flush = || durable::sync_file_systems(roots.iter().map(PathBuf::as_path));
    flush().map_err(|error| Error::io("flush the restored files", error))?;
    if let (Some(last), Some(data)) = (&later.control, control) {
        durable::write_last(&last.path, &data, last.entry.meta.mode, owner)
            .map_err(|error| Error::io(format!("write {}", last.path.display()), error))?;
    }
    Ok(later.links.len() as u64)
}

/// A small file's content in memory.
async fn read_whole(reader: &Reader, file: &FileEntry) -> Result<Vec<u8>> {
    /// The control file is 8 KiB; this much would not be one.
    const CONTROL_MAX_BYTES: u64 = 1 << 20;
    if file.content.length > CONTROL_MAX_BYTES {
        let what = format!("{CONTROL_FILE} has {} bytes in the backup", file.content.length);
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    let mut content = reader.content(&file.content);
    let mut whole = Vec::new();
    while let Some(bytes) = content.next().await? {
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}

pub(super) fn refuse_defects(defects: &Findings) -> Result<()> {
    if defects.is_empty() {
        return Ok(());
    }
    let told = defects.first.iter().take(DEFECTS_TOLD).cloned().collect::<Vec<_>>().join("; ");
    let more = if defects.total as usize > DEFECTS_TOLD { "; and more" } else { "" };
    let what = format!("{} parts of the backup cannot be read: {told}{more}", defects.total);
    Err(Error::new(ErrorKind::Corrupt, what)
        .with_hint("`verify --level full` lists everything that is damaged; other backups may be whole"))
}
