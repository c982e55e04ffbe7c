//! Compares ways to store a changed block: whole, as zstd with the old block as prefix, as zstd of
//! the exclusive or. `delta_encoders BLOCK_KIB OLD NEW [OLD NEW]…` takes files of two states of a
//! cluster and prints bytes and speed over all blocks that differ.

use std::time::{Duration, Instant};

use capy_codec::{Compressor, DeltaDecoder, DeltaEncoder};

#[derive(Default)]
struct Sum {
    bytes: usize,
    time: Duration,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (size, files) = arguments.split_first().ok_or("BLOCK_KIB OLD NEW …")?;
    let size = size.parse::<usize>()? * 1024;
    let names = ["full 3", "prefix 2", "prefix 3", "xor 1", "xor 3", "decode full", "decode prefix"];
    let mut sums: Vec<Sum> = names.iter().map(|_| Sum::default()).collect();
    let (mut blocks, mut changed) = (0, 0);
    let mut full = Compressor::new(3)?;
    let mut xors = [Compressor::new(1)?, Compressor::new(3)?];
    let mut prefixes = [DeltaEncoder::new(2)?, DeltaEncoder::new(3)?];
    let (mut decoder, mut decompressor) = (DeltaDecoder::new(), capy_codec::Decompressor::new());
    for pair in files.chunks_exact(2) {
        let (old, new) = (std::fs::read(&pair[0])?, std::fs::read(&pair[1])?);
        for (old, new) in old.chunks(size).zip(new.chunks(size)) {
            blocks += 1;
            if old == new {
                continue;
            }
            changed += 1;
            let mut out = Vec::new();
            let mut take = |at: usize, work: &mut dyn FnMut(&mut Vec<u8>)| {
                out.clear();
                let started = Instant::now();
                work(&mut out);
                sums[at].time += started.elapsed();
                sums[at].bytes += out.len();
                out.clone()
            };
            let stored_full = take(0, &mut |out| {
                full.compress(new, out).expect("memory");
            });
            let mut stored = Vec::new();
            for (at, prefix) in prefixes.iter_mut().enumerate() {
                stored = take(1 + at, &mut |out| {
                    if !prefix.encode(old, new, usize::MAX, out).expect("memory") {
                        out.extend_from_slice(new);
                    }
                });
            }
            for (at, xor) in xors.iter_mut().enumerate() {
                take(3 + at, &mut |out| {
                    let mut difference = new.to_vec();
                    difference.iter_mut().zip(old).for_each(|(new, old)| *new ^= old);
                    xor.compress(&difference, out).expect("memory");
                });
            }
            take(5, &mut |out| {
                let _ = decompressor.decompress(capy_codec::Compression::Zstd, &stored_full, new.len(), out);
            });
            if stored.len() < new.len() {
                take(6, &mut |out| decoder.decode(old, &stored, new.len(), out).expect("its base"));
            }
        }
    }
    println!("{changed} of {blocks} blocks of {} KiB differ", size / 1024);
    for (name, sum) in names.iter().zip(&sums) {
        let speed = (changed * size) as f64 / 1e6 / sum.time.as_secs_f64();
        println!(
            "{name:14} {:>12} bytes {:>8} a block {speed:>8.0} MB/s",
            sum.bytes,
            sum.bytes / changed.max(1)
        );
    }
    Ok(())
}
