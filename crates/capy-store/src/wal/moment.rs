//! A time in the log: the position a recovery to it stops at, and the transactions around it.
//!
//! Found from facts; of the segment in which the first later transaction ends, the records are
//! read. The rule is the server's: the first transaction that ended after the time stops the
//! recovery, whatever the order of the times behind it.

use std::collections::BTreeSet;

use capy_format::{SegmentFacts, TransactionEnd};
use capy_postgres::TimelineHistory;
use capy_types::{ClusterName, Ctx, Lsn, SegmentName, TimelineId, Timestamp};
use serde::Serialize;
use tracing::instrument;

use super::archive::Archive;
use crate::repository::cancellable;
use crate::{Repository, Result};

/// What the log says of a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WalMoment {
    /// The time asked for.
    pub time: Timestamp,
    /// The timeline whose history was followed.
    pub timeline: TimelineId,
    /// Where a recovery to the time stops: at the record of [`first_after`](Self::first_after), or at
    /// the end of the archived WAL.
    pub lsn: Lsn,
    /// The last transaction that ended before that position.
    pub last_before: Option<TransactionMoment>,
    /// The first transaction that ended after the time.
    pub first_after: Option<TransactionMoment>,
    /// The segment that holds the position.
    pub segment: String,
    /// What makes the answer uncertain: nothing when empty. A hole may hide a transaction, and
    /// behind the end of the archive there may be some that is not archived yet.
    pub doubts: Vec<String>,
}

/// The end of a transaction: a commit or an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TransactionMoment {
    /// Where its record begins.
    pub lsn: Lsn,
    /// The time it carries, by the server's clock.
    pub time: Timestamp,
}

impl From<TransactionEnd> for TransactionMoment {
    fn from(end: TransactionEnd) -> Self {
        Self { lsn: end.at, time: end.time }
    }
}

impl Repository {
    /// Where `time` is in the archived WAL of `cluster`: on the history of `timeline`, or of the
    /// newest one that a recovery following `latest` would find. It does not ask whether a backup
    /// leads there: [`plan_recovery`](Self::plan_recovery) does.
    ///
    /// # Errors
    /// `NotFound` when there is no such archive, timeline or WAL; `Corrupt`, `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository) -> Result<()> {
    /// let time = "2026-11-21T06:54:52Z".parse().unwrap();
    /// let moment = repository.wal_moment(ctx, &"main".parse().unwrap(), time, None).await?;
    /// println!("{}: {:?}", moment.lsn, moment.last_before);
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(cluster = %cluster))]
    pub async fn wal_moment(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        time: Timestamp,
        timeline: Option<TimelineId>,
    ) -> Result<WalMoment> {
        let work = async {
            let archive = Archive::load(self, ctx, cluster).await?;
            let first = archive.timelines().first().copied().unwrap_or(TimelineId::from_u32(1));
            let timeline = timeline.unwrap_or_else(|| archive.latest_from(first));
            let history = archive.history(timeline)?;
            let path = path(&archive, &history);
            let Some((last, _)) = path.last() else {
                let what = format!("the archive {cluster} has no WAL on timeline {timeline}");
                return Err(crate::Error::new(crate::ErrorKind::NotFound, what));
            };
            let after = path.iter().position(|(_, facts)| facts.times.is_some_and(|(_, t)| t > time));
            let mut before = path.get(..after.unwrap_or(path.len())).unwrap_or_default();
            let mut moment = WalMoment {
                time,
                timeline,
                lsn: path.last().map_or_else(|| last.end(), |(_, facts)| facts.end),
                last_before: None,
                first_after: None,
                segment: last.to_string(),
                doubts: Vec::new(),
            };
            if let Some((name, facts)) = after.and_then(|at| path.get(at)) {
                let ends = self.transaction_ends(&archive, *name, facts.end).await?;
                let own = ends.iter().map(|end| TransactionMoment { lsn: end.lsn, time: end.time });
                let own: Vec<_> = own.collect();
                let at = own.iter().position(|end| end.time > time).unwrap_or(own.len());
                // A record that goes on in the next segment is in the facts alone.
                moment.first_after = own.get(at).copied().or(facts.last_end.map(Into::into));
                moment.last_before = at.checked_sub(1).and_then(|at| own.get(at)).copied();
                moment.lsn = moment.first_after.map_or_else(|| name.end(), |end| end.lsn);
                moment.segment = name.to_string();
                before = path.get(..=after.unwrap_or_default()).unwrap_or_default();
            } else if !path.iter().any(|(_, facts)| super::archive::latest_time(facts) >= Some(time)) {
                moment.doubts.push("what happened until then may not be archived yet".to_owned());
            }
            if moment.last_before.is_none() {
                let known = if moment.first_after.is_some() { before.split_last() } else { None };
                let earlier = known.map_or(before, |(_, earlier)| earlier);
                moment.last_before = earlier.iter().rev().find_map(|(_, f)| f.last_end).map(Into::into);
            }
            moment.doubts.extend(holes(before, moment.last_before));
            Ok(moment)
        };
        cancellable(ctx, work).await
    }
}

/// The segments that a server on `history` would replay, oldest first, over holes too.
fn path<'a>(archive: &'a Archive, history: &TimelineHistory) -> Vec<(SegmentName, &'a SegmentFacts)> {
    let ancestors = history.ancestors().iter().map(|entry| entry.timeline).chain([history.timeline()]);
    let names: Vec<_> = ancestors.flat_map(|timeline| archive.segments_on(timeline)).collect();
    let places: BTreeSet<_> = names.iter().map(|(name, _)| name.on(history.timeline())).collect();
    places.into_iter().filter_map(|at| archive.segment_of(history, at)).collect()
}

/// Where segments are missing between the transaction found and the end of `path`.
fn holes(path: &[(SegmentName, &SegmentFacts)], since: Option<TransactionMoment>) -> Vec<String> {
    let since = since.map_or(Lsn::from_u64(0), |end| end.lsn);
    let mut doubts = Vec::new();
    for pair in path.windows(2) {
        if let [(earlier, facts), (later, _)] = pair
            && later.end() > since
        {
            if earlier.next().start() != later.start() {
                doubts.push(format!("segments are missing between {earlier} and {later}"));
            } else if let Some(why) = &facts.stopped {
                doubts.push(format!("{earlier} ends early: {why}"));
            }
        }
    }
    doubts
}
