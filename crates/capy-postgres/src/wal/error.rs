//! What is wrong with a WAL file as a whole, and why its valid part ends where it ends.

use capy_types::{ErrorKind, Lsn, SystemId, TimelineId, WalNameError};

use super::header::{LONG_HEADER_BYTES, WAL_PAGE_BYTES};
use super::scanner::RECORD_MAX_BYTES;
use super::values::PgMajor;

/// A file that is no segment of the cluster, version or name it should be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Too short for the header of a segment.
    #[error("not a WAL segment: {found_bytes} bytes, its header has {LONG_HEADER_BYTES}")]
    Short {
        /// How many bytes there are.
        found_bytes: usize,
    },
    /// It begins with zeros: made in advance and never written.
    #[error("an unused WAL segment: it begins with zeros")]
    Unused,
    /// Not WAL, or of a version that is not read.
    #[error("unsupported WAL: page magic {found:04X}, PostgreSQL 13 to 18 have D106 to D118")]
    Magic {
        /// As stored.
        found: u16,
    },
    /// The first page does not have the flags that the first page of a segment has.
    #[error("bad WAL segment: flags of the first page are {found:04x}, expected the long header's 0002")]
    Flags {
        /// As stored.
        found: u16,
    },
    /// The server was built with another size of WAL pages.
    #[error("unsupported WAL: pages of {found_bytes} bytes, expected {WAL_PAGE_BYTES}")]
    PageSize {
        /// As stored.
        found_bytes: u32,
    },
    /// No cluster has segments of this size.
    #[error("bad WAL segment: segment size {found_bytes} is not a power of two from 1 MiB to 1 GiB")]
    SegmentSize {
        /// As stored.
        found_bytes: u32,
    },
    /// No segment of its size begins there.
    #[error("bad WAL segment: address {found} of the first page is no multiple of {segment_bytes} bytes")]
    Unaligned {
        /// As stored.
        found: Lsn,
        /// The segment size in the same header.
        segment_bytes: u64,
    },
    /// Timelines count from 1.
    #[error("bad WAL segment: timeline 0")]
    NoTimeline,
    /// The name is not one that a segment of this size has.
    #[error(transparent)]
    Name(#[from] WalNameError),
    /// The name says that it begins elsewhere.
    #[error("WAL segment begins at {found}, its name says {expected}")]
    Address {
        /// By its name.
        expected: Lsn,
        /// By its first page.
        found: Lsn,
    },
    /// The name says an older timeline.
    #[error("WAL segment is of timeline {found}, its name says {expected}")]
    Timeline {
        /// By its name.
        expected: TimelineId,
        /// By its first page.
        found: TimelineId,
    },
    /// Of another cluster.
    #[error("WAL segment is of system {found}, expected {expected}")]
    System {
        /// The cluster's.
        expected: SystemId,
        /// The segment's.
        found: SystemId,
    },
    /// Of another version.
    #[error("WAL segment is of PostgreSQL {found}, expected {expected}")]
    Version {
        /// The cluster's.
        expected: PgMajor,
        /// The segment's.
        found: PgMajor,
    },
}

impl WalError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Flags { .. } | Self::SegmentSize { .. } | Self::Unaligned { .. } | Self::NoTimeline => {
                ErrorKind::Corrupt
            }
            _ => ErrorKind::Invalid,
        }
    }
}

/// Why bytes are no valid WAL. In a segment that is still written or was recycled that is its
/// regular end; in one that the server calls complete it is damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The page begins with another magic.
    #[error("page magic is {found:04X}, expected {expected:04X}")]
    PageMagic {
        /// Of the segment's version.
        expected: u16,
        /// As stored.
        found: u16,
    },
    /// The page has flags that it cannot have.
    #[error("page flags are {found:04x}")]
    PageFlags {
        /// As stored.
        found: u16,
    },
    /// The page is from elsewhere: mostly a leftover in a recycled file.
    #[error("page address is {found}, expected {expected}")]
    PageAddress {
        /// By its place in the segment.
        expected: Lsn,
        /// As stored.
        found: Lsn,
    },
    /// The page is of a timeline older than that of a page before.
    #[error("page is of timeline {found}, one before is of {newest}")]
    PageTimeline {
        /// Newest before.
        newest: TimelineId,
        /// As stored.
        found: TimelineId,
    },
    /// The long header does not repeat what the segment's first bytes said.
    #[error("the long header differs from the segment's")]
    LongHeader,
    /// The page goes on with a record though none is open.
    #[error("the page goes on with a record, but none is open")]
    UnexpectedContinuation,
    /// A record is open, but the page does not go on with it.
    #[error("the page does not go on with the record that began before")]
    MissingContinuation,
    /// The page goes on with a record of another length.
    #[error("the page goes on with {found_bytes} bytes of a record, expected {expected_bytes}")]
    ContinuationLength {
        /// What the open record misses.
        expected_bytes: u32,
        /// As stored in the page's header.
        found_bytes: u32,
    },
    /// A record's length that none has.
    #[error("record length is {found_bytes}, expected 24 to {RECORD_MAX_BYTES}")]
    RecordLength {
        /// As stored.
        found_bytes: u32,
    },
    /// A resource manager that the version does not have.
    #[error("record is of resource manager {found}")]
    ResourceManager {
        /// As stored.
        found: u8,
    },
    /// The record does not link to the one before it.
    #[error("record links back to {found}, the one before it is at {expected}")]
    Link {
        /// Where the record before begins.
        expected: Lsn,
        /// As stored.
        found: Lsn,
    },
    /// The segment's first record links to itself or a later one.
    #[error("the segment's first record links to {found}, expected a position before {segment}")]
    ForwardLink {
        /// Where the segment begins.
        segment: Lsn,
        /// As stored.
        found: Lsn,
    },
    /// The record's bytes are not those that were written.
    #[error("record crc is {found:08x}, the content's is {expected:08x}")]
    Crc {
        /// As stored.
        found: u32,
        /// As computed.
        expected: u32,
    },
    /// The record is open when zeros come: the server had not written more.
    #[error("the record's rest was not written: the page at {page} is zero")]
    Unwritten {
        /// The page that begins with zeros.
        page: Lsn,
    },
}
