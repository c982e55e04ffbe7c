//! Timelines and WAL segment names.

use std::fmt;
use std::str::FromStr;

use crate::Lsn;

/// A branch of the cluster's history. Eight hex digits in file names, decimal elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TimelineId(u32);

impl TimelineId {
    /// From the number PostgreSQL reports.
    #[must_use]
    pub const fn from_u32(id: u32) -> Self {
        Self(id)
    }

    /// The number PostgreSQL reports.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A WAL file name or size that PostgreSQL does not use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalNameError {
    /// Not 24 upper-case hex digits.
    #[error("not a WAL segment name: {text:?}")]
    Name {
        /// What was given.
        text: String,
    },
    /// Not a name of a segment, partial segment, backup label or timeline history.
    #[error("not the name of a WAL file: {text:?}")]
    File {
        /// What was given.
        text: String,
    },
    /// Not a power of two between 1 MiB and 1 GiB.
    #[error("not a WAL segment size: {bytes} bytes is not a power of two between 1 MiB and 1 GiB")]
    Size {
        /// What was given.
        bytes: u64,
    },
}

/// The size of a cluster's WAL segments in bytes: a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Segments per 4 GiB of log: the base of the last eight digits of a segment's name.
    const fn per_xlog_id(self) -> u64 {
        (1 << 32) / self.0 as u64
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = WalNameError;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        match u32::try_from(bytes) {
            Ok(size) if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) => Ok(Self(size)),
            _ => Err(WalNameError::Size { bytes }),
        }
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.bytes()
    }
}

/// The name of a WAL segment: timeline and segment number, for a given segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    number: u64,
    size: SegmentSize,
}

impl SegmentName {
    /// The segment that holds the byte at `lsn`.
    #[must_use]
    pub const fn containing(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self { timeline, number: lsn.as_u64() / size.bytes(), size }
    }

    /// Reads a 24-digit file name of a cluster whose segments have `size`.
    ///
    /// # Errors
    /// [`WalNameError::Name`] when it is not such a name, or its number cannot exist at this size.
    pub fn parse(text: &str, size: SegmentSize) -> Result<Self, WalNameError> {
        let fail = || WalNameError::Name { text: text.to_owned() };
        let digits = |b: &u8| b.is_ascii_digit() || (b'A'..=b'F').contains(b);
        if text.len() != 24 || !text.as_bytes().iter().all(digits) {
            return Err(fail());
        }
        let part = |range| u32::from_str_radix(&text[range], 16).map_err(|_| fail());
        let (timeline, high, low) = (part(0..8)?, part(8..16)?, part(16..24)?);
        if timeline == 0 || u64::from(low) >= size.per_xlog_id() {
            return Err(fail());
        }
        let number = u64::from(high) * size.per_xlog_id() + u64::from(low);
        Ok(Self { timeline: TimelineId(timeline), number, size })
    }

    /// The timeline it belongs to.
    #[must_use]
    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// The position of its first byte.
    #[must_use]
    pub const fn start(self) -> Lsn {
        Lsn::from_u64(self.number * self.size.bytes())
    }

    /// The position after its last byte.
    #[must_use]
    pub const fn end(self) -> Lsn {
        Lsn::from_u64((self.number + 1) * self.size.bytes())
    }

    /// How many segments of this size lie before it in the log.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }

    /// The size of the cluster's segments.
    #[must_use]
    pub const fn size(self) -> SegmentSize {
        self.size
    }

    /// The segment after it on the same timeline.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// The segment at the same place of another timeline.
    #[must_use]
    pub const fn on(self, timeline: TimelineId) -> Self {
        Self { timeline, ..self }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_id = self.size.per_xlog_id();
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.number / per_id, self.number % per_id)
    }
}

impl FromStr for TimelineId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_segment_size_and_timelines_are_hex() {
        let tli = TimelineId::from_u32(255);
        let lsn: Lsn = "1/7000000".parse().expect("a position");
        let name = SegmentName::containing(tli, lsn, SegmentSize::DEFAULT);
        assert_eq!(name.to_string(), "000000FF0000000100000007");
        let small = SegmentSize::try_from(1 << 20).expect("1 MiB");
        assert_eq!(SegmentName::containing(tli, lsn, small).to_string(), "000000FF0000000100000070");
        assert_eq!(SegmentName::parse("000000FF0000000100000070", small).expect("a name").start(), lsn);
    }

    #[test]
    fn impossible_names_and_sizes_are_refused() {
        let size = SegmentSize::DEFAULT;
        for bad in [
            "",
            "000000FF00000001000001000",
            "000000FF0000000100000100",
            "00000000000000010000000A",
            "000000ff0000000100000007",
            "000000010000000100000007.partial",
        ] {
            assert!(SegmentName::parse(bad, size).is_err(), "{bad:?} must be refused");
        }
        for bad in [0, 1, 1 << 19, 3 << 20, 1 << 31, u64::MAX] {
            assert!(SegmentSize::try_from(bad).is_err(), "{bad} must be refused");
        }
    }
}
