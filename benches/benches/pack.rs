//! Packs written and read back over a store in memory: hashing, lookup, compression, sealing and
//! packing, and the way back, without tar, disk or network.
//!
//! Packs are built inside `capy-repo`; its lowest public layer is an ingest and a bulk read. One
//! file on the page grid goes through both, so that nothing is searched for a cut. There is one
//! worker and one request at a time, so the figures are of about one core; throughput is of
//! plaintext.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use capy_benches::{PAGE_BYTES, pages, random};
use capy_codec::{KdfParams, SlotSecret};
use capy_format::{ArchiveHeader, ArchiveKind, Content, Entry, Meta};
use capy_objects::MemoryStore;
use capy_repo::{
    Defect, Env, FileSink, Ingest, IngestOptions, InitOptions, ReadOptions, Reader, Repository, Strategy,
};
use capy_types::limits::MIB;
use capy_types::{Ctx, Secret};
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use tokio::runtime::Runtime;

/// Two packs and more of what does not compress.
const DATA_BYTES: usize = 72 * MIB;

/// An ingest into an empty repository in memory.
async fn begin() -> Ingest {
    let kdf = KdfParams { memory_kib: 64, passes: 1, lanes: 1 };
    let options = InitOptions { kdf, ..InitOptions::default() };
    let secret = Secret::from("bench".to_owned());
    let store = Arc::new(MemoryStore::default());
    let repository = Repository::init(store, Env::default(), options, SlotSecret::Passphrase(&secret))
        .await
        .expect("an empty store takes a repository");
    let key = "main/bench".parse().expect("a valid key");
    let options = IngestOptions { jobs: 1, ..IngestOptions::new(key) };
    repository.begin(&Ctx::default(), options).await.expect("it begins")
}

/// Stores `data` as one file; all of it is in packs and indexed when this returns.
async fn write(ingest: &mut Ingest, data: &[u8]) -> Content {
    let meta = Meta {
        path: b"base/5/16384".to_vec(),
        mode: 0o600,
        uid: 26,
        gid: 26,
        mtime: 0,
        owner: String::new(),
        group: String::new(),
    };
    ingest.begin_archive(ArchiveHeader { kind: ArchiveKind::Base }).expect("no file is open");
    ingest.begin_file(meta, Strategy::Grid, None).await.expect("no file is open");
    for piece in data.chunks(MIB) {
        ingest.write(piece).await.expect("memory takes it");
    }
    ingest.end_file().await.expect("a file is open");
    ingest.end_archive(0).expect("no file is open");
    ingest.flush().await.expect("memory takes it").manifest
}

/// Looks at what it gets no further.
struct Discard;

impl FileSink for Discard {
    fn write(&self, _file: u64, _offset: u64, data: &[u8]) -> io::Result<()> {
        black_box(data);
        Ok(())
    }

    fn finished(&self, _file: u64) -> io::Result<()> {
        Ok(())
    }

    fn defect(&self, _file: u64, defect: Defect) {
        panic!("what was just written cannot be read: {defect}");
    }
}

/// A reader of what was just written, and the one file's content.
async fn written(data: &[u8]) -> (Reader, Content) {
    let mut ingest = begin().await;
    let manifest = write(&mut ingest, data).await;
    let options = ReadOptions { requests: 1, ..ReadOptions::default() };
    let reader = ingest.reader(options).expect("it was flushed");
    let mut entries = reader.manifest(&manifest);
    while let Some(entry) = entries.next().await.expect("the manifest is whole") {
        if let Entry::File(file) = entry {
            return (reader, file.content);
        }
    }
    panic!("the file is not in the manifest");
}

async fn read(reader: &Reader, content: &Content) {
    let mut bulk = reader.bulk(&Ctx::default(), Arc::new(Discard));
    bulk.file(0, content).await.expect("it is whole");
    assert_eq!(bulk.finish().await.expect("it is whole").bytes, content.length);
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, name: &str, data: &[u8]) {
    group.bench_function(BenchmarkId::new("write", name), |bencher| {
        let store = |mut ingest| {
            runtime.block_on(write(&mut ingest, data));
            ingest
        };
        bencher.iter_batched(|| runtime.block_on(begin()), store, BatchSize::PerIteration);
    });
    group.bench_function(BenchmarkId::new("read", name), |bencher| {
        let (reader, content) = runtime.block_on(written(data));
        bencher.iter(|| runtime.block_on(read(&reader, &content)));
    });
}

fn pack(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be started");
    let mut group = criterion.benchmark_group("pack");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1)).sample_size(10);
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    bench(&mut group, &runtime, "random", &random(1, DATA_BYTES));
    bench(&mut group, &runtime, "pages", &pages(1, DATA_BYTES / PAGE_BYTES));
}

criterion_group!(benches, pack);
criterion_main!(benches);
