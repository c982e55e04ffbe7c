//! A repository in a directory, and the few calls every test makes.

use std::path::{Path, PathBuf};

use capy_store::{
    BackupOptions, BackupReport, BackupSelector, BackupSource, Ctx, Error, InitOptions, Key, Location,
    Repository, RestoreOptions, RestoreReport, VerifyLevel, VerifyOptions, VerifyReport, VerifyScope,
};

/// A repository and the directory it lives in.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) repository: Repository,
    pub(crate) ctx: Ctx,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut InitOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::default();
        let mut options = InitOptions::default();
        options.kdf_memory_kib = Some(1024);
        change(&mut options);
        let place = Location::new(dir.path().join("repo").to_str().unwrap());
        let repository = Repository::init(&ctx, &place, &[Key::passphrase("secret")], options).await.unwrap();
        Self { dir, repository, ctx }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Backs up a tar held in memory.
    pub(crate) async fn try_back_up(&self, tar: Vec<u8>) -> Result<BackupReport, Error> {
        let source = BackupSource::tar_reader(std::io::Cursor::new(tar));
        self.repository.backup(&self.ctx, source, BackupOptions::new("main".parse().unwrap())).await
    }

    pub(crate) async fn back_up(&self, tar: Vec<u8>) -> BackupReport {
        self.try_back_up(tar).await.unwrap()
    }

    /// The error of a backup that must fail, after which nothing may be listed.
    pub(crate) async fn refuses(&self, tar: Vec<u8>) -> Error {
        let error = self.try_back_up(tar).await.expect_err("this input must be refused");
        assert!(
            self.repository.list_backups(&self.ctx, None).await.unwrap().is_empty(),
            "nothing is committed"
        );
        error
    }

    pub(crate) async fn try_restore(&self, options: RestoreOptions) -> Result<RestoreReport, Error> {
        self.repository.restore(&self.ctx, &latest(), options).await
    }

    pub(crate) async fn restore(&self, name: &str) -> PathBuf {
        let target = self.path(name);
        self.try_restore(RestoreOptions::to(&target)).await.unwrap();
        target
    }

    pub(crate) async fn verify(&self, level: VerifyLevel) -> VerifyReport {
        let mut options = VerifyOptions::default();
        options.level = level;
        self.repository.verify(&self.ctx, &VerifyScope::All, options).await.unwrap()
    }

    /// Stored objects whose name starts with `prefix`, largest first.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = files_below(&self.path("repo").join(prefix));
        found.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
        found
    }
}

pub(crate) fn latest() -> BackupSelector {
    "main/latest".parse().unwrap()
}

/// All files below a directory, sorted.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                waiting.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
