//! The decision of retention: which backups a policy keeps, why, and which may go.
//!
//! Contained by: `expire`, which removes what is decided here. A pure function of the backups,
//! the policy and the time, so that it can be asked again before the commit. Backups are judged
//! in *series* of their own: the base backups of a cluster, and its streams of each database.
//! Invariants, proven again by [`ExpirePlan::check`]: a pinned backup is kept; whatever goes
//! leaves a newer sound backup of its series behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use capy_types::{BackupKey, ClusterName, Timestamp};

use super::calendar::Unit;
use super::report::{ExpireReason, ExpiredBackup, KeepReason, KeptBackup};
use crate::{BackupInfo, BackupKind, BackupState, Error, Result, VerificationState};

/// Which backups are kept. A backup stays if any rule wants it; without any rule nothing is
/// decided and `expire` refuses.
///
/// Rules that count take the newest first, and count sound backups only: complete, and not found
/// defective by their last verification. Each series is counted on its own: the base backups of a
/// cluster, and its streams of each database. Calendar rules count periods in UTC that have a
/// backup, and keep the newest of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// So many of the newest.
    pub keep_full: Option<u32>,
    /// All that ended so long ago or later, sound or not; and the newest sound base backup before
    /// them, from which WAL leads to the beginning of that time.
    pub keep_within: Option<Duration>,
    /// The newest of each of so many days.
    pub keep_daily: Option<u32>,
    /// The newest of each of so many ISO weeks.
    pub keep_weekly: Option<u32>,
    /// The newest of each of so many months.
    pub keep_monthly: Option<u32>,
    /// The newest of each of so many years.
    pub keep_yearly: Option<u32>,
}

impl RetentionPolicy {
    /// Refuses a policy that has no rule, or one that would keep nothing.
    pub(super) fn check(&self) -> Result<()> {
        let counts = [
            ("keep_full", self.keep_full),
            ("keep_daily", self.keep_daily),
            ("keep_weekly", self.keep_weekly),
            ("keep_monthly", self.keep_monthly),
            ("keep_yearly", self.keep_yearly),
        ];
        if let Some((rule, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return Err(Error::invalid(format!("{rule} of 0 keeps nothing")).with_hint("leave the rule out"));
        }
        if self.keep_within == Some(Duration::ZERO) {
            return Err(
                Error::invalid("keep_within of no time keeps nothing").with_hint("leave the rule out")
            );
        }
        if self.keep_within.is_none() && counts.iter().all(|(_, count)| count.is_none()) {
            return Err(Error::invalid("the retention policy has no rule: nothing says what to keep"));
        }
        Ok(())
    }
}

/// What is kept and what goes, each oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpirePlan {
    pub(super) kept: Vec<KeptBackup>,
    pub(super) expired: Vec<ExpiredBackup>,
}

/// Decides on `backups` as of `now`.
///
/// # Errors
/// Invalid when the policy has no rule, or a rule of zero.
pub(super) fn plan(backups: &[BackupInfo], policy: &RetentionPolicy, now: Timestamp) -> Result<ExpirePlan> {
    policy.check()?;
    let mut series: BTreeMap<Series<'_>, Vec<Verdict<'_>>> = BTreeMap::new();
    for backup in backups {
        series.entry(Series::of(backup)).or_default().push(Verdict { backup, reasons: Vec::new() });
    }
    let mut plan = ExpirePlan { kept: Vec::new(), expired: Vec::new() };
    for mut verdicts in series.into_values() {
        verdicts.sort_by(|a, b| order(b.backup).cmp(&order(a.backup)));
        judge(&mut verdicts, policy, now);
        verdicts.into_iter().for_each(|verdict| plan.add(verdict));
    }
    plan.sort();
    Ok(plan)
}

/// Backups that stand in for each other: an older one may go because a newer one is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Series<'a> {
    cluster: &'a ClusterName,
    kind: &'static str,
    /// Of streams only: a base backup is of the whole cluster, whatever the remark says.
    database: Option<&'a str>,
}

impl<'a> Series<'a> {
    fn of(backup: &'a BackupInfo) -> Self {
        let database = match backup.kind {
            BackupKind::Base => None,
            BackupKind::Stream => backup.database.as_deref(),
        };
        Self { cluster: &backup.cluster, kind: backup.kind.as_str(), database }
    }
}

/// What has been said for one backup so far.
struct Verdict<'a> {
    backup: &'a BackupInfo,
    reasons: Vec<KeepReason>,
}

/// Oldest first; the key decides between two of the same moment.
fn order(backup: &BackupInfo) -> (Timestamp, &BackupKey) {
    (backup.created_at, &backup.backup_key)
}

/// Whether a restore can be expected to succeed.
fn is_sound(backup: &BackupInfo) -> bool {
    backup.state == BackupState::Complete && backup.verification_state != VerificationState::Failed
}

/// Dated after now: one of two clocks is wrong, and nothing can be said about its age.
pub(super) fn is_from_the_future(backup: &BackupInfo, now: Timestamp) -> bool {
    backup.created_at > now || backup.finished_at > now
}

/// Applies every rule to one series, newest first.
fn judge(verdicts: &mut [Verdict<'_>], policy: &RetentionPolicy, now: Timestamp) {
    for verdict in verdicts.iter_mut() {
        if verdict.backup.pinned.is_some() {
            verdict.reasons.push(KeepReason::Pinned);
        }
        if is_from_the_future(verdict.backup, now) {
            verdict.reasons.push(KeepReason::Future);
        }
    }
    // Only these are counted.
    let mut sound: Vec<_> = verdicts
        .iter_mut()
        .filter(|verdict| is_sound(verdict.backup) && !is_from_the_future(verdict.backup, now))
        .collect();
    keep_first(&mut sound, 1, KeepReason::Newest);
    keep_first(&mut sound, policy.keep_full.unwrap_or(0), KeepReason::Full);
    keep_periods(&mut sound, policy.keep_daily, Unit::Day, KeepReason::Daily);
    keep_periods(&mut sound, policy.keep_weekly, Unit::Week, KeepReason::Weekly);
    keep_periods(&mut sound, policy.keep_monthly, Unit::Month, KeepReason::Monthly);
    keep_periods(&mut sound, policy.keep_yearly, Unit::Year, KeepReason::Yearly);
    if let Some(within) = policy.keep_within {
        keep_window(verdicts, before(now, within));
    }
    keep_without_successor(verdicts, now);
}

fn keep_first(sound: &mut [&mut Verdict<'_>], count: u32, reason: KeepReason) {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    sound.iter_mut().take(count).for_each(|verdict| verdict.reasons.push(reason));
}

/// Keeps the newest of each of the newest `count` periods that have one.
fn keep_periods(sound: &mut [&mut Verdict<'_>], count: Option<u32>, unit: Unit, reason: KeepReason) {
    let mut left = count.unwrap_or(0);
    let mut last = None;
    for verdict in sound {
        let period = Some(unit.containing(verdict.backup.created_at));
        if left > 0 && period != last {
            verdict.reasons.push(reason);
            (left, last) = (left - 1, period);
        }
    }
}

/// Keeps all that ended at `start` or later, and the base backup that leads to `start`.
fn keep_window(verdicts: &mut [Verdict<'_>], start: Timestamp) {
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.backup.finished_at >= start) {
        verdict.reasons.push(KeepReason::Within);
    }
    let leads_to_start = |verdict: &&mut Verdict<'_>| {
        let backup = verdict.backup;
        backup.kind == BackupKind::Base && is_sound(backup) && backup.finished_at < start
    };
    if let Some(verdict) = verdicts.iter_mut().find(leads_to_start) {
        verdict.reasons.push(KeepReason::WindowStart);
    }
}

/// Keeps what no sound backup follows, however bad it is: there is nothing better.
fn keep_without_successor(verdicts: &mut [Verdict<'_>], now: Timestamp) {
    let stands =
        |verdict: &&mut Verdict<'_>| !is_sound(verdict.backup) || is_from_the_future(verdict.backup, now);
    for verdict in verdicts.iter_mut().take_while(stands) {
        if !is_sound(verdict.backup) {
            verdict.reasons.push(KeepReason::NothingNewer);
        }
    }
}

/// `now` less `span`, or the beginning of time.
fn before(now: Timestamp, span: Duration) -> Timestamp {
    let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(micros))
}

impl ExpirePlan {
    fn add(&mut self, verdict: Verdict<'_>) {
        let backup = verdict.backup.clone();
        if verdict.reasons.is_empty() {
            let reason = if is_sound(&backup) { ExpireReason::NoRule } else { ExpireReason::NotSound };
            self.expired.push(ExpiredBackup { backup, reason });
        } else {
            let mut reasons = verdict.reasons;
            reasons.sort_unstable();
            self.kept.push(KeptBackup { backup, reasons });
        }
    }

    fn sort(&mut self) {
        self.kept.sort_by(|a, b| order(&a.backup).cmp(&order(&b.backup)));
        self.expired.sort_by(|a, b| order(&a.backup).cmp(&order(&b.backup)));
    }

    /// Keeps, of backups that lead to an archive's newest timeline, the newest sound one, if none of
    /// them would be kept: without it what is written there now could not be recovered.
    pub(super) fn keep_one_of(&mut self, leading: &BTreeSet<BackupKey>) {
        let leads = |backup: &BackupInfo| leading.contains(&backup.backup_key);
        let mut kept = self.kept.iter().map(|kept| &kept.backup).filter(|backup| leads(backup));
        if kept.any(is_sound) {
            return;
        }
        let goes = |expired: &ExpiredBackup| leads(&expired.backup) && is_sound(&expired.backup);
        if let Some(at) = self.expired.iter().rposition(goes) {
            let backup = self.expired.remove(at).backup;
            self.kept.push(KeptBackup { backup, reasons: vec![KeepReason::NewestTimeline] });
            self.sort();
        }
    }

    /// Keeps what would go but is not in `shown`.
    pub(super) fn limit_to(&mut self, shown: &BTreeSet<BackupKey>) {
        let (expired, others): (Vec<_>, Vec<_>) =
            self.expired.drain(..).partition(|expired| shown.contains(&expired.backup.backup_key));
        self.expired = expired;
        let kept =
            |other: ExpiredBackup| KeptBackup { backup: other.backup, reasons: vec![KeepReason::NotShown] };
        self.kept.extend(others.into_iter().map(kept));
        self.sort();
    }

    /// What must hold before anything is removed, said without the rules that led here.
    pub(super) fn check(&self, now: Timestamp) -> std::result::Result<(), String> {
        let mut successors: BTreeMap<Series<'_>, (Timestamp, &BackupKey)> = BTreeMap::new();
        for KeptBackup { backup, .. } in &self.kept {
            if is_sound(backup) && !is_from_the_future(backup, now) {
                let newest = successors.entry(Series::of(backup)).or_insert(order(backup));
                *newest = order(backup).max(*newest);
            }
        }
        for ExpiredBackup { backup, .. } in &self.expired {
            let key = &backup.backup_key;
            if backup.pinned.is_some() {
                return Err(format!("{key} is pinned and must not expire"));
            }
            if successors.get(&Series::of(backup)).is_none_or(|newest| *newest <= order(backup)) {
                return Err(format!("{key} must not expire: no newer sound backup is kept"));
            }
        }
        Ok(())
    }
}
