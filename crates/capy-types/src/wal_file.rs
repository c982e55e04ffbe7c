//! Names of the files in a WAL archive.
//!
//! Invariant: a [`WalFile`] is exactly one of the names PostgreSQL archives, so it can be joined to
//! a directory or an object name without looking again.

use std::fmt;
use std::str::FromStr;

use crate::names::string_serde;
use crate::{SegmentName, SegmentSize, TimelineId, WalNameError};

/// What an archived file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileKind {
    /// A whole segment.
    Segment,
    /// The last segment of a timeline that ended inside it: `SEGMENT.partial`.
    Partial,
    /// Where a base backup began: `SEGMENT.OFFSET.backup`.
    BackupLabel,
    /// The ancestors of a timeline: `TIMELINE.history`.
    History,
}

impl WalFileKind {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Partial => "partial segment",
            Self::BackupLabel => "backup label",
            Self::History => "timeline history",
        }
    }
}

/// The name of an archived file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalFile {
    name: String,
    kind: WalFileKind,
    timeline: TimelineId,
}

impl WalFile {
    /// The history file of a timeline.
    #[must_use]
    pub fn history(timeline: TimelineId) -> Self {
        let name = format!("{:08X}.history", timeline.as_u32());
        Self { name, kind: WalFileKind::History, timeline }
    }

    /// The name as PostgreSQL spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> WalFileKind {
        self.kind
    }

    /// The timeline it belongs to.
    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The segment it is, is a part of, or is about; `None` for a history file, and when no such
    /// segment can be at this size.
    #[must_use]
    pub fn segment(&self, size: SegmentSize) -> Option<SegmentName> {
        SegmentName::parse(self.name.get(..SEGMENT_DIGITS)?, size).ok()
    }
}

/// Digits of a segment's name.
const SEGMENT_DIGITS: usize = 24;

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

fn kind_of(name: &str) -> Option<WalFileKind> {
    let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
    match suffix {
        "" if name.len() == stem.len() => is_hex(stem, SEGMENT_DIGITS).then_some(WalFileKind::Segment),
        "partial" => is_hex(stem, SEGMENT_DIGITS).then_some(WalFileKind::Partial),
        "history" => is_hex(stem, 8).then_some(WalFileKind::History),
        _ => {
            let offset = suffix.strip_suffix(".backup")?;
            (is_hex(stem, SEGMENT_DIGITS) && is_hex(offset, 8)).then_some(WalFileKind::BackupLabel)
        }
    }
}

impl FromStr for WalFile {
    type Err = WalNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let kind = kind_of(name)?;
            let timeline = u32::from_str_radix(name.get(..8)?, 16).ok().filter(|id| *id > 0)?;
            Some(Self { name: name.to_owned(), kind, timeline: TimelineId::from_u32(timeline) })
        };
        parse().ok_or_else(|| WalNameError::File { text: name.to_owned() })
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl From<SegmentName> for WalFile {
    fn from(segment: SegmentName) -> Self {
        Self { name: segment.to_string(), kind: WalFileKind::Segment, timeline: segment.timeline() }
    }
}

string_serde!(WalFile);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_file_is_known_by_its_name() {
        for (name, kind) in [
            ("00000001000000000000000A", WalFileKind::Segment),
            ("00000001000000000000000A.partial", WalFileKind::Partial),
            ("00000001000000000000000A.00000028.backup", WalFileKind::BackupLabel),
            ("0000000A.history", WalFileKind::History),
        ] {
            let file: WalFile = name.parse().expect(name);
            assert_eq!((file.kind(), file.as_str()), (kind, name));
        }
        assert_eq!(WalFile::history(TimelineId::from_u32(10)).as_str(), "0000000A.history");
    }

    #[test]
    fn names_that_postgresql_does_not_archive_are_refused() {
        for bad in [
            "",
            ".",
            "00000001000000000000000a",
            "00000001000000000000000A.",
            "00000001000000000000000A.part",
            "00000001000000000000000A.0000028.backup",
            "00000001000000000000000A.00000028.backup.x",
            "00000000000000000000000A",
            "00000000.history",
            "../00000001.history",
            "RECOVERYXLOG",
        ] {
            assert!(bad.parse::<WalFile>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_file_tells_its_segment_where_it_has_one() {
        let file: WalFile = "000000020000000100000003.partial".parse().expect("a name");
        let segment = file.segment(SegmentSize::DEFAULT).expect("a segment");
        assert_eq!(segment.to_string(), "000000020000000100000003");
        assert_eq!(WalFile::history(TimelineId::from_u32(2)).segment(SegmentSize::DEFAULT), None);
    }
}
