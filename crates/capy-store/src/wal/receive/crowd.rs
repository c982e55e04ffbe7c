//! How many parts the segment that is filled is in: recovery reads them one by one.

use capy_types::SegmentName;

/// So many are made one, once that at least doubles the one there is: over a segment, no more than
/// twice its bytes are stored again.
const MANY: u32 = 64;
/// So many always: at 16 reads at once, a recovery from a store that answers in 50 ms waits 3 s.
const TOO_MANY: u32 = 1024;

/// The parts of the segment that is filled.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    segment: Option<SegmentName>,
    /// Parts behind those that were made one.
    parts: u32,
    /// How much of the segment was made one part.
    compacted: usize,
}

impl Crowd {
    /// A part that ends at `end` is stored. Whether all of them are to be made one.
    pub(super) fn grew(&mut self, segment: SegmentName, end: usize) -> bool {
        if self.segment != Some(segment) {
            *self = Self { segment: Some(segment), parts: 0, compacted: 0 };
        }
        self.parts += 1;
        self.parts >= TOO_MANY || self.parts >= MANY && end >= self.compacted * 2
    }

    /// They are being made one.
    pub(super) fn compacted(&mut self, end: usize) {
        (self.parts, self.compacted) = (0, end);
    }
}

#[cfg(test)]
mod tests {
    use capy_types::{Lsn, SegmentSize, TimelineId};

    use super::*;

    fn segment(number: u64) -> SegmentName {
        SegmentName::containing(TimelineId::from_u32(1), Lsn::from_u64(number << 24), SegmentSize::DEFAULT)
    }

    /// How many of `parts` of a hundred bytes each make all of them one.
    fn compactions(crowd: &mut Crowd, parts: usize) -> Vec<usize> {
        let mut made = Vec::new();
        for part in 1..=parts {
            if crowd.grew(segment(7), part * 100) {
                crowd.compacted(part * 100);
                made.push(part);
            }
        }
        made
    }

    #[test]
    fn many_parts_are_made_one_whenever_they_have_doubled_it_or_are_too_many() {
        assert_eq!(compactions(&mut Crowd::default(), 4000), [64, 128, 256, 512, 1024, 2048, 3072]);
    }

    #[test]
    fn another_segment_begins_anew() {
        let mut crowd = Crowd::default();
        compactions(&mut crowd, 100);
        assert!((0..63).all(|n| !crowd.grew(segment(8), n)) && crowd.grew(segment(8), 64));
    }
}
