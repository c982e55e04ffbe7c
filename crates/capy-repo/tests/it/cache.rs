//! The local cache: what it saves, what it must not hide, and that nothing it holds is believed unproven.

use std::sync::Arc;

use capy_format::{BackupKind, Verification, VerificationState, names};
use capy_objects::testing::RecordingStore;
use capy_objects::{CacheOptions, ReadCache, Store};
use capy_repo::{IngestOptions, ReadOptions, Repository, verify_structure};
use capy_types::{Ctx, IndexId};
use tempfile::TempDir;

use crate::damage::{ALL, Damage, damage, objects};
use crate::delta::{DEEP, backup, check_whole, day, packs};
use crate::fixture::{commit, feed, init, key, memory_store, open, read};

/// A new handle of the repository, as of the next process, with the cache in `dir`.
async fn with_cache(store: &Arc<dyn Store>, dir: &TempDir) -> Repository {
    let repo = open(store).await.unwrap();
    repo.use_cache(&CacheOptions::new(dir.path()));
    repo
}

/// Two days, taken through a cache that holds what the third needs.
async fn two_days() -> (Arc<dyn Store>, TempDir) {
    let (store, dir) = (memory_store().await, tempfile::tempdir().unwrap());
    init(&store).await;
    for n in 0..2 {
        backup(&with_cache(&store, &dir).await, &n.to_string(), &day(n), DEEP).await.unwrap();
    }
    // What the second day wanted of the first's large packs is there; now all of it.
    let repo = with_cache(&store, &dir).await;
    let options = ReadOptions { cached: true, ..ReadOptions::default() };
    let reader = repo.reader(&Ctx::default(), options).await.unwrap();
    let record = repo.record(&repo.resolve(&key("1").into()).await.unwrap()).await.unwrap();
    let mut manifest = reader.manifest(&record.manifest);
    while let Some(entry) = manifest.next().await.unwrap() {
        if let capy_format::Entry::File(file) = entry {
            let mut content = reader.content(&file.content);
            while content.next().await.unwrap().is_some() {}
        }
    }
    (store, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_changes_reads_no_pack_and_no_index_that_was_read_or_written_before() {
    const DAYS: u64 = 5;
    let mut asked = Vec::new();
    for cached in [false, true] {
        let recording = Arc::new(RecordingStore::new(memory_store().await));
        let (store, dir): (Arc<dyn Store>, _) = (recording.clone(), tempfile::tempdir().unwrap());
        init(&store).await;
        for n in 0..DAYS {
            let repo = if cached { with_cache(&store, &dir).await } else { open(&store).await.unwrap() };
            recording.reset();
            backup(&repo, &n.to_string(), &day(n), DEEP).await.unwrap();
            let counts = recording.counts();
            asked.push((counts.get_range, counts.get));
            check_whole(&repo, &n.to_string(), &day(n)).await;
        }
    }
    let (without, with) = asked.split_at(DAYS as usize);
    println!("ranges and objects read each day: {without:?} without, {with:?} with");
    for n in 2..DAYS as usize {
        assert!(without[n].0 > with[n].0, "{n}");
        assert_eq!(with[n].0, 0, "{n}: no part of a pack");
        assert_eq!(with[n].1, without[n].1 - n as u64, "{n}: an index object for each day is not read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_proves_what_the_store_has_does_not_ask_the_cache() {
    for (prefix, how) in
        [names::PACKS_PREFIX, names::INDEX_PREFIX].into_iter().flat_map(|prefix| ALL.map(|how| (prefix, how)))
    {
        let (store, dir) = two_days().await;
        let hurt = objects(&store, prefix).await;
        damage(&store, &hurt[0], &hurt[1], how).await;
        let cached = with_cache(&store, &dir).await;
        let plain = open(&store).await.unwrap();
        let mut found = Vec::new();
        for repo in [&cached, &plain] {
            let backups = repo.root().await.unwrap().backups;
            let options = ReadOptions::default();
            let report = verify_structure(repo, &Ctx::default(), &options, &backups).await.unwrap();
            let read = match read(repo, "1").await {
                Ok(back) => back.defects,
                Err(error) => vec![(error.to_string(), report.defects[0].defect.clone())],
            };
            found.push((report.defects, report.damaged_packs, read.len()));
        }
        let told = !found[1].0.is_empty() || found[1].2 > 0;
        assert!(told, "{} {how:?}: there is something to be found", hurt[0]);
        assert!(found[0] == found[1], "{} {how:?}: {found:?}", hurt[0]);
        let used = cached.cache().unwrap().counts();
        assert_eq!((used.hits, used.misses), (0, 0), "{} {how:?}", hurt[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_built_on_what_the_store_has_lost_though_the_cache_has_it() {
    for prefix in [names::PACKS_PREFIX, names::INDEX_PREFIX] {
        let hurt = objects(&two_days().await.0, prefix).await.len();
        for n in 0..hurt {
            for how in [Damage::Delete, Damage::Truncate] {
                let (store, dir) = two_days().await;
                let names = objects(&store, prefix).await;
                damage(&store, &names[n], &names[n], how).await;
                let repo = with_cache(&store, &dir).await;
                backup(&repo, "2", &day(2), DEEP).await.unwrap();
                assert!(repo.cache().unwrap().counts().hits > 0, "the cache was asked");
                check_whole(&open(&store).await.unwrap(), "2", &day(2)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_the_cache_hides_ends_with_the_verification_that_finds_it() {
    let ctx = Ctx::default();
    for prefix in [names::PACKS_PREFIX, names::INDEX_PREFIX] {
        for n in 0..objects(&two_days().await.0, prefix).await.len() {
            let (store, dir) = two_days().await;
            let hurt = objects(&store, prefix).await[n].clone();
            // In the middle: neither length nor name of the object tell.
            damage(&store, &hurt, &hurt, Damage::FlipMiddle).await;
            backup(&with_cache(&store, &dir).await, "2", &day(2), DEEP).await.unwrap();
            let repo = with_cache(&store, &dir).await;
            let backups = repo.root().await.unwrap().backups;
            let report = verify_structure(&repo, &ctx, &ReadOptions::default(), &backups).await.unwrap();
            let mut bad = report.damaged_packs.clone();
            if let Ok(back) = read(&repo, "2").await {
                bad.extend(back.defects.iter().filter_map(|(_, defect)| defect.pack));
            }
            repo.mark_damaged(&bad).await.unwrap();
            let failed = Verification { state: VerificationState::Failed, ..Verification::default() };
            repo.set_verification(&key("2"), failed).await.unwrap();
            // The next backup is whole, and so again is what it shares with the damaged one.
            backup(&with_cache(&store, &dir).await, "3", &day(2), DEEP).await.unwrap();
            for id in ["2", "3"] {
                let back = read(&open(&store).await.unwrap(), id).await;
                let back = back.unwrap_or_else(|error| panic!("{hurt}: {id}: {error}"));
                assert!(back.defects.is_empty(), "{hurt}: {id}: {:?}", back.defects);
                assert!(back.files == day(2), "{hurt}: {id}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_came_wrong_into_the_cache_are_proven_wrong_and_fetched_again() {
    let (store, _) = two_days().await;
    let repo = open(&store).await.unwrap();
    // Another store under the same names, every byte of which is wrong, fills the cache.
    let (wrong, dir) = (memory_store().await, tempfile::tempdir().unwrap());
    let poison = ReadCache::new(wrong.clone(), &CacheOptions::new(dir.path()), &repo.id().to_string());
    let root = repo.root().await.unwrap();
    for (pack, index) in packs(&store).await.iter().zip(root.indexes.iter().cycle()) {
        for name in [names::pack(pack), names::index(index)] {
            let object = store.get(&name, 64 << 20).await.unwrap();
            let bad: Vec<u8> = object.iter().map(|byte| byte ^ 1).collect();
            if wrong.put_new(&name, bad.clone().into()).await.is_ok() {
                let end = repo_end(&repo, &name, bad.len()).await;
                poison.get_range(&name, 0..end, end).await.unwrap();
            }
        }
    }
    let cached = with_cache(&store, &dir).await;
    backup(&cached, "2", &day(2), DEEP).await.unwrap();
    let used = cached.cache().unwrap().counts();
    assert!(used.hits > 0 && used.damaged == 0, "the checksums of the files hold: {used:?}");
    check_whole(&open(&store).await.unwrap(), "2", &day(2)).await;
    let (deltas, whole) = deltas_of(&open(&store).await.unwrap(), &root.indexes).await;
    assert!(deltas > 0, "bases were read in spite of it: {deltas} deltas, {whole} whole");
}

/// Where the frames of a pack end; any other object's length.
async fn repo_end(repo: &Repository, name: &str, length: usize) -> u64 {
    let Some(pack) = names::parse_pack(name) else { return length as u64 };
    let frames = repo.inspect_pack(&pack, None).await.unwrap().frames;
    frames.iter().map(|f| u64::from(f.frame.offset) + u64::from(f.frame.stored_len)).max().unwrap()
}

/// Chunks stored as deltas, and whole, that the index objects list which came after `before`. Their ids are
/// random, and so is their order.
async fn deltas_of(repo: &Repository, before: &[IndexId]) -> (usize, usize) {
    let mut frames = Vec::new();
    for index in repo.root().await.unwrap().indexes.iter().filter(|index| !before.contains(index)) {
        let packs = repo.inspect_index(index).await.unwrap().packs;
        frames.extend(packs.into_iter().flat_map(|pack| pack.frames));
    }
    let deltas = frames.iter().filter(|frame| frame.base.is_some()).count();
    (deltas, frames.len() - deltas)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_may_go_in_the_middle_of_a_backup() {
    let (store, dir) = two_days().await;
    let repo = with_cache(&store, &dir).await;
    let parent = Some(BackupKind::Base);
    let options = IngestOptions { jobs: 2, parent, delta: DEEP, ..IngestOptions::new(key("2")) };
    let mut ingest = repo.begin(&Ctx::default(), options).await.unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    feed(&mut ingest, &day(2), 100_000).await.unwrap();
    commit(&repo, "2", ingest).await.unwrap();
    check_whole(&repo, "2", &day(2)).await;
    assert_eq!(repo.cache().unwrap().fault(), None);
}
