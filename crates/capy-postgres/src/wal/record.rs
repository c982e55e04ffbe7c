//! Record headers and block references: what a record changes, without its content.
//!
//! Layouts: `XLogRecord` (24 bytes), `XLogRecordBlockHeader` and what follows it, of
//! `xlogrecord.h`. The rules that a record must keep are those of `DecodeXLogRecord`.

use capy_types::Lsn;
use capy_types::limits::PAGE_SIZE_BYTES;

use super::fields::Fields;
use super::values::{PgMajor, RelFileLocator, TransactionId};

/// Size of the header of a record in bytes.
pub(super) const RECORD_HEADER_BYTES: usize = 24;

/// The part of the header that the CRC covers: all but itself.
pub(super) const CRC_OFFSET: usize = 20;

/// `XLR_MAX_BLOCK_ID`.
const BLOCK_ID_MAX: u8 = 32;
const ID_MAIN_DATA_SHORT: u8 = 255;
const ID_MAIN_DATA_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_XID: u8 = 252;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_RELATION: u8 = 0x80;

const IMAGE_HAS_HOLE: u8 = 0x01;

/// The resource manager a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rmgr(u8);

impl Rmgr {
    /// Checkpoints, parameters, full page images, restore points.
    pub const XLOG: Self = Self(0);
    /// Ends of transactions.
    pub const TRANSACTION: Self = Self(1);
    /// Files of relations.
    pub const STORAGE: Self = Self(2);
    /// Databases.
    pub const DATABASE: Self = Self(4);
    /// Tablespaces.
    pub const TABLESPACE: Self = Self(5);
    /// Tables.
    pub const HEAP: Self = Self(10);

    /// The last that is built in, in all versions from 13 to 18.
    const LAST_BUILT_IN: u8 = 21;
    /// Extensions have those from here on, since PostgreSQL 15.
    const FIRST_CUSTOM: u8 = 128;

    /// From the number in a record.
    #[must_use]
    pub const fn from_u8(id: u8) -> Self {
        Self(id)
    }

    /// The number in a record.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self.0
    }

    pub(super) fn exists_in(self, major: PgMajor) -> bool {
        self.0 <= Self::LAST_BUILT_IN || (major >= PgMajor::V15 && self.0 >= Self::FIRST_CUSTOM)
    }

    /// Whether its records can say what [`super::decode_event`] tells.
    #[must_use]
    pub const fn has_events(self) -> bool {
        matches!(
            self,
            Self::XLOG | Self::TRANSACTION | Self::STORAGE | Self::DATABASE | Self::TABLESPACE | Self::HEAP
        )
    }
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the whole record in bytes, this header included.
    pub total_bytes: u32,
    /// The transaction that wrote it, if any.
    pub xid: TransactionId,
    /// Where the record before it begins.
    pub previous: Lsn,
    /// What it is, in the terms of its resource manager.
    pub info: u8,
    /// Its resource manager.
    pub rmgr: Rmgr,
    /// CRC-32C of all the rest.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads the first 24 bytes of a record; `None` when there are fewer.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        let mut fields = Fields(record);
        let (total_bytes, xid) = (fields.u32()?, TransactionId::from_u32(fields.u32()?));
        let (previous, info) = (fields.lsn()?, fields.u8()?);
        let rmgr = Rmgr(fields.u8()?);
        fields.skip(2)?;
        Some(Self { total_bytes, xid, previous, info, rmgr, crc: fields.u32()? })
    }

    /// Whether it closes its segment before it is full.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.rmgr == Rmgr::XLOG && self.info & 0xF0 == 0x40
    }
}

/// A record whose CRC holds but whose content makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad WAL record: {problem}, at byte {offset}")]
pub struct DecodeError {
    /// What is wrong.
    pub problem: &'static str,
    /// Where in the record.
    pub offset: usize,
}

/// What a record is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedRecord {
    /// The blocks it changes, at most 33.
    pub blocks: Vec<BlockReference>,
    /// Where the change came from, when it was replicated.
    pub origin: Option<u16>,
    /// The transaction above the record's own (PostgreSQL 14 and later, `wal_level = logical`).
    pub toplevel_xid: Option<TransactionId>,
    /// Where the main data begin, in bytes from the record's first. They are its last part.
    pub main_data_offset: u32,
    /// Length of the main data in bytes.
    pub main_data_bytes: u32,
}

/// A block that a record changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockReference {
    /// Its number in the record.
    pub id: u8,
    /// The relation.
    pub relation: RelFileLocator,
    /// The fork: 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
    /// The block in the fork.
    pub block: u32,
    /// Whether replay makes the page new.
    pub will_init: bool,
    /// Bytes of data that belong to the block.
    pub data_bytes: u16,
    /// The full page image, if there is one.
    pub image: Option<BlockImage>,
}

/// A full page image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockImage {
    /// Bytes of the image in the record.
    pub stored_bytes: u16,
    /// Where the zeros begin that were left out.
    pub hole_offset: u16,
    /// How many zeros were left out.
    pub hole_bytes: u16,
    /// How it is compressed.
    pub compression: Option<ImageCompression>,
    /// Whether replay puts it in place, rather than only checks against it.
    pub apply: bool,
}

/// How a full page image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageCompression {
    /// PostgreSQL's own.
    Pglz,
    /// LZ4, PostgreSQL 15 and later.
    Lz4,
    /// Zstandard, PostgreSQL 15 and later.
    Zstd,
}

/// Decodes a record from its first bytes, which must hold all its headers: at most 24 + 33 × 27 +
/// 13 bytes.
///
/// # Errors
/// [`DecodeError`]: the headers contradict each other, or the bytes end before them.
pub fn decode_record(head: &[u8], major: PgMajor) -> Result<DecodedRecord, DecodeError> {
    let mut decoder =
        Decoder { fields: Fields(head), size: head.len(), major, payload_bytes: 0, relation: None };
    let header = RecordHeader::read(head).ok_or_else(|| decoder.error("it ends inside its header"))?;
    decoder.take_headers(u64::from(header.total_bytes))
}

struct Decoder<'a> {
    fields: Fields<'a>,
    size: usize,
    major: PgMajor,
    /// Bytes of images, block data and main data announced so far.
    payload_bytes: u64,
    /// The relation of the block before.
    relation: Option<RelFileLocator>,
}

impl Decoder<'_> {
    fn error(&self, problem: &'static str) -> DecodeError {
        DecodeError { problem, offset: self.offset() }
    }

    fn offset(&self) -> usize {
        self.size - self.fields.0.len()
    }

    fn need<T>(&self, value: Option<T>) -> Result<T, DecodeError> {
        value.ok_or_else(|| self.error("it ends inside its headers"))
    }

    fn take_headers(&mut self, total_bytes: u64) -> Result<DecodedRecord, DecodeError> {
        let mut decoded = DecodedRecord {
            blocks: Vec::new(),
            origin: None,
            toplevel_xid: None,
            main_data_offset: 0,
            main_data_bytes: 0,
        };
        let skipped = self.fields.skip(RECORD_HEADER_BYTES);
        self.need(skipped)?;
        // Each turn takes at least one byte, so the loop ends.
        while total_bytes > self.offset() as u64 + self.payload_bytes {
            if self.take_part(&mut decoded)? {
                break;
            }
        }
        if total_bytes != self.offset() as u64 + self.payload_bytes {
            return Err(self.error("its parts do not add up to its length"));
        }
        // Below the record's length, so the cast loses nothing.
        decoded.main_data_offset = (total_bytes - u64::from(decoded.main_data_bytes)) as u32;
        Ok(decoded)
    }

    /// Takes one header; true after the last.
    fn take_part(&mut self, decoded: &mut DecodedRecord) -> Result<bool, DecodeError> {
        let id = self.fields.u8();
        match self.need(id)? {
            id @ (ID_MAIN_DATA_SHORT | ID_MAIN_DATA_LONG) => {
                let short = id == ID_MAIN_DATA_SHORT;
                let length = if short { self.fields.u8().map(u32::from) } else { self.fields.u32() };
                decoded.main_data_bytes = self.need(length)?;
                self.payload_bytes += u64::from(decoded.main_data_bytes);
                return Ok(true);
            }
            ID_ORIGIN => {
                let origin = self.fields.u16();
                decoded.origin = Some(self.need(origin)?);
            }
            ID_TOPLEVEL_XID if self.major >= PgMajor::V14 => {
                let xid = self.fields.u32();
                decoded.toplevel_xid = Some(TransactionId::from_u32(self.need(xid)?));
            }
            id if id <= BLOCK_ID_MAX => {
                if decoded.blocks.last().is_some_and(|block| block.id >= id) {
                    return Err(self.error("its block numbers do not rise"));
                }
                decoded.blocks.push(self.take_block(id)?);
            }
            _ => return Err(self.error("a part of no known kind")),
        }
        Ok(false)
    }

    fn take_block(&mut self, id: u8) -> Result<BlockReference, DecodeError> {
        let flags = self.fields.u8();
        let flags = self.need(flags)?;
        let data_bytes = self.fields.u16();
        let data_bytes = self.need(data_bytes)?;
        if (flags & HAS_DATA != 0) != (data_bytes != 0) {
            return Err(self.error("a block's data flag contradicts the data's length"));
        }
        self.payload_bytes += u64::from(data_bytes);
        let image = if flags & HAS_IMAGE != 0 { Some(self.take_image()?) } else { None };
        if flags & SAME_RELATION == 0 {
            let relation = relation(&mut self.fields);
            self.relation = Some(self.need(relation)?);
        }
        let Some(relation) = self.relation else {
            return Err(self.error("the first block has the relation of one before"));
        };
        let block = self.fields.u32();
        let block = self.need(block)?;
        let (fork, will_init) = (flags & FORK_MASK, flags & WILL_INIT != 0);
        Ok(BlockReference { id, relation, fork, block, will_init, data_bytes, image })
    }

    fn take_image(&mut self) -> Result<BlockImage, DecodeError> {
        let (stored, hole, info) = (self.fields.u16(), self.fields.u16(), self.fields.u8());
        let (stored_bytes, hole_offset, info) = (self.need(stored)?, self.need(hole)?, self.need(info)?);
        let (compression, apply) = image_flags(info, self.major);
        let has_hole = info & IMAGE_HAS_HOLE != 0;
        let hole_bytes = match (compression, has_hole) {
            (Some(_), true) => {
                let hole = self.fields.u16();
                self.need(hole)?
            }
            (Some(_), false) => 0,
            // Both below 64 KiB; an image longer than the page fails below.
            (None, _) => (PAGE_SIZE_BYTES as u16).saturating_sub(stored_bytes),
        };
        self.payload_bytes += u64::from(stored_bytes);
        let image = BlockImage { stored_bytes, hole_offset, hole_bytes, compression, apply };
        if image.is_sound(has_hole) { Ok(image) } else { Err(self.error("a page image that cannot be")) }
    }
}

impl BlockImage {
    /// The checks of `DecodeXLogRecord`.
    fn is_sound(&self, has_hole: bool) -> bool {
        let whole = usize::from(self.stored_bytes) == PAGE_SIZE_BYTES;
        let hole_fits = usize::from(self.hole_offset) + usize::from(self.hole_bytes) <= PAGE_SIZE_BYTES;
        match (has_hole, self.compression) {
            (true, _) => self.hole_offset != 0 && self.hole_bytes != 0 && !whole && hole_fits,
            (false, None) => self.hole_offset == 0 && whole,
            (false, Some(_)) => self.hole_offset == 0 && !whole,
        }
    }
}

/// The bits of `bimg_info`, which moved with PostgreSQL 15.
fn image_flags(info: u8, major: PgMajor) -> (Option<ImageCompression>, bool) {
    if major < PgMajor::V15 {
        return ((info & 0x02 != 0).then_some(ImageCompression::Pglz), info & 0x04 != 0);
    }
    let compression = match info {
        _ if info & 0x04 != 0 => Some(ImageCompression::Pglz),
        _ if info & 0x08 != 0 => Some(ImageCompression::Lz4),
        _ if info & 0x10 != 0 => Some(ImageCompression::Zstd),
        _ => None,
    };
    (compression, info & 0x02 != 0)
}

pub(super) fn relation(fields: &mut Fields<'_>) -> Option<RelFileLocator> {
    Some(RelFileLocator { tablespace: fields.u32()?, database: fields.u32()?, filenode: fields.u32()? })
}
