//! A repository with seeded content, and short ways to use it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use capy_codec::{KdfParams, SlotSecret};
use capy_format::{
    ArchiveHeader, ArchiveKind, BackupEntry, BackupKind, BackupRecord, BackupState, Entry, Meta,
};
use capy_objects::{Store, StoreOptions};
use capy_repo::{
    Defect, Env, FileSink, Flushed, Ingest, IngestOptions, InitOptions, ReadOptions, RepoError, Repository,
    Strategy,
};
use capy_types::{BackupKey, Ctx, Entropy, Secret, SeededEntropy, SystemClock};

/// Key derivation cheap enough for a test.
pub(crate) const FAST_KDF: KdfParams = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };

/// Files by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn secret() -> Secret {
    Secret::from("correct horse".to_owned())
}

pub(crate) fn options() -> InitOptions {
    InitOptions { kdf: FAST_KDF, ..InitOptions::default() }
}

pub(crate) async fn memory_store() -> Arc<dyn Store> {
    capy_objects::open_store("memory://", &StoreOptions::default(), true).await.expect("memory opens")
}

pub(crate) async fn init(store: &Arc<dyn Store>) -> Repository {
    try_init(store.clone()).await.expect("an empty store takes a repository")
}

pub(crate) async fn try_init(store: Arc<dyn Store>) -> Result<Repository, RepoError> {
    Repository::init(store, Env::default(), options(), SlotSecret::Passphrase(&secret())).await
}

pub(crate) async fn open(store: &Arc<dyn Store>) -> Result<Repository, RepoError> {
    Repository::open(store.clone(), Env::default(), SlotSecret::Passphrase(&secret())).await
}

pub(crate) fn key(id: &str) -> BackupKey {
    format!("main/{id}").parse().expect("a key")
}

pub(crate) fn meta(path: &str) -> Meta {
    Meta {
        path: path.as_bytes().to_vec(),
        mode: 0o600,
        uid: 26,
        gid: 26,
        mtime: 1_700_000_000,
        owner: "postgres".to_owned(),
        group: "postgres".to_owned(),
    }
}

/// Bytes that compress about two to one and differ everywhere.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let entropy = SeededEntropy::new(seed);
    let mut out = vec![0; length];
    entropy.fill(&mut out);
    out.iter_mut().for_each(|b| *b &= 0x0f);
    out
}

/// A small cluster: relation-like files on the grid, others by content.
pub(crate) fn cluster(seed: u64) -> Files {
    let mut files = Files::new();
    files.insert("PG_VERSION".to_owned(), b"15\n".to_vec());
    files.insert("empty".to_owned(), Vec::new());
    for n in 0..40 {
        files.insert(format!("base/5/{}", 16384 + n), bytes(seed * 1000 + n, 8192 * (n as usize * 3 % 41)));
    }
    files.insert("base/5/99999".to_owned(), bytes(seed * 1000 + 777, 6 << 20));
    files.insert("pg_wal/000000010000000000000001".to_owned(), bytes(seed * 1000 + 778, 3 << 20));
    files
}

pub(crate) async fn begin(repo: &Repository, id: &str) -> Result<Ingest, RepoError> {
    let options = IngestOptions { jobs: 2, ..IngestOptions::new(key(id)) };
    repo.begin(&Ctx::default(), options).await
}

/// Feeds `files` in pieces of `piece` bytes.
pub(crate) async fn feed(ingest: &mut Ingest, files: &Files, piece: usize) -> Result<(), RepoError> {
    ingest.begin_archive(ArchiveHeader { kind: ArchiveKind::Base })?;
    ingest.directory(meta("base"))?;
    for (path, content) in files {
        let strategy = if path.starts_with("base/") { Strategy::Grid } else { Strategy::Cdc };
        ingest.begin_file(meta(path), strategy, None).await?;
        for part in content.chunks(piece) {
            ingest.write(part).await?;
        }
        ingest.end_file().await?;
    }
    ingest.end_archive(1024)
}

pub(crate) fn record(repo: &Repository, id: &str, flushed: &Flushed) -> BackupRecord {
    let now = repo.env().clock.now();
    BackupRecord {
        key: key(id),
        label: Some("test".to_owned()),
        created_at: now,
        finished_at: now,
        kind: BackupKind::Base,
        database: None,
        incremental_from: None,
        manifest: flushed.manifest.clone(),
        stats: flushed.stats.clone(),
        postgres: None,
        problems: Vec::new(),
        problems_total: 0,
        tool_version: "test".to_owned(),
    }
}

pub(crate) async fn commit(
    repo: &Repository,
    id: &str,
    mut ingest: Ingest,
) -> Result<BackupEntry, RepoError> {
    let flushed = ingest.flush().await?;
    ingest.commit(record(repo, id, &flushed), BackupState::Complete).await
}

pub(crate) async fn backup(repo: &Repository, id: &str, files: &Files) -> Result<BackupEntry, RepoError> {
    let mut ingest = begin(repo, id).await?;
    feed(&mut ingest, files, 100_000).await?;
    commit(repo, id, ingest).await
}

/// Collects files in memory.
#[derive(Default)]
pub(crate) struct Collect {
    pub(crate) files: Mutex<BTreeMap<u64, Vec<u8>>>,
    pub(crate) finished: Mutex<Vec<u64>>,
    pub(crate) defects: Mutex<Vec<(u64, Defect)>>,
}

impl FileSink for Collect {
    fn write(&self, file: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let content = files.entry(file).or_default();
        let (from, to) = (offset as usize, offset as usize + data.len());
        if content.len() < to {
            content.resize(to, 0xee);
        }
        content[from..to].copy_from_slice(data);
        Ok(())
    }

    fn finished(&self, file: u64) -> io::Result<()> {
        self.finished.lock().unwrap().push(file);
        Ok(())
    }

    fn defect(&self, file: u64, defect: Defect) {
        self.defects.lock().unwrap().push((file, defect));
    }
}

/// What reading a whole backup gives: the files that came out whole, and the defects by path.
pub(crate) struct ReadBack {
    pub(crate) files: Files,
    pub(crate) defects: Vec<(String, Defect)>,
}

pub(crate) async fn read(repo: &Repository, id: &str) -> Result<ReadBack, RepoError> {
    let entry = repo.resolve(&key(id).into()).await?;
    let record = repo.record(&entry).await?;
    let ctx = Ctx::default();
    let reader = repo.reader(&ctx, ReadOptions::default()).await?;
    let sink = Arc::new(Collect::default());
    let mut bulk = reader.bulk(&ctx, sink.clone());
    let mut manifest = reader.manifest(&record.manifest);
    let mut names = Vec::new();
    while let Some(entry) = manifest.next().await? {
        if let Entry::File(file) = entry {
            bulk.file(names.len() as u64, &file.content).await?;
            names.push(String::from_utf8(file.meta.path).unwrap());
        }
    }
    bulk.finish().await?;
    let name = |file: &u64| names[*file as usize].clone();
    let mut contents = sink.files.lock().unwrap();
    let finished = sink.finished.lock().unwrap();
    let files = finished.iter().map(|file| (name(file), contents.remove(file).unwrap_or_default())).collect();
    let defects = sink.defects.lock().unwrap().iter().map(|(file, d)| (name(file), d.clone())).collect();
    Ok(ReadBack { files, defects })
}

pub(crate) fn seeded_env(seed: u64) -> Env {
    println!("seed {seed}");
    Env { clock: Arc::new(SystemClock), entropy: Arc::new(SeededEntropy::new(seed)) }
}
