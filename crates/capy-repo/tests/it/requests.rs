//! How many requests things take, counted at the store.

use std::sync::Arc;

use capy_objects::Store;
use capy_objects::testing::RecordingStore;

use crate::delta;
use crate::fixture::{Files, backup, bytes, init, memory_store, read};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_puts_one_object_per_32_mib_and_a_constant_more() {
    let recording = Arc::new(RecordingStore::new(memory_store().await));
    let store: Arc<dyn Store> = recording.clone();
    let repo = init(&store).await;
    let files: Files = (0..20).map(|n| (format!("base/5/{n}"), random(n, 8 << 20))).collect();
    recording.reset();
    let entry = backup(&repo, "one", &files).await.unwrap();
    let puts = recording.counts().put_new;
    let packs = entry.stored_bytes.div_ceil(32 << 20);
    // Two more for the first ones, which are smaller, and two that workers have begun when it ends.
    assert!(puts <= packs + 10, "{puts} puts for {packs} packs");
    recording.reset();
    backup(&repo, "two", &files).await.unwrap();
    let second = recording.counts();
    assert!(second.put_new <= 3, "register, record, commit: {second:?}");
    assert!(second.get + second.get_range + second.head + second.list + second.first <= 16, "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_asks_for_ranges_of_megabytes_not_for_chunks() {
    let recording = Arc::new(RecordingStore::new(memory_store().await));
    let store: Arc<dyn Store> = recording.clone();
    let repo = init(&store).await;
    let files: Files = (0..16).map(|n| (format!("base/5/{n}"), random(n, 4 << 20))).collect();
    backup(&repo, "one", &files).await.unwrap();
    recording.reset();
    assert!(read(&repo, "one").await.unwrap().files == files);
    let counts = recording.counts();
    assert!(counts.get_range <= 64 / 4 + 12, "64 MiB in ranges of 4 MiB: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_days_costs_a_restore_one_read_for_each_day() {
    const DAYS: u64 = 5;
    let recording = Arc::new(RecordingStore::new(memory_store().await));
    let store: Arc<dyn Store> = recording.clone();
    let repo = init(&store).await;
    let mut files: Files = (0..3).map(|n| (format!("base/5/{n}"), random(n, 8 << 20))).collect();
    delta::backup(&repo, "0", &files, delta::DEEP).await.unwrap();
    for day in 1..=DAYS {
        for content in files.values_mut() {
            let pages = content.chunks_exact_mut(8192).skip(day as usize % 5).step_by(7);
            pages.for_each(|page| page[100..140].copy_from_slice(&random(day, 40)));
            content.extend(random(day, 100_000));
        }
        recording.reset();
        delta::backup(&repo, &day.to_string(), &files, delta::DEEP).await.unwrap();
        let puts = recording.counts().put_new;
        assert_eq!(puts, 5, "session, one pack, its index, record, root");
    }
    recording.reset();
    assert!(read(&repo, &DAYS.to_string()).await.unwrap().files == files);
    let chain = recording.counts().get_range;

    let fresh = Arc::new(RecordingStore::new(memory_store().await));
    let store: Arc<dyn Store> = fresh.clone();
    let repo = init(&store).await;
    backup(&repo, "one", &files).await.unwrap();
    fresh.reset();
    assert!(read(&repo, "one").await.unwrap().files == files);
    let whole = fresh.counts().get_range;
    assert!(whole >= 24 / 4, "there is something to compare with: {whole}");
    assert!(chain <= whole + DAYS, "{chain} reads for a chain, {whole} for a whole backup");
}

/// Incompressible bytes, so that stored sizes are predictable.
fn random(seed: u64, length: usize) -> Vec<u8> {
    use capy_types::Entropy as _;
    let mut out = bytes(seed, 0);
    out.resize(length, 0);
    capy_types::SeededEntropy::new(seed).fill(&mut out);
    out
}
