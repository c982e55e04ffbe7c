//! What is in a directory and not in the backup.
//!
//! Contained by: the delta restore. Invariants: no link is followed; what another version left
//! beside ours in a tablespace, what `mkfs` left at the top of a file system, and the mark of a delta
//! restore are nobody's business here; 16 bytes are held for each path of the backup.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// The files, directories and links that belong.
#[derive(Debug, Default)]
pub(super) struct Expected {
    paths: HashSet<(u64, u64)>,
    /// Where links lead: few, and compared.
    links: Vec<(PathBuf, PathBuf)>,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    File,
    Directory,
}

/// A place to sweep.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    /// Of a tablespace only what is below the backup's own directories is swept.
    pub(super) is_tablespace: bool,
}

impl Expected {
    /// Adds a path and the directories above it, up to `root`.
    pub(super) fn add(&mut self, root: &Path, path: &Path, kind: Kind) {
        self.paths.insert(fingerprint(path, kind));
        for above in path.ancestors().skip(1).take_while(|above| *above != root && above.starts_with(root)) {
            if !self.paths.insert(fingerprint(above, Kind::Directory)) {
                break;
            }
        }
    }

    pub(super) fn add_link(&mut self, path: PathBuf, target: PathBuf) {
        self.links.push((path, target));
    }

    /// Whether this link is there already and leads where it shall.
    pub(super) fn has_link(&self, path: &Path) -> bool {
        let Some((_, target)) = self.links.iter().find(|(link, _)| link == path) else { return false };
        std::fs::read_link(path).is_ok_and(|found| found == *target)
    }

    fn has(&self, path: &Path, kind: Kind) -> bool {
        self.paths.contains(&fingerprint(path, kind))
    }

    /// What does not belong: files, links, and directories with everything in them; blocks.
    pub(super) fn surplus(&self, roots: &[Root], except: &Path) -> io::Result<Vec<PathBuf>> {
        let mut surplus = Vec::new();
        for root in roots {
            let mut waiting = vec![(root.path.clone(), true)];
            while let Some((directory, is_root)) = waiting.pop() {
                let entries = match std::fs::read_dir(&directory) {
                    Err(error) if is_root && error.kind() == io::ErrorKind::NotFound => continue,
                    entries => entries?,
                };
                for entry in entries {
                    let entry = entry?;
                    let (path, kind) = (entry.path(), entry.file_type()?);
                    if kind.is_dir() && self.has(&path, Kind::Directory) {
                        waiting.push((path, false));
                        continue;
                    }
                    let belongs = (kind.is_file() && self.has(&path, Kind::File))
                        || (kind.is_symlink() && self.has_link(&path))
                        || (is_root && (root.is_tablespace || entry.file_name() == "lost+found"))
                        || path == except;
                    if !belongs {
                        surplus.push(path);
                    }
                }
            }
        }
        surplus.sort_unstable();
        Ok(surplus)
    }
}

/// 128 bits: two of a million paths agree with a chance of 2^-88, and then something is left.
fn fingerprint(path: &Path, kind: Kind) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, path, kind).hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_does_not_belong_is_told_and_what_does_is_not() {
        let home = tempfile::tempdir().unwrap();
        let (data, space) = (home.path().join("data"), home.path().join("space"));
        for directory in [
            "data/base/5",
            "data/old/deep",
            "data/lost+found",
            "data/was_file",
            "space/PG_15_1/5",
            "space/PG_14_1",
        ] {
            fs::create_dir_all(home.path().join(directory)).unwrap();
        }
        for file in [
            "data/base/5/1",
            "data/base/5/2",
            "data/old/deep/x",
            "data/mark",
            "data/was_directory",
            "space/PG_15_1/5/1",
            "space/PG_15_1/5/9",
        ] {
            fs::write(home.path().join(file), "x").unwrap();
        }
        symlink(&space, data.join("right")).unwrap();
        symlink("/elsewhere", data.join("wrong")).unwrap();
        let mut expected = Expected::default();
        expected.add(&data, &data.join("base/5/1"), Kind::File);
        expected.add(&data, &data.join("was_file"), Kind::File);
        expected.add(&data, &data.join("was_directory"), Kind::Directory);
        expected.add(&data, &data.join("not/there"), Kind::File);
        expected.add(&space, &space.join("PG_15_1/5/1"), Kind::File);
        expected.add_link(data.join("right"), space.clone());
        expected.add_link(data.join("wrong"), space.clone());
        let roots = [
            Root { path: data.clone(), is_tablespace: false },
            Root { path: space.clone(), is_tablespace: true },
            Root { path: home.path().join("nowhere"), is_tablespace: true },
        ];
        let surplus = expected.surplus(&roots, &data.join("mark")).unwrap();
        let wanted = [
            "data/base/5/2",
            "data/old",
            "data/was_directory",
            "data/was_file",
            "data/wrong",
            "space/PG_15_1/5/9",
        ];
        assert_eq!(surplus, wanted.map(|path| home.path().join(path)));
    }
}
