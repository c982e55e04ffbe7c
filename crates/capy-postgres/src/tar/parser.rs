//! The streaming tar parser: bytes in any pieces in, entries and slices of their data out.
//!
//! Invariants: the events do not depend on how the stream is cut into pieces (adjacent `Data`
//! slices aside); every `Entry` is followed by its data and exactly one `EndEntry`; memory is one
//! block plus one extension of at most 64 KiB; after an error the parser only repeats it.

use super::header::{self, Block, Dialect};
use super::pax::Overrides;
use super::{
    BLOCK_BYTES, END_BYTES, EXTENSION_MAX_BYTES, EntryKind, TRAILING_ZEROS_MAX_BYTES, TarEntry, TarError,
    padding_bytes,
};

/// What the parser found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent<'a> {
    /// An entry begins.
    Entry(TarEntry),
    /// The entry's next bytes: a slice of the input, never empty.
    Data(&'a [u8]),
    /// The entry is complete.
    EndEntry,
    /// All input was taken; feed more, or finish.
    NeedMore,
}

/// How a tar ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMarker {
    /// Two or more blocks of zeros.
    Complete,
    /// Fewer zeros than two blocks. Nothing is lost, but the writer may have been stopped between
    /// two entries.
    Short,
    /// None at all, as PostgreSQL 13 and 14 send it. As with `Short`, completeness must be known
    /// from elsewhere: the protocol's end, or `global/pg_control` and the manifest.
    Missing,
}

/// What a whole tar held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarEnd {
    /// Entries read.
    pub entries: u64,
    /// Bytes read, the trailing zeros included.
    pub bytes: u64,
    /// Zero bytes after the last entry: 1024 from PostgreSQL, up to 10 KiB more from GNU tar.
    pub trailing_zero_bytes: u64,
    /// How it ended.
    pub marker: EndMarker,
}

/// Push-style tar parser; it does no I/O.
#[derive(Debug, Default)]
pub struct TarParser {
    state: State,
    /// Bytes taken so far.
    offset: u64,
    /// Where the present header began.
    header_offset: u64,
    entries: u64,
    trailing_zeros: u64,
    /// Collects a header block or an extension.
    pending: Vec<u8>,
    /// From extensions, for the next entry.
    next: Overrides,
    /// From pax global headers, for every later entry.
    global: Overrides,
    /// The present entry's path, for errors.
    path: Vec<u8>,
}

#[derive(Debug, Default, Clone)]
enum State {
    /// Collecting a header block.
    #[default]
    Header,
    /// Collecting an extension's data.
    Extension { kind: Extension, size: u64 },
    /// Passing a file's data on.
    Data { remaining: u64, padding: u64 },
    /// The entry's data is complete.
    EntryDone { padding: u64 },
    /// Skipping what fills the last block.
    Padding { remaining: u64 },
    /// After the first block of zeros.
    Zeros,
    /// Refused.
    Failed(TarError),
}

#[derive(Debug, Clone, Copy)]
enum Extension {
    Pax,
    PaxGlobal,
    LongName,
    LongLink,
}

impl Extension {
    const fn name(self) -> &'static str {
        match self {
            Self::Pax => "a pax header",
            Self::PaxGlobal => "a global pax header",
            Self::LongName => "a long name",
            Self::LongLink => "a long link name",
        }
    }
}

impl TarParser {
    /// A parser at the start of a tar.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Zero bytes after the last entry, so far; counted from the first whole block of zeros on.
    #[must_use]
    pub const fn trailing_zero_bytes(&self) -> u64 {
        self.trailing_zeros
    }

    /// Takes bytes from the front of `input` up to the next event. Gives how many it took; call
    /// again with the rest until it answers [`TarEvent::NeedMore`], which takes all.
    ///
    /// `Data` is a slice of `input`: with `bytes::Bytes`, `slice_ref` makes it owned for free.
    /// # Errors
    /// [`TarError`], with the offset in the stream; the same again on every later call.
    pub fn feed<'a>(&mut self, input: &'a [u8]) -> Result<(usize, TarEvent<'a>), TarError> {
        let mut rest = input;
        let event = match self.step(&mut rest) {
            Ok(event) => event,
            Err(error) => {
                self.state = State::Failed(error.clone());
                return Err(error);
            }
        };
        Ok((input.len() - rest.len(), event))
    }

    /// Goes on behind the next `bytes` of the present entry's data, which the caller does not have at
    /// hand. Answers `false`, and stays where it is, when so many are not to come.
    #[must_use]
    pub fn pass(&mut self, bytes: u64) -> bool {
        let State::Data { remaining, padding } = self.state else { return bytes == 0 };
        let Some(remaining) = remaining.checked_sub(bytes) else { return false };
        self.offset += bytes;
        self.state = match remaining {
            0 => State::EntryDone { padding },
            remaining => State::Data { remaining, padding },
        };
        true
    }

    /// The end of the stream.
    /// # Errors
    /// [`TarError::Truncated`] when it ended inside an entry, naming entry and offset; and what
    /// [`TarParser::feed`] failed with before.
    pub fn finish(self) -> Result<TarEnd, TarError> {
        let missing = match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Zeros => 0,
            State::Header if self.pending.iter().all(|&b| b == 0) => 0,
            State::Header => BLOCK_BYTES as u64 - self.pending.len() as u64,
            State::Extension { size, .. } => size + padding_bytes(*size) - self.pending.len() as u64,
            State::Data { remaining, padding } => remaining + padding,
            State::EntryDone { padding } | State::Padding { remaining: padding } => *padding,
        };
        if missing > 0 {
            return Err(self.truncated(missing));
        }
        // An extension whose entry never came.
        if self.next != Overrides::default() {
            return Err(self.truncated(BLOCK_BYTES as u64));
        }
        let trailing_zero_bytes = self.trailing_zeros + self.pending.len() as u64;
        let marker = match trailing_zero_bytes {
            0 => EndMarker::Missing,
            1..END_BYTES => EndMarker::Short,
            _ => EndMarker::Complete,
        };
        Ok(TarEnd { entries: self.entries, bytes: self.offset, trailing_zero_bytes, marker })
    }

    fn truncated(&self, missing_bytes: u64) -> TarError {
        let entry = match &self.state {
            State::Header => "a header".to_owned(),
            State::Extension { kind, .. } => kind.name().to_owned(),
            _ => self.entry_name(),
        };
        TarError::Truncated { entry, offset: self.offset, missing_bytes }
    }

    fn entry_name(&self) -> String {
        format!("{:?}", String::from_utf8_lossy(&self.path))
    }

    fn step<'a>(&mut self, rest: &mut &'a [u8]) -> Result<TarEvent<'a>, TarError> {
        loop {
            match self.state.clone() {
                State::Failed(error) => return Err(error),
                State::EntryDone { padding } => {
                    self.state = State::Padding { remaining: padding };
                    return Ok(TarEvent::EndEntry);
                }
                State::Padding { remaining: 0 } => {
                    self.state = State::Header;
                    self.header_offset = self.offset;
                }
                _ if rest.is_empty() => return Ok(TarEvent::NeedMore),
                State::Padding { remaining } => {
                    let skipped = self.take(rest, remaining).len() as u64;
                    self.state = State::Padding { remaining: remaining - skipped };
                }
                State::Data { remaining, padding } => {
                    let data = self.take(rest, remaining);
                    self.state = match remaining - data.len() as u64 {
                        0 => State::EntryDone { padding },
                        remaining => State::Data { remaining, padding },
                    };
                    return Ok(TarEvent::Data(data));
                }
                State::Zeros => self.skip_zeros(rest)?,
                State::Header => {
                    if let Some(entry) = self.collect_header(rest)? {
                        return Ok(TarEvent::Entry(entry));
                    }
                }
                State::Extension { kind, size } => self.collect_extension(rest, kind, size)?,
            }
        }
    }

    /// Moves up to `limit` bytes from the front of `rest`.
    fn take<'a>(&mut self, rest: &mut &'a [u8], limit: u64) -> &'a [u8] {
        let len = usize::try_from(limit).unwrap_or(usize::MAX).min(rest.len());
        let (taken, left) = rest.split_at(len);
        *rest = left;
        self.offset += len as u64;
        taken
    }

    /// Adds to `pending` until it holds `wanted` bytes; whether it does.
    fn collect(&mut self, rest: &mut &[u8], wanted: u64) -> bool {
        let missing = wanted - self.pending.len() as u64;
        let piece = self.take(rest, missing);
        self.pending.extend_from_slice(piece);
        self.pending.len() as u64 == wanted
    }

    fn skip_zeros(&mut self, rest: &mut &[u8]) -> Result<(), TarError> {
        let piece = self.take(rest, u64::MAX);
        if let Some(at) = piece.iter().position(|&b| b != 0) {
            return Err(TarError::AfterEnd { offset: self.offset - (piece.len() - at) as u64 });
        }
        self.trailing_zeros += piece.len() as u64;
        if self.trailing_zeros > TRAILING_ZEROS_MAX_BYTES {
            return Err(TarError::TrailingZeros { offset: self.offset, limit: TRAILING_ZEROS_MAX_BYTES });
        }
        Ok(())
    }

    /// Collects a header block; `Some` once an entry begins.
    fn collect_header(&mut self, rest: &mut &[u8]) -> Result<Option<TarEntry>, TarError> {
        if !self.collect(rest, BLOCK_BYTES as u64) {
            return Ok(None);
        }
        let mut block = Block::zeroed();
        block.0.copy_from_slice(&self.pending);
        self.pending.clear();
        if block.is_zero() {
            if self.next != Overrides::default() {
                return Err(self.bad_extension("no entry follows it"));
            }
            self.trailing_zeros = BLOCK_BYTES as u64;
            self.state = State::Zeros;
            return Ok(None);
        }
        if !block.checksum_holds() {
            return Err(self.bad_header("its checksum is wrong"));
        }
        let extension = match block.type_flag() {
            b'x' => Extension::Pax,
            b'g' => Extension::PaxGlobal,
            b'L' => Extension::LongName,
            b'K' => Extension::LongLink,
            _ => return self.begin_entry(&block).map(Some),
        };
        let size = block.number(header::SIZE).ok_or_else(|| self.bad_header("its size is no number"))?;
        if size > EXTENSION_MAX_BYTES {
            return Err(self.bad_extension("it is larger than 64 KiB"));
        }
        self.state = State::Extension { kind: extension, size };
        Ok(None)
    }

    fn collect_extension(&mut self, rest: &mut &[u8], kind: Extension, size: u64) -> Result<(), TarError> {
        if !self.collect(rest, size + padding_bytes(size)) {
            return Ok(());
        }
        let collected = std::mem::take(&mut self.pending);
        // `size` is at most 64 KiB, and `collected` is no shorter.
        let data = collected.get(..usize::try_from(size).unwrap_or_default()).unwrap_or_default();
        match kind {
            Extension::Pax => self.next.apply(data).map_err(|problem| self.bad_extension(problem))?,
            Extension::PaxGlobal => self.global.apply(data).map_err(|problem| self.bad_extension(problem))?,
            Extension::LongName => self.next.path = Some(header::until_nul(data).to_vec()),
            Extension::LongLink => self.next.link_target = Some(header::until_nul(data).to_vec()),
        }
        self.header_offset = self.offset;
        self.state = State::Header;
        Ok(())
    }

    fn begin_entry(&mut self, block: &Block) -> Result<TarEntry, TarError> {
        let extended = std::mem::take(&mut self.next).or(&self.global);
        let (entry, sparse) = self.read_entry(block, extended)?;
        self.path.clone_from(&entry.path);
        let kind = self.entry_kind(block, &entry.path)?;
        if sparse {
            return Err(self.unsupported("sparse file".to_owned()));
        }
        let entry = match kind {
            EntryKind::File => TarEntry { kind, link_target: Vec::new(), ..entry },
            EntryKind::Directory => TarEntry { kind, size: 0, link_target: Vec::new(), ..entry },
            EntryKind::Symlink => TarEntry { kind, size: 0, ..entry },
        };
        self.entries += 1;
        let padding = padding_bytes(entry.size);
        self.state = match entry.size {
            0 => State::EntryDone { padding },
            remaining => State::Data { remaining, padding },
        };
        Ok(entry)
    }

    /// The header's fields with the overrides of extensions; the kind is not yet decided. Also
    /// whether an extension said that the file is sparse.
    fn read_entry(&self, block: &Block, extended: Overrides) -> Result<(TarEntry, bool), TarError> {
        let dialect = block.dialect();
        let number = |field, problem| block.number(field).ok_or_else(|| self.bad_header(problem));
        let name = |field| match dialect {
            Dialect::V7 => String::new(),
            _ => String::from_utf8_lossy(block.text(field)).into_owned(),
        };
        let mode = number(header::MODE, "its mode is no number")?;
        let size = match extended.size {
            Some(size) => size,
            None => number(header::SIZE, "its size is no number")?,
        };
        // Data and its padding end inside the range of a file offset.
        if size > i64::MAX.cast_unsigned() - BLOCK_BYTES as u64 {
            return Err(self.bad_header("its size is impossible"));
        }
        let path = extended.path.unwrap_or_else(|| full_name(block, dialect));
        if path.len() > capy_types::limits::PATH_MAX_BYTES {
            return Err(self.bad_header("its path is longer than 4096 bytes"));
        }
        let entry = TarEntry {
            path,
            kind: EntryKind::File,
            size,
            // Masked to twelve bits, so the cast loses nothing.
            mode: (mode & 0o7777) as u32,
            uid: match extended.uid {
                Some(uid) => uid,
                None => number(header::UID, "its owner is no number")?,
            },
            gid: match extended.gid {
                Some(gid) => gid,
                None => number(header::GID, "its group is no number")?,
            },
            mtime: match extended.mtime {
                Some(mtime) => mtime,
                None => {
                    block.signed(header::MTIME).ok_or_else(|| self.bad_header("its time is no number"))?
                }
            },
            owner: extended.owner.unwrap_or_else(|| name(header::OWNER)),
            group: extended.group.unwrap_or_else(|| name(header::GROUP)),
            link_target: extended.link_target.unwrap_or_else(|| block.text(header::LINK).to_vec()),
        };
        Ok((entry, extended.sparse))
    }

    fn entry_kind(&self, block: &Block, path: &[u8]) -> Result<EntryKind, TarError> {
        match block.type_flag() {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => Ok(EntryKind::Directory),
            0 | b'0' | b'7' => Ok(EntryKind::File),
            b'5' => Ok(EntryKind::Directory),
            b'2' => Ok(EntryKind::Symlink),
            b'1' => Err(TarError::HardLink { entry: self.entry_name(), offset: self.header_offset }),
            other => Err(self.unsupported(type_name(other))),
        }
    }

    fn unsupported(&self, what: String) -> TarError {
        TarError::Unsupported { what, entry: self.entry_name(), offset: self.header_offset }
    }

    const fn bad_header(&self, problem: &'static str) -> TarError {
        TarError::Header { offset: self.header_offset, problem }
    }

    const fn bad_extension(&self, problem: &'static str) -> TarError {
        TarError::Extension { offset: self.header_offset, problem }
    }
}

/// Name, with ustar's prefix before it.
fn full_name(block: &Block, dialect: Dialect) -> Vec<u8> {
    let name = block.text(header::NAME);
    match block.text(header::PREFIX) {
        prefix if dialect == Dialect::Ustar && !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

fn type_name(flag: u8) -> String {
    let known = match flag {
        b'3' => "character device",
        b'4' => "block device",
        b'6' => "fifo",
        b'S' => "sparse file",
        b'M' => "multi-volume continuation",
        b'V' => "volume label",
        b'D' => "dump directory",
        _ => return format!("{:?}", char::from(flag)),
    };
    format!("{:?} ({known})", char::from(flag))
}
