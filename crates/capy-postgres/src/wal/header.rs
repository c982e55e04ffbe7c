//! Page headers of WAL: whose segment a file is, and how a page goes on from the one before.
//!
//! Layouts: `XLogPageHeaderData` (24 bytes with its padding) and `XLogLongPageHeaderData` (40
//! bytes) of `xlog_internal.h`. The long one opens every segment; only it names the cluster.

use capy_types::{Lsn, SegmentName, SegmentSize, SystemId, TimelineId};

use super::error::{Fault, WalError};
use super::fields::Fields;
use super::values::PgMajor;

/// Size of a WAL page in bytes: `XLOG_BLCKSZ`. Servers built with another one are refused.
pub const WAL_PAGE_BYTES: usize = 8192;

/// Header of a segment's first page.
pub(super) const LONG_HEADER_BYTES: usize = 40;

/// Header of every other page.
pub(super) const SHORT_HEADER_BYTES: usize = 24;

const CONTINUES_RECORD: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;
const OVERWRITES_RECORD: u16 = 0x0008;
/// The flags above and one that says nothing about the page's form.
const ALL_FLAGS: u16 = 0x000F;

/// Whose segment it is, by its first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The server's version.
    pub major: PgMajor,
    /// The cluster.
    pub system_id: SystemId,
    /// The timeline of the first page. See [`NameFit::OlderTimeline`] for when the name says a
    /// later one.
    pub timeline: TimelineId,
    /// The position of its first byte.
    pub start: Lsn,
    /// The size of all the cluster's segments.
    pub segment_size: SegmentSize,
}

/// How a segment fits its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFit {
    /// Timeline and address are the name's.
    Exact,
    /// The first page is of an older timeline. That is right for one segment of each timeline, the
    /// one in which it forked off: the server copies the part before the fork from the parent. The
    /// caller checks it against the history file; [`super::SegmentFacts::newest_timeline`] then is the
    /// name's.
    OlderTimeline {
        /// The first page's.
        found: TimelineId,
    },
}

/// Reads the header at the front of a segment; 40 bytes are enough.
///
/// # Errors
/// [`WalError`]: the bytes are no segment's, or of a server that is not supported.
pub fn read_header(head: &[u8]) -> Result<SegmentHeader, WalError> {
    let short = WalError::Short { found_bytes: head.len() };
    let Some(first) = head.get(..LONG_HEADER_BYTES) else { return Err(short) };
    if first.iter().all(|byte| *byte == 0) {
        return Err(WalError::Unused);
    }
    let raw = RawHeader::read(first).ok_or(short.clone())?;
    let major = PgMajor::from_page_magic(raw.magic).ok_or(WalError::Magic { found: raw.magic })?;
    if raw.flags & LONG_HEADER == 0 || raw.flags & !ALL_FLAGS != 0 {
        return Err(WalError::Flags { found: raw.flags });
    }
    let (system_id, segment_bytes, page_bytes) = long_part(first).ok_or(short)?;
    if page_bytes as usize != WAL_PAGE_BYTES {
        return Err(WalError::PageSize { found_bytes: page_bytes });
    }
    let segment_size = SegmentSize::try_from(u64::from(segment_bytes))
        .map_err(|_| WalError::SegmentSize { found_bytes: segment_bytes })?;
    if !raw.address.as_u64().is_multiple_of(segment_size.bytes())
        || end_of(raw.address, segment_size).is_none()
    {
        return Err(WalError::Unaligned { found: raw.address, segment_bytes: segment_size.bytes() });
    }
    if raw.timeline.as_u32() == 0 {
        return Err(WalError::NoTimeline);
    }
    Ok(SegmentHeader { major, system_id, timeline: raw.timeline, start: raw.address, segment_size })
}

/// `None` for the last segment of the 64-bit log, which no server reaches.
fn end_of(start: Lsn, size: SegmentSize) -> Option<Lsn> {
    start.as_u64().checked_add(size.bytes()).map(Lsn::from_u64)
}

impl SegmentHeader {
    /// The position after its last byte.
    #[must_use]
    pub fn end(&self) -> Lsn {
        end_of(self.start, self.segment_size).unwrap_or(Lsn::from_u64(u64::MAX))
    }

    /// Checks it against the 24-digit name of its file, without a suffix.
    ///
    /// # Errors
    /// [`WalError::Name`], [`WalError::Address`] or [`WalError::Timeline`].
    pub fn check_name(&self, name: &str) -> Result<NameFit, WalError> {
        let name = SegmentName::parse(name, self.segment_size)?;
        if name.start() != self.start {
            return Err(WalError::Address { expected: name.start(), found: self.start });
        }
        match self.timeline {
            found if found == name.timeline() => Ok(NameFit::Exact),
            found if found < name.timeline() => Ok(NameFit::OlderTimeline { found }),
            found => Err(WalError::Timeline { expected: name.timeline(), found }),
        }
    }

    /// Checks that it is the cluster's.
    ///
    /// # Errors
    /// [`WalError::System`] or [`WalError::Version`].
    pub fn check_cluster(&self, system_id: SystemId, major: PgMajor) -> Result<(), WalError> {
        if self.system_id != system_id {
            return Err(WalError::System { expected: system_id, found: self.system_id });
        }
        if self.major != major {
            return Err(WalError::Version { expected: major, found: self.major });
        }
        Ok(())
    }
}

/// How a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageStart {
    /// With a record of its own.
    Fresh,
    /// With the rest of a record that began before: so many bytes are still to come.
    Continues { remaining_bytes: u32 },
    /// With a record of its own, in place of the rest of one that a crash cut off.
    Overwrites,
}

/// The checked header of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageHeader {
    pub(super) timeline: TimelineId,
    pub(super) start: PageStart,
    pub(super) size_bytes: usize,
}

impl PageHeader {
    /// Reads the header of the page that belongs at `address`; `None` for a page that begins with
    /// zeros, which was never written.
    pub(super) fn read(page: &[u8], address: Lsn, segment: &SegmentHeader) -> Result<Option<Self>, Fault> {
        let expected = segment.major.page_magic();
        let Some(raw) = RawHeader::read(page) else {
            return Err(Fault::PageMagic { expected, found: 0 });
        };
        if page.iter().take(SHORT_HEADER_BYTES).all(|byte| *byte == 0) {
            return Ok(None);
        }
        if raw.magic != expected {
            return Err(Fault::PageMagic { expected, found: raw.magic });
        }
        let is_long = raw.flags & LONG_HEADER != 0;
        if raw.flags & !ALL_FLAGS != 0 || is_long != (address == segment.start) {
            return Err(Fault::PageFlags { found: raw.flags });
        }
        if raw.address != address {
            return Err(Fault::PageAddress { expected: address, found: raw.address });
        }
        if is_long && long_part(page) != Some(segment.long_part()) {
            return Err(Fault::LongHeader);
        }
        let start = raw.start()?;
        let size_bytes = if is_long { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        Ok(Some(Self { timeline: raw.timeline, start, size_bytes }))
    }
}

impl SegmentHeader {
    fn long_part(&self) -> (SystemId, u32, u32) {
        // At most 1 GiB and 8 KiB, so the casts lose nothing.
        (self.system_id, self.segment_size.bytes() as u32, WAL_PAGE_BYTES as u32)
    }
}

/// The fields that both headers have, as stored.
struct RawHeader {
    magic: u16,
    flags: u16,
    timeline: TimelineId,
    address: Lsn,
    remaining_bytes: u32,
}

impl RawHeader {
    fn read(page: &[u8]) -> Option<Self> {
        let mut fields = Fields(page);
        Some(Self {
            magic: fields.u16()?,
            flags: fields.u16()?,
            timeline: TimelineId::from_u32(fields.u32()?),
            address: fields.lsn()?,
            remaining_bytes: fields.u32()?,
        })
    }

    fn start(&self) -> Result<PageStart, Fault> {
        match (self.flags & CONTINUES_RECORD != 0, self.flags & OVERWRITES_RECORD != 0) {
            (true, true) => Err(Fault::PageFlags { found: self.flags }),
            (true, false) => Ok(PageStart::Continues { remaining_bytes: self.remaining_bytes }),
            (false, true) => Ok(PageStart::Overwrites),
            (false, false) => Ok(PageStart::Fresh),
        }
    }
}

fn long_part(page: &[u8]) -> Option<(SystemId, u32, u32)> {
    let mut fields = Fields(page);
    fields.skip(SHORT_HEADER_BYTES)?;
    Some((SystemId::from_u64(fields.u64()?), fields.u32()?, fields.u32()?))
}
