//! Which cells of a patched file must be at hand.

use capy_format::{ChunkRef, FileEntry};

use super::Patch;
use super::checksum::Checksum;
use super::old::OldCells;
use crate::RepoError;

/// Whether every chunk is a cell, but the last may be shorter.
pub(super) fn is_on_grid(refs: &[(u64, ChunkRef)], cell_bytes: u64) -> bool {
    let last = refs.len().saturating_sub(1);
    refs.iter().enumerate().all(|(n, (start, chunk))| {
        *start == n as u64 * cell_bytes && (chunk.len == cell_bytes || n == last && chunk.len < cell_bytes)
    })
}

/// For each cell of the new file, whether it is other than the parent's chunk of its place.
pub(super) fn touched_cells(
    patch: &Patch,
    kept: u64,
    cell_bytes: u64,
    refs: &[(u64, ChunkRef)],
) -> Vec<bool> {
    let cells = patch.length.div_ceil(cell_bytes);
    let mut touched: Vec<_> = (0..cells)
        .map(|cell| {
            let end = ((cell + 1) * cell_bytes).min(patch.length);
            let chunk = refs.get(cell as usize).map(|(start, chunk)| start + chunk.len);
            end > kept || chunk != Some(end)
        })
        .collect();
    for range in &patch.changed {
        let cells = (range.start / cell_bytes) as usize..=((range.end - 1) / cell_bytes) as usize;
        touched.get_mut(cells).unwrap_or_default().fill(true);
    }
    touched
}

/// The checksum to begin with: that of the parent's cells that have a counterpart of their length.
/// Where what lies behind them is longer, it is cheaper to touch them all.
pub(super) async fn prefix_checksum(
    old: &OldCells,
    file: &FileEntry,
    kept: u64,
    patch: &Patch,
    cell_bytes: u64,
    touched: &mut [bool],
) -> Result<Checksum, RepoError> {
    let length = file.content.length;
    let same = kept == length && length == patch.length;
    let prefix = if same { length } else { kept / cell_bytes * cell_bytes };
    if touched.iter().all(|touched| *touched) {
        return Ok(Checksum::of_all());
    }
    let tail = length - prefix;
    if tail > prefix {
        touched.fill(true);
        return Ok(Checksum::of_all());
    }
    let tail_crc32c = old.checksum_from(prefix / cell_bytes, tail).await?;
    Ok(Checksum::over(file.content.crc32c, tail_crc32c, prefix, tail))
}
