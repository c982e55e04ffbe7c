//! The tar parser of [`capy_postgres::tar`], one thread, over a tar in memory.
//!
//! It is fed in pieces of 1 MiB, as the engine feeds it. Data passes through it as slices that
//! nobody looks at, so what is measured is the cost of an entry; throughput is of all bytes of the
//! tar, framing included. Every entry of an ingest costs what `empty files` shows per 512 bytes.

use std::hint::black_box;
use std::time::Duration;

use capy_benches::{Archive, text};
use capy_postgres::tar::{EndMarker, TarEnd, TarEvent, TarParser};
use capy_types::limits::{KIB, MIB};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Size of the tar in bytes, nearly: more than the caches hold.
const TAR_BYTES: usize = 64 * MIB;
/// Size in bytes of what is fed at once.
const PIECE_BYTES: usize = MIB;
const BLOCK_BYTES: usize = capy_postgres::tar::BLOCK_BYTES;

/// A tar of files of this size, as many as make it about [`TAR_BYTES`].
fn tar_of(file_bytes: usize) -> Vec<u8> {
    let content = text(1, file_bytes);
    let mut tar = Vec::with_capacity(TAR_BYTES + MIB);
    let mut archive = Archive::new(&mut tar);
    for file in 0..TAR_BYTES / (BLOCK_BYTES + file_bytes.next_multiple_of(BLOCK_BYTES)) {
        archive.file(&format!("base/{}/{}", file % 7, 16_384 + file), &content).expect("memory takes it");
    }
    archive.finish().expect("memory takes it");
    tar
}

fn parse_whole(tar: &[u8]) -> TarEnd {
    let mut parser = TarParser::new();
    for mut piece in tar.chunks(PIECE_BYTES) {
        loop {
            let (taken, event) = parser.feed(piece).expect("it is sound");
            piece = &piece[taken..];
            if matches!(black_box(event), TarEvent::NeedMore) {
                break;
            }
        }
    }
    let end = parser.finish().expect("it is whole");
    assert_eq!((end.bytes, end.marker), (tar.len() as u64, EndMarker::Complete));
    end
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tar/parse");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    for (name, file_bytes) in
        [("16 MiB files", 16 * MIB - BLOCK_BYTES), ("8 KiB files", 8 * KIB), ("empty files", 0)]
    {
        let tar = tar_of(file_bytes);
        group.throughput(Throughput::Bytes(tar.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| parse_whole(black_box(&tar)));
        });
    }
}

criterion_group!(benches, parse);
criterion_main!(benches);
