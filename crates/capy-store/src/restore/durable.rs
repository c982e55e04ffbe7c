//! Flushing a restore to disk, and the file that makes it a data directory.
//!
//! Contained by: the restore. Invariant: `global/pg_control` appears under its name only after
//! everything else is on disk, so a directory left by a crash or a cancellation does not start.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use super::files::{create, set_mode_and_owner};

/// Flushes whole file systems: one call for any number of files.
pub(crate) fn sync_file_systems<'a>(directories: impl Iterator<Item = &'a Path>) -> io::Result<()> {
    let mut done = Vec::new();
    for directory in directories {
        let handle = File::open(directory)?;
        let device = rustix::fs::fstat(&handle)?.st_dev;
        if !done.contains(&device) {
            sync_file_system(&handle)?;
            done.push(device);
        }
        handle.sync_all()?;
    }
    Ok(())
}

/// Asks the system to begin writing a part of a file to disk, without waiting for it, so that the
/// flush at the end finds little to do. Best effort: the flush is what counts, and reports errors.
pub(crate) fn begin_write_back(file: &File, part: Range<u64>) {
    #[cfg(target_os = "linux")]
    {
        // Linux begins to write the dirty pages of the part. It drops those that are clean, of which
        // there are none: the part was written a moment ago.
        let length = std::num::NonZeroU64::new(part.end.saturating_sub(part.start));
        let _ = rustix::fs::fadvise(file, part.start, length, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, part);
}

#[cfg(target_os = "linux")]
fn sync_file_system(handle: &File) -> io::Result<()> {
    // Reports write errors of the whole file system since Linux 5.8.
    Ok(rustix::fs::syncfs(handle)?)
}

#[cfg(not(target_os = "linux"))]
fn sync_file_system(_handle: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Writes `data` under a temporary name, flushes it, and renames it over `path`.
pub(crate) fn write_last(path: &Path, data: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".capy-restore");
    let temporary = directory.join(name);
    let written = write_new(&temporary, data, mode, owner).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The first failure is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written.and_then(|()| File::open(directory)?.sync_all())
}

fn write_new(path: &Path, data: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(data)?;
    set_mode_and_owner(path, mode, owner)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_neither_name_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pg_control");
        // A directory under the final name: the rename must fail.
        std::fs::create_dir(&path).expect("made");
        std::fs::write(path.join("x"), "").expect("written");
        assert!(write_last(&path, b"data", 0o600, None).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).expect("read").count(), 1);
    }

    #[test]
    fn the_file_replaces_what_was_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "older and longer").expect("written");
        write_last(&path, b"new", 0o600, None).expect("written");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        sync_file_systems([dir.path()].into_iter()).expect("flushed");
    }
}
