//! One block of an object as a file: what it is a part of, a checksum over that and its bytes, its bytes.
//!
//! ```text
//! magic 8 | start 8 | length 4 | identity length 4 | identity | CRC-32C 4 | content
//! ```
//!
//! Numbers are little endian. The identity names repository and object, so that a file of another
//! place, another repository or another length is never taken for the block that is asked for.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;

use capy_types::limits::KIB;

/// Length of a block in bytes. A range is read wider by up to two of them, which over a network costs
/// less than the request itself (512 KiB at 100 MB/s are 5 ms), and a GiB is 4096 files.
pub(super) const BLOCK_BYTES: u64 = 256 * KIB as u64;

const MAGIC: [u8; 8] = *b"capycch1";
const CHECKSUM_BYTES: usize = 4;

/// What a file begins with when it holds `length` bytes of `name` from `start`.
pub(super) fn head(scope: &str, name: &str, start: u64, length: usize) -> Vec<u8> {
    let identity_bytes = scope.len() + 1 + name.len();
    let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut head = Vec::with_capacity(24 + identity_bytes);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&start.to_le_bytes());
    head.extend_from_slice(&short(length));
    head.extend_from_slice(&short(identity_bytes));
    head.extend_from_slice(scope.as_bytes());
    head.push(b' ');
    head.extend_from_slice(name.as_bytes());
    head
}

/// Length of the whole file in bytes.
pub(super) const fn file_bytes(head: &[u8], content: usize) -> u64 {
    (head.len() + CHECKSUM_BYTES + content) as u64
}

fn checksum(head: &[u8], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    crc32c::crc32c_append(crc32c::crc32c(head), content).to_le_bytes()
}

/// Writes a block.
pub(super) fn write(mut file: &File, head: &[u8], content: &[u8]) -> io::Result<()> {
    let mut before = head.to_vec();
    before.extend_from_slice(&checksum(head, content));
    file.write_all(&before)?;
    file.write_all(content)
}

/// Fills `content` from a file that must be exactly this block; `false` when it is anything else.
pub(super) fn read(mut file: &File, head: &[u8], content: &mut [u8]) -> io::Result<bool> {
    let facts = file.metadata()?;
    if !facts.is_file() || facts.len() != file_bytes(head, content.len()) {
        return Ok(false);
    }
    let mut before = vec![0; head.len() + CHECKSUM_BYTES];
    file.read_exact(&mut before)?;
    let (found, sum) = before.split_at(head.len());
    if found != head {
        return Ok(false);
    }
    file.read_exact(content)?;
    Ok(sum == checksum(head, content))
}

/// Whole blocks of an object that has at least `end` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Where the first block starts.
    pub(super) start: u64,
    /// Where the last block ends.
    pub(super) end: u64,
}

impl Span {
    /// The blocks that `range` touches; none when it is empty or longer than memory.
    pub(super) fn over(range: &Range<u64>, end: u64) -> Option<Self> {
        let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
        let end = range.end.div_ceil(BLOCK_BYTES).checked_mul(BLOCK_BYTES)?.min(end.max(range.end));
        let fits = usize::try_from(end.checked_sub(start)?).is_ok();
        (range.start < range.end && fits).then_some(Self { start, end })
    }

    pub(super) fn length(&self) -> usize {
        usize::try_from(self.end - self.start).expect("a span is made only when it fits")
    }

    /// Where each of its blocks lies in the object.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let (start, end) = (self.start, self.end);
        (start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES))
            .map(move |number| number * BLOCK_BYTES..((number + 1) * BLOCK_BYTES).min(end))
    }

    /// Where a part of the object lies within the span's bytes.
    pub(super) fn within(&self, part: &Range<u64>) -> Range<usize> {
        let at = |offset: u64| {
            let inside = offset.clamp(self.start, self.end) - self.start;
            usize::try_from(inside).expect("at most the span's length")
        };
        at(part.start)..at(part.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_whole_blocks_and_ends_with_the_object() {
        let (block, end) = (BLOCK_BYTES, 3 * BLOCK_BYTES + 100);
        for (range, span) in [
            (0..1, 0..block),
            (block - 1..block + 1, 0..2 * block),
            (block..2 * block, block..2 * block),
            (3 * block + 50..end, 3 * block..end),
            (0..end, 0..end),
        ] {
            let found = Span::over(&range, end).expect("not empty");
            assert_eq!(found.start..found.end, span, "{range:?}");
            let blocks: Vec<_> = found.blocks().collect();
            assert_eq!(blocks.first().map(|first| first.start), Some(span.start), "{range:?}");
            assert_eq!(blocks.last().map(|last| last.end), Some(span.end), "{range:?}");
            assert!(blocks.windows(2).all(|pair| pair[0].end == pair[1].start), "{range:?}");
        }
        assert_eq!(Span::over(&(5..5), end), None);
        assert_eq!(Span::over(&(u64::MAX - 1..u64::MAX), u64::MAX), None);
    }
}
