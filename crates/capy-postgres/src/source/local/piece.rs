//! A piece of a file as one thread reads it: its bytes, checked, summed, and cell by cell named.
//!
//! Of a relation's file each cell is done with while it lies in the processor's cache: read, its pages
//! checked, its checksum, its name. One that is known need not be handed on, and the next takes its
//! place in the buffer: of a file that has not changed nothing leaves the cache.
//!
//! Invariants: a file gives exactly the bytes its entry says: what it grew by is left out, what it
//! shrank by is zeros, as the server does it, and recovery mends both; a cell with a page that is not
//! sound is handed on though its name is known, to whoever looks at pages and tells of them.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use capy_types::limits::PAGE_SIZE_BYTES;
use capy_types::{ChunkId, Lsn};

use crate::page::{PageVerdict, check_page};
use crate::source::buffer::{BUFFER_BYTES, Buffer, BufferPool};
use crate::source::{Cells, Recognizer, SourceEvent};

/// How often a page is read again whose checksum does not hold: the server is in the middle of
/// writing it for microseconds, and itself reads it again once.
const READ_AGAIN_MAX: u32 = 5;

/// Between two of these readings.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(1);

/// How files are read.
#[derive(Debug, Clone)]
pub(super) struct ReadRules {
    /// Threads.
    pub(super) threads: usize,
    /// Where the backup began, when pages that are older must have their checksum.
    pub(super) check_pages_from: Option<Lsn>,
    /// Nobody looks at pages, here or later.
    pub(super) pages_unchecked: bool,
    /// Who knows cells.
    pub(super) recognizer: Option<Arc<dyn Recognizer>>,
}

impl ReadRules {
    /// Who knows the cells of relations' files, if cells fill pieces and pages fill cells.
    fn cells(&self) -> Option<(&dyn Recognizer, usize)> {
        let recognizer = self.recognizer.as_deref()?;
        let bytes = recognizer.cell_bytes();
        let fits = bytes > 0 && BUFFER_BYTES.is_multiple_of(bytes) && bytes.is_multiple_of(PAGE_SIZE_BYTES);
        fits.then_some((recognizer, bytes))
    }
}

/// Bytes that follow each other in a piece, of one kind.
#[derive(Debug)]
pub(super) struct Part {
    /// What is handed on.
    pub(super) event: SourceEvent,
    /// How many bytes of the file it is.
    pub(super) length: u64,
    /// Their CRC-32C.
    pub(super) crc32c: u32,
}

/// Where in which file a piece lies.
pub(super) struct Stretch<'a> {
    pub(super) file: &'a File,
    pub(super) offset: u64,
    /// At most the size of a buffer.
    pub(super) length: usize,
    /// Of a relation's segment: the number of the file's first block.
    pub(super) first_block: Option<u32>,
}

impl Stretch<'_> {
    /// Reads it; of nothing there are no parts.
    pub(super) fn read(&self, rules: &ReadRules, pool: &BufferPool) -> io::Result<Vec<Part>> {
        if self.length == 0 {
            return Ok(Vec::new());
        }
        let buffer = pool.take();
        match (rules.cells(), self.first_block) {
            (Some((recognizer, bytes)), Some(_)) => self.read_cells(rules, recognizer, bytes, buffer),
            _ => self.read_plain(rules, buffer),
        }
    }

    fn read_plain(&self, rules: &ReadRules, mut buffer: Buffer) -> io::Result<Vec<Part>> {
        let room = buffer.room().get_mut(..self.length).unwrap_or_default();
        let sound = self.read_checked(rules, room, self.offset)?;
        let (filled, crc32c) = (room.len(), crc32c::crc32c(room));
        buffer.filled(filled);
        let bytes = buffer.into_bytes();
        let event = if sound { SourceEvent::SoundPages(bytes) } else { SourceEvent::Data(bytes) };
        Ok(vec![Part { event, length: filled as u64, crc32c }])
    }

    fn read_cells(
        &self,
        rules: &ReadRules,
        recognizer: &dyn Recognizer,
        cell_bytes: usize,
        mut buffer: Buffer,
    ) -> io::Result<Vec<Part>> {
        let mut runs: Vec<Run> = Vec::new();
        let mut at = 0;
        while at < self.length {
            let room = buffer.room().get_mut(..cell_bytes.min(self.length - at)).unwrap_or_default();
            let sound = self.read_checked(rules, room, self.offset + at as u64)?;
            let name = recognizer.name(room);
            let kind = match (rules.pages_unchecked || sound) && recognizer.is_known(&name) {
                true => RunKind::Known,
                false if sound => RunKind::Sound,
                false => RunKind::Plain,
            };
            if runs.last().is_none_or(|run| run.kind != kind) {
                runs.push(Run { kind, cells: Vec::new(), length: 0, crc32c: 0 });
            }
            let length = room.len();
            if let Some(run) = runs.last_mut() {
                run.cells.push((name, length));
                run.crc32c = crc32c::crc32c_append(run.crc32c, room);
                run.length += length;
            }
            at += length;
            if kind != RunKind::Known {
                buffer.filled(length);
            }
        }
        let mut bytes = buffer.into_bytes();
        Ok(runs.into_iter().map(|run| run.into_part(&mut bytes)).collect())
    }

    /// Fills `room` from `offset` on; answers whether it is whole pages, each found sound.
    fn read_checked(&self, rules: &ReadRules, room: &mut [u8], offset: u64) -> io::Result<bool> {
        read_or_zero(self.file, room, offset)?;
        let (Some(start), Some(first_block)) = (rules.check_pages_from, self.first_block) else {
            return Ok(false);
        };
        let page = (offset / PAGE_SIZE_BYTES as u64) as u32;
        let pages = Pages { file: self.file, start, first_block: first_block.wrapping_add(page) };
        pages.settle(room, offset)
    }
}

/// Cells that follow each other and are treated alike.
struct Run {
    kind: RunKind,
    cells: Vec<(ChunkId, usize)>,
    length: usize,
    crc32c: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunKind {
    /// Not handed on.
    Known,
    /// Of sound pages.
    Sound,
    /// Of others, or of pages nobody looked at.
    Plain,
}

impl Run {
    /// `bytes`: those handed on, from this run on.
    fn into_part(self, bytes: &mut bytes::Bytes) -> Part {
        let Self { kind, cells, length, crc32c } = self;
        let event = match kind {
            RunKind::Known => SourceEvent::KnownCells(Cells { cells, crc32c }),
            _ => {
                let sound = kind == RunKind::Sound;
                SourceEvent::Cells { cells: Cells { cells, crc32c }, bytes: bytes.split_to(length), sound }
            }
        };
        Part { event, length: length as u64, crc32c }
    }
}

/// Fills `room` from `offset` on, with zeros beyond the end of the file.
fn read_or_zero(file: &File, mut room: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    while !room.is_empty() {
        match file.read_at(room, offset) {
            Ok(0) => {
                room.fill(0);
                return Ok(());
            }
            Ok(length) => {
                room = room.get_mut(length..).unwrap_or_default();
                offset += length as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The pages of one piece of a relation's segment.
struct Pages<'a> {
    file: &'a File,
    /// Pages changed from here on are mended by recovery.
    start: Lsn,
    first_block: u32,
}

impl Pages<'_> {
    /// Reads pages again that the server was in the middle of writing: their halves are of different
    /// age, and the header may be the older one, so that recovery would not excuse them. One that
    /// stays wrong is damaged; whoever stores it says so. Answers whether all are whole and sound:
    /// those that recovery mends are not.
    fn settle(&self, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
        let (pages, rest) = bytes.as_chunks_mut::<PAGE_SIZE_BYTES>();
        let mut sound = rest.is_empty() && !pages.is_empty();
        for (number, page) in pages.iter_mut().enumerate() {
            // A piece has 128 pages.
            let block = self.first_block.wrapping_add(number as u32);
            let mut verdict = check_page(page, block);
            let mut again = 0;
            while again < READ_AGAIN_MAX && self.is_suspect(&verdict) {
                if again > 0 {
                    std::thread::sleep(READ_AGAIN_AFTER);
                }
                read_or_zero(self.file, page, offset + (number * PAGE_SIZE_BYTES) as u64)?;
                verdict = check_page(page, block);
                again += 1;
            }
            sound &= !matches!(verdict, PageVerdict::Suspect(_));
        }
        Ok(sound)
    }

    fn is_suspect(&self, verdict: &PageVerdict) -> bool {
        match verdict {
            PageVerdict::Sound | PageVerdict::New => false,
            PageVerdict::Suspect(problem) => !problem.is_replayed_from(self.start),
        }
    }
}

#[cfg(test)]
mod tests;
