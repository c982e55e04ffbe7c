//! What sizes and normalization of chunks cut by content cost and save. `chunk_sizes FIRST [NEXT]…` takes
//! states of one file, a dump for example, cuts each in many ways, and prints for every way the mean chunk,
//! what the first state takes, what each further one adds (chunks that no earlier one had, zstd level 3), and
//! how fast it is cut. Cutting is the crate fastcdc's, which knows every normalization.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use capy_codec::Compressor;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};

const KIB: usize = 1024;
/// Least, average and greatest in KiB.
const SIZES: [(usize, usize, usize); 5] =
    [(8, 16, 128), (16, 32, 256), (32, 64, 512), (64, 128, 1024), (128, 256, 2048)];
const LEVELS: [(&str, Normalization); 3] =
    [("0", Normalization::Level0), ("1", Normalization::Level1), ("2", Normalization::Level2)];
/// Bytes beside a chunk's own: its names in pack, index and manifest, and its tag.
const CHUNK_OVERHEAD_BYTES: usize = 48 + 48 + 38 + 16;

fn gear() -> [u64; 256] {
    let mut output = blake3::Hasher::new_keyed(&[7; 32]).finalize_xof();
    std::array::from_fn(|_| {
        let mut bytes = [0; 8];
        output.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let states = std::env::args().skip(1).map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    if states.is_empty() {
        return Err("FIRST [NEXT]…".into());
    }
    let (gear, mut compressor) = (gear(), Compressor::new(3)?);
    let shifted = gear.map(|word| word << 1);
    println!("sizes, KiB     norm.  mean chunk  first, MB  each further, MB  cut, MB/s");
    for (min, avg, max) in SIZES {
        for (name, level) in LEVELS {
            let (strict, loose) = select_masks(avg * KIB, level);
            let (mut known, mut cutting, mut chunks) = (HashSet::new(), Duration::ZERO, 0_usize);
            let mut stored = Vec::new();
            for state in &states {
                let (mut rest, mut taken) = (&state[..], 0);
                while !rest.is_empty() {
                    let started = Instant::now();
                    let sizes = (min * KIB, avg * KIB, max * KIB);
                    let masks = (strict, loose, strict << 1, loose << 1);
                    let (_, length) = cut_gear(
                        rest, sizes.0, sizes.1, sizes.2, masks.0, masks.1, masks.2, masks.3, &gear, &shifted,
                    );
                    cutting += started.elapsed();
                    let (chunk, behind) = rest.split_at(length);
                    if known.insert(*blake3::hash(chunk).as_bytes()) {
                        let mut out = Vec::new();
                        compressor.compress(chunk, &mut out)?;
                        taken += out.len() + CHUNK_OVERHEAD_BYTES;
                    }
                    chunks += 1;
                    rest = behind;
                }
                stored.push(taken);
            }
            let bytes: usize = states.iter().map(Vec::len).sum();
            let (first, further) = stored.split_first().ok_or("no state")?;
            let further: Vec<_> = further.iter().map(|taken| format!("{:.2}", *taken as f64 / 1e6)).collect();
            println!(
                "{:14} {name:>5} {:>11} {:>10.2} {:>17} {:>10.0}",
                format!("{min}/{avg}/{max}"),
                bytes / chunks,
                *first as f64 / 1e6,
                further.join(" "),
                bytes as f64 / 1e6 / cutting.as_secs_f64(),
            );
        }
    }
    Ok(())
}
