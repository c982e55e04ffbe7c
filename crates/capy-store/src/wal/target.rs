//! From a wish to a recovery: which backup, which timeline, which WAL, or why not and what instead.
//!
//! Contained by: the restore. The answer is proven from facts before a byte is restored; where
//! facts are too coarse (the first commit after a moment, a transaction id) the segments in question
//! are read.
//!
//! The rules are the server's. A time is reached when a transaction that ended after it is met; a
//! moment after the last one is reached by position instead, as far as the WAL proves that nothing
//! else committed before it.

mod stop;

use capy_format::{BackupEntry, WalEventKind, WalParameters};
use capy_postgres::TimelineHistory;
use capy_postgres::recovery::{RecoveryTarget, TargetTimeline};
use capy_types::{BackupKey, ClusterName, Ctx, ErrorKind, Lsn, SegmentName, TimelineId, Timestamp, WalFile};
use serde::Serialize;

use super::archive::{Archive, Reach, ReachEnd};
use super::windows::{bases, ended_by};
use crate::{Error, Repository, Result};

use stop::{Served, left_out, minimal_from, settled};

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
    /// To follow the archive for ever.
    pub(crate) standby: bool,
}

/// Why a backup does not serve a wish.
struct Refusal {
    why: String,
    nearest: Option<String>,
    is_early: bool,
    /// The timeline does not lead over the backup: another's reason says more.
    is_aside: bool,
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
        let mut archive = Archive::load(self, ctx, wish.cluster).await?;
        let root = self.repo.root().await?;
        // Each round takes away a segment that was lost, and there is no end to the rounds but that.
        loop {
            let chosen = self.choose_from(ctx, &archive, &root.backups, wish).await?;
            let choice = chosen.map_err(Unreachable::into_error)?;
            if archive.lose_absent(self, &choice.segments).await?.is_empty() {
                return Ok(choice);
            }
        }
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
        refusals.sort_by_key(|(_, refusal)| refusal.is_aside);
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
        let refuse = |why: String, nearest: Option<String>, is_early: bool| {
            Ok(Err(Refusal { why, nearest, is_early, is_aside: false }))
        };
        let (Some(own), Some(start), Some(stop)) = (entry.timeline, entry.start_lsn, entry.stop_lsn) else {
            return refuse("its record does not say where it begins and ends".to_owned(), None, false);
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
            let why =
                format!("timeline {timeline} does not come from its timeline {own}, or left it earlier");
            return Ok(Err(Refusal { why, nearest: None, is_early: false, is_aside: true }));
        }
        let reach = archive.reach(&history, start);
        if !reach.covers(stop) {
            let why = format!("its own WAL is not in the archive: {}", ended_by(&reach));
            let is_early = matches!(reach.ended, ReachEnd::Archive | ReachEnd::Fork(_));
            return refuse(why, None, is_early);
        }
        let nearest = || nearest(&reach, wish.target, stop, settled(&reach, entry));
        let served = self.position(ctx, archive, &reach, entry, wish).await?;
        if let Served::At { stop: at, .. } = &served
            && let Some(from) = minimal_from(&reach, start, *at)
        {
            let why = format!("wal_level was minimal from {from} on, and PostgreSQL does not replay that");
            return refuse(why, Some(format!("lsn {from} with --exclusive")), false);
        }
        match served {
            Served::At { stop: at, target, mut notices } => {
                if *wish.target == RecoveryTarget::Latest {
                    notices.extend(archive.branches(&history, start).iter().map(left_out));
                }
                let mut choice = choice(entry, &history, &reach, stop.max(at), target, notices);
                choice.has_history = archive.has_history(timeline);
                Ok(Ok(choice))
            }
            Served::NotYet(why) => refuse(why, nearest(), true),
            Served::No(why) => refuse(why, nearest(), false),
        }
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
        RecoveryTarget::Name(wanted) => {
            let met = reach.events().filter(|event| event.at >= consistent);
            let points: Vec<_> = met
                .filter_map(|event| match &event.what {
                    WalEventKind::RestorePoint { name } => Some((name, event.at)),
                    _ => None,
                })
                .collect();
            // A later one of that name has its position only.
            let same = points.iter().find(|(name, _)| *name == wanted).map(|(_, at)| format!("lsn {at}"));
            same.or_else(|| points.last().map(|(name, _)| format!("name {name:?}")))
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
    let tablespaces = tablespaces(reach, stop);
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
        parameters: highest(reach, stop),
        tablespaces,
        segments: segments.iter().map(|(name, _)| WalFile::from(*name)).collect(),
    }
}

fn tablespaces(reach: &Reach<'_>, stop: Lsn) -> Vec<String> {
    let made = reach.events().filter(|event| event.at <= stop);
    let made = made.filter_map(|event| match &event.what {
        WalEventKind::CreateTablespace { location, .. } if !location.is_empty() => Some(location.clone()),
        _ => None,
    });
    made.collect()
}

/// The highest each setting is in the WAL that is replayed.
fn highest(reach: &Reach<'_>, stop: Lsn) -> Option<WalParameters> {
    let changes = reach.events().filter(|event| event.at <= stop);
    let changes = changes.filter_map(|event| match &event.what {
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
