//! Walking the tree of a local store. Hidden files and directories (objects in the making among
//! them) are not objects and are passed over; files that disappear meanwhile are too.

use std::fs;
use std::io;
use std::path::Path;

use super::is_absent;
use crate::ObjectInfo;

/// Deepest directory visited. Names have at most a handful of components; a loop of symbolic links
/// has any number.
const DEPTH_MAX: usize = 16;

/// Calls `visit` for every object below `prefix` whose name comes after `after`, until it answers
/// `false`. Files that come before are not even looked at.
pub(super) fn every(
    root: &Path,
    prefix: &str,
    after: &str,
    visit: &mut impl FnMut(ObjectInfo) -> bool,
) -> io::Result<()> {
    let mut waiting = vec![(prefix.to_owned(), 0)];
    while let Some((directory, depth)) = waiting.pop() {
        for entry in entries(root, &directory, after)? {
            match entry? {
                Found::Object(info) => {
                    let wants_more = visit(info);
                    if !wants_more {
                        return Ok(());
                    }
                }
                Found::Directory(name) if depth < DEPTH_MAX => waiting.push((name, depth + 1)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The object with the smallest name below `prefix`. Reads only the directories on the way to it.
pub(super) fn first(root: &Path, prefix: &str) -> io::Result<Option<ObjectInfo>> {
    first_below(root, prefix, 0)
}

fn first_below(root: &Path, directory: &str, depth: usize) -> io::Result<Option<ObjectInfo>> {
    let mut found = entries(root, directory, "")?.collect::<io::Result<Vec<_>>>()?;
    found.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    for entry in found {
        match entry {
            Found::Object(info) => return Ok(Some(info)),
            Found::Directory(name) if depth < DEPTH_MAX => {
                if let Some(info) = first_below(root, &name, depth + 1)? {
                    return Ok(Some(info));
                }
            }
            _ => {}
        }
    }
    Ok(None)
}

enum Found {
    Object(ObjectInfo),
    /// Its name as a prefix, `/` at the end: so it sorts where its objects do.
    Directory(String),
    Neither,
}

impl Found {
    fn name(&self) -> &str {
        match self {
            Self::Object(info) => &info.name,
            Self::Directory(name) => name,
            Self::Neither => "",
        }
    }
}

/// What is in the directory of a prefix. An absent directory is empty, unless it is the root: a
/// store that vanished must not look like one without objects.
fn entries(root: &Path, directory: &str, after: &str) -> io::Result<impl Iterator<Item = io::Result<Found>>> {
    let listing = match fs::read_dir(root.join(directory)) {
        Ok(listing) => Some(listing),
        Err(error) if is_absent(&error) && !directory.is_empty() && root.is_dir() => None,
        Err(error) => return Err(error),
    };
    let (directory, after) = (directory.to_owned(), after.to_owned());
    Ok(listing.into_iter().flatten().map(move |entry| look_at(&entry?, &directory, &after)))
}

fn look_at(entry: &fs::DirEntry, directory: &str, after: &str) -> io::Result<Found> {
    let file_name = entry.file_name();
    let file_name = file_name.to_string_lossy();
    if file_name.starts_with('.') {
        return Ok(Found::Neither);
    }
    let name = format!("{directory}{file_name}");
    // The kind comes with the name; the size would take a request of its own.
    if *name <= *after && entry.file_type().is_ok_and(|kind| kind.is_file()) {
        return Ok(Found::Neither);
    }
    let facts = match entry.metadata() {
        // A store may be spread over disks by symbolic links.
        Ok(facts) if facts.is_symlink() => fs::metadata(entry.path()),
        other => other,
    };
    match facts {
        Ok(facts) if facts.is_dir() => Ok(Found::Directory(name + "/")),
        Ok(facts) if facts.is_file() => Ok(Found::Object(ObjectInfo { name, size: facts.len() })),
        Ok(_) => Ok(Found::Neither),
        Err(error) if is_absent(&error) => Ok(Found::Neither),
        Err(error) => Err(error),
    }
}
