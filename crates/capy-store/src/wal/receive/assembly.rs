//! The segments in the making: one that is filled, and one before it that is being archived.
//!
//! Contained by: the receiver. Pure: no clock, no store. Invariants: bytes go in exactly one after
//! the other; a position is durable only when everything before it is; no more than two segments
//! and one message are held.

use bytes::Bytes;
use capy_types::{Lsn, SegmentName, TimelineId};

use super::behind::Behind;

/// What the server sends differs from what was archived of the same segment before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Diverged {
    /// The first byte that differs.
    pub(super) at: Lsn,
}

/// A stretch of a segment that is to become durable by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) segment: SegmentName,
    /// Offset of its first byte in the segment.
    pub(super) start: usize,
    pub(super) bytes: Bytes,
}

impl Piece {
    /// Offset of the byte after its last in the segment.
    pub(super) fn end(&self) -> usize {
        self.start + self.bytes.len()
    }
}

/// A whole segment that is not known to be archived.
#[derive(Debug)]
struct Closing {
    name: SegmentName,
    bytes: Bytes,
    /// How many of its first bytes are durable without it.
    durable: usize,
}

/// The segment that is filled.
#[derive(Debug)]
struct Open {
    name: SegmentName,
    bytes: Vec<u8>,
    /// How many of its first bytes are durable; more than there are while it is received again.
    durable: usize,
    /// What an earlier run made durable of it, to compare with.
    known: Bytes,
    behind: Behind,
}

/// The segments in the making.
#[derive(Debug)]
pub(super) struct Assembly {
    closing: Option<Closing>,
    open: Open,
    /// What came behind the end of a full segment that cannot be closed yet.
    overflow: Bytes,
    /// What servers were told is durable.
    acknowledged: Lsn,
}

impl Assembly {
    /// Begins with the first byte of `name`, of which `known` is durable already.
    pub(super) fn at(name: SegmentName, known: Bytes) -> Self {
        let open = Open::new(name, known);
        Self { closing: None, open, overflow: Bytes::new(), acknowledged: Lsn::INVALID }
    }

    /// Begins the segment that is filled once more, to compare what comes with what is held; all of it is
    /// durable.
    pub(super) fn again(self) -> Self {
        debug_assert!(self.is_settled() && !self.has_volatile(true), "the caller has drained it");
        let Open { name, bytes, known, .. } = self.open;
        let known = if known.len() > bytes.len() { known } else { bytes.into() };
        Self { acknowledged: self.acknowledged, ..Self::at(name, known) }
    }

    pub(super) fn timeline(&self) -> TimelineId {
        self.open.name.timeline()
    }

    /// The end of what was received: where streaming goes on.
    pub(super) fn received(&self) -> Lsn {
        plus(self.open.name.start(), self.open.bytes.len() + self.overflow.len())
    }

    /// The end of what is held, received from this server or known from before.
    pub(super) fn held(&self) -> Lsn {
        self.received().max(plus(self.open.name.start(), self.open.known.len()))
    }

    /// What is durable, if it is more than a server was told.
    ///
    /// What is received again was told of before: the server's slot and its waiting commits must not be
    /// set back by that.
    pub(super) fn acknowledge(&mut self, told: Lsn) -> Option<Lsn> {
        let durable = self.durable();
        if durable <= told || durable < self.acknowledged {
            return None;
        }
        self.acknowledged = durable;
        Some(durable)
    }

    /// The end of what is durable and was received.
    pub(super) fn durable(&self) -> Lsn {
        match &self.closing {
            Some(closing) if closing.durable < closing.bytes.len() => {
                plus(closing.name.start(), closing.durable)
            }
            _ => plus(self.open.name.start(), self.open.durable.min(self.open.bytes.len())),
        }
    }

    /// The end of what is durable, compared with what this server sends or not yet.
    pub(super) fn stored(&self) -> Lsn {
        self.durable().max(match self.closing {
            Some(_) => Lsn::INVALID,
            None => plus(self.open.name.start(), self.open.durable),
        })
    }

    /// Whether more can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.overflow.is_empty() && !self.open.is_full()
    }

    /// Takes the next bytes; only while there is room.
    pub(super) fn accept(&mut self, bytes: Bytes) -> Result<(), Diverged> {
        debug_assert!(self.has_room(), "the caller asks before");
        self.overflow = bytes;
        self.fill()
    }

    fn fill(&mut self) -> Result<(), Diverged> {
        loop {
            if self.open.is_full() {
                if self.closing.is_some() {
                    return Ok(());
                }
                self.close();
            }
            if self.overflow.is_empty() {
                return Ok(());
            }
            let length = self.overflow.len().min(self.open.room());
            let piece = self.overflow.split_to(length);
            // What is behind a difference belongs to it: nobody waits until it fits somewhere.
            self.open.take(&piece).inspect_err(|_| self.overflow.clear())?;
        }
    }

    fn close(&mut self) {
        let next = Open::new(self.open.name.next(), Bytes::new());
        let Open { name, bytes, durable, .. } = std::mem::replace(&mut self.open, next);
        self.closing = Some(Closing { name, bytes: bytes.into(), durable });
    }

    /// The whole segment that is to be archived.
    pub(super) fn closing(&self) -> Option<(SegmentName, Bytes)> {
        self.closing.as_ref().map(|closing| (closing.name, closing.bytes.clone()))
    }

    pub(super) fn closing_name(&self) -> Option<SegmentName> {
        self.closing.as_ref().map(|closing| closing.name)
    }

    /// Whether some of the whole segment was made durable before it.
    pub(super) fn closing_has_parts(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.durable > 0)
    }

    /// The whole segment is archived.
    pub(super) fn archived(&mut self) -> Result<(), Diverged> {
        self.closing = None;
        self.fill()
    }

    /// Whether [`volatile`](Self::volatile) has anything.
    pub(super) fn has_volatile(&self, at_once: bool) -> bool {
        let closing = self.closing.as_ref().is_some_and(|closing| closing.durable < closing.bytes.len());
        at_once && closing || self.open.durable < self.open.bytes.len()
    }

    /// The next bytes that are not durable. Those of the whole segment become so when it is
    /// archived; `at_once` does not wait for that.
    pub(super) fn volatile(&self, at_once: bool) -> Option<Piece> {
        if at_once
            && let Some(Closing { name, bytes, durable }) = &self.closing
            && *durable < bytes.len()
        {
            return Some(Piece { segment: *name, start: *durable, bytes: bytes.slice(*durable..) });
        }
        let Open { name, bytes, durable, .. } = &self.open;
        let rest = bytes.get(*durable..).filter(|rest| !rest.is_empty())?;
        Some(Piece { segment: *name, start: *durable, bytes: Bytes::copy_from_slice(rest) })
    }

    /// A piece is durable.
    pub(super) fn made_durable(&mut self, segment: SegmentName, end: usize) {
        let closing = self.closing.as_mut().filter(|closing| closing.name == segment);
        if let Some(closing) = closing {
            closing.durable = closing.durable.max(end);
        } else if self.open.name == segment {
            self.open.durable = self.open.durable.max(end);
        }
    }

    /// Whether nothing waits for a segment to be archived.
    pub(super) fn is_settled(&self) -> bool {
        self.closing.is_none() && self.overflow.is_empty()
    }

    pub(super) fn open_name(&self) -> SegmentName {
        self.open.name
    }

    /// The segment that is filled, if anything of it is known, whoever received it.
    pub(super) fn unfinished(&self) -> Option<SegmentName> {
        let Open { name, bytes, known, .. } = &self.open;
        (!bytes.is_empty() || !known.is_empty()).then_some(*name)
    }
}

impl Open {
    fn new(name: SegmentName, known: Bytes) -> Self {
        Self { name, bytes: Vec::new(), durable: known.len(), known, behind: Behind::default() }
    }

    /// From 1 MiB to 1 GiB.
    fn size(&self) -> usize {
        self.name.size().bytes() as usize
    }

    fn room(&self) -> usize {
        self.size() - self.bytes.len()
    }

    fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Diverged> {
        let at = self.bytes.len();
        if at == 0 {
            // In one go, so that it becomes the segment's bytes without a copy.
            self.bytes.reserve_exact(self.size());
        }
        self.bytes.extend_from_slice(piece);
        self.behind.clear(&mut self.bytes);
        let known = self.known.get(at..).unwrap_or_default();
        let new = self.bytes.get(at..).unwrap_or_default();
        if let Some(n) = known.iter().zip(new).position(|(known, new)| known != new) {
            self.bytes.truncate(at);
            return Err(Diverged { at: plus(self.name.start(), at + n) });
        }
        if self.bytes.len() >= self.known.len() {
            self.known = Bytes::new();
        }
        Ok(())
    }
}

fn plus(start: Lsn, bytes: usize) -> Lsn {
    Lsn::from_u64(start.as_u64() + bytes as u64)
}

#[cfg(test)]
mod tests {
    use capy_types::SegmentSize;

    use super::*;

    const SIZE: usize = 1 << 20;

    fn segment(number: u64) -> SegmentName {
        let size = SegmentSize::try_from(SIZE as u64).unwrap();
        SegmentName::containing(TimelineId::from_u32(1), Lsn::from_u64(number * SIZE as u64), size)
    }

    fn lsn(number: u64, offset: usize) -> Lsn {
        plus(segment(number).start(), offset)
    }

    /// Bytes that tell their position.
    fn wal(from: Lsn, length: usize) -> Bytes {
        (from.as_u64()..from.as_u64() + length as u64)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect()
    }

    fn receive(assembly: &mut Assembly, length: usize) {
        let bytes = wal(assembly.received(), length);
        assembly.accept(bytes).unwrap();
    }

    #[test]
    fn a_segment_is_closed_when_it_is_full_and_the_next_one_goes_on() {
        let mut assembly = Assembly::at(segment(3), Bytes::new());
        assert_eq!(assembly.unfinished(), None);
        receive(&mut assembly, SIZE - 10);
        assert!(assembly.closing().is_none() && assembly.has_room());
        receive(&mut assembly, 30);
        assert_eq!(assembly.received(), lsn(4, 20));
        let (name, bytes) = assembly.closing().unwrap();
        assert_eq!((name, bytes), (segment(3), wal(lsn(3, 0), SIZE)));
        assert_eq!(assembly.durable(), lsn(3, 0));
        assembly.archived().unwrap();
        assert_eq!(assembly.durable(), lsn(4, 0));
        assert!(assembly.is_settled());
    }

    #[test]
    fn at_most_one_segment_is_received_ahead_of_the_one_being_archived() {
        let mut assembly = Assembly::at(segment(3), Bytes::new());
        receive(&mut assembly, SIZE);
        receive(&mut assembly, SIZE - 1);
        assert!(assembly.has_room());
        receive(&mut assembly, 100);
        assert!(!assembly.has_room());
        assert_eq!(assembly.received(), lsn(5, 99));
        assembly.archived().unwrap();
        assert_eq!(assembly.closing().unwrap(), (segment(4), wal(lsn(4, 0), SIZE)));
        assert!(assembly.has_room());
        assembly.archived().unwrap();
        assert_eq!(assembly.unfinished(), Some(segment(5)));
    }

    #[test]
    fn durable_is_what_has_no_gap_before_it() {
        let mut assembly = Assembly::at(segment(3), Bytes::new());
        receive(&mut assembly, SIZE + 500);
        let next = assembly.volatile(false).unwrap();
        assert_eq!((next.segment, next.start, next.end()), (segment(4), 0, 500));
        assembly.made_durable(next.segment, next.end());
        assert_eq!(assembly.durable(), lsn(3, 0), "segment 3 is not");
        let tail = assembly.volatile(true).unwrap();
        assert_eq!((tail.segment, tail.bytes.len()), (segment(3), SIZE));
        assembly.made_durable(tail.segment, tail.end());
        assert_eq!(assembly.durable(), lsn(4, 500));
        assert_eq!(assembly.volatile(true), None);
        receive(&mut assembly, 7);
        assert_eq!(assembly.volatile(true).unwrap().bytes, wal(lsn(4, 500), 7));
        // An answer that comes late changes nothing.
        assembly.made_durable(segment(4), 20);
        assembly.made_durable(segment(9), 20);
        assert_eq!(assembly.durable(), lsn(4, 500));
    }

    #[test]
    fn what_is_received_again_is_compared_and_reported_only_once_it_was() {
        let known = wal(lsn(3, 0), 1000);
        let mut assembly = Assembly::at(segment(3), known.clone());
        assert_eq!((assembly.received(), assembly.durable()), (lsn(3, 0), lsn(3, 0)));
        assert_eq!(assembly.unfinished(), Some(segment(3)));
        receive(&mut assembly, 600);
        assert_eq!((assembly.durable(), assembly.volatile(true)), (lsn(3, 600), None));
        receive(&mut assembly, 600);
        assert_eq!(assembly.durable(), lsn(3, 1000));
        assert_eq!(assembly.volatile(true).unwrap().bytes, wal(lsn(3, 1000), 200));

        let mut assembly = Assembly::at(segment(3), known);
        receive(&mut assembly, 998);
        assert_eq!(assembly.accept(Bytes::from_static(b"another")), Err(Diverged { at: lsn(3, 998) }));
    }

    #[test]
    fn a_segment_is_begun_once_more_and_compared_while_what_was_told_of_it_stands() {
        let mut assembly = Assembly::at(segment(3), Bytes::new());
        receive(&mut assembly, SIZE + 500);
        assembly.archived().unwrap();
        assembly.made_durable(segment(4), 500);
        assert_eq!(assembly.acknowledge(Lsn::INVALID), Some(lsn(4, 500)));
        assert_eq!(assembly.acknowledge(lsn(4, 500)), None);

        let mut assembly = assembly.again();
        assert_eq!((assembly.received(), assembly.held()), (lsn(4, 0), lsn(4, 500)));
        assert_eq!((assembly.durable(), assembly.stored()), (lsn(4, 0), lsn(4, 500)));
        receive(&mut assembly, 200);
        assert_eq!((assembly.durable(), assembly.acknowledge(Lsn::INVALID)), (lsn(4, 200), None));
        // Again, before everything has come.
        let mut assembly = assembly.again();
        assert_eq!((assembly.received(), assembly.held()), (lsn(4, 0), lsn(4, 500)));
        receive(&mut assembly, 500);
        assert_eq!(assembly.acknowledge(Lsn::INVALID), Some(lsn(4, 500)), "the server may not have read it");
        receive(&mut assembly, 100);
        assert_eq!(assembly.volatile(false).unwrap().start, 500);

        assembly.made_durable(segment(4), 600);
        let mut assembly = assembly.again();
        assert_eq!(
            assembly.accept(Bytes::from(vec![!wal(lsn(4, 0), 1)[0]])),
            Err(Diverged { at: lsn(4, 0) })
        );
    }

    #[test]
    fn nothing_is_left_to_wait_for_behind_a_difference() {
        let mut assembly = Assembly::at(segment(3), wal(lsn(3, 0), SIZE - 1));
        receive(&mut assembly, SIZE - 100);
        let across = [&[!wal(lsn(3, SIZE - 100), 1)[0]][..], &[0; 200]].concat();
        assert_eq!(assembly.accept(across.into()), Err(Diverged { at: lsn(3, SIZE - 100) }));
        assert!(assembly.is_settled() && !assembly.has_volatile(true), "it can be left");
    }
}
