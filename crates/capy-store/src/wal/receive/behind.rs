//! What lies behind a switch: nothing, whatever the server sends.
//!
//! A switch closes a segment early, and a primary fills the rest with zeros. A standby may send that rest
//! from its file before its own receiver has written it there: then it is what the file held in an earlier
//! life. No recovery reads it, but the segment would not be the primary's, whose push of it would be
//! refused, nor what comes when it is received once more.
//!
//! Contained by: the segment that is filled. Pure. Invariant: nothing is changed but behind a switch record
//! that follows valid WAL from the segment's beginning on, its own CRC included.

use capy_postgres::wal::{SegmentScanner, read_header};
use capy_types::Lsn;

/// Bytes of a segment's long page header.
const HEADER_BYTES: usize = 40;

/// Looks for the switch of one segment.
#[derive(Debug, Default)]
pub(super) enum Behind {
    /// The segment's header is not there yet.
    #[default]
    Begins,
    /// There is none so far, in as many bytes.
    Sought { scanner: Box<SegmentScanner>, start: Lsn, seen: usize },
    /// There is one, and zeros up to here behind it.
    Found { zeros_to: usize },
    /// There is none, or nobody can tell.
    Never,
}

impl Behind {
    /// The segment has these bytes by now. Those behind a switch become zeros.
    pub(super) fn clear(&mut self, bytes: &mut [u8]) {
        if matches!(self, Self::Begins) && bytes.len() >= HEADER_BYTES {
            *self = read_header(bytes).map_or(Self::Never, |header| Self::Sought {
                scanner: Box::new(SegmentScanner::new(header)),
                start: header.start,
                seen: 0,
            });
        }
        if let Self::Sought { scanner, start, seen } = self {
            scanner.push(bytes.get(*seen..).unwrap_or_default(), |_| {});
            *seen = bytes.len();
            if let Some(end) = scanner.switch_end() {
                // A segment has at most 1 GiB.
                *self = Self::Found { zeros_to: (end.as_u64() - start.as_u64()) as usize };
            } else if scanner.is_done() {
                *self = Self::Never;
            }
        }
        if let Self::Found { zeros_to } = self {
            bytes.get_mut(*zeros_to..).unwrap_or_default().fill(0);
            *zeros_to = bytes.len().max(*zeros_to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_wal::MadeSegment;

    #[test]
    fn behind_a_switch_there_are_zeros_whatever_came_and_before_it_what_came() {
        let made = MadeSegment::new(1, 3).restore_point("here", capy_types::Timestamp::from_micros(0));
        let end = (made.position().as_u64() % (16 << 20)) as usize + 24;
        let sound = made.bytes();
        assert!(sound[end - 8..end].iter().any(|byte| *byte != 0) && sound[end..].iter().all(|b| *b == 0));
        let mut sent = sound.clone();
        sent[end..].fill(0xd1);
        // In pieces as they come: some of the first page, the rest of it, many pages.
        for pieces in [vec![end, 8192, 1 << 20, 16 << 20], vec![7, 40, 100, 8191, 16 << 20], vec![16 << 20]] {
            let (mut behind, mut bytes) = (Behind::default(), Vec::new());
            for piece in pieces {
                bytes.extend_from_slice(&sent[bytes.len()..piece]);
                behind.clear(&mut bytes);
                let known = bytes.len().min(end);
                assert!(bytes[..known] == sound[..known], "up to {piece}");
                assert!(bytes.len() < 8192 || bytes == sound[..bytes.len()], "up to {piece}");
            }
        }
    }

    #[test]
    fn without_a_switch_nothing_is_changed() {
        let made = MadeSegment::new(1, 3).restore_point("here", capy_types::Timestamp::from_micros(0));
        let end = (made.position().as_u64() % (16 << 20)) as usize;
        // The switch's CRC does not hold; there is none at all; it is no WAL.
        let broken = |at: usize| {
            let mut bytes = made.clone().bytes();
            bytes[at] ^= 1;
            bytes[end + 24..].fill(0xd1);
            bytes
        };
        for sent in [broken(end + 21), broken(end - 8), broken(0), vec![0xd1; 16 << 20]] {
            let mut bytes = sent.clone();
            Behind::default().clear(&mut bytes);
            assert!(bytes == sent);
        }
    }
}
