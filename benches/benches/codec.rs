//! The primitives of the codec, one thread, on chunks of the size the engine uses.
//!
//! Throughput is of plaintext bytes. The data come from [`capy_benches`], so figures of different
//! machines are of the same bytes.

use std::hint::black_box;
use std::time::Duration;

use capy_benches::{PAGE_BYTES, pages, random, text};
use capy_codec::{
    CdcSizes, Compression, Compressor, Cutter, Decompressor, MasterKey, RepositoryKeys, TAG_BYTES,
};
use capy_types::limits::{KIB, MIB};
use capy_types::{PackId, RepositoryId};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Size of a chunk on the page grid in bytes.
const CHUNK_BYTES: usize = 128 * KIB;
/// As much as does not fit the second-level cache, as in an ingest.
const DATA_BYTES: usize = 8 * MIB;

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn keys() -> RepositoryKeys {
    RepositoryKeys::derive(&MasterKey::from_bytes([1; 32]), RepositoryId::from_bytes([2; 16]))
}

fn page_data() -> Vec<u8> {
    pages(1, DATA_BYTES / PAGE_BYTES)
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> Group<'a> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    group
}

fn chunker(criterion: &mut Criterion) {
    let mut group = group(criterion, "cut");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    for (sizes_name, sizes) in [("data sizes", CdcSizes::DATA), ("manifest sizes", CdcSizes::MANIFEST)] {
        let cutter = Cutter::new(keys().gear(), sizes);
        for (name, data) in [("random", random(1, DATA_BYTES)), ("text", text(1, DATA_BYTES))] {
            group.bench_function(BenchmarkId::new(sizes_name, name), |bencher| {
                bencher.iter(|| {
                    let mut rest = data.as_slice();
                    while let Some(length) = cutter.next_cut(black_box(rest), true) {
                        rest = &rest[length..];
                    }
                });
            });
        }
    }
}

fn name(criterion: &mut Criterion) {
    let mut group = group(criterion, "name");
    let (namer, data) = (keys().chunk_namer(), random(1, DATA_BYTES));
    for size in [64 * KIB, CHUNK_BYTES] {
        group.throughput(Throughput::Bytes(DATA_BYTES as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{} KiB", size / KIB)), |bencher| {
            bencher.iter(|| {
                data.chunks(size).for_each(|chunk| {
                    black_box(namer.name(chunk));
                })
            });
        });
    }
}

fn compress(criterion: &mut Criterion) {
    let mut group = group(criterion, "compress");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    for (name, data) in
        [("pages", page_data()), ("text", text(1, DATA_BYTES)), ("random", random(1, DATA_BYTES))]
    {
        for level in [1, 3, 6] {
            let mut compressor = Compressor::new(level).expect("a valid level");
            let mut out = Vec::with_capacity(DATA_BYTES);
            group.bench_function(BenchmarkId::new(format!("level {level}"), name), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    for chunk in data.chunks(CHUNK_BYTES) {
                        compressor.compress(chunk, &mut out).expect("there is memory");
                    }
                });
            });
        }
    }
}

fn decompress(criterion: &mut Criterion) {
    let mut group = group(criterion, "decompress");
    group.throughput(Throughput::Bytes(DATA_BYTES as u64));
    for (name, data) in [("pages", page_data()), ("text", text(1, DATA_BYTES))] {
        let mut compressor = Compressor::new(1).expect("a valid level");
        let frames: Vec<(Compression, Vec<u8>, usize)> = data
            .chunks(CHUNK_BYTES)
            .map(|chunk| {
                let mut stored = Vec::new();
                let compression = compressor.compress(chunk, &mut stored).expect("there is memory");
                (compression, stored, chunk.len())
            })
            .collect();
        let (mut decompressor, mut plain) = (Decompressor::new(), Vec::new());
        group.bench_function(BenchmarkId::new("level 1", name), |bencher| {
            bencher.iter(|| {
                for (compression, stored, length) in &frames {
                    decompressor.decompress(*compression, stored, *length, &mut plain).expect("it is whole");
                }
            });
        });
    }
}

fn seal(criterion: &mut Criterion) {
    let mut group = group(criterion, "seal");
    let key = keys().pack_key(&PackId::from_bytes([3; 24]));
    let aad = [4; 100];
    for size in [64 * KIB, CHUNK_BYTES] {
        group.throughput(Throughput::Bytes(size as u64));
        let mut buffer = random(1, size + TAG_BYTES);
        group.bench_function(BenchmarkId::new("seal", format!("{} KiB", size / KIB)), |bencher| {
            bencher.iter(|| {
                buffer.truncate(size);
                key.seal(7, black_box(&aad), &mut buffer, 0);
            });
        });
        let mut sealed = random(1, size);
        key.seal(7, &aad, &mut sealed, 0);
        let mut opened = sealed.clone();
        group.bench_function(BenchmarkId::new("open", format!("{} KiB", size / KIB)), |bencher| {
            bencher.iter(|| {
                // The copy costs a hundredth of the opening.
                opened.copy_from_slice(&sealed);
                key.open(7, black_box(&aad), &mut opened).expect("it is whole")
            });
        });
    }
}

criterion_group!(benches, chunker, name, compress, decompress, seal);
criterion_main!(benches);
