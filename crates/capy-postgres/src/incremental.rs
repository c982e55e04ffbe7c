//! `INCREMENTAL.*` files: the changed blocks of one relation segment (PostgreSQL 17 and later).
//!
//! Such a file is a header (magic, number of blocks, length in blocks below which everything it
//! does not hold comes from the earlier backup, block numbers), zeros up to a whole block when any
//! block follows, and the blocks in the order of their numbers. Source: `basebackup_incremental.c`
//! and `pg_combinebackup/reconstruct.c`.
//!
//! Invariants: nothing is allocated before the file's own length has been found to hold it; block
//! numbers rise, so a file is put together in one pass; at most one header is held.

use capy_types::ErrorKind;
use capy_types::limits::{PAGE_SIZE_BYTES, RELATION_SEGMENT_PAGES};

/// First four bytes, little-endian (`INCREMENTAL_MAGIC`).
const MAGIC: u32 = 0xd3ae_1f0d;
/// Magic, count and length.
const FIXED_BYTES: usize = 12;
/// What the name of such a file begins with.
const PREFIX: &[u8] = b"INCREMENTAL.";
const PAGE: u64 = PAGE_SIZE_BYTES as u64;

/// A file of changed blocks that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad file of changed blocks: {problem} (at offset {offset})")]
pub struct IncrementalError {
    /// Where in the file.
    pub offset: u64,
    /// One fact.
    pub problem: String,
}

impl IncrementalError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// What the file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IncrementalHeader {
    /// Blocks below this that are not in the file are those of the earlier backup, or zeros where
    /// that was shorter.
    pub truncation_blocks: u32,
    /// Numbers of the blocks that follow, rising, counted from the start of the segment.
    pub blocks: Vec<u32>,
}

impl IncrementalHeader {
    /// Length of the whole segment once put together, in blocks.
    #[must_use]
    pub fn length_blocks(&self) -> u32 {
        self.blocks.last().map_or(0, |last| last + 1).max(self.truncation_blocks)
    }

    /// Length of the whole segment once put together, in bytes.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        u64::from(self.length_blocks()) * PAGE
    }

    /// Length in bytes of the file that has this header.
    fn file_bytes(&self) -> u64 {
        let header = header_bytes(self.blocks.len());
        header as u64 + self.blocks.len() as u64 * PAGE
    }

    fn check(&self) -> Result<(), String> {
        if self.truncation_blocks > RELATION_SEGMENT_PAGES {
            return Err(format!("a segment of {} blocks", self.truncation_blocks));
        }
        if let Some(pair) = self.blocks.windows(2).find(|pair| pair.first() >= pair.last()) {
            return Err(format!("block numbers that do not rise: {pair:?}"));
        }
        match self.blocks.last() {
            Some(last) if *last >= RELATION_SEGMENT_PAGES => Err(format!("block {last} of a segment")),
            _ => Ok(()),
        }
    }
}

/// Length of a header in bytes, padding included.
const fn header_bytes(blocks: usize) -> usize {
    let bytes = FIXED_BYTES + 4 * blocks;
    if blocks == 0 { bytes } else { bytes.next_multiple_of(PAGE_SIZE_BYTES) }
}

/// One step of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum IncrementalEvent<'a> {
    /// The header is complete.
    Header(IncrementalHeader),
    /// Bytes of a block, in order.
    Block {
        /// Number of the block.
        number: u32,
        /// Where in the block they stand, in bytes.
        within: usize,
        /// At least one byte, at most the rest of the block.
        data: &'a [u8],
    },
    /// All input is used up.
    NeedMore,
}

/// Reads a file of changed blocks from bytes in any pieces.
#[derive(Debug)]
pub struct IncrementalReader {
    file_bytes: u64,
    position: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Header { seen: Vec<u8>, wanted: usize },
    Blocks { numbers: Vec<u32>, at: usize, within: usize },
}

impl IncrementalReader {
    /// Of a file that is `file_bytes` long.
    #[must_use]
    pub const fn new(file_bytes: u64) -> Self {
        Self { file_bytes, position: 0, state: State::Header { seen: Vec::new(), wanted: FIXED_BYTES } }
    }

    /// Takes from the front of `input`; returns how much, and what it was.
    ///
    /// # Errors
    /// A header that makes no sense or does not fit the file's length; bytes behind the end.
    pub fn feed<'a>(
        &mut self,
        mut input: &'a [u8],
    ) -> Result<(usize, IncrementalEvent<'a>), IncrementalError> {
        let before = input.len();
        loop {
            match &mut self.state {
                State::Header { seen, wanted } => {
                    let (taken, rest) = input.split_at((*wanted - seen.len()).min(input.len()));
                    seen.extend_from_slice(taken);
                    self.position += taken.len() as u64;
                    input = rest;
                    if seen.len() < *wanted {
                        return Ok((before - input.len(), IncrementalEvent::NeedMore));
                    }
                    let whole = whole_header(seen, self.file_bytes)?;
                    if *wanted < whole {
                        *wanted = whole;
                        continue;
                    }
                    let header = parse(seen, self.file_bytes)?;
                    self.state = State::Blocks { numbers: header.blocks.clone(), at: 0, within: 0 };
                    return Ok((before - input.len(), IncrementalEvent::Header(header)));
                }
                State::Blocks { .. } if input.is_empty() => {
                    return Ok((before, IncrementalEvent::NeedMore));
                }
                State::Blocks { numbers, at, within } => {
                    let Some(number) = numbers.get(*at).copied() else {
                        let problem = "bytes behind the last block".to_owned();
                        return Err(IncrementalError { offset: self.position, problem });
                    };
                    let begin = *within;
                    let (data, rest) = input.split_at((PAGE_SIZE_BYTES - begin).min(input.len()));
                    self.position += data.len() as u64;
                    *within += data.len();
                    if *within == PAGE_SIZE_BYTES {
                        (*at, *within) = (*at + 1, 0);
                    }
                    let event = IncrementalEvent::Block { number, within: begin, data };
                    return Ok((before - rest.len(), event));
                }
            }
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    /// It ended early.
    pub fn finish(self) -> Result<(), IncrementalError> {
        match self.state {
            State::Blocks { numbers, at, .. } if at == numbers.len() => Ok(()),
            _ => Err(IncrementalError { offset: self.position, problem: "it ends early".to_owned() }),
        }
    }
}

/// A little-endian number of the header.
fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    word.map_or(0, |word| u32::from_le_bytes(*word))
}

/// How long the header is whose first bytes these are.
fn whole_header(seen: &[u8], file_bytes: u64) -> Result<usize, IncrementalError> {
    let fail = |offset, problem| Err(IncrementalError { offset, problem });
    let (magic, count) = (word(seen, 0), word(seen, 4));
    if magic != MAGIC {
        return fail(0, format!("magic number {magic:08x}, not {MAGIC:08x}"));
    }
    if count > RELATION_SEGMENT_PAGES {
        return fail(4, format!("{count} blocks, {RELATION_SEGMENT_PAGES} at most"));
    }
    let header = header_bytes(count as usize);
    let expected = header as u64 + u64::from(count) * PAGE;
    if expected != file_bytes {
        return fail(4, format!("{count} blocks make {expected} bytes, the file has {file_bytes}"));
    }
    Ok(header)
}

fn parse(seen: &[u8], file_bytes: u64) -> Result<IncrementalHeader, IncrementalError> {
    let count = word(seen, 4) as usize;
    let blocks = (0..count).map(|n| word(seen, FIXED_BYTES + 4 * n)).collect();
    let header = IncrementalHeader { truncation_blocks: word(seen, 8), blocks };
    debug_assert_eq!(header.file_bytes(), file_bytes, "checked before");
    header.check().map_err(|problem| IncrementalError { offset: 8, problem })?;
    Ok(header)
}

/// The path of the segment that a file of changed blocks belongs to: `base/5/INCREMENTAL.16384.1`
/// is about `base/5/16384.1`. `None` for any other path.
#[must_use]
pub fn segment_path(path: &[u8]) -> Option<Vec<u8>> {
    let name_at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (directory, name) = path.split_at(name_at);
    name.strip_prefix(PREFIX).map(|segment| [directory, segment].concat())
}

#[cfg(test)]
mod tests {
    use capy_types::{Entropy, SeededEntropy};

    use super::*;

    fn file(truncation_blocks: u32, blocks: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [MAGIC, u32::try_from(blocks.len()).unwrap(), truncation_blocks] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(blocks.iter().flat_map(|block| block.to_le_bytes()));
        bytes.resize(header_bytes(blocks.len()), 0);
        for block in blocks {
            bytes.extend([*block as u8; PAGE_SIZE_BYTES]);
        }
        bytes
    }

    /// The header, and each block with its number.
    type Whole = (IncrementalHeader, Vec<(u32, Vec<u8>)>);

    /// Reads in pieces of at most `piece` bytes.
    fn read(bytes: &[u8], piece: usize) -> Result<Whole, String> {
        let mut reader = IncrementalReader::new(bytes.len() as u64);
        let (mut header, mut blocks) = (None, Vec::<(u32, Vec<u8>)>::new());
        for mut part in bytes.chunks(piece) {
            loop {
                let (taken, event) = reader.feed(part).map_err(|error| error.to_string())?;
                part = &part[taken..];
                match event {
                    IncrementalEvent::Header(found) => header = Some(found),
                    IncrementalEvent::Block { number, within: 0, data } => blocks.push((number, data.into())),
                    IncrementalEvent::Block { number, within, data } => {
                        let (last, seen) = blocks.last_mut().unwrap();
                        assert_eq!((*last, seen.len()), (number, within));
                        seen.extend(data);
                    }
                    IncrementalEvent::NeedMore => break,
                }
            }
            assert!(part.is_empty());
        }
        reader.finish().map_err(|error| error.to_string())?;
        Ok((header.unwrap(), blocks))
    }

    #[test]
    fn blocks_come_out_as_they_went_in_whatever_the_pieces() {
        for blocks in [&[][..], &[0], &[3, 4, 9], &(0..5000).collect::<Vec<_>>()] {
            let bytes = file(7, blocks);
            for piece in [1, 11, 512, 8192, 10_000, usize::MAX] {
                if bytes.len() / piece > 1 << 20 {
                    continue;
                }
                let (header, found) = read(&bytes, piece).unwrap();
                assert_eq!(header, IncrementalHeader { truncation_blocks: 7, blocks: blocks.to_vec() });
                let expected: Vec<_> =
                    blocks.iter().map(|block| (*block, vec![*block as u8; PAGE_SIZE_BYTES])).collect();
                assert!(found == expected, "{} blocks in pieces of {piece}", blocks.len());
            }
        }
    }

    #[test]
    fn an_unchanged_file_has_12_bytes_and_184_blocks_make_what_a_server_sent() {
        assert_eq!(file(100, &[]).len(), 12);
        assert_eq!(file(0, &(0..184).collect::<Vec<_>>()).len(), 1_515_520);
    }

    #[test]
    fn the_segment_ends_behind_its_last_block_or_where_the_earlier_one_is_cut() {
        let length = |truncation_blocks, blocks: &[u32]| {
            IncrementalHeader { truncation_blocks, blocks: blocks.to_vec() }.length_bytes()
        };
        assert_eq!(length(10, &[]), 81920);
        assert_eq!(length(10, &[3]), 81920);
        assert_eq!(length(10, &[30]), 31 * 8192);
        assert_eq!(length(0, &[]), 0);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = file(7, &[1, 2]);
            change(&mut bytes);
            read(&bytes, 4096).unwrap_err()
        };
        assert!(refused(&|bytes| bytes[0] ^= 1).contains("magic number"));
        assert!(refused(&|bytes| bytes[4] = 3).contains("3 blocks make 32768 bytes, the file has 24576"));
        assert!(refused(&|bytes| bytes[7] = 0xff).contains("131072 at most"));
        assert!(refused(&|bytes| bytes[11] = 0xff).contains("a segment of"));
        assert!(refused(&|bytes| bytes[12] = 2).contains("do not rise"));
        assert!(refused(&|bytes| bytes[18] = 2).contains("block 131074 of a segment"));
        assert!(refused(&|bytes| bytes.truncate(20_000)).contains("the file has 20000"));
        assert!(refused(&|bytes| bytes.truncate(5)).contains("it ends early (at offset 5)"));
        let mut reader = IncrementalReader::new(12);
        assert!(reader.feed(&file(0, &[])).is_ok());
        assert!(reader.feed(b"x").unwrap_err().problem.contains("behind the last block"));
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused() {
        let seed = 20_261_121;
        let random = SeededEntropy::new(seed);
        for round in 0..2000 {
            let mut bytes = file(7, &[1, 2, 40]);
            let mut draw = [0; 6];
            random.fill(&mut draw);
            let at = usize::from(u16::from_le_bytes([draw[0], draw[1]])) % 64;
            bytes[at] = draw[2];
            bytes.truncate(usize::from(u16::from_le_bytes([draw[3], draw[4]])));
            let _ = read(&bytes, 1 + usize::from(draw[5]));
            assert!(bytes.len() < 1 << 20, "seed {seed}, round {round}");
        }
    }

    #[test]
    fn a_path_names_its_segment() {
        let of = |path: &str| segment_path(path.as_bytes()).map(|path| String::from_utf8(path).unwrap());
        assert_eq!(of("base/5/INCREMENTAL.16384.1").as_deref(), Some("base/5/16384.1"));
        assert_eq!(of("INCREMENTAL.16384").as_deref(), Some("16384"));
        assert_eq!(of("base/INCREMENTAL.5/16384"), None);
    }
}
