//! What becomes of a backup whose bases go while it runs.

use capy_codec::{KdfParams, SlotSecret};
use capy_format::{
    ArchiveHeader, ArchiveKind, BackupKind, BackupRecord, BackupState, Meta, Tombstone, names,
};
use capy_objects::StoreOptions;
use capy_types::{Ctx, Entropy as _, Secret, SeededEntropy};
use futures::TryStreamExt as _;

use super::*;
use crate::{Env, Ingest, IngestOptions, InitOptions, Strategy};

/// More than a small pack, which would be kept once the manifest was read from it.
const RELATION_BYTES: usize = 6 << 20;

async fn repository() -> Repository {
    let store = capy_objects::open_store("memory://", &StoreOptions::default(), true).await.expect("memory");
    let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
    let secret = Secret::from("secret".to_owned());
    let options = InitOptions { kdf, ..InitOptions::default() };
    Repository::init(store, Env::default(), options, SlotSecret::Passphrase(&secret)).await.expect("empty")
}

fn relation(day: u8) -> Vec<u8> {
    let mut relation = vec![0; RELATION_BYTES];
    SeededEntropy::new(3).fill(&mut relation);
    relation.chunks_exact_mut(8192).for_each(|page| page[100..110].fill(day));
    relation
}

async fn begin(repo: &Repository, id: &str) -> Ingest {
    let key = format!("main/{id}").parse().expect("a key");
    let options = IngestOptions { jobs: 1, parent: Some(BackupKind::Base), ..IngestOptions::new(key) };
    repo.begin(&Ctx::default(), options).await.expect("begun")
}

/// Feeds one relation and makes everything durable; returns how much was stored.
async fn feed(ingest: &mut Ingest, day: u8) -> u64 {
    let meta = Meta { path: b"base/5/1".to_vec(), mode: 0o600, ..Meta::default() };
    ingest.begin_archive(ArchiveHeader { kind: ArchiveKind::Base }).expect("begun");
    ingest.begin_file(meta, Strategy::Grid, None).await.expect("begun");
    ingest.write(&relation(day)).await.expect("fed");
    ingest.end_file().await.expect("fed");
    ingest.end_archive(0).expect("fed");
    ingest.flush().await.expect("durable").stats.stored_bytes
}

async fn commit(repo: &Repository, id: &str, mut ingest: Ingest) -> Result<BackupEntry, RepoError> {
    let flushed = ingest.flush().await?;
    let now = repo.env().clock.now();
    let record = BackupRecord {
        key: format!("main/{id}").parse().expect("a key"),
        label: None,
        created_at: now,
        finished_at: now,
        kind: BackupKind::Base,
        database: None,
        incremental_from: None,
        manifest: flushed.manifest,
        stats: flushed.stats,
        postgres: None,
        problems: Vec::new(),
        problems_total: 0,
        tool_version: "test".to_owned(),
    };
    ingest.commit(record, BackupState::Complete).await
}

/// A repository with one day, and the packs of it.
async fn one_day() -> (Repository, Vec<PackId>) {
    let repo = repository().await;
    let mut ingest = begin(&repo, "0").await;
    let stored = feed(&mut ingest, 0).await;
    assert!(stored > RELATION_BYTES as u64, "random bytes, whole");
    commit(&repo, "0", ingest).await.expect("committed");
    let listed: Vec<_> = repo.store().list(names::PACKS_PREFIX).try_collect().await.expect("listed");
    let packs = listed.iter().filter_map(|info| names::parse_pack(&info.name)).collect();
    (repo, packs)
}

async fn change(repo: &Repository, change: impl Fn(&mut Root)) {
    let change = |root: &mut Root| {
        change(root);
        Ok(())
    };
    repo.chain().commit(change).await.expect("committed");
}

async fn tombstone(repo: &Repository, packs: &[PackId]) {
    let dead = |root: &mut Root| {
        let generation = root.generation;
        root.tombstones.extend(packs.iter().map(|pack| Tombstone { pack: *pack, generation }));
    };
    change(repo, dead).await;
}

async fn is_visible(repo: &Repository, id: &str) -> bool {
    repo.root().await.expect("readable").backups.iter().any(|backup| backup.key.id.as_str() == id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_tombstoned_after_deltas_were_stored_on_it_fails_the_commit() {
    let (repo, packs) = one_day().await;
    let mut ingest = begin(&repo, "1").await;
    assert!(feed(&mut ingest, 1).await < 100_000, "deltas");
    tombstone(&repo, &packs).await;
    let error = commit(&repo, "1", ingest).await.expect_err("its bases go");
    assert!(matches!(error, RepoError::PackRemoved { .. }), "{error}");
    assert!(!is_visible(&repo, "1").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_tombstoned_and_deleted_before_it_is_read_makes_whole_chunks_that_commit() {
    let (repo, packs) = one_day().await;
    let mut ingest = begin(&repo, "1").await;
    tombstone(&repo, &packs).await;
    for pack in &packs {
        repo.store().delete(&names::pack(pack)).await.expect("deleted");
    }
    let stored = feed(&mut ingest, 1).await;
    assert!(stored > RELATION_BYTES as u64, "{stored} bytes: whole chunks");
    commit(&repo, "1", ingest).await.expect("it rests on nothing that went");
    let reader = repo.reader(&Ctx::default(), crate::ReadOptions::default()).await.expect("opened");
    let root = repo.root().await.expect("readable");
    let entry = root.backups.iter().find(|backup| backup.key.id.as_str() == "1").expect("visible");
    let record = repo.record(entry).await.expect("a record");
    let mut manifest = reader.manifest(&record.manifest);
    while let Some(entry) = manifest.next().await.expect("readable") {
        let capy_format::Entry::File(file) = entry else { continue };
        let (mut content, mut whole) = (reader.content(&file.content), Vec::new());
        while let Some(bytes) = content.next().await.expect("readable") {
            whole.extend_from_slice(&bytes);
        }
        assert!(whole == relation(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_only_condemned_is_saved_by_the_commit() {
    let (repo, packs) = one_day().await;
    let mut ingest = begin(&repo, "1").await;
    assert!(feed(&mut ingest, 1).await < 100_000, "deltas");
    change(&repo, |root| root.condemned.extend(packs.iter().copied())).await;
    commit(&repo, "1", ingest).await.expect("it says that it needs them");
    assert!(is_visible(&repo, "1").await);
    let root = repo.root().await.expect("readable");
    assert!(packs.iter().all(|pack| !root.condemned.contains(pack)), "nothing it rests on is condemned");
}
