//! What the cache promises, over a store that counts what it is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::block::BLOCK_BYTES;
use super::*;
use crate::testing::RecordingStore;
use crate::{MemoryStore, StoreOp};

const NAME: &str = "packs/0a/0a1b2c";
const LENGTH: u64 = 3 * BLOCK_BYTES + 1000;

/// A store with one object, a cache directory, and caches of it.
struct Place {
    store: Arc<RecordingStore>,
    body: Bytes,
    dir: TempDir,
}

/// Bytes that tell where they are.
fn body(length: u64, seed: u64) -> Bytes {
    (0..length).map(|n| (n * 31 + seed + (n >> 8) * 7 + (n >> 16)) as u8).collect()
}

impl Place {
    async fn with(length: u64) -> Self {
        let store = Arc::new(RecordingStore::new(Arc::new(MemoryStore::default())));
        let body = body(length, 0);
        store.put_new(NAME, body.clone()).await.unwrap();
        Self { store, body, dir: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> CacheOptions {
        CacheOptions::new(self.dir.path().join("cache"))
    }

    fn cache(&self) -> ReadCache {
        self.cache_of("one", &self.options())
    }

    fn cache_of(&self, scope: &str, options: &CacheOptions) -> ReadCache {
        ReadCache::new(self.store.clone(), options, scope)
    }

    /// Reads through a cache of its own and checks every byte; answers with the requests it took.
    async fn read(&self, cache: &ReadCache, range: Range<u64>) -> u64 {
        self.store.reset();
        let bytes = cache.get_range(NAME, range.clone(), self.body.len() as u64).await.unwrap();
        assert!(bytes == self.body.slice(range.start as usize..range.end as usize), "{range:?}");
        self.store.counts().get_range
    }

    fn files(&self) -> Vec<PathBuf> {
        files_below(self.dir.path())
    }
}

/// All blocks below a directory, in the order of their names.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false if entry.file_name() != "CACHEDIR.TAG" => found.push(entry.path()),
            false => {}
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn what_was_read_once_is_not_asked_for_again_whatever_part_of_it_is_wanted() {
    let place = Place::with(LENGTH).await;
    assert_eq!(place.read(&place.cache(), 10..LENGTH - 10).await, 1);
    // Another cache over the same directory: the next process.
    let cache = place.cache();
    let block = BLOCK_BYTES;
    for range in
        [0..1, 0..LENGTH, block - 1..block + 1, block..2 * block, 3 * block..LENGTH, LENGTH - 1..LENGTH]
    {
        assert_eq!(place.read(&cache, range.clone()).await, 0, "{range:?}");
    }
    let CacheCounts { hits, misses, hit_bytes, damaged } = cache.counts();
    assert_eq!((hits, misses, damaged), (6, 0, 0));
    assert_eq!(hit_bytes, 1 + LENGTH + 2 + block + 1000 + 1);
}

#[tokio::test]
async fn what_is_missing_comes_in_one_request_between_what_is_there() {
    let place = Place::with(LENGTH).await;
    let cache = place.cache();
    assert_eq!(place.read(&cache, 0..10).await, 1);
    assert_eq!(place.read(&cache, LENGTH - 10..LENGTH).await, 1);
    assert_eq!(place.store.counts().read_bytes, 1000, "the last block is short");
    assert_eq!(place.read(&cache, 5..LENGTH - 5).await, 1);
    assert_eq!(place.store.counts().read_bytes, 2 * BLOCK_BYTES, "the two between");
    assert_eq!(place.read(&cache, 0..LENGTH).await, 0);
}

#[tokio::test]
async fn an_object_shorter_than_was_said_is_read_as_the_store_reads_it() {
    let place = Place::with(1000).await;
    let cache = place.cache();
    let bytes = cache.get_range(NAME, 100..900, 5000).await.unwrap();
    assert!(bytes == place.body.slice(100..900));
    let error = cache.get_range(NAME, 100..1100, 5000).await.unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Truncated { .. }), "{error}");
    let error = cache.get_range("packs/none", 0..10, 10).await.unwrap_err();
    assert_eq!((error.op, &error.kind), (StoreOp::GetRange, &StoreErrorKind::NotFound));
    assert!(cache.get_range(NAME, 7..7, 1000).await.unwrap().is_empty());
}

#[tokio::test]
async fn damage_of_any_byte_of_a_file_is_noticed_and_healed() {
    let place = Place::with(100).await;
    let cache = place.cache();
    place.read(&cache, 0..100).await;
    let file = place.files().remove(0);
    let good = fs::read(&file).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&file, &bad).unwrap();
        assert_eq!(place.read(&cache, 0..100).await, 1, "byte {at}");
        assert_eq!(fs::read(&file).unwrap(), good, "byte {at}");
    }
    assert_eq!(cache.counts().damaged, good.len() as u64);
}

#[tokio::test]
async fn a_file_of_any_other_length_is_noticed_and_healed() {
    let place = Place::with(100).await;
    let cache = place.cache();
    place.read(&cache, 0..100).await;
    let file = place.files().remove(0);
    let good = fs::read(&file).unwrap();
    for length in 0..good.len() {
        fs::write(&file, &good[..length]).unwrap();
        assert_eq!(place.read(&cache, 0..100).await, 1, "{length} bytes");
    }
    fs::write(&file, [&good[..], b"x"].concat()).unwrap();
    assert_eq!(place.read(&cache, 0..100).await, 1, "a byte more");
    assert_eq!(place.read(&cache, 0..100).await, 0);
}

#[tokio::test]
async fn files_that_were_swapped_or_come_from_elsewhere_are_not_believed() {
    let place = Place::with(2 * BLOCK_BYTES).await;
    let cache = place.cache();
    place.read(&cache, 0..2 * BLOCK_BYTES).await;
    let files = place.files();
    // One block in the place of the other.
    fs::copy(&files[0], &files[1]).unwrap();
    assert_eq!(place.read(&cache, 0..2 * BLOCK_BYTES).await, 1);
    // The same block of another object, and of another repository with an object of that name.
    let foreign = body(2 * BLOCK_BYTES, 99);
    place.store.put_new("packs/0a/ffffff", foreign.clone()).await.unwrap();
    cache.get_range("packs/0a/ffffff", 0..10, foreign.len() as u64).await.unwrap();
    let other = Arc::new(MemoryStore::default());
    other.put_new(NAME, foreign.clone()).await.unwrap();
    let two = ReadCache::new(other, &place.options(), "two");
    assert!(two.get_range(NAME, 0..10, foreign.len() as u64).await.unwrap() == foreign.slice(0..10));
    assert_eq!(place.read(&cache, 0..2 * BLOCK_BYTES).await, 0, "each has its own");
    let of = |part: &str| {
        let is = |file: &&PathBuf| file.to_str().unwrap().contains(part);
        place.files().iter().find(is).unwrap().clone()
    };
    for alien in [of("ffffff,0"), of("capy-store-two")] {
        fs::copy(&alien, &files[0]).unwrap();
        assert_eq!(place.read(&cache, 0..10).await, 1, "{}", alien.display());
    }
}

#[tokio::test]
async fn what_did_not_open_is_forgotten_and_fetched_again() {
    let place = Place::with(LENGTH).await;
    let cache = place.cache();
    place.read(&cache, 0..LENGTH).await;
    cache.forget(NAME, BLOCK_BYTES + 5..BLOCK_BYTES + 10).await;
    assert_eq!(place.read(&cache, 0..BLOCK_BYTES).await, 0);
    assert_eq!(place.read(&cache, 0..LENGTH).await, 1);
    assert_eq!(place.store.counts().read_bytes, BLOCK_BYTES);
}

#[tokio::test]
async fn what_was_just_stored_can_be_kept_without_being_read() {
    let place = Place::with(LENGTH).await;
    let cache = place.cache();
    cache.keep(NAME, place.body.clone()).await;
    assert_eq!(place.read(&cache, 0..LENGTH).await, 0);
}

#[tokio::test]
async fn files_are_the_owners_alone_and_the_directory_says_that_it_is_a_cache() {
    let place = Place::with(100).await;
    place.read(&place.cache(), 0..100).await;
    let file = place.files().remove(0);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    let directory = file.parent().unwrap();
    assert_eq!((mode(directory), mode(directory.parent().unwrap())), (0o700, 0o700));
    let tag = fs::read_to_string(directory.join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"), "{tag}");
    assert!(!fs::read(&file).unwrap().is_empty());
}

#[tokio::test]
async fn the_directory_may_be_removed_at_any_moment() {
    let place = Place::with(LENGTH).await;
    let cache = place.cache();
    for _ in 0..3 {
        assert_eq!(place.read(&cache, 0..LENGTH).await, 1);
        assert_eq!(place.read(&cache, 0..LENGTH).await, 0);
        fs::remove_dir_all(place.options().directory).unwrap();
    }
    assert_eq!(cache.fault(), None);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_costs_speed_and_is_told_once() {
    let place = Place::with(LENGTH).await;
    // A file where the directory shall be.
    fs::write(place.options().directory, "").unwrap();
    let cache = place.cache();
    for _ in 0..2 {
        assert_eq!(place.read(&cache, 10..20).await, 1);
    }
    assert!(cache.fault().is_some_and(|fault| fault.contains("cache")), "{:?}", cache.fault());
    assert_eq!(place.store.counts().read_bytes, 10, "no more than was asked for is read any more");
}

#[tokio::test]
async fn a_full_disk_ends_the_filling_and_what_is_there_still_serves() {
    let place = Place::with(LENGTH).await;
    let cache = place.cache();
    place.read(&cache, 0..10).await;
    cache.shelf.refuse_writes.store(true, Ordering::Relaxed);
    assert_eq!(place.read(&cache, LENGTH - 10..LENGTH).await, 1);
    assert!(cache.fault().is_some_and(|fault| fault.contains("No space")), "{:?}", cache.fault());
    assert_eq!(place.read(&cache, 0..10).await, 0);
}

/// What the cache's files take.
fn taken(place: &Place) -> u64 {
    place.files().iter().filter_map(|file| fs::metadata(file).ok()).map(|facts| facts.len()).sum()
}

#[tokio::test]
async fn what_was_used_longest_ago_makes_room_and_foreign_files_stay() {
    let place = Place::with(40 * BLOCK_BYTES).await;
    let options = CacheOptions { max_bytes: 12 * BLOCK_BYTES, ..place.options() };
    let cache = place.cache_of("one", &options);
    let foreign = [options.directory.join("precious.block"), options.directory.join("other/x.block")];
    fs::create_dir_all(foreign[1].parent().unwrap()).unwrap();
    foreign.iter().for_each(|file| fs::write(file, vec![0; 20 * BLOCK_BYTES as usize]).unwrap());
    let at = |n: u64| n * BLOCK_BYTES..n * BLOCK_BYTES + 10;
    for n in 0..40 {
        // The clock of files is a tick of the kernel: several milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(8));
        place.read(&cache, at(n)).await;
        assert_eq!(place.read(&cache, at(0)).await, 0, "the first is used all the time: {n}");
        let own = taken(&place) - 40 * BLOCK_BYTES;
        assert!(own <= options.max_bytes, "{own} after {n}");
    }
    assert_eq!(place.read(&cache, at(39)).await, 0, "the latest is there");
    assert_eq!(place.read(&cache, at(20)).await, 1, "one of long ago is not");
    assert!(foreign.iter().all(|file| file.exists()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bound_holds_while_two_repositories_fill_one_directory_at_once() {
    let place = Arc::new(Place::with(60 * BLOCK_BYTES).await);
    let options = CacheOptions { max_bytes: 20 * BLOCK_BYTES, ..place.options() };
    let caches = ["one", "two"].map(|scope| Arc::new(place.cache_of(scope, &options)));
    let readers = (0..8u64).map(|reader| {
        let (place, cache) = (place.clone(), caches[reader as usize % 2].clone());
        tokio::spawn(async move {
            for step in 0..30 {
                let n = (reader * 7 + step * 11) % 60;
                let range = n * BLOCK_BYTES + reader..n * BLOCK_BYTES + 500;
                let bytes = cache.get_range(NAME, range.clone(), place.body.len() as u64).await.unwrap();
                assert!(bytes == place.body.slice(range.start as usize..range.end as usize));
            }
        })
    });
    for reader in futures::future::join_all(readers).await {
        reader.unwrap();
    }
    // Each counts what is there before it has written a tenth: so much the other may be beyond.
    let most = options.max_bytes + 2 * options.max_bytes / 10;
    assert!(taken(&place) <= most, "{} of {most}", taken(&place));
    assert!(caches.iter().all(|cache| cache.fault().is_none()));
    assert!(place.files().iter().all(|file| file.extension().is_some_and(|e| e == "block")), "no leftovers");
}

#[tokio::test]
async fn a_cache_too_small_for_a_block_keeps_nothing() {
    let place = Place::with(LENGTH).await;
    let cache = place.cache_of("one", &CacheOptions { max_bytes: BLOCK_BYTES, ..place.options() });
    assert_eq!(place.read(&cache, 0..10).await, 1);
    assert_eq!(place.read(&cache, 0..10).await, 1);
    assert_eq!(cache.fault(), None);
}

#[tokio::test]
async fn a_link_in_the_place_of_a_block_is_not_followed_and_a_pipe_holds_nobody_up() {
    let place = Place::with(100).await;
    let cache = place.cache();
    place.read(&cache, 0..100).await;
    let file = place.files().remove(0);
    let sound = place.dir.path().join("sound");
    for alien in ["a link", "a pipe", "a directory"] {
        fs::rename(&file, &sound).unwrap();
        match alien {
            "a link" => std::os::unix::fs::symlink(&sound, &file).unwrap(),
            "a pipe" => {
                let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
                assert!(made.success());
            }
            _ => fs::create_dir(&file).unwrap(),
        }
        let reading = place.read(&cache, 0..100);
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), reading).await;
        assert_eq!(read.ok(), Some(1), "{alien}");
        if alien == "a directory" {
            assert!(cache.fault().is_some(), "nothing is written over it");
        } else {
            assert_eq!(place.read(&cache, 0..100).await, 0, "{alien} made way");
            assert!(fs::symlink_metadata(&file).unwrap().is_file(), "{alien}");
        }
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_the_repositorys_directory_is_refused_and_told() {
    let place = Place::with(LENGTH).await;
    let elsewhere = place.dir.path().join("elsewhere");
    place.read(&place.cache(), 0..LENGTH).await;
    let directory = place.files()[0].parent().unwrap().to_owned();
    fs::rename(&directory, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &directory).unwrap();
    let before = place.files();
    let options = CacheOptions { max_bytes: BLOCK_BYTES, ..place.options() };
    for cache in [place.cache(), place.cache_of("one", &options)] {
        assert_eq!(place.read(&cache, 0..LENGTH).await, 1, "what lies there is not read");
        cache.forget(NAME, 0..LENGTH).await;
        assert!(cache.fault().is_some_and(|fault| fault.contains("no directory")), "{:?}", cache.fault());
    }
    assert_eq!(place.files(), before, "nothing was written there, and nothing removed");
}

#[tokio::test]
async fn an_object_whose_name_is_too_long_for_a_file_is_read_all_the_same() {
    let place = Place::with(10).await;
    let name = format!("packs/{}", "a".repeat(240));
    place.store.put_new(&name, place.body.clone()).await.unwrap();
    let cache = place.cache();
    assert!(cache.get_range(&name, 2..8, 10).await.unwrap() == place.body.slice(2..8));
    assert_eq!((place.files().len(), cache.fault()), (0, None));
}
