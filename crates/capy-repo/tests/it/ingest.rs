//! What goes in comes out, whatever the pieces, and nothing is visible before the commit.

use capy_codec::SlotSecret;
use capy_repo::{InitOptions, ReadOptions, Repository};
use capy_types::{BackupSelector, Ctx, Entropy as _, ErrorKind, SeededEntropy};

use crate::fixture::{
    backup, begin, bytes, cluster, commit, feed, init, key, memory_store, open, options, read, secret,
    seeded_env,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_reads_back_byte_for_byte() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let files = cluster(1);
    let entry = backup(&repo, "one", &files).await.unwrap();
    assert_eq!(entry.size_bytes, files.values().map(|f| f.len() as u64).sum::<u64>());
    let back = read(&repo, "one").await.unwrap();
    assert_eq!(back.defects, []);
    assert!(back.files == files);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_form_does_not_depend_on_how_the_bytes_were_fed() {
    let seed = 5;
    let env = seeded_env(seed);
    let store = memory_store().await;
    let repo = Repository::init(store, env, options(), SlotSecret::Passphrase(&secret())).await.unwrap();
    let files = cluster(2);
    let mut manifests = Vec::new();
    for (n, piece) in [100_000, 1, 511, 8192, 131_072, 5_000_000].into_iter().enumerate() {
        let mut small = files.clone();
        if piece == 1 {
            small.remove("base/5/99999");
            continue;
        }
        let mut ingest = begin(&repo, &format!("b{n}")).await.unwrap();
        feed(&mut ingest, &small, piece).await.unwrap();
        manifests.push(ingest.flush().await.unwrap().manifest);
        ingest.abandon().await.unwrap();
    }
    assert!(manifests.windows(2).all(|pair| pair[0] == pair[1]), "the same entries, chunks and nodes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_backup_stores_next_to_nothing_and_a_change_only_itself() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut files = cluster(3);
    let first = backup(&repo, "one", &files).await.unwrap();
    let second = backup(&repo, "two", &files).await.unwrap();
    assert!(first.stored_bytes > 4 << 20);
    assert_eq!(second.stored_bytes, 0, "every chunk and every piece of the manifest is known");
    files.get_mut("base/5/99999").unwrap()[3_000_000] ^= 1;
    let third = backup(&repo, "three", &files).await.unwrap();
    assert!(
        third.stored_bytes < 280_000,
        "one chunk of 256 KiB and its manifest, not {}",
        third.stored_bytes
    );
    for id in ["one", "two"] {
        assert!(read(&repo, id).await.unwrap().files == cluster(3));
    }
    assert!(read(&repo, "three").await.unwrap().files == files);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_visible_before_the_commit_and_the_next_backup_reuses_what_was_flushed() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let files = cluster(4);
    let mut ingest = begin(&repo, "lost").await.unwrap();
    feed(&mut ingest, &files, 64 << 10).await.unwrap();
    ingest.flush().await.unwrap();
    drop(ingest);
    assert_eq!(repo.root().await.unwrap().backups, []);
    let entry = backup(&repo, "kept", &files).await.unwrap();
    assert_eq!(entry.stored_bytes, 0, "all of it was uploaded and indexed by the lost backup");
    // The committed root names the lost session's index: nothing may hang on a listing.
    let back = read(&open(&store).await.unwrap(), "kept").await.unwrap();
    assert!(back.files == files && back.defects.is_empty());
    assert!(!repo.root().await.unwrap().indexes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_key_is_a_conflict_and_latest_is_the_newest() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let files = cluster(5);
    backup(&repo, "one", &files).await.unwrap();
    let error = backup(&repo, "one", &files).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.to_string(), "a backup with this key exists already: main/one");
    backup(&repo, "another", &files).await.unwrap();
    let latest = repo.resolve(&BackupSelector::Latest("main".parse().unwrap())).await.unwrap();
    assert_eq!(latest.key, key("another"));
    repo.unlink_backup(&key("another")).await.unwrap();
    let latest = repo.resolve(&BackupSelector::Latest("main".parse().unwrap())).await.unwrap();
    assert_eq!(latest.key, key("one"));
    assert_eq!(repo.unlink_backup(&key("another")).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_backups_huge_zero_runs_and_odd_lengths_survive() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut files = crate::fixture::Files::new();
    backup(&repo, "empty", &files).await.unwrap();
    assert!(read(&repo, "empty").await.unwrap().files.is_empty());
    for n in [1, 8191, 8192, 262_143, 262_144, 262_145, 4 << 20, (4 << 20) + 1, 33 << 20] {
        files.insert(format!("base/5/z{n}"), vec![0; n]);
        files.insert(format!("cdc/z{n}"), vec![0; n]);
        files.insert(format!("cdc/r{n}"), bytes(n as u64, n.min(2 << 20)));
    }
    let entry = backup(&repo, "zeros", &files).await.unwrap();
    assert!(entry.stored_bytes < 20 << 20);
    assert!(read(&repo, "zeros").await.unwrap().files == files);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_reads_in_order_and_stops_when_dropped() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let files = cluster(6);
    backup(&repo, "one", &files).await.unwrap();
    let entry = repo.resolve(&key("one").into()).await.unwrap();
    let record = repo.record(&entry).await.unwrap();
    let reader = repo.reader(&Ctx::default(), ReadOptions::default()).await.unwrap();
    let mut manifest = reader.manifest(&record.manifest);
    while let Some(entry) = manifest.next().await.unwrap() {
        let capy_format::Entry::File(file) = entry else { continue };
        let mut content = reader.content(&file.content);
        let mut joined = Vec::new();
        while let Some(bytes) = content.next().await.unwrap() {
            joined.extend_from_slice(&bytes);
        }
        assert!(joined == files[&String::from_utf8(file.meta.path).unwrap()]);
        let mut early = reader.content(&file.content);
        let _ = early.next().await.unwrap();
    }
}

/// Remembers where the chunks begin that it is shown.
#[derive(Default)]
struct Shown(std::sync::Mutex<std::collections::BTreeSet<u64>>);

impl capy_repo::Inspector for Shown {
    fn inspect(&self, _tag: u64, offset: u64, _chunk: &[u8]) {
        self.0.lock().unwrap().insert(offset);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_sees_every_chunk_with_a_byte_that_nobody_has_inspected() {
    const GRID: usize = 256 << 10;
    let repo = init(&memory_store().await).await;
    let shown = std::sync::Arc::new(Shown::default());
    let options = capy_repo::IngestOptions {
        inspector: Some(shown.clone()),
        ..capy_repo::IngestOptions::new(key("one"))
    };
    let mut ingest = repo.begin(&Ctx::default(), options).await.unwrap();
    let data = bytes(5, 6 * GRID);
    ingest.begin_archive(capy_format::ArchiveHeader { kind: capy_format::ArchiveKind::Base }).unwrap();
    ingest.begin_file(crate::fixture::meta("f"), capy_repo::Strategy::Grid, Some(7)).await.unwrap();
    // Chunks 0 and 1 inspected, one byte of 2 not, 3 not, then 4 and 5 inspected.
    ingest.write_inspected(&data[..3 * GRID - 1]).await.unwrap();
    ingest.write(&data[3 * GRID - 1..4 * GRID]).await.unwrap();
    ingest.write_inspected(&data[4 * GRID..]).await.unwrap();
    ingest.end_file().await.unwrap();
    ingest.end_archive(0).unwrap();
    commit(&repo, "one", ingest).await.unwrap();
    let expected = [2, 3].map(|n| n * GRID as u64);
    assert_eq!(*shown.0.lock().unwrap(), expected.into());
    assert!(read(&repo, "one").await.unwrap().files["f"] == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_keep_their_order_and_content() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let entropy = SeededEntropy::new(9);
    let files: crate::fixture::Files = (0..20_000)
        .map(|n| {
            let mut length = [0; 2];
            entropy.fill(&mut length);
            (format!("base/5/{n:06}"), bytes(n, usize::from(length[0])))
        })
        .collect();
    let first = backup(&repo, "one", &files).await.unwrap();
    assert_eq!(first.size_bytes, files.values().map(|f| f.len() as u64).sum::<u64>());
    assert!(read(&repo, "one").await.unwrap().files == files);
    let mut changed = files.clone();
    changed.get_mut("base/5/010000").unwrap().push(1);
    let second = backup(&repo, "two", &changed).await.unwrap();
    assert!(
        second.stored_bytes < 100_000,
        "one entry of 20 000 changed, {} bytes stored",
        second.stored_bytes
    );
    assert!(read(&repo, "two").await.unwrap().files == changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_refused_where_something_is_and_where_nothing_is() {
    let store = memory_store().await;
    let error = open(&store).await.unwrap_err();
    assert!(error.to_string().starts_with("not a capy-store repository: "), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    store.put_new("holiday.jpg", "x".into()).await.unwrap();
    let again = || async {
        let secret = secret();
        let secret = SlotSecret::Passphrase(&secret);
        Repository::init(store.clone(), capy_repo::Env::default(), options(), secret).await
    };
    assert!(again().await.unwrap_err().to_string().contains("holiday.jpg"));
    store.delete("holiday.jpg").await.unwrap();
    again().await.unwrap();
    assert_eq!(again().await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn senseless_parameters_are_refused_before_anything_is_written() {
    let store = memory_store().await;
    let secret = secret();
    for options in [
        InitOptions { compression_level: 0, ..options() },
        InitOptions { compression_level: 99, ..options() },
        InitOptions {
            chunking: capy_format::ChunkingPolicy { grid_bytes: 5000, ..Default::default() },
            ..options()
        },
    ] {
        let secret = SlotSecret::Passphrase(&secret);
        let error =
            Repository::init(store.clone(), capy_repo::Env::default(), options, secret).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert!(store.first("").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_misused_says_so_and_a_cancelled_one_stops() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut ingest = begin(&repo, "one").await.unwrap();
    assert_eq!(ingest.write(b"x").await.unwrap_err().kind(), ErrorKind::Invalid);
    let ctx = Ctx::default();
    let options = capy_repo::IngestOptions::new(key("two"));
    let mut ingest = repo.begin(&ctx, options).await.unwrap();
    ingest.begin_file(crate::fixture::meta("f"), capy_repo::Strategy::Cdc, None).await.unwrap();
    assert_eq!(ingest.flush().await.unwrap_err().kind(), ErrorKind::Invalid);
    ctx.cancel.cancel();
    let big = bytes(1, 40 << 20);
    assert_eq!(ingest.write(&big).await.unwrap_err().kind(), ErrorKind::Cancelled);
    drop(ingest);
    assert_eq!(repo.root().await.unwrap().backups, []);
    let done = begin(&repo, "three").await.unwrap();
    commit(&repo, "three", done).await.unwrap();
}
