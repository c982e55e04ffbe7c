//! A new connection: whose WAL it is, which way the server's timelines went, and from where on to
//! receive.
//!
//! Everything is asked anew each time: behind one address there may be another server after a
//! failover.

use bytes::Bytes;
use capy_postgres::{PostgresError, ReplicationConnection, TimelineHistory};
use capy_types::{ErrorKind, Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

use super::assembly::Assembly;
use super::failure::{Failure, Outcome};
use super::{Receiver, WalGap, standby};
use crate::Error;

/// A server that is ready to stream.
pub(super) struct Place {
    pub(super) connection: ReplicationConnection,
    /// From where on the server says it keeps WAL: its slot's position, or its present one.
    pub(super) kept_from: Lsn,
    /// Its present position.
    pub(super) flushed: Lsn,
}

impl Receiver<'_> {
    /// Connects, and settles where to receive from.
    pub(super) async fn connect(&mut self) -> Outcome<Place> {
        let mut connection = ReplicationConnection::open(self.options.server.settings()).await?;
        let identity = connection.identify_system().await?;
        let size = segment_size(&connection.show("wal_segment_size").await?)?;
        let cluster = &self.options.cluster;
        self.repository.repo.claim_archive(cluster, identity.system_id, size).await?;
        self.segment_size = size;
        self.report.system_id = Some(identity.system_id);
        self.synchronous = standby::names_us(&mut connection, self.options.server.settings()).await?;
        let reserved = self.prepare_slot(&mut connection).await?;
        let history = self.archive_histories(&mut connection, identity.timeline).await?;
        self.look_for_heir(identity.timeline, identity.flush_lsn).await?;
        let flushed = identity.flush_lsn;
        let kept_from = reserved.unwrap_or(flushed);
        self.take_place(&history, flushed, kept_from).await?;
        Ok(Place { connection, kept_from, flushed })
    }

    /// Makes the slot if asked to, and returns from where on it keeps WAL.
    async fn prepare_slot(&mut self, connection: &mut ReplicationConnection) -> Outcome<Option<Lsn>> {
        let Some(slot) = &self.slot else { return Ok(None) };
        let creates = self.options.create_slot;
        let mut state = match connection.read_slot(slot).await {
            Ok(state) => state,
            // Before 15: the stream tells when there is none.
            Err(PostgresError::Unsupported { .. }) => {
                if creates {
                    connection.create_slot(slot, true).await?;
                }
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if self.renews_slot && state.is_some() {
            // Since 16 one that was given up keeps nothing, whatever is streamed from it. The server may
            // still count the last connection: then this is tried again.
            connection.drop_slot(slot).await?;
            state = None;
        }
        if state.is_none() && creates {
            connection.create_slot(slot, true).await?;
            state = connection.read_slot(slot).await?;
        }
        let missing = || Error::new(ErrorKind::NotFound, format!("the server has no slot {slot}"));
        let state = state.ok_or_else(|| missing().with_hint("--create-slot makes it"))?;
        (self.slot_is_void, self.renews_slot) = (state.restart_lsn.is_none(), false);
        Ok(state.restart_lsn)
    }

    /// Whether the archive has a timeline that left the server's own before the position it is at: then
    /// another server took over, and this one is no longer the one whose commits count. What it
    /// writes is archived all the same, as another branch.
    async fn look_for_heir(&mut self, timeline: TimelineId, flushed: Lsn) -> Outcome<()> {
        let heir = TimelineId::from_u32(timeline.as_u32().saturating_add(1));
        let read = match self.repository.repo.get_wal(&self.options.cluster, &WalFile::history(heir)).await {
            Ok(read) => read,
            Err(error) if error.is_missing_object() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let history = TimelineHistory::parse(heir, &read.bytes).ok();
        let left = history.iter().flat_map(|history| history.ancestors()).find(|e| e.timeline == timeline);
        if let Some(left) = left.filter(|left| left.switch_lsn < flushed) {
            self.notice(format!(
                "the server goes on with timeline {timeline} behind {}, where timeline {heir} in the archive left \
                 it: was another server promoted in its place?",
                left.switch_lsn
            ));
        }
        Ok(())
    }

    /// Goes on with the segment where the last session ended, if the server went that way. From its first
    /// byte: the server may have been set back meanwhile, and have written other WAL since.
    async fn take_place(&mut self, history: &TimelineHistory, flushed: Lsn, kept_from: Lsn) -> Outcome<()> {
        if let Some(assembly) = &self.assembly {
            let (timeline, held) = (assembly.timeline(), assembly.held());
            if leads_on(history, timeline, held) {
                self.drain().await?;
                self.assembly = self.assembly.take().map(Assembly::again);
                return Ok(());
            }
            self.notice(format!(
                "the server left timeline {timeline} before {held}, where this archive is: it is on \
                 timeline {} now; what was received is kept",
                history.timeline()
            ));
            self.leave().await?;
        }
        let leftovers = self.take_stock().await?;
        let start = self.find_start(history, flushed, kept_from, &leftovers).await?;
        let known = self.known_of(&leftovers, start).await?;
        self.assembly = Some(Assembly::at(start, known));
        self.report.start_lsn.get_or_insert(start.start());
        self.report.timeline = Some(start.timeline());
        Ok(())
    }

    /// The server no longer has what is due: says so, or goes on behind the gap if that is wanted.
    pub(super) async fn lost_wal(&mut self, failure: &Failure, kept_from: Lsn, flushed: Lsn) -> Outcome<()> {
        let Some(assembly) = &self.assembly else { return Ok(()) };
        let (timeline, from) = (assembly.timeline(), assembly.held());
        // A slot that was given up stands where its last reader reported, and keeps nothing from there on.
        let breaks_promise = self.slot.is_some() && kept_from <= from;
        let has_lost_slot = failure.is_lost_slot() || self.slot_is_void || breaks_promise;
        let goes_on_at = if has_lost_slot { flushed } else { kept_from };
        let next = SegmentName::containing(timeline, goes_on_at, self.segment_size);
        let gap = WalGap { timeline, from, to: next.start() };
        let creates = self.options.create_slot;
        if self.options.accept_gap && has_lost_slot && creates && gap.to <= gap.from && !self.renews_slot {
            // What is due may still be there, only not kept.
            self.renews_slot = true;
            return Ok(());
        }
        let is_stuck = failure.is_lost_slot() && !creates;
        if !self.options.accept_gap || is_stuck || gap.to <= gap.from {
            return Err(self.loss(gap, failure, has_lost_slot).into());
        }
        self.renews_slot = has_lost_slot && creates;
        if has_lost_slot && !creates {
            self.notice(
                "the slot keeps no WAL, and may never again: drop it, and let --create-slot make it anew",
            );
        }
        self.leave().await?;
        self.gap(gap);
        self.notice("WAL is lost: take a base backup now, since no recovery can pass the gap");
        self.assembly = Some(Assembly::at(next, Bytes::new()));
        Ok(())
    }

    /// What is said of a gap that was not accepted, or of a slot that cannot be made again.
    fn loss(&self, gap: WalGap, failure: &Failure, has_lost_slot: bool) -> Error {
        let WalGap { timeline, from, to } = gap;
        let size = to.as_u64().saturating_sub(from.as_u64()) >> 20;
        let what = format!(
            "WAL is lost: timeline {timeline} from {from} to {to}, about {size} MiB, is neither in the archive nor \
             kept by the server any more ({failure})"
        );
        match self.slot.as_ref().filter(|_| has_lost_slot) {
            Some(slot) => Error::new(
                ErrorKind::NotFound,
                format!("{what}; the slot {slot} keeps none: the server has given it up, or nobody ever read it"),
            )
            .with_hint(
                "raise max_slot_wal_keep_size; --accept-gap with --create-slot makes the slot again and goes on \
                 behind the gap; recoveries cannot pass it, so take a base backup then",
            ),
            None => Error::new(ErrorKind::NotFound, what).with_hint(
                "--accept-gap goes on behind it; recoveries cannot pass it, so take a base backup then; a slot \
                 keeps the server from removing WAL",
            ),
        }
    }
}

/// Whether the server's history has everything up to `received` on `timeline`.
fn leads_on(history: &TimelineHistory, timeline: TimelineId, received: Lsn) -> bool {
    let left = history.ancestors().iter().find(|entry| entry.timeline == timeline);
    history.timeline() == timeline || left.is_some_and(|entry| received <= entry.switch_lsn)
}

/// Reads the setting as it is shown: `16MB`, `1GB`.
fn segment_size(shown: &str) -> Outcome<SegmentSize> {
    let parse = || {
        let (digits, unit) = shown.split_at(shown.find(|c: char| !c.is_ascii_digit())?);
        let factor: u64 = match unit {
            "kB" => 1 << 10,
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            _ => return None,
        };
        SegmentSize::try_from(digits.parse::<u64>().ok()?.checked_mul(factor)?).ok()
    };
    parse().ok_or_else(|| {
        let what = format!("the server shows wal_segment_size as {shown:?}");
        Error::new(ErrorKind::Corrupt, what).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_sizes_are_read_as_servers_show_them() {
        for (shown, bytes) in [("1MB", 1 << 20), ("16MB", 16 << 20), ("512MB", 512 << 20), ("1GB", 1 << 30)] {
            assert_eq!(segment_size(shown).unwrap().bytes(), bytes);
        }
        for shown in ["", "16", "MB", "3MB", "2GB", "16 MB", "99999999999999999999GB"] {
            assert!(segment_size(shown).is_err(), "{shown}");
        }
    }

    #[test]
    fn a_receiver_goes_on_only_where_the_server_went_the_same_way() {
        let timeline = TimelineId::from_u32;
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        let history = TimelineHistory::parse(timeline(4), b"1\t0/3000000\n3\t0/5000000\n").unwrap();
        for (id, received, goes_on) in [
            (1, "0/2FFFFFF", true),
            (1, "0/3000000", true),
            (1, "0/3000001", false),
            (2, "0/1000000", false),
            (3, "0/5000000", true),
            (3, "0/6000000", false),
            (4, "9/0", true),
            (5, "0/0", false),
        ] {
            assert_eq!(leads_on(&history, timeline(id), lsn(received)), goes_on, "{id} {received}");
        }
    }
}
