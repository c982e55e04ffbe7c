//! Assembling the manifest: batch results put in order, files' content trees, and the entry
//! stream, itself cut and deduplicated.
//!
//! Invariants: entries appear in the order in which they were fed; memory holds the entries of
//! the batches in flight, one content tree and one manifest chunk, however many files there are.

use std::collections::{BTreeMap, VecDeque};

use capy_codec::{CdcSizes, Compressor, Cutter};
use capy_format::{ChunkClass, Content, Entry, FileEntry, Meta, Stats, encode_entry};
use capy_types::ChunkId;

use super::worker::{BatchResult, ChunkResult, Shared};
use crate::pack::{PackBuilder, SealedPack};
use crate::tree::{NodeStore, TreeBuilder};
use crate::{RepoError, Repository};

/// Bytes of encoded entries gathered before they are cut: a few times the largest manifest chunk.
const STREAM_BUFFER_BYTES: usize = 256 * 1024;

/// What was fed, in order, waiting for its chunks.
enum Token {
    Entry(Entry),
    BeginFile(Meta, u8),
    Pieces(u64),
    /// Chunks that are stored, taken over as they are.
    Known(Vec<ChunkResult>),
    /// With its CRC-32C, where that of its chunks is not known.
    EndFile(Option<u32>),
}

/// Stores meta chunks: nodes and pieces of the entry stream.
struct MetaChunks<'a> {
    shared: &'a Shared,
    pack: &'a mut Option<PackBuilder>,
    full: &'a mut Vec<SealedPack>,
    compressor: &'a mut Compressor,
}

impl NodeStore for MetaChunks<'_> {
    fn store_node(&mut self, node: &[u8]) -> Result<ChunkId, RepoError> {
        let id = self.shared.keys.chunk_namer().name(node);
        let mut new = Vec::with_capacity(1);
        self.shared.dedup().claim(std::iter::once(&id), &mut new)?;
        if new == [true] {
            let pack = self.pack.get_or_insert_with(|| self.shared.new_pack());
            pack.append(id, ChunkClass::Meta, node, self.compressor)?;
            if pack.is_full()
                && let Some(pack) = self.pack.take()
            {
                self.full.push(pack.finish(&self.shared.keys)?);
            }
        }
        Ok(id)
    }
}

/// Builds the manifest while the backup runs.
pub(super) struct ManifestAssembler {
    tokens: VecDeque<Token>,
    waiting: BTreeMap<u64, Vec<ChunkResult>>,
    next_sequence: u64,
    chunks: VecDeque<ChunkResult>,
    /// Known chunks among the tokens.
    known: usize,
    file: Option<(Meta, u8, TreeBuilder)>,
    stream: Vec<u8>,
    stream_tree: TreeBuilder,
    cutter: Cutter,
    compressor: Compressor,
    pack: Option<PackBuilder>,
    full: Vec<SealedPack>,
    entries: u64,
    files: u64,
}

impl ManifestAssembler {
    pub(super) fn new(repo: &Repository, level: i32) -> Result<Self, RepoError> {
        Ok(Self {
            tokens: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_sequence: 0,
            chunks: VecDeque::new(),
            known: 0,
            file: None,
            stream: Vec::new(),
            stream_tree: TreeBuilder::default(),
            cutter: Cutter::new(repo.keys().gear(), CdcSizes::MANIFEST),
            compressor: Compressor::new(level)?,
            pack: None,
            full: Vec::new(),
            entries: 0,
            files: 0,
        })
    }

    /// An entry without content.
    pub(super) fn entry(&mut self, entry: Entry) {
        self.tokens.push_back(Token::Entry(entry));
    }

    pub(super) fn begin_file(&mut self, meta: Meta, chunking: u8) {
        self.tokens.push_back(Token::BeginFile(meta, chunking));
    }

    /// `count` more chunks of the open file were cut.
    pub(super) fn pieces(&mut self, count: u64) {
        match self.tokens.back_mut() {
            Some(Token::Pieces(waiting)) => *waiting += count,
            _ if count > 0 => self.tokens.push_back(Token::Pieces(count)),
            _ => {}
        }
    }

    /// The next chunks of the open file are known.
    pub(super) fn known(&mut self, chunks: Vec<ChunkResult>, shared: &Shared) -> Result<(), RepoError> {
        self.known += chunks.len();
        self.tokens.push_back(Token::Known(chunks));
        self.pump(shared)
    }

    /// How many known chunks wait for others.
    pub(super) fn known_waiting(&self) -> usize {
        self.known
    }

    /// Ends the open file; `crc32c` is its checksum where some of its chunks were known.
    pub(super) fn end_file(&mut self, crc32c: Option<u32>) {
        self.tokens.push_back(Token::EndFile(crc32c));
    }

    /// Takes a batch's results; encodes every entry that is complete.
    pub(super) fn results(&mut self, result: BatchResult, shared: &Shared) -> Result<(), RepoError> {
        self.waiting.insert(result.sequence, result.chunks);
        while let Some(chunks) = self.waiting.remove(&self.next_sequence) {
            self.next_sequence += 1;
            self.chunks.extend(chunks);
        }
        self.pump(shared)
    }

    fn pump(&mut self, shared: &Shared) -> Result<(), RepoError> {
        while let Some(token) = self.tokens.pop_front() {
            match token {
                Token::Entry(entry) => self.encode(&entry, shared)?,
                Token::BeginFile(meta, chunking) => {
                    self.file = Some((meta, chunking, TreeBuilder::default()))
                }
                Token::Pieces(count) => {
                    let left = self.take_pieces(count, shared)?;
                    if left > 0 {
                        self.tokens.push_front(Token::Pieces(left));
                        return Ok(());
                    }
                }
                Token::Known(chunks) => {
                    self.known -= chunks.len();
                    let (meta, chunking, mut tree) = self.file.take().ok_or_else(out_of_order)?;
                    for chunk in chunks {
                        tree.push(chunk.id, chunk.size, chunk.crc32c, &mut self.meta(shared))?;
                    }
                    self.file = Some((meta, chunking, tree));
                }
                Token::EndFile(crc32c) => {
                    let (meta, chunking, tree) = self.file.take().ok_or_else(out_of_order)?;
                    let mut content = tree.finish(&mut self.meta(shared))?;
                    content.crc32c = crc32c.unwrap_or(content.crc32c);
                    self.files += 1;
                    self.encode(&Entry::File(FileEntry { meta, chunking, content }), shared)?;
                }
            }
        }
        Ok(())
    }

    /// Adds up to `count` chunks to the open file; returns how many are still to come.
    fn take_pieces(&mut self, count: u64, shared: &Shared) -> Result<u64, RepoError> {
        let (meta, chunking, mut tree) = self.file.take().ok_or_else(out_of_order)?;
        let mut left = count;
        while left > 0
            && let Some(chunk) = self.chunks.pop_front()
        {
            tree.push(chunk.id, chunk.size, chunk.crc32c, &mut self.meta(shared))?;
            left -= 1;
        }
        self.file = Some((meta, chunking, tree));
        Ok(left)
    }

    fn meta<'a>(&'a mut self, shared: &'a Shared) -> MetaChunks<'a> {
        MetaChunks { shared, pack: &mut self.pack, full: &mut self.full, compressor: &mut self.compressor }
    }

    fn encode(&mut self, entry: &Entry, shared: &Shared) -> Result<(), RepoError> {
        self.entries += 1;
        // A record beyond its limits could not be read again.
        entry.check().map_err(|problem| RepoError::Invalid {
            what: format!("an entry cannot be stored: {problem}"),
        })?;
        encode_entry(entry, &mut self.stream);
        if self.stream.len() >= STREAM_BUFFER_BYTES { self.cut_stream(shared, false) } else { Ok(()) }
    }

    fn cut_stream(&mut self, shared: &Shared, at_end: bool) -> Result<(), RepoError> {
        let stream = std::mem::take(&mut self.stream);
        let mut tree = std::mem::take(&mut self.stream_tree);
        let mut rest = stream.as_slice();
        while let Some(length) = self.cutter.next_cut(rest, at_end)
            && length > 0
        {
            let (chunk, after) = rest.split_at(length);
            let mut meta = self.meta(shared);
            let id = meta.store_node(chunk)?;
            let size = u32::try_from(length).expect("manifest chunks are at most 64 KiB");
            tree.push(id, size, crc32c::crc32c(chunk), &mut meta)?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        self.stream = rest.to_vec();
        self.stream_tree = tree;
        Ok(())
    }

    /// Meta packs that are full and must be stored.
    pub(super) fn take_full_packs(&mut self) -> Vec<SealedPack> {
        std::mem::take(&mut self.full)
    }

    /// Ends the manifest; its last pack is among the full ones afterwards, or left to be joined.
    pub(super) fn finish(&mut self, shared: &Shared) -> Result<Content, RepoError> {
        self.pump(shared)?;
        if !self.tokens.is_empty() || !self.chunks.is_empty() || !self.waiting.is_empty() {
            return Err(out_of_order());
        }
        self.cut_stream(shared, true)?;
        let tree = std::mem::take(&mut self.stream_tree);
        let content = tree.finish(&mut self.meta(shared))?;
        match self.pack.take() {
            Some(pack) if shared.stands_alone(&pack) => self.full.push(pack.finish(&shared.keys)?),
            Some(pack) => shared.last_packs.leave(pack),
            None => {}
        }
        Ok(content)
    }

    /// Adds the counts of entries and files.
    pub(super) fn add_counts(&self, stats: &mut Stats) {
        stats.entries = self.entries;
        stats.files = self.files;
    }
}

fn out_of_order() -> RepoError {
    RepoError::Internal { what: "chunks and entries of the manifest do not match".to_owned() }
}
