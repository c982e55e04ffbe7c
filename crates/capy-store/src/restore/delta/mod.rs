//! A backup into the directory that it, or another of its cluster, once was: only what differs is
//! fetched.
//!
//! Contained by: the restore. Order: the directory is checked; one pass over the manifest says what
//! belongs there, and what else is there is found; a mark is set and `pg_control` removed, so that
//! what an interruption leaves does not start, and is known when the restore is run again; the rest
//! of the surplus is removed; a second pass hashes what is there against the names of the backup's
//! chunks and fetches those that are missing; then everything ends as a restore into an empty
//! directory does.
//!
//! Invariant: the result is what a restore into an empty directory would be.

mod files;
mod sweep;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use capy_format::{ArchiveKind, Entry, Meta};
use capy_postgres::control::{CONTROL_FILE_BYTES, ControlFile};
use capy_repo::{ReadOptions, Reader};
use capy_types::{ErrorKind, Phase, SystemId};

use super::files::set_mode_and_owner;
use super::full::{self, CONTROL_FILE, Last, Later, Places};
use super::path::SafePath;
use super::recovery::Prepared;
use super::target::{TablespaceTarget, check_apart, check_tablespace, place_tablespaces};
use super::{RestoreOptions, Restoring};
use crate::{Error, Repository, Result};
use files::DeltaFiles;
use sweep::{Expected, Kind, Root};

/// Left in the directory while a delta restore is at work on it: the cluster's system identifier, and on
/// further lines the tablespaces' directories.
const MARK: &str = "capy-store.delta";

/// How an existing directory is brought to the state of a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delta {
    /// Also when the directory is not known to be of the backup's cluster.
    pub force: bool,
}

impl Delta {
    /// Only into a directory of the same cluster.
    #[must_use]
    pub const fn new() -> Self {
        Self { force: false }
    }
}

/// What a delta restore would remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DeltaPlan {
    /// Files, links, and directories with everything in them, that the backup does not have.
    pub remove: Vec<PathBuf>,
}

impl Repository {
    /// Says what [`restore`](Self::restore) with these options would remove. Nothing is changed.
    ///
    /// # Errors
    /// As [`restore`](Self::restore) before it changes anything.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn plan_delta(
        &self,
        ctx: &capy_types::Ctx,
        backup: &capy_types::BackupSelector,
        options: &RestoreOptions,
    ) -> Result<DeltaPlan> {
        let work = async {
            let restoring = Restoring::begin(self, ctx, backup).await?;
            let delta = Directory::check(&restoring, options)?;
            let reader = self.repo.reader(ctx, ReadOptions::default()).await?;
            let expected = delta.expected(&restoring, &reader).await?;
            Ok(DeltaPlan { remove: delta.surplus(expected).await?.1 })
        };
        crate::repository::cancellable(ctx, work).await
    }
}

pub(super) async fn restore(
    restoring: &mut Restoring<'_>,
    options: &RestoreOptions,
    recovery: Option<&Prepared>,
) -> Result<()> {
    let directory = Directory::check(restoring, options)?;
    let since = Instant::now();
    let reader = restoring.repository.repo.reader(restoring.ctx, ReadOptions::default()).await?;
    let expected = directory.expected(restoring, &reader).await?;
    let (expected, surplus) = directory.surplus(expected).await?;
    let (removed, mark, says) = (surplus.len() as u64, directory.mark(), directory.mark_says());
    let control = directory.target.join(CONTROL_FILE);
    blocking(move || disarm(&mark, &says, &control).and_then(|()| remove(&surplus))).await?;
    restoring.report.removed = removed;
    restoring.stage("looking", since);

    let mut places = Places::new(&directory.target, &directory.tablespaces, options.owner);
    places.make_roots(recovery)?;
    let since = Instant::now();
    restoring.ctx.progress.phase(Phase::Restore, Some(restoring.record.stats.size_bytes));
    let mut later = write_files(restoring, &reader, &mut places).await?;
    later.links.retain(|(path, _)| !expected.has_link(path));
    restoring.stage("comparing and writing", since);
    full::complete(restoring, &reader, &places, later, recovery).await?;
    std::fs::remove_file(directory.mark())
        .map_err(|error| Error::io(format!("remove {}", directory.mark().display()), error))?;
    restoring.report.target = Some(directory.target);
    Ok(())
}

/// The directory, and where its tablespaces are.
struct Directory {
    target: PathBuf,
    tablespaces: Vec<TablespaceTarget>,
    system_id: Option<SystemId>,
}

impl Directory {
    /// Refuses a directory in use, and one that is of something else.
    fn check(restoring: &Restoring<'_>, options: &RestoreOptions) -> Result<Self> {
        let target = std::path::absolute(&options.target)
            .map_err(|error| Error::io(format!("find {}", options.target.display()), error))?;
        let facts = restoring.record.postgres.as_ref();
        let known = facts.map(|facts| facts.tablespaces.as_slice()).unwrap_or_default();
        let known = known.iter().map(|t| (t.oid, t.location.as_str()));
        let tablespaces = place_tablespaces(&target, known, &options.tablespace_mapping)?;
        let linked = tablespaces.iter().filter(|t| t.linked).map(|t| t.directory.as_path());
        let places: Vec<&Path> = std::iter::once(target.as_path()).chain(linked).collect();
        check_apart(&places)?;
        let directory = Self { target, tablespaces, system_id: facts.map(|facts| facts.system_id) };
        directory.refuse_used()?;
        if !options.delta.is_some_and(|delta| delta.force) {
            directory.refuse_foreign()?;
            directory.refuse_foreign_tablespaces()?;
        }
        Ok(directory)
    }

    fn mark(&self) -> PathBuf {
        self.target.join(MARK)
    }

    fn mark_says(&self) -> Vec<u8> {
        let mut says = self.expected_id().into_bytes();
        for tablespace in self.tablespaces.iter().filter(|t| t.linked) {
            says.push(b'\n');
            says.extend_from_slice(tablespace.directory.as_os_str().as_bytes());
        }
        says
    }

    fn expected_id(&self) -> String {
        self.system_id.map(|id| id.to_string()).unwrap_or_default()
    }

    fn refuse_used(&self) -> Result<()> {
        let pid = self.target.join("postmaster.pid");
        if pid.symlink_metadata().is_err() {
            return Ok(());
        }
        let what = format!("a server may be running on {}: it holds a postmaster.pid", self.target.display());
        Err(Error::new(ErrorKind::Conflict, what).with_hint(
            "stop the server; if it crashed and none runs, here or in a container, remove the file",
        ))
    }

    /// An empty or absent directory is nobody's; one with a mark is what an earlier try left.
    fn refuse_foreign(&self) -> Result<()> {
        let shown = self.target.display();
        let foreign = |what: String| {
            Err(Error::new(ErrorKind::Conflict, what)
                .with_hint("--force makes it a copy of the backup all the same, and removes what is there"))
        };
        let expected = self.expected_id();
        match read_if_there(&self.target.join(CONTROL_FILE))? {
            Some(content) => {
                let content = content.get(..CONTROL_FILE_BYTES).unwrap_or(&content);
                match ControlFile::parse(content) {
                    Ok(control) if Some(control.system_id) == self.system_id => Ok(()),
                    Ok(control) => {
                        let found = control.system_id;
                        foreign(format!("{shown} is of cluster {found}, the backup of {expected}"))
                    }
                    Err(error) => foreign(format!("{shown} is of no known cluster: {error}")),
                }
            }
            None => match read_if_there(&self.mark())? {
                Some(mark) if lines(&mark).next() == Some(expected.as_bytes()) => Ok(()),
                Some(_) => foreign(format!("{shown} was being restored for another cluster")),
                None if self.is_empty()? => Ok(()),
                None => foreign(format!("{shown} is no data directory: it has no {CONTROL_FILE}")),
            },
        }
    }

    /// A tablespace's directory that holds something is this cluster's when a link of its leads there, or an
    /// earlier try was at work on it. Any other may be in use: the server's that the backup is of, most likely.
    fn refuse_foreign_tablespaces(&self) -> Result<()> {
        let mark = read_if_there(&self.mark())?.unwrap_or_default();
        for tablespace in self.tablespaces.iter().filter(|t| t.linked) {
            let link = self.target.join("pg_tblspc").join(tablespace.oid.to_string());
            let is_ours = std::fs::canonicalize(link)
                .is_ok_and(|led| std::fs::canonicalize(&tablespace.directory).is_ok_and(|here| led == here));
            let was_begun =
                || lines(&mark).skip(1).any(|line| line == tablespace.directory.as_os_str().as_bytes());
            if !is_ours && !was_begun() {
                check_tablespace(tablespace)?;
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool> {
        match std::fs::read_dir(&self.target) {
            Ok(mut entries) => Ok(!entries.any(|e| !e.is_ok_and(|e| e.file_name() == "lost+found"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(Error::io(format!("look into {}", self.target.display()), error)),
        }
    }

    /// What belongs into the directory, by one pass over the manifest.
    async fn expected(&self, restoring: &Restoring<'_>, reader: &Reader) -> Result<Expected> {
        let mut expected = Expected::default();
        let places = Places::new(&self.target, &self.tablespaces, super::Owner::default());
        let links = full::tablespace_links(&places);
        let mut base = self.target.clone();
        let mut manifest = reader.manifest(&restoring.record.manifest);
        while let Some(entry) = manifest.next().await? {
            restoring.ctx.check()?;
            match entry {
                Entry::Archive(header) => base = places.base_of(&header.kind)?,
                Entry::EndArchive { .. } => {}
                Entry::Directory(meta) => {
                    if !full::is_root_entry(&meta) {
                        expected.add(&base, &SafePath::parse(&meta.path)?.under(&base), Kind::Directory);
                    }
                }
                Entry::Symlink { meta, target } => {
                    if let Some((path, target)) = full::own_link(&places, &base, &meta, &target)? {
                        expected.add_link(path, target);
                    }
                }
                Entry::File(file) => {
                    expected.add(&base, &SafePath::parse(&file.meta.path)?.under(&base), Kind::File);
                }
            }
        }
        for (path, target) in links {
            if let Some(parent) = path.parent() {
                expected.add(&self.target, parent, Kind::Directory);
            }
            expected.add_link(path, target);
        }
        Ok(expected)
    }

    async fn surplus(&self, expected: Expected) -> Result<(Expected, Vec<PathBuf>)> {
        let linked = self.tablespaces.iter().filter(|t| t.linked);
        let mut roots = vec![Root { path: self.target.clone(), is_tablespace: false }];
        roots.extend(linked.map(|t| Root { path: t.directory.clone(), is_tablespace: true }));
        let (mark, shown) = (self.mark(), self.target.display().to_string());
        blocking(move || {
            let surplus = expected.surplus(&roots, &mark);
            let surplus = surplus.map_err(|error| Error::io(format!("look through {shown}"), error))?;
            Ok((expected, surplus))
        })
        .await
    }
}

fn lines(mark: &[u8]) -> impl Iterator<Item = &[u8]> {
    mark.split(|byte| *byte == b'\n')
}

/// Sets the mark, and takes away what the server starts from; both are on disk before anything else
/// changes.
fn disarm(mark: &Path, says: &[u8], control: &Path) -> Result<()> {
    let steps = || {
        let directory = mark.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory)?;
        let mut file = File::create(mark)?;
        file.write_all(says)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
        match std::fs::remove_file(control) {
            Ok(()) => File::open(control.parent().unwrap_or(directory))?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    };
    steps().map_err(|error| Error::io(format!("take {} out of use", control.display()), error))
}

fn remove(surplus: &[PathBuf]) -> Result<()> {
    for path in surplus {
        let removed = match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
            Ok(_) => std::fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            // The control file is among them when the backup is of no cluster.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("remove {}", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The second pass: compares and fetches.
async fn write_files(
    restoring: &mut Restoring<'_>,
    reader: &Reader,
    places: &mut Places<'_>,
) -> Result<Later> {
    let namer = restoring.repository.repo.keys().chunk_namer();
    let sink = Arc::new(DeltaFiles::new(namer, places.owner));
    let mut bulk = reader.bulk(restoring.ctx, Arc::clone(&sink) as Arc<_>);
    let mut manifest = reader.manifest(&restoring.record.manifest);
    let mut later = full::later_links(places)?;
    let (mut base, mut in_base, mut number) = (places.target.to_owned(), false, 0);
    while let Some(entry) = manifest.next().await? {
        match entry {
            Entry::Archive(header) => {
                base = places.base_of(&header.kind)?;
                in_base = matches!(header.kind, ArchiveKind::Base);
            }
            Entry::EndArchive { .. } => {}
            Entry::Directory(meta) => {
                full::directory(places, &base, &meta, &mut later)?;
                usual_mode(places, &base, &meta)?;
            }
            Entry::Symlink { meta, target } => full::link(places, &base, &meta, &target, &mut later)?,
            Entry::File(file) => {
                let path = SafePath::parse(&file.meta.path)?;
                let under = path.under(&base);
                places.make(under.parent().unwrap_or(&base))?;
                if in_base && path.as_path() == Path::new(CONTROL_FILE) {
                    later.control = Some(Last { path: under, entry: file });
                    continue;
                }
                sink.announce(number, under, file.meta.mode, file.content.length);
                bulk.file(number, &file.content).await?;
                number += 1;
            }
        }
    }
    let done = bulk.finish().await?;
    restoring.report.files += done.files;
    restoring.report.restored_bytes += sink.written_bytes();
    restoring.report.kept_bytes += done.held_bytes;
    restoring.report.directories += places.count();
    full::refuse_defects(&sink.take_defects())?;
    if let Some(control) = &later.control {
        restoring.report.files += 1;
        restoring.report.restored_bytes += control.entry.content.length;
    }
    Ok(later)
}

/// Gives a directory that was there the mode that a new one has; others follow at the end.
fn usual_mode(places: &Places<'_>, base: &Path, meta: &Meta) -> Result<()> {
    if full::is_root_entry(meta) {
        return Ok(());
    }
    let path = SafePath::parse(&meta.path)?.under(base);
    set_mode_and_owner(&path, full::DIRECTORY_MODE, places.owner)
        .map_err(|error| Error::io(format!("set the mode of {}", path.display()), error))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::new(ErrorKind::Internal, "a thread of the restore panicked"))?
}
