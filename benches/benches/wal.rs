//! The questions put to a long WAL archive, from a cold start: the repository opened with a key file,
//! and `wal_windows` of 100 000 segments answered from gathered facts.
//!
//! The archive is a directory, made without the syncs that pushing would have cost: its objects are
//! sealed in memory and copied there. Criterion's `--quick` makes it 10 000 segments. Throughput is in
//! segments.

use std::sync::Arc;
use std::time::Duration;

use capy_codec::{KdfParams, SlotSecret};
use capy_format::{SegmentFacts, TransactionEnd, WalEvent, WalEventKind, WalFacts};
use capy_objects::{MemoryStore, Store};
use capy_repo::{Env, InitOptions};
use capy_store::{Ctx, Key, Location, Repository};
use capy_types::{
    ChunkId, ClusterName, Lsn, Secret, SegmentName, SegmentSize, SystemId, TimelineId, Timestamp,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::TryStreamExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;

fn segments() -> u64 {
    if std::env::args().any(|argument| argument == "--quick" || argument == "--test") {
        10_000
    } else {
        100_000
    }
}

fn secret() -> Secret {
    Secret::new(vec![7; 64])
}

fn cluster() -> ClusterName {
    "main".parse().expect("a name")
}

/// A busy segment: commits, and a checkpoint in every twentieth.
fn facts(number: u64) -> WalFacts {
    let segment =
        SegmentName::containing(TimelineId::from_u32(1), Lsn::from_u64(number << 24), SegmentSize::DEFAULT);
    let time = Timestamp::from_micros(1_790_000_000_000_000 + number.cast_signed() * 1_000_000);
    let at = Lsn::from_u64(segment.start().as_u64() + 40);
    let checkpoint =
        WalEvent { at, time: Some(time), what: WalEventKind::Checkpoint { redo: at, shutdown: false } };
    WalFacts {
        file: segment.into(),
        content: ChunkId::from_bytes([0; 32]),
        size: 0,
        archived_at: time,
        segment: Some(SegmentFacts {
            system_id: SystemId::from_u64(1),
            major: 17,
            segment_size: SegmentSize::DEFAULT,
            first: Some(at),
            last: Some(at),
            end: segment.end(),
            stopped: None,
            commits: 1000,
            aborts: 3,
            first_end: Some(TransactionEnd { at, time }),
            last_end: Some(TransactionEnd { at, time }),
            times: Some((time, time)),
            events: if number.is_multiple_of(20) { vec![checkpoint] } else { Vec::new() },
            more_events: 0,
            tail: None,
            head: None,
        }),
    }
}

/// Puts the archive into a directory.
async fn archive(directory: &TempDir) {
    let store = Arc::new(MemoryStore::default());
    let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
    let options = InitOptions { kdf, ..InitOptions::default() };
    let (env, secret) = (Env::default(), secret());
    let key = SlotSecret::KeyFile(&secret);
    let repository = capy_repo::Repository::init(store.clone(), env, options, key).await.expect("empty");
    repository
        .claim_archive(&cluster(), SystemId::from_u64(1), SegmentSize::DEFAULT)
        .await
        .expect("a new archive");
    for number in 1..=segments() {
        repository.put_wal(&cluster(), facts(number), vec![0; 100].into()).await.expect("memory takes it");
    }
    let objects: Vec<_> = store.list("").try_collect().await.expect("memory lists");
    for object in objects {
        let path = directory.path().join(&object.name);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("room on the disk");
        let content = store.get(&object.name, object.size).await.expect("it was listed");
        std::fs::write(path, content).expect("room on the disk");
    }
}

async fn windows(directory: &TempDir) -> u64 {
    let place = Location::new(directory.path().to_str().expect("a plain path"));
    let ctx = Ctx::default();
    let repository = Repository::open(&ctx, &place, &Key::File(secret())).await.expect("it opens");
    let windows = repository.wal_windows(&ctx, &cluster()).await.expect("it answers");
    windows.timelines.iter().flat_map(|timeline| &timeline.runs).map(|run| run.segments).sum()
}

fn oracle(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be started");
    let directory = tempfile::tempdir().expect("room on the disk");
    runtime.block_on(archive(&directory));
    // The first question gathers the facts.
    assert_eq!(runtime.block_on(windows(&directory)), segments());
    let mut group = criterion.benchmark_group("wal");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(5)).sample_size(10);
    group.throughput(Throughput::Elements(segments()));
    group.bench_function(BenchmarkId::new("windows, cold", format!("{} segments", segments())), |bencher| {
        bencher.iter(|| assert_eq!(runtime.block_on(windows(&directory)), segments()));
    });
    group.finish();
}

criterion_group!(benches, oracle);
criterion_main!(benches);
