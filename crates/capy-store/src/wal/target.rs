//! From a wish to a recovery: which backup, which timeline, which WAL, or why not and what instead.
//!
//! Contained by: the restore. The answer is proven from facts before a byte is restored; where
//! facts are too coarse (the first commit after a moment, a transaction id) the segments in question
//! are read.
//!
//! The rules are the server's. A time is reached when a transaction that ended after it is met; a
//! moment after the last one is reached by position instead, as far as the WAL proves that nothing
//! else committed before it.

use capy_format::{BackupEntry, SegmentFacts, WalEventKind, WalParameters};
use capy_postgres::TimelineHistory;
use capy_postgres::recovery::{RecoveryTarget, TargetTimeline};
use capy_postgres::wal::{SegmentScanner, WalEvent, decode_event, read_header};
use capy_types::{BackupKey, ClusterName, Ctx, ErrorKind, Lsn, SegmentName, TimelineId, Timestamp, WalFile};
use serde::Serialize;

use super::archive::{Archive, Reach, ReachEnd};
use super::borders::End;
use super::windows::{bases, ended_by};
use crate::{Error, Repository, Result};

/// A recovery that is known to come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecoveryChoice {
    /// The backup it starts from.
    pub backup_key: BackupKey,
    /// The timeline it follows.
    pub timeline: TimelineId,
    /// What the server is told to stop at, in words.
    pub target: String,
    /// The first segment it needs.
    pub first_segment: String,
    /// The last segment it needs, or may need.
    pub last_segment: String,
    /// Where that segment's WAL ends.
    pub end_lsn: Lsn,
    /// What the user should know.
    pub notices: Vec<String>,
    #[serde(skip)]
    pub(crate) plan_target: RecoveryTarget,
    /// Whether the archive has the timeline's history.
    #[serde(skip)]
    pub(crate) has_history: bool,
    #[serde(skip)]
    pub(crate) segments: Vec<WalFile>,
    #[serde(skip)]
    pub(crate) parameters: Option<WalParameters>,
    #[serde(skip)]
    pub(crate) tablespaces: Vec<String>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish<'a> {
    pub(crate) cluster: &'a ClusterName,
    /// This backup and no other.
    pub(crate) backup: Option<&'a BackupKey>,
    pub(crate) target: &'a RecoveryTarget,
    pub(crate) timeline: TargetTimeline,
    pub(crate) inclusive: bool,
}

/// How a backup serves a wish.
enum Served {
    /// At this position, by this target.
    At { stop: Lsn, target: RecoveryTarget, notices: Vec<String> },
    /// Not yet, and why: WAL that follows may bring it.
    NotYet(String),
    /// Not, and why.
    No(String),
}

/// Why a backup does not serve a wish.
struct Refusal {
    why: String,
    nearest: Option<String>,
    is_early: bool,
}

/// Why no backup serves a wish.
#[derive(Debug)]
pub(crate) struct Unreachable {
    /// The target, where the reason does not stand alone.
    target: Option<String>,
    /// One fact: the newest backup's reason, or that there is no backup.
    pub(crate) why: String,
    hint: String,
    /// The newest backup that serves it once the WAL that follows is archived.
    pub(crate) awaited_by: Option<BackupKey>,
}

impl Unreachable {
    fn into_error(self) -> Error {
        let what = match self.target {
            Some(target) => format!("{target} cannot be reached: {}", self.why),
            None => self.why,
        };
        Error::new(ErrorKind::NotFound, what).with_hint(self.hint)
    }
}

impl Repository {
    /// Finds the backup and the WAL for a wish.
    pub(crate) async fn choose_recovery(&self, ctx: &Ctx, wish: &Wish<'_>) -> Result<RecoveryChoice> {
        let archive = Archive::load(self, ctx, wish.cluster).await?;
        let root = self.repo.root().await?;
        let chosen = self.choose_from(ctx, &archive, &root.backups, wish).await?;
        chosen.map_err(Unreachable::into_error)
    }

    /// As [`choose_recovery`](Self::choose_recovery), in an archive and backups that are loaded.
    pub(crate) async fn choose_from(
        &self,
        ctx: &Ctx,
        archive: &Archive,
        backups: &[BackupEntry],
        wish: &Wish<'_>,
    ) -> Result<std::result::Result<RecoveryChoice, Unreachable>> {
        let mut candidates = bases(backups, archive);
        candidates.retain(|entry| wish.backup.is_none_or(|key| entry.key == *key));
        if candidates.is_empty() {
            let why = match wish.backup {
                Some(key) => format!("{key} is no complete base backup of the system this archive is of"),
                None => format!("{} has no complete base backup of the archive's system", wish.cluster),
            };
            let hint = "`list` shows the backups".to_owned();
            return Ok(Err(Unreachable { target: None, why, hint, awaited_by: None }));
        }
        let mut refusals: Vec<(&BackupKey, Refusal)> = Vec::new();
        let mut hidden = None;
        // The newest first: the less WAL is replayed, the sooner it is done.
        for entry in candidates.into_iter().rev() {
            ctx.check()?;
            if let Some(unreachable) = newest_is_hidden(archive, entry, wish) {
                hidden.get_or_insert(unreachable);
                continue;
            }
            match self.serve(ctx, archive, entry, wish).await? {
                Ok(choice) => return Ok(Ok(choice)),
                Err(refusal) => refusals.push((&entry.key, refusal)),
            }
        }
        if let Some(unreachable) = hidden {
            return Ok(Err(unreachable));
        }
        let awaited_by = refusals.iter().find(|(_, refusal)| refusal.is_early).map(|(key, _)| (*key).clone());
        let first = refusals.into_iter().next();
        let (why, nearest) = first
            .map(|(key, refusal)| (format!("{key}: {}", refusal.why), refusal.nearest))
            .unwrap_or_default();
        let hint = nearest.map_or_else(
            || "`wal windows` shows what can be recovered".to_owned(),
            |nearest| format!("the nearest that can: {nearest}; `wal windows` shows all"),
        );
        Ok(Err(Unreachable { target: Some(in_words(wish.target)), why, hint, awaited_by }))
    }

    async fn serve(
        &self,
        ctx: &Ctx,
        archive: &Archive,
        entry: &BackupEntry,
        wish: &Wish<'_>,
    ) -> Result<std::result::Result<RecoveryChoice, Refusal>> {
        let no = |why: String| Ok(Err(Refusal { why, nearest: None, is_early: false }));
        let (Some(own), Some(start), Some(stop)) = (entry.timeline, entry.start_lsn, entry.stop_lsn) else {
            return no("its record does not say where it begins and ends".to_owned());
        };
        let timeline = match wish.timeline {
            _ if *wish.target == RecoveryTarget::Immediate => own,
            TargetTimeline::Current => own,
            TargetTimeline::Latest => archive.latest_from(own),
            TargetTimeline::Id(id) => id,
        };
        let history = archive.history_from(own, timeline)?;
        if !history.contains(own, Lsn::from_u64(stop.as_u64().saturating_sub(1)))
            || !history.contains(own, start)
        {
            return no(format!(
                "timeline {timeline} does not come from its timeline {own}, or left it earlier"
            ));
        }
        let reach = archive.reach(&history, start);
        if !reach.covers(stop) {
            let why = format!("its own WAL is not in the archive: {}", ended_by(&reach));
            return Ok(Err(Refusal { why, nearest: None, is_early: reach.ended == ReachEnd::Archive }));
        }
        let nearest = || nearest(&reach, wish.target, stop, settled(&reach, entry));
        let served = self.position(ctx, archive, &reach, entry, wish).await?;
        if let Served::At { stop: at, .. } = &served
            && let Some(from) = minimal_from(&reach, start, *at)
        {
            let why = format!("wal_level was minimal from {from} on, and PostgreSQL does not replay that");
            let nearest = Some(format!("lsn {from} with --exclusive"));
            return Ok(Err(Refusal { why, nearest, is_early: false }));
        }
        match served {
            Served::At { stop: at, target, notices } => {
                let mut choice = choice(entry, &history, &reach, stop.max(at), target, notices);
                choice.has_history = archive.has_history(timeline);
                Ok(Ok(choice))
            }
            Served::NotYet(why) => Ok(Err(Refusal { why, nearest: nearest(), is_early: true })),
            Served::No(why) => Ok(Err(Refusal { why, nearest: nearest(), is_early: false })),
        }
    }

    /// Where recovery stops, on the way that `reach` is.
    async fn position(
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
            RecoveryTarget::Latest => at(reach.end().unwrap_or(consistent), latest_notices(reach)),
            RecoveryTarget::Lsn(lsn) => match reach.last_record() {
                _ if *lsn < consistent => Served::No(format!("it is consistent only from {consistent} on")),
                Some(last) if *lsn <= last => at(*lsn, Vec::new()),
                _ => ends_before(reach, format!("the WAL ends before: {}", ended_by(reach))),
            },
            RecoveryTarget::Name(name) => named(reach, name, consistent, &at),
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
        if let Some((name, _)) = later.next() {
            let ends = self.transaction_ends(archive, *name).await?;
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
            let ends = self.transaction_ends(archive, *name).await?;
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

    /// Every commit and abort whose record begins in a segment.
    pub(super) async fn transaction_ends(&self, archive: &Archive, name: SegmentName) -> Result<Vec<End>> {
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
        Ok(ends)
    }
}

/// Why the newest timeline cannot be told from a backup: a server would take an older one for it.
fn newest_is_hidden(archive: &Archive, entry: &BackupEntry, wish: &Wish<'_>) -> Option<Unreachable> {
    if wish.timeline != TargetTimeline::Latest || *wish.target == RecoveryTarget::Immediate {
        return None;
    }
    let own = entry.timeline?;
    let (hidden, found) = (archive.hidden_from(own)?, archive.latest_from(own));
    let lost = WalFile::history(TimelineId::from_u32(found.as_u32() + 1));
    Some(Unreachable {
        target: Some(in_words(wish.target)),
        why: format!("there is WAL of timeline {hidden}, and {lost}, which leads to it, is missing"),
        hint: format!("push {lost} again, or say --target-timeline {found}"),
        awaited_by: None,
    })
}

/// The earliest moment a backup can be recovered to: whatever it holds beyond its own WAL was
/// committed before the checkpoint it began with, whose stamp is in whole seconds. Where that is not
/// in the WAL, the end of the backup.
fn settled(reach: &Reach<'_>, entry: &BackupEntry) -> Timestamp {
    let own = |kind: &WalEventKind| matches!(kind, WalEventKind::Checkpoint { redo, .. } if Some(*redo) == entry.start_lsn);
    let began = reach.events().find(|event| own(&event.what)).and_then(|event| event.time);
    let second_later = |time: Timestamp| Timestamp::from_micros(time.as_micros().saturating_add(1_000_000));
    began.map_or(entry.finished_at, second_later).min(entry.finished_at)
}

/// Where between two positions the server changed to `wal_level = minimal`: what was written under
/// it lacks what a recovery needs, and a server refuses it.
fn minimal_from(reach: &Reach<'_>, start: Lsn, stop: Lsn) -> Option<Lsn> {
    let between = reach.events().filter(|event| (start..=stop).contains(&event.at));
    let is_minimal = |kind: &WalEventKind| matches!(kind, WalEventKind::Parameters(to) if to.wal_level == 0);
    between.filter(|event| is_minimal(&event.what)).map(|event| event.at).next()
}

/// A target behind the end of the WAL: of the archive, which may grow, or at a hole, which stays.
fn ends_before(reach: &Reach<'_>, why: String) -> Served {
    match reach.ended {
        ReachEnd::Archive => Served::NotYet(why),
        ReachEnd::Hole(_) | ReachEnd::Broken(..) => Served::No(why),
    }
}

/// The first restore point of that name that recovery meets.
fn named(
    reach: &Reach<'_>,
    wanted: &str,
    consistent: Lsn,
    at: &(dyn Fn(Lsn, Vec<String>) -> Served + Sync),
) -> Served {
    let matches = |kind: &WalEventKind| matches!(kind, WalEventKind::RestorePoint { name } if name == wanted);
    let mut points = reach.events().filter(|event| matches(&event.what)).map(|event| event.at);
    match points.next() {
        None => {
            ends_before(reach, format!("no restore point of that name is in the WAL: {}", ended_by(reach)))
        }
        Some(lsn) if lsn < consistent => {
            Served::No(format!("the first restore point of that name, at {lsn}, is before the backup's end"))
        }
        Some(lsn) => {
            let more = points.count();
            let what =
                format!("{} restore points have that name: recovery stops at the first, {lsn}", more + 1);
            at(lsn, if more > 0 { vec![what] } else { Vec::new() })
        }
    }
}

fn latest_notices(reach: &Reach<'_>) -> Vec<String> {
    match &reach.ended {
        super::archive::ReachEnd::Archive => Vec::new(),
        _ => vec![format!("there is later WAL that cannot be reached: {}", ended_by(reach))],
    }
}

/// What could be reached instead.
fn nearest(
    reach: &Reach<'_>,
    target: &RecoveryTarget,
    consistent: Lsn,
    settled: Timestamp,
) -> Option<String> {
    match target {
        RecoveryTarget::Time(time) => {
            let known = reach.known_until().unwrap_or(settled).max(settled);
            Some(format!("time {}", if *time < settled { settled } else { known }))
        }
        RecoveryTarget::Lsn(lsn) if *lsn < consistent => Some(format!("lsn {consistent}")),
        RecoveryTarget::Lsn(_) | RecoveryTarget::Xid(_) => {
            reach.last_record().map(|last| format!("lsn {}", last.max(consistent)))
        }
        RecoveryTarget::Name(_) => {
            let names = reach.events().filter(|event| event.at >= consistent).filter_map(|e| match &e.what {
                WalEventKind::RestorePoint { name } => Some(format!("name {name:?}")),
                _ => None,
            });
            names.last()
        }
        _ => None,
    }
}

fn choice(
    entry: &BackupEntry,
    history: &TimelineHistory,
    reach: &Reach<'_>,
    stop: Lsn,
    target: RecoveryTarget,
    mut notices: Vec<String>,
) -> RecoveryChoice {
    // The record at the stop may go on into the next segment.
    let needed = |name: &SegmentName| name.start() <= stop;
    let mut segments: Vec<_> = reach.segments.iter().filter(|(name, _)| needed(name)).collect();
    let next = reach.segments.get(segments.len());
    segments.extend(next);
    let (first, last) = (segments.first(), segments.last());
    let facts = || segments.iter().map(|(_, facts)| facts);
    let tablespaces = tablespaces(facts(), stop);
    for location in &tablespaces {
        notices.push(format!("replay makes a tablespace at {location} again, on this machine"));
    }
    RecoveryChoice {
        backup_key: entry.key.clone(),
        timeline: history.timeline(),
        target: in_words(&target),
        first_segment: first.map(|(name, _)| name.to_string()).unwrap_or_default(),
        last_segment: last.map(|(name, _)| name.to_string()).unwrap_or_default(),
        end_lsn: last.map_or(stop, |(_, facts)| facts.end),
        notices,
        plan_target: target,
        has_history: true,
        parameters: highest(facts(), stop),
        tablespaces,
        segments: segments.iter().map(|(name, _)| WalFile::from(*name)).collect(),
    }
}

fn tablespaces<'a>(facts: impl Iterator<Item = &'a &'a SegmentFacts>, stop: Lsn) -> Vec<String> {
    let events = facts.flat_map(|facts| &facts.events).filter(|event| event.at <= stop);
    let made = events.filter_map(|event| match &event.what {
        WalEventKind::CreateTablespace { location, .. } if !location.is_empty() => Some(location.clone()),
        _ => None,
    });
    made.collect()
}

/// The highest each setting is in the WAL that is replayed.
fn highest<'a>(facts: impl Iterator<Item = &'a &'a SegmentFacts>, stop: Lsn) -> Option<WalParameters> {
    let events = facts.flat_map(|facts| &facts.events).filter(|event| event.at <= stop);
    let changes = events.filter_map(|event| match &event.what {
        WalEventKind::Parameters(parameters) => Some(*parameters),
        _ => None,
    });
    changes.reduce(|a, b| WalParameters {
        max_connections: a.max_connections.max(b.max_connections),
        max_worker_processes: a.max_worker_processes.max(b.max_worker_processes),
        max_wal_senders: a.max_wal_senders.max(b.max_wal_senders),
        max_prepared_transactions: a.max_prepared_transactions.max(b.max_prepared_transactions),
        max_locks_per_transaction: a.max_locks_per_transaction.max(b.max_locks_per_transaction),
        wal_level: a.wal_level.min(b.wal_level),
    })
}

/// A target as people say it.
pub(crate) fn in_words(target: &RecoveryTarget) -> String {
    match target {
        RecoveryTarget::Time(time) => format!("time {time}"),
        RecoveryTarget::Lsn(lsn) => format!("lsn {lsn}"),
        RecoveryTarget::Xid(xid) => format!("xid {xid}"),
        RecoveryTarget::Name(name) => format!("name {name:?}"),
        RecoveryTarget::Immediate => "immediate".to_owned(),
        RecoveryTarget::Latest => "latest".to_owned(),
    }
}
