//! The tail: a segment that is not whole, as far as a receiver has made it durable.
//!
//! Contained by: fetch, and everything that plans a recovery. When the server is gone for good, the
//! last commits that a receiver acknowledged are in parts; here they become a segment that recovery
//! replays: the rest is zeros, at which PostgreSQL finds the end of WAL.
//!
//! Invariants: a whole segment always goes before its parts. Where a later timeline left this one
//! within the segment, nothing from there on is shown: the server asks for an old timeline's segment
//! where the new one's is not there yet, and would replay what is not its history. Nor is a new
//! timeline's shown before it has more than its parent's.

use bytes::{Bytes, BytesMut};
use capy_format::names;
use capy_postgres::TimelineHistory;
use capy_repo::StoredContent;
use capy_types::{ClusterName, ErrorKind, Lsn, SegmentName, TimelineId, WalFile, WalFileKind};
use futures::TryStreamExt;
use futures::future::join;

use crate::{Error, Repository, Result};

/// How often a segment is looked for anew that becomes whole, or whose parts are made one, while
/// it is looked at: each takes a receiver far longer than a look.
const LOOKS_MAX: usize = 8;

/// What there is of a segment.
#[derive(Debug)]
pub(crate) enum Found {
    /// All of it, as it is stored.
    Whole(Box<StoredContent>),
    /// Its beginning, and zeros.
    Tail(Bytes),
}

impl Found {
    /// Its bytes.
    pub(crate) fn into_bytes(self) -> Result<Bytes> {
        match self {
            Self::Whole(content) => Ok(content.read()?.bytes),
            Self::Tail(bytes) => Ok(bytes),
        }
    }

    /// Its length in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        match self {
            Self::Whole(content) => content.size_bytes(),
            Self::Tail(bytes) => bytes.len() as u64,
        }
    }

    /// Gives its bytes to `sink`, which may use them only once this has returned.
    pub(crate) fn unpack(&self, mut sink: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<()> {
        match self {
            Self::Whole(content) => Ok(content.unpack(sink)?),
            Self::Tail(bytes) => sink(bytes).map_err(|error| Error::io("write", error)),
        }
    }
}

impl Repository {
    /// A file of the archive, or the tail where it is a segment that is not whole, and all there is of
    /// it where it is a partial one; `None` only when the store says that there is neither.
    pub(crate) async fn find_wal(&self, cluster: &ClusterName, file: &WalFile) -> Result<Option<Found>> {
        let mut was_absent = false;
        for _ in 0..LOOKS_MAX {
            match self.repo.open_wal(cluster, file).await {
                Ok(content) => return Ok(Some(Found::Whole(Box::new(content)))),
                Err(error) if error.is_missing_object() => {}
                Err(error) => return Err(error.into()),
            }
            // Asked twice: between the first question and the parts it may have become whole.
            if was_absent || !matches!(file.kind(), WalFileKind::Segment | WalFileKind::Partial) {
                return Ok(None);
            }
            match self.look_at_parts(cluster, file).await? {
                Look::Bytes(bytes) => return Ok(Some(Found::Tail(bytes))),
                Look::Nothing => was_absent = true,
                Look::Changed => {}
            }
        }
        let what = format!("{file}: its parts change faster than they can be read");
        Err(Error::new(ErrorKind::Unavailable, what))
    }

    async fn look_at_parts(&self, cluster: &ClusterName, file: &WalFile) -> Result<Look> {
        let Some(segment) = file.as_str().get(..24).and_then(|name| name.parse::<WalFile>().ok()) else {
            return Ok(Look::Nothing);
        };
        // At once: at the end of an archive recovery asks for a file that is absent, and waits.
        let (archive, parts) =
            join(self.repo.archive(cluster), self.repo.read_wal_parts(cluster, &segment)).await;
        let Some(archive) = archive? else { return Ok(Look::Nothing) };
        let Ok(name) = SegmentName::parse(segment.as_str(), archive.segment_size) else {
            return Ok(Look::Nothing);
        };
        let parts = parts?;
        if parts.changed {
            return Ok(Look::Changed);
        }
        if let Some(damage) = parts.damage {
            let error = Error::from(damage);
            return Err(
                error.with_hint("the server, or a receiver of it, may still have the segment: archive it")
            );
        }
        if parts.bytes.is_empty() {
            return Ok(Look::Nothing);
        }
        // A partial segment is asked for by people, who want all there is.
        let bounds = match file.kind() {
            WalFileKind::Partial => Bounds::default(),
            _ => self.bounds_of(cluster, name).await?,
        };
        Ok(bounds.tail(name, &parts.bytes).map_or(Look::Nothing, Look::Bytes))
    }

    async fn bounds_of(&self, cluster: &ClusterName, name: SegmentName) -> Result<Bounds> {
        let mut bounds = Bounds::default();
        let mut next = Some(name.timeline());
        while let Some(timeline) = next {
            let file = WalFile::history(timeline);
            match self.repo.get_wal(cluster, &file).await {
                Ok(read) => {
                    let history = TimelineHistory::parse(timeline, &read.bytes)
                        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{file}: {error}")))?;
                    bounds.narrow(&history, name);
                }
                // The first has none; of others it may not be here yet.
                Err(error) if error.is_missing_object() => {}
                Err(error) => return Err(error.into()),
            }
            next = self.timeline_after(cluster, timeline).await?;
        }
        Ok(bounds)
    }

    /// The next timeline of which the archive has a file.
    async fn timeline_after(
        &self,
        cluster: &ClusterName,
        timeline: TimelineId,
    ) -> Result<Option<TimelineId>> {
        // Files of a timeline begin with its hex digits.
        let last = format!("{}g", names::wal_timeline(cluster, timeline));
        let prefix = names::wal_cluster(cluster);
        let mut listed = self.repo.store().list_after(&prefix, &last);
        while let Some(info) = listed.try_next().await.map_err(capy_repo::RepoError::from)? {
            if let Some((_, file)) = names::parse_wal(&info.name) {
                return Ok(Some(file.timeline()));
            }
        }
        Ok(None)
    }
}

enum Look {
    Bytes(Bytes),
    Nothing,
    Changed,
}

/// Where timelines begin and end within a segment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Its own timeline came from another here: what is before, that one's segment has too.
    begun: Option<Lsn>,
    /// The first of the later timelines left it here.
    left: Option<Lsn>,
}

impl Bounds {
    /// All up to where one of the later timelines left it.
    pub(crate) fn up_to(left: Lsn) -> Self {
        Self { begun: None, left: Some(left) }
    }

    /// Takes account of a history in the archive.
    pub(crate) fn narrow(&mut self, history: &TimelineHistory, name: SegmentName) {
        let within = |at: &Lsn| (name.start()..name.end()).contains(at);
        if history.timeline() == name.timeline() {
            self.begun = history.ancestors().last().map(|entry| entry.switch_lsn).filter(within);
        }
        let mut left = history.ancestors().iter().filter(|entry| entry.timeline == name.timeline());
        let left = left.next().map(|entry| entry.switch_lsn).filter(within);
        self.left = [self.left, left].into_iter().flatten().min();
    }

    /// The segment that begins with these bytes, as far as they are to be shown; `None` when they are
    /// not, because the server then finds as much in the timeline's parent.
    pub(crate) fn tail(self, name: SegmentName, bytes: &[u8]) -> Option<Bytes> {
        let offset = |at: Lsn| usize::try_from(at.as_u64() - name.start().as_u64()).expect("at most 1 GiB");
        let size = usize::try_from(name.size().bytes()).expect("at most 1 GiB");
        let held = bytes.get(..self.left.map_or(size, offset)).unwrap_or(bytes);
        if held.len() <= self.begun.map_or(0, offset) {
            return None;
        }
        let mut padded = BytesMut::with_capacity(size);
        padded.extend_from_slice(held);
        padded.resize(size, 0);
        Some(padded.freeze())
    }
}

#[cfg(test)]
mod tests {
    use capy_types::SegmentSize;

    use super::*;

    const SIZE: usize = 1 << 20;

    /// Segment 5 of a timeline.
    fn segment(timeline: u32) -> SegmentName {
        let size = SegmentSize::try_from(SIZE as u64).unwrap();
        SegmentName::containing(TimelineId::from_u32(timeline), Lsn::from_u64(5 << 20), size)
    }

    /// How much of `held` bytes of segment 5 is shown, in an archive with these histories.
    fn shown(timeline: u32, held: usize, histories: &[(u32, &str)]) -> Option<usize> {
        let (name, mut bounds) = (segment(timeline), Bounds::default());
        for (timeline, text) in histories {
            let history = TimelineHistory::parse(TimelineId::from_u32(*timeline), text.as_bytes()).unwrap();
            bounds.narrow(&history, name);
        }
        let tail = bounds.tail(name, &vec![7; held])?;
        assert_eq!(tail.len(), SIZE);
        let shown = tail.iter().take_while(|byte| **byte == 7).count();
        assert!(tail[shown..].iter().all(|byte| *byte == 0));
        Some(shown)
    }

    #[test]
    fn a_tail_is_what_is_held_and_zeros() {
        assert_eq!(shown(1, 100, &[]), Some(100));
        assert_eq!(shown(1, SIZE, &[]), Some(SIZE));
        assert_eq!(shown(1, 0, &[]), None);
    }

    #[test]
    fn a_tail_ends_where_the_first_of_the_later_timelines_left_it() {
        let (near, far) = ((2, "1\t0/500010\n"), (3, "1\t0/500020\n"));
        assert_eq!(shown(1, 100, &[near]), Some(0x10));
        assert_eq!(shown(1, 100, &[far, near]), Some(0x10));
        assert_eq!(shown(1, 8, &[near]), Some(8));
        assert_eq!(shown(1, 100, &[(2, "1\t0/500000\n")]), None);
        for elsewhere in ["1\t0/4FFFFF\n", "1\t0/600000\n"] {
            assert_eq!(shown(1, 100, &[(2, elsewhere)]), Some(100), "{elsewhere}");
        }
    }

    #[test]
    fn a_timelines_tail_is_shown_once_it_has_more_than_its_parents() {
        let own = (2, "1\t0/500010\n");
        assert_eq!(shown(2, 0x10, &[own]), None);
        assert_eq!(shown(2, 0x11, &[own]), Some(0x11));
        assert_eq!(shown(2, 100, &[own, (3, "1\t0/500010\n2\t0/500040\n")]), Some(0x40));
        assert_eq!(shown(2, 5, &[(2, "1\t0/400000\n")]), Some(5));
    }
}
