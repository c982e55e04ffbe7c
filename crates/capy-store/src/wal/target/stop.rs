//! Where a recovery stops: the position at which the server would, on the way that leads from a backup
//! to a target.
//!
//! Contained by: the choice of a backup. The facts of segments tell which of them to read; only the
//! ends of transactions are looked for in a segment itself.

use capy_format::{BackupEntry, WalEventKind};
use capy_postgres::recovery::RecoveryTarget;
use capy_postgres::wal::{SegmentScanner, WalEvent, decode_event, read_header};
use capy_types::{Ctx, ErrorKind, Lsn, SegmentName, Timestamp, WalFile};

use super::super::archive::{Archive, Branch, Reach, ReachEnd};
use super::super::borders::End;
use super::super::windows::ended_by;
use super::Wish;
use crate::{Error, Repository, Result};

/// How a backup serves a wish.
pub(super) enum Served {
    /// At this position, by this target.
    At { stop: Lsn, target: RecoveryTarget, notices: Vec<String> },
    /// Not yet, and why: WAL that follows may bring it.
    NotYet(String),
    /// Not, and why.
    No(String),
}

impl Repository {
    /// Where recovery stops, on the way that `reach` is.
    pub(super) async fn position(
        &self,
        ctx: &Ctx,
        archive: &Archive,
        reach: &Reach<'_>,
        entry: &BackupEntry,
        wish: &Wish<'_>,
    ) -> Result<Served> {
        let consistent = entry.stop_lsn.unwrap_or_default();
        let at = |stop, notices| Served::At { stop, target: wish.target.clone(), notices };
        Ok(match wish.target {
            RecoveryTarget::Immediate => at(consistent, Vec::new()),
            RecoveryTarget::Latest => latest(reach, consistent, wish.standby),
            RecoveryTarget::Lsn(lsn) => match reach.last_record() {
                _ if *lsn < consistent => Served::No(format!("it is consistent only from {consistent} on")),
                Some(last) if *lsn <= last => at(*lsn, Vec::new()),
                _ => ends_before(reach, format!("the WAL ends before: {}", ended_by(reach))),
            },
            RecoveryTarget::Name(name) => named(archive, reach, name, consistent, &at),
            RecoveryTarget::Time(time) if *time < settled(reach, entry) => {
                Served::No(format!("it holds what was committed up to {}", settled(reach, entry)))
            }
            RecoveryTarget::Time(time) => {
                self.timed(archive, reach, consistent, *time, wish.inclusive).await?
            }
            RecoveryTarget::Xid(xid) => self.transaction(ctx, archive, reach, consistent, *xid, &at).await?,
        })
    }

    /// The first transaction that ends after `time` stops a recovery; where none does, the last
    /// record, if the WAL proves that nothing committed between.
    async fn timed(
        &self,
        archive: &Archive,
        reach: &Reach<'_>,
        consistent: Lsn,
        time: Timestamp,
        inclusive: bool,
    ) -> Result<Served> {
        let is_after = |found: Timestamp| if inclusive { found > time } else { found >= time };
        let mut later =
            reach.segments.iter().filter(|(_, f)| f.times.is_some_and(|(_, latest)| is_after(latest)));
        if let Some((name, facts)) = later.next() {
            let ends = self.transaction_ends(archive, *name, facts.end).await?;
            let first = ends.iter().find(|end| is_after(end.time)).map(|end| end.lsn);
            let first = first.unwrap_or_else(|| name.end());
            return Ok(if first < consistent {
                Served::No(format!("a transaction that ended after {time} is part of the backup already"))
            } else {
                Served::At { stop: first, target: RecoveryTarget::Time(time), notices: Vec::new() }
            });
        }
        let known = reach.known_until();
        match (known.filter(|known| *known >= time), reach.last_record()) {
            (Some(_), Some(last)) => {
                let stop = last.max(consistent);
                let what =
                    format!("no transaction ended after {time}: recovery goes to the last record, at {last}");
                let target =
                    if last < consistent { RecoveryTarget::Immediate } else { RecoveryTarget::Lsn(last) };
                Ok(Served::At { stop, target, notices: vec![what] })
            }
            _ => {
                let why = format!("what committed until then is not archived: {}", ended_by(reach));
                Ok(ends_before(reach, why))
            }
        }
    }

    /// Looks for the end of a transaction in the segments themselves.
    async fn transaction(
        &self,
        ctx: &Ctx,
        archive: &Archive,
        reach: &Reach<'_>,
        consistent: Lsn,
        xid: u64,
        at: &(dyn Fn(Lsn, Vec<String>) -> Served + Sync),
    ) -> Result<Served> {
        // The WAL carries the lower half: the epoch counts wrap-arounds.
        let wanted = u32::try_from(xid & u64::from(u32::MAX)).expect("masked");
        for (name, facts) in &reach.segments {
            ctx.check()?;
            if facts.commits + facts.aborts == 0 {
                continue;
            }
            let ends = self.transaction_ends(archive, *name, facts.end).await?;
            if let Some(end) = ends.iter().find(|end| end.xid == Some(wanted)) {
                return Ok(if end.lsn < consistent {
                    Served::No(format!("transaction {xid} ended at {}, before the backup's end", end.lsn))
                } else {
                    at(end.lsn, Vec::new())
                });
            }
        }
        Ok(ends_before(reach, format!("no transaction {xid} ends in the WAL: {}", ended_by(reach))))
    }

    /// Every commit and abort whose record begins in a segment, before `until`: an older timeline's
    /// serves up to the fork only.
    pub(in crate::wal) async fn transaction_ends(
        &self,
        archive: &Archive,
        name: SegmentName,
        until: Lsn,
    ) -> Result<Vec<End>> {
        let file = WalFile::from(name);
        let missing = || Error::new(ErrorKind::NotFound, format!("{file} is not in the archive any more"));
        let bytes = self.find_wal(&archive.cluster, &file).await?.ok_or_else(missing)?.into_bytes()?;
        let scan = move || {
            let mut ends = Vec::new();
            let header = read_header(&bytes)?;
            let mut scanner = SegmentScanner::new(header);
            scanner.push(&bytes, |record| {
                if let Ok(Some(WalEvent::Commit(end) | WalEvent::Abort(end))) =
                    decode_event(record.lsn, record.kept, header.major)
                {
                    let xid = end.xid.map(|xid| xid.as_u32());
                    ends.push(End { lsn: end.lsn, time: end.time.to_timestamp(), xid });
                }
            });
            Ok::<_, capy_postgres::wal::WalError>(ends)
        };
        let scanned = tokio::task::spawn_blocking(scan).await;
        let scanned = scanned.map_err(|_| Error::new(ErrorKind::Internal, "a thread panicked"))?;
        let mut ends = scanned.map_err(|error| Error::new(ErrorKind::Corrupt, format!("{file}: {error}")))?;
        ends.extend(archive.crossing_end(name));
        ends.retain(|end| end.lsn < until);
        Ok(ends)
    }
}

/// The earliest moment a backup can be recovered to: whatever it holds beyond its own WAL was
/// committed before the checkpoint it began with, whose stamp is in whole seconds. Where that is not
/// in the WAL, the end of the backup.
pub(super) fn settled(reach: &Reach<'_>, entry: &BackupEntry) -> Timestamp {
    let own = |kind: &WalEventKind| matches!(kind, WalEventKind::Checkpoint { redo, .. } if Some(*redo) == entry.start_lsn);
    let began = reach.events().find(|event| own(&event.what)).and_then(|event| event.time);
    let second_later = |time: Timestamp| Timestamp::from_micros(time.as_micros().saturating_add(1_000_000));
    began.map_or(entry.finished_at, second_later).min(entry.finished_at)
}

/// Where between two positions the server changed to `wal_level = minimal`: what was written under
/// it lacks what a recovery needs, and a server refuses it.
pub(super) fn minimal_from(reach: &Reach<'_>, start: Lsn, stop: Lsn) -> Option<Lsn> {
    let between = reach.events().filter(|event| (start..=stop).contains(&event.at));
    let is_minimal = |kind: &WalEventKind| matches!(kind, WalEventKind::Parameters(to) if to.wal_level == 0);
    between.filter(|event| is_minimal(&event.what)).map(|event| event.at).next()
}

/// A target behind the end of the WAL: of the archive, which may grow, or at a hole, which stays.
fn ends_before(reach: &Reach<'_>, why: String) -> Served {
    match reach.ended {
        ReachEnd::Archive | ReachEnd::Fork(_) => Served::NotYet(why),
        ReachEnd::Hole(_) | ReachEnd::Broken(..) => Served::No(why),
    }
}

/// The first restore point of that name in the history, whichever backup recovery begins with.
fn named(
    archive: &Archive,
    reach: &Reach<'_>,
    wanted: &str,
    consistent: Lsn,
    at: &(dyn Fn(Lsn, Vec<String>) -> Served + Sync),
) -> Served {
    let points = archive.restore_points(reach.history(), wanted);
    let end = reach.end().unwrap_or_default();
    match points.first().copied().filter(|first| *first < end) {
        None => {
            ends_before(reach, format!("no restore point of that name is in the WAL: {}", ended_by(reach)))
        }
        Some(lsn) if lsn < consistent => {
            Served::No(format!("the first restore point of that name, at {lsn}, is before the backup's end"))
        }
        Some(lsn) => {
            let all = points.len();
            let what = format!("{all} restore points have that name: recovery stops at the first, {lsn}");
            at(lsn, if all > 1 { vec![what] } else { Vec::new() })
        }
    }
}

/// The end of what is archived of the history. Left to itself a server would go on behind it in what
/// an older timeline wrote after it was left, now or when that is archived: so it is given a position.
fn latest(reach: &Reach<'_>, consistent: Lsn, standby: bool) -> Served {
    let stop = reach.end().unwrap_or(consistent).max(consistent);
    let mut notices = Vec::new();
    if let ReachEnd::Hole(_) | ReachEnd::Broken(..) = reach.ended {
        notices.push(format!("there is later WAL that cannot be reached: {}", ended_by(reach)));
    }
    if reach.strays && standby {
        // A standby has no target at which it would stay one.
        return ends_before(
            reach,
            format!("a standby would replay what is not its history: {}", ended_by(reach)),
        );
    }
    let last = reach.last_record().filter(|_| reach.strays || matches!(reach.ended, ReachEnd::Fork(_)));
    let target = match last.filter(|_| !standby) {
        None => RecoveryTarget::Latest,
        Some(last) => {
            let missing = ended_by(reach);
            notices.push(format!(
                "recovery stops at {stop}, where what is archived of this history ends: {missing}"
            ));
            if last < consistent { RecoveryTarget::Immediate } else { RecoveryTarget::Lsn(last) }
        }
    };
    Served::At { stop, target, notices }
}

/// A branch that `latest` does not follow.
pub(super) fn left_out(branch: &Branch) -> String {
    let Branch { timeline, left_at } = branch;
    format!(
        "timeline {timeline} has transactions behind {left_at}, where this history left it: they are left \
         out, and --target-timeline {timeline} recovers them"
    )
}
