//! Patched files: whatever changes, what is stored is what a backup of the whole files would store.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use capy_codec::SlotSecret;
use capy_format::{
    ArchiveHeader, ArchiveKind, BackupKind, ChunkClass, ChunkingPolicy, Entry, FileEntry, Meta, names,
};
use capy_objects::Store;
use capy_objects::testing::{Fault, FaultStore};
use capy_repo::{
    DeltaPolicy, Ingest, IngestOptions, InitOptions, Inspector, Patch, ReadOptions, RepoError, Repository,
    Strategy, verify_structure,
};
use capy_types::{Ctx, Entropy, ErrorKind, SeededEntropy};

use crate::damage;
use crate::fixture::seeded_env;
use crate::fixture::{
    Files, begin, bytes, commit, feed, key, memory_store, meta, open, options, read, secret,
};

const BLOCK: u64 = 512;

/// A repository whose grid is of 8 KiB, so that small files have many cells.
async fn small_grid(store: &Arc<dyn Store>, force_cdc: bool) -> Repository {
    let chunking =
        ChunkingPolicy { data_min: 2048, data_avg: 8192, data_max: 32_768, grid_bytes: 8192, force_cdc };
    let options = InitOptions { chunking, ..options() };
    let (env, secret) = (seeded_env(20_261_121), secret());
    Repository::init(store.clone(), env, options, SlotSecret::Passphrase(&secret)).await.unwrap()
}

/// Draws numbers.
struct Dice(SeededEntropy);

impl Dice {
    fn below(&self, bound: u64) -> u64 {
        let mut draw = [0; 8];
        self.0.fill(&mut draw);
        u64::from_le_bytes(draw) % bound.max(1)
    }

    /// Lengths on and beside the borders of cells and blocks, and anywhere.
    fn length(&self) -> usize {
        let cells = self.below(40) as usize * 8192;
        match self.below(5) {
            0 => 0,
            1 => cells,
            2 => cells + self.below(16) as usize * 512,
            3 => cells + 1,
            _ => self.below(200_000) as usize,
        }
    }

    fn patch(&self, length: u64) -> Patch {
        let kept = match self.below(4) {
            0 => 0,
            1 => length / BLOCK * BLOCK,
            2 => length / BLOCK * BLOCK + self.below(30) * BLOCK,
            _ => self.below(length + 1) / BLOCK * BLOCK,
        };
        let grown = if self.below(3) == 0 { self.below(60_000) / BLOCK * BLOCK } else { 0 };
        let length = kept + grown;
        let mut changed: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        let gap = [1, 8, 60, 400][self.below(4) as usize];
        while at < length && self.below(30) > 0 {
            let start = at + self.below(gap) * BLOCK;
            let end = start + (1 + self.below(4)) * BLOCK;
            if end > length {
                break;
            }
            changed.push(start..end);
            at = end;
        }
        Patch { kept, block: BLOCK, length, changed }
    }
}

/// What the words of [`Patch`] say, done in memory.
fn apply(old: &[u8], patch: &Patch, given: &[u8]) -> Vec<u8> {
    let kept = (patch.kept as usize).min(old.len() / BLOCK as usize * BLOCK as usize);
    let mut new = old[..kept].to_vec();
    new.resize(patch.length as usize, 0);
    let mut given = given;
    for range in &patch.changed {
        let (bytes, rest) = given.split_at((range.end - range.start) as usize);
        new[range.start as usize..range.end as usize].copy_from_slice(bytes);
        given = rest;
    }
    assert!(given.is_empty());
    new
}

fn given(seed: u64, patch: &Patch) -> Vec<u8> {
    bytes(seed, patch.changed.iter().map(|range| (range.end - range.start) as usize).sum())
}

async fn begin_patching(repo: &Repository, id: &str, from: &str) -> Result<Ingest, RepoError> {
    let parent = Some(BackupKind::Base);
    let patch_from = Some(key(from));
    let options = IngestOptions { jobs: 2, parent, patch_from, ..IngestOptions::new(key(id)) };
    repo.begin(&Ctx::default(), options).await
}

async fn patch_file(
    ingest: &mut Ingest,
    path: &str,
    patch: &Patch,
    given: &[u8],
    piece: usize,
) -> Result<capy_repo::Patched, RepoError> {
    ingest.begin_patched(meta(path), Strategy::Grid, Some(7), patch.clone()).await?;
    for part in given.chunks(piece) {
        ingest.patch(part).await?;
    }
    ingest.end_patched().await
}

/// One range, not its numbers.
fn one(range: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(range).collect()
}

fn base() -> ArchiveHeader {
    ArchiveHeader { kind: ArchiveKind::Base }
}

/// The files of a backup as its manifest has them.
async fn entries(repo: &Repository, id: &str) -> Vec<FileEntry> {
    let record = repo.record(&repo.resolve(&key(id).into()).await.unwrap()).await.unwrap();
    let reader = repo.reader(&Ctx::default(), ReadOptions::default()).await.unwrap();
    let mut manifest = reader.manifest(&record.manifest);
    let mut files = Vec::new();
    while let Some(entry) = manifest.next().await.unwrap() {
        if let Entry::File(file) = entry {
            // In order, so that its length and checksum are compared with what the manifest says.
            let mut content = reader.content(&file.content);
            while content.next().await.unwrap().is_some() {}
            files.push(file);
        }
    }
    files
}

/// Days of a cluster in which everything happens to files, each from the day before; returns bytes
/// taken over.
async fn days(repo: &Repository, dice: &Dice, days: u64) -> u64 {
    let mut files: Files =
        (0..24).map(|n| (format!("base/5/{}", 16384 + n), bytes(n, dice.length()))).collect();
    files.insert("PG_VERSION".to_owned(), b"17\n".to_vec());
    let mut whole = begin(repo, "0").await.unwrap();
    feed(&mut whole, &files, 100_000).await.unwrap();
    commit(repo, "0", whole).await.unwrap();
    let mut known = 0;
    for day in 1..=days {
        let mut ingest = begin_patching(repo, &day.to_string(), &(day - 1).to_string()).await.unwrap();
        ingest.begin_archive(base()).unwrap();
        ingest.directory(meta("base")).unwrap();
        for (n, (path, content)) in (0..).zip(files.iter_mut()) {
            let strategy = if path.starts_with("base/") { Strategy::Grid } else { Strategy::Cdc };
            if strategy == Strategy::Cdc || dice.below(6) == 0 {
                *content = bytes(day * 1000 + n, dice.length());
                ingest.begin_file(meta(path), strategy, None).await.unwrap();
                ingest.write(content).await.unwrap();
                ingest.end_file().await.unwrap();
                continue;
            }
            let patch = dice.patch(content.len() as u64);
            let given = given(day * 1000 + n, &patch);
            let piece = [100, 512, 5000, 100_000][dice.below(4) as usize];
            let new = apply(content, &patch, &given);
            let patched = patch_file(&mut ingest, path, &patch, &given, piece).await.unwrap();
            assert_eq!(patched.length, new.len() as u64, "{path} on day {day}: {patch:?}");
            assert_eq!(patched.crc32c, crc32c::crc32c(&new), "{path} on day {day}: {patch:?}");
            known += patched.known_bytes;
            *content = new;
        }
        ingest.end_archive(1024).unwrap();
        commit(repo, &day.to_string(), ingest).await.unwrap();
        let back = read(repo, &day.to_string()).await.unwrap();
        assert!(back.defects.is_empty(), "day {day}: {:?}", back.defects);
        assert!(back.files == files, "day {day} reads back otherwise");
    }
    let again = format!("{days}-whole");
    let mut whole = begin(repo, &again).await.unwrap();
    feed(&mut whole, &files, 100_000).await.unwrap();
    commit(repo, &again, whole).await.unwrap();
    let (patched, whole) = (entries(repo, &days.to_string()).await, entries(repo, &again).await);
    assert!(patched == whole, "the manifests differ");
    let backups = repo.root().await.unwrap().backups;
    let sizes: Vec<_> = backups.iter().rev().take(2).map(|entry| entry.size_bytes).collect();
    assert_eq!(sizes[0], sizes[1], "bytes taken over count as well");
    let report = verify_structure(repo, &Ctx::default(), &ReadOptions::default(), &backups).await.unwrap();
    assert!(report.defects.is_empty(), "{:?}", report.defects);
    known
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patched_backup_is_stored_as_the_whole_files_would_be() {
    for seed in 0..6 {
        println!("seed {seed}");
        let repo = small_grid(&memory_store().await, false).await;
        let known = days(&repo, &Dice(SeededEntropy::new(seed)), 5).await;
        assert!(known > 100_000, "seed {seed}: {known} bytes were taken over by name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_on_the_grid_is_patched_all_the_same() {
    let repo = small_grid(&memory_store().await, true).await;
    assert_eq!(days(&repo, &Dice(SeededEntropy::new(77)), 4).await, 0);
}

/// Two files; the second is patched.
fn two() -> Files {
    [("base/5/1".to_owned(), bytes(1, 100 * 8192)), ("base/5/2".to_owned(), bytes(2, 50 * 8192))].into()
}

async fn with_two(store: &Arc<dyn Store>) -> Repository {
    let repo = small_grid(store, false).await;
    let mut ingest = begin(&repo, "0").await.unwrap();
    feed(&mut ingest, &two(), 100_000).await.unwrap();
    commit(&repo, "0", ingest).await.unwrap();
    repo
}

fn unchanged(length: u64) -> Patch {
    Patch { kept: length, block: BLOCK, length, changed: Vec::new() }
}

/// What becomes of a file of [`two`].
fn patch_of_two(content: &[u8]) -> Patch {
    Patch { changed: one(8192..8704), ..unchanged(content.len() as u64) }
}

fn two_patched() -> Files {
    let patched = |content: Vec<u8>| {
        let patch = patch_of_two(&content);
        apply(&content, &patch, &given(5, &patch))
    };
    two().into_iter().map(|(path, content)| (path, patched(content))).collect()
}

async fn patch_two(repo: &Repository, id: &str) -> Result<(), RepoError> {
    let mut ingest = begin_patching(repo, id, "0").await?;
    ingest.begin_archive(base())?;
    for (path, content) in two() {
        let patch = patch_of_two(&content);
        patch_file(&mut ingest, &path, &patch, &given(5, &patch), 512).await?;
    }
    ingest.end_archive(0)?;
    commit(repo, id, ingest).await.map(drop)
}

#[derive(Default)]
struct Seen(Mutex<Vec<(u64, u64, usize)>>);

impl Inspector for Seen {
    fn inspect(&self, tag: u64, offset: u64, chunk: &[u8]) {
        self.0.lock().unwrap().push((tag, offset, chunk.len()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_cells_that_changed_are_read_stored_and_inspected() {
    let repo = with_two(&memory_store().await).await;
    let seen = Arc::new(Seen::default());
    let options = IngestOptions {
        patch_from: Some(key("0")),
        inspector: Some(seen.clone()),
        delta: DeltaPolicy::NONE,
        ..IngestOptions::new(key("1"))
    };
    let mut ingest = repo.begin(&Ctx::default(), options).await.unwrap();
    ingest.begin_archive(base()).unwrap();
    let patched = patch_file(&mut ingest, "base/5/1", &unchanged(100 * 8192), &[], 1).await.unwrap();
    assert_eq!(patched.known_bytes, 100 * 8192);
    let changed = vec![3 * 8192 + 512..3 * 8192 + 1024, 20 * 8192 - 512..20 * 8192 + 512];
    let patch = Patch { changed, ..unchanged(50 * 8192) };
    let patched = patch_file(&mut ingest, "base/5/2", &patch, &given(9, &patch), 700).await.unwrap();
    assert_eq!(patched.known_bytes, 47 * 8192);
    ingest.end_archive(0).unwrap();
    let flushed = ingest.flush().await.unwrap();
    assert_eq!(flushed.stats.new_bytes, 3 * 8192);
    assert_eq!((flushed.stats.chunks, flushed.stats.size_bytes), (150, 150 * 8192));
    let mut seen = seen.0.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [3, 19, 20].map(|cell| (7, cell * 8192, 8192)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patched_backup_outlives_its_parent() {
    let repo = with_two(&memory_store().await).await;
    patch_two(&repo, "1").await.unwrap();
    repo.unlink_backup(&key("0")).await.unwrap();
    let back = read(&repo, "1").await.unwrap();
    assert!(back.defects.is_empty() && back.files == two_patched(), "{:?}", back.defects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_single_call_shows_nothing_half_done_and_the_next_run_converges() {
    for fault in [Fault::FailBefore, Fault::FailAfter, Fault::NoSpace] {
        let mut failures = 0;
        for call in 0.. {
            let memory = memory_store().await;
            with_two(&memory).await;
            let faulty = Arc::new(FaultStore::new(memory.clone(), 42));
            faulty.fail_call(call, fault);
            let store: Arc<dyn Store> = faulty.clone();
            let outcome = match open(&store).await {
                Ok(repo) => patch_two(&repo, "1").await,
                Err(error) => Err(error),
            };
            failures += u32::from(outcome.is_err());
            let clean = open(&memory).await.unwrap();
            let visible = clean.root().await.unwrap().backups.iter().any(|b| b.key.id.as_str() == "1");
            assert!(visible || outcome.is_err(), "{fault:?} at call {call}: success was reported");
            if visible {
                assert!(read(&clean, "1").await.unwrap().files == two_patched(), "{fault:?} at call {call}");
            }
            assert!(read(&clean, "0").await.unwrap().files == two(), "{fault:?} at call {call}");
            patch_two(&clean, "again").await.unwrap();
            assert!(read(&clean, "again").await.unwrap().files == two_patched(), "{fault:?} at call {call}");
            if !faulty.fired() {
                break;
            }
        }
        assert!(failures > 5, "{fault:?}: the sweep must have hit something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_lost_something_is_said_to_be_lost_and_nothing_wrong_is_stored() {
    for gone in [true, false] {
        let store = memory_store().await;
        let repo = with_two(&store).await;
        for name in damage::objects(&store, names::PACKS_PREFIX).await {
            let id = names::parse_pack(&name).unwrap();
            let mut object = store.get(&name, 64 << 20).await.unwrap().to_vec();
            let frames = repo.inspect_pack(&id, None).await.unwrap().frames;
            store.delete(&name).await.unwrap();
            if !gone {
                // Every chunk of a file, and nothing of the manifest.
                for frame in frames.iter().filter(|frame| frame.frame.class == ChunkClass::Data) {
                    object[frame.frame.offset as usize] ^= 1;
                }
                store.put_new(&name, object.into()).await.unwrap();
            }
        }
        let begun = begin_patching(&repo, "1", "0").await;
        let Ok(mut ingest) = begun else {
            assert!(gone, "its manifest is whole");
            assert_eq!(repo.root().await.unwrap().sessions, [], "no session stays behind");
            continue;
        };
        assert!(!gone, "its manifest is gone");
        ingest.begin_archive(base()).unwrap();
        let patch = Patch { changed: one(8192..8704), ..unchanged(100 * 8192) };
        let error = patch_file(&mut ingest, "base/5/1", &patch, &given(5, &patch), 512).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(ingest.lost_parent().is_some_and(|why| why.contains("fails authentication")), "{error}");
        assert_eq!(ingest.damaged_packs().len(), 1);
        ingest.abandon().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_the_parent_does_not_have_is_no_file_to_patch() {
    let repo = with_two(&memory_store().await).await;
    let mut ingest = begin_patching(&repo, "1", "0").await.unwrap();
    ingest.begin_archive(base()).unwrap();
    let error = patch_file(&mut ingest, "base/5/3", &unchanged(8192), &[], 1).await.unwrap_err();
    assert_eq!(error.to_string(), "main/0: does not have this file");
    assert_eq!(ingest.lost_parent(), Some("base/5/3: main/0: does not have this file"));
    let error = begin_patching(&repo, "2", "9").await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    ingest.abandon().await.unwrap();
    assert_eq!(repo.root().await.unwrap().sessions, [], "no session stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_makes_no_sense_is_refused() {
    let repo = with_two(&memory_store().await).await;
    let good = unchanged(8192);
    for bad in [
        Patch { kept: 8193, ..good.clone() },
        Patch { block: 0, ..good.clone() },
        Patch { changed: one(0..0), ..good.clone() },
        Patch { changed: one(0..8193), ..good.clone() },
        Patch { changed: vec![512..1024, 0..512], ..good.clone() },
        Patch { length: 1 << 40, ..good.clone() },
    ] {
        let mut ingest = begin_patching(&repo, "1", "0").await.unwrap();
        ingest.begin_archive(base()).unwrap();
        let begun = ingest.begin_patched(meta("base/5/1"), Strategy::Grid, None, bad.clone()).await;
        assert_eq!(begun.unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        assert!(ingest.lost_parent().is_none());
        ingest.abandon().await.unwrap();
    }
    let mut ingest = begin_patching(&repo, "1", "0").await.unwrap();
    ingest.begin_archive(base()).unwrap();
    let patch = Patch { changed: one(512..1024), ..good };
    ingest.begin_patched(meta("base/5/1"), Strategy::Grid, None, patch).await.unwrap();
    assert!(ingest.write(b"x").await.is_err() && ingest.end_file().await.is_err());
    assert!(ingest.patch(&[0; 513]).await.is_err(), "more than was said");
    let mut plain = begin(&repo, "2").await.unwrap();
    let file: Meta = meta("base/5/1");
    assert!(plain.begin_patched(file, Strategy::Grid, None, unchanged(8192)).await.is_err());
    assert!(plain.patch(b"x").await.is_err() && plain.end_patched().await.is_err());
}
