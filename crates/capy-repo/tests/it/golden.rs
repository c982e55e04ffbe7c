//! A sealed repository of format version 1, written once: every later version must open it, find
//! it whole and read the same bytes.
//!
//! It holds a passphrase slot and a key file slot, two backups that share chunks, files on the
//! grid and cut by content, a raw chunk, an empty file, and a content tree with a node level. What
//! its files hold is computed here anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use capy_codec::SlotSecret;
use capy_objects::{Store, StoreOptions};
use capy_repo::{Env, ReadOptions, Repository, verify_structure};
use capy_types::{Ctx, Entropy, Secret, SeededEntropy, SystemClock};

use crate::fixture::{FAST_KDF, Files, backup, options, read};

const PASSPHRASE: &str = "golden passphrase";
const KEY_FILE: [u8; 32] = [0x5a; 32];
/// More than 256 chunks of the grid, so that the content tree has a node.
const ZEROS_BYTES: usize = 40 << 20;

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/format/v1/repository")
}

/// A repository of version 2: the third and fourth backup are stored as deltas on deltas.
fn place_with_deltas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/format/v2/repository")
}

/// What backup `n` holds, 1 or 2: the second has one page of the relation changed.
fn files(n: u8) -> Files {
    let mut raw = vec![0; 3000];
    SeededEntropy::new(1).fill(&mut raw);
    let mut relation: Vec<u8> = (0..40u8).flat_map(|page| [page; 8192]).collect();
    relation[20 * 8192..21 * 8192].fill(n);
    let text = (0..4000).flat_map(|line| format!("setting_{line} = {}\n", line * 7).into_bytes()).collect();
    Files::from([
        ("PG_VERSION".to_owned(), b"15\n".to_vec()),
        ("base/5/16384".to_owned(), relation),
        ("base/5/16385".to_owned(), vec![0; ZEROS_BYTES]),
        ("empty".to_owned(), Vec::new()),
        ("postgresql.conf".to_owned(), text),
        ("raw".to_owned(), raw),
    ])
}

async fn store(directory: &Path, create: bool) -> Arc<dyn Store> {
    let url = directory.to_str().unwrap();
    capy_objects::open_store(url, &StoreOptions::default(), create).await.unwrap()
}

/// Opens a copy: no reader may touch the golden objects.
async fn open_copy(place: &Path, directory: &Path, secret: SlotSecret<'_>) -> Repository {
    copy(place, directory);
    Repository::open(store(directory, false).await, Env::default(), secret).await.unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_golden_repository_is_whole_and_holds_what_it_held() {
    let (passphrase, key_file) = (Secret::from(PASSPHRASE.to_owned()), Secret::new(KEY_FILE.to_vec()));
    for secret in [SlotSecret::Passphrase(&passphrase), SlotSecret::KeyFile(&key_file)] {
        let directory = tempfile::tempdir().unwrap();
        let repo = open_copy(&place(), directory.path(), secret).await;
        let backups = repo.root().await.unwrap().backups;
        let ids: Vec<_> = backups.iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(ids, ["main/first", "main/second"]);
        let options = ReadOptions::default();
        let structure = verify_structure(&repo, &Ctx::default(), &options, &backups).await.unwrap();
        assert!(structure.defects.is_empty(), "{:?}", structure.defects);
        for (id, n) in [("first", 1), ("second", 2)] {
            let found = read(&repo, id).await.unwrap();
            assert!(found.defects.is_empty(), "{:?}", found.defects);
            assert!(found.files == files(n), "backup {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_into_the_golden_repository_finds_its_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let passphrase = Secret::from(PASSPHRASE.to_owned());
    let repo = open_copy(&place(), directory.path(), SlotSecret::Passphrase(&passphrase)).await;
    let entry = backup(&repo, "third", &files(2)).await.unwrap();
    assert_eq!(repo.record(&entry).await.unwrap().stats.new_bytes, 0, "cut and named as then");
    assert!(read(&repo, "third").await.unwrap().files == files(2));
}

/// Wrote the golden repository. To be run by hand, once for each new format version.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes testdata"]
async fn write_the_golden_repository() {
    assert!(!place().exists(), "a released repository is never written again");
    let env = Env { clock: Arc::new(SystemClock), entropy: Arc::new(SeededEntropy::new(20_261_121)) };
    let passphrase = Secret::from(PASSPHRASE.to_owned());
    let secret = SlotSecret::Passphrase(&passphrase);
    let repo = Repository::init(store(&place(), true).await, env, options(), secret).await.unwrap();
    let key_file = Secret::new(KEY_FILE.to_vec());
    repo.add_key_slot(SlotSecret::KeyFile(&key_file), FAST_KDF, "key file").await.unwrap();
    backup(&repo, "first", &files(1)).await.unwrap();
    backup(&repo, "second", &files(2)).await.unwrap();
}

/// What day `n` of the repository with deltas holds: one relation whose pages change from day to day.
fn deltas(n: u8) -> Files {
    let mut relation: Vec<u8> = (0..32u32).flat_map(|page| noise(page, 8192)).collect();
    for day in 1..=n {
        relation[usize::from(day) * 8192 * 3..][..100].fill(day);
    }
    Files::from([("base/5/16384".to_owned(), relation), ("PG_VERSION".to_owned(), b"15\n".to_vec())])
}

/// Bytes that are the same in every language: a linear congruential generator.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_golden_deltas_are_whole_and_hold_what_they_held() {
    let directory = tempfile::tempdir().unwrap();
    let passphrase = Secret::from(PASSPHRASE.to_owned());
    let secret = SlotSecret::Passphrase(&passphrase);
    let repo = open_copy(&place_with_deltas(), directory.path(), secret).await;
    let backups = repo.root().await.unwrap().backups;
    assert_eq!(backups.len(), 4);
    let structure =
        verify_structure(&repo, &Ctx::default(), &ReadOptions::default(), &backups).await.unwrap();
    assert!(structure.defects.is_empty(), "{:?}", structure.defects);
    for n in 0..4 {
        let found = read(&repo, &format!("day{n}")).await.unwrap();
        assert!(found.defects.is_empty(), "{:?}", found.defects);
        assert!(found.files == deltas(n), "day {n}");
    }
}

/// Wrote it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes testdata"]
async fn write_the_golden_deltas() {
    assert!(!place_with_deltas().exists(), "a released repository is never written again");
    let env = Env { clock: Arc::new(SystemClock), entropy: Arc::new(SeededEntropy::new(20_261_122)) };
    let passphrase = Secret::from(PASSPHRASE.to_owned());
    let secret = SlotSecret::Passphrase(&passphrase);
    let store = store(&place_with_deltas(), true).await;
    let repo = Repository::init(store, env, options(), secret).await.unwrap();
    for n in 0..4 {
        let id = format!("day{n}");
        crate::delta::backup(&repo, &id, &deltas(n), crate::delta::DEEP).await.unwrap();
    }
}
