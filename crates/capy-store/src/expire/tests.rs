//! The rules of retention one by one, on backups made up for the purpose.

use std::collections::BTreeSet;
use std::time::Duration;

use capy_types::{BackupKey, ErrorKind, Lsn, SystemId, TimelineId, Timestamp};

use super::policy::{ExpirePlan, RetentionPolicy, plan};
use super::{KeepReason, oldest_kept};
use crate::{BackupInfo, BackupKind, BackupState, PinInfo, VerificationState};

pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A complete base backup of this key that took a minute.
pub(super) fn base(key: &str, begun: Timestamp) -> BackupInfo {
    let key: BackupKey = key.parse().unwrap();
    BackupInfo {
        id: key.id.clone(),
        cluster: key.cluster.clone(),
        backup_key: key,
        label: None,
        database: None,
        kind: BackupKind::Base,
        created_at: begun,
        finished_at: Timestamp::from_micros(begun.as_micros() + 60_000_000),
        size_bytes: 100,
        stored_bytes: 10,
        state: BackupState::Complete,
        verification_state: VerificationState::Pending,
        verification_level: None,
        verified_at: None,
        verification_error: None,
        system_id: None,
        timeline: None,
        start_lsn: None,
        stop_lsn: None,
        pinned: None,
    }
}

pub(super) fn pinned(mut backup: BackupInfo) -> BackupInfo {
    let at = backup.created_at;
    backup.pinned = Some(PinInfo { reason: "audit".to_owned(), by: None, at });
    backup
}

fn damaged(mut backup: BackupInfo) -> BackupInfo {
    backup.state = BackupState::Damaged;
    backup
}

fn failed(mut backup: BackupInfo) -> BackupInfo {
    backup.verification_state = VerificationState::Failed;
    backup
}

fn stream(mut backup: BackupInfo, database: Option<&str>) -> BackupInfo {
    (backup.kind, backup.database) = (BackupKind::Stream, database.map(str::to_owned));
    backup
}

/// One backup of `main` for each moment, named by it.
fn at(moments: &[&str]) -> Vec<BackupInfo> {
    moments
        .iter()
        .map(|moment| {
            let begun = time(moment);
            base(&format!("main/{}", begun.compact()), begun)
        })
        .collect()
}

/// Daily backups at noon, `main/d01` to `main/d31`, in the January before [`NOW`].
fn january() -> Vec<BackupInfo> {
    (1..=31)
        .map(|day| base(&format!("main/d{day:02}"), time(&format!("2026-01-{day:02}T12:00:00Z"))))
        .collect()
}

const NOW: &str = "2026-02-01T00:00:00Z";

fn policy(change: impl FnOnce(&mut RetentionPolicy)) -> RetentionPolicy {
    let mut policy = RetentionPolicy::default();
    change(&mut policy);
    policy
}

fn planned(backups: &[BackupInfo], policy: &RetentionPolicy) -> ExpirePlan {
    let plan = plan(backups, policy, time(NOW)).unwrap();
    assert_eq!(plan.kept.len() + plan.expired.len(), backups.len());
    plan.check(time(NOW)).unwrap();
    plan
}

/// The ids that are kept, oldest first.
fn kept(backups: &[BackupInfo], policy: &RetentionPolicy) -> Vec<String> {
    planned(backups, policy).kept.iter().map(|kept| kept.backup.id.to_string()).collect()
}

#[test]
fn the_newest_backup_that_leads_to_the_newest_timeline_stays_when_no_other_does() {
    let keys = |ids: &[&str]| ids.iter().map(|id| format!("main/{id}").parse().unwrap()).collect();
    let after = |backups: &[BackupInfo], leading: &[&str]| {
        let mut plan = planned(backups, &policy(|p| p.keep_full = Some(2)));
        plan.keep_one_of(&keys(leading));
        plan.check(time(NOW)).unwrap();
        plan
    };
    let ids = |plan: &ExpirePlan| -> Vec<String> {
        plan.kept.iter().map(|kept| kept.backup.id.to_string()).collect()
    };
    let plan = after(&january(), &["d05", "d07", "d09"]);
    assert_eq!(ids(&plan), ["d09", "d30", "d31"]);
    assert_eq!(reasons(&plan, "d09"), [KeepReason::NewestTimeline]);
    for enough in [&["d05", "d30"][..], &[]] {
        assert_eq!(ids(&after(&january(), enough)), ["d30", "d31"]);
    }
    // One that is not sound does not stand in for it.
    let mut backups = january();
    backups[8] = failed(backups[8].clone());
    assert_eq!(ids(&after(&backups, &["d05", "d07", "d09"])), ["d07", "d30", "d31"]);
}

fn reasons(plan: &ExpirePlan, id: &str) -> Vec<KeepReason> {
    let found = plan.kept.iter().find(|kept| kept.backup.id.as_str() == id);
    found.unwrap_or_else(|| panic!("{id} is not kept")).reasons.clone()
}

#[test]
fn a_policy_without_a_rule_or_with_a_rule_of_zero_is_invalid() {
    let refused = |policy: &RetentionPolicy| plan(&january(), policy, time(NOW)).unwrap_err();
    let error = refused(&RetentionPolicy::default());
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "the retention policy has no rule: nothing says what to keep");
    for (rule, zero) in [
        ("keep_full", policy(|p| p.keep_full = Some(0))),
        ("keep_within", policy(|p| p.keep_within = Some(Duration::ZERO))),
        ("keep_daily", policy(|p| p.keep_daily = Some(0))),
        ("keep_weekly", policy(|p| p.keep_weekly = Some(0))),
        ("keep_monthly", policy(|p| p.keep_monthly = Some(0))),
        ("keep_yearly", policy(|p| (p.keep_full, p.keep_yearly) = (Some(3), Some(0)))),
    ] {
        let error = refused(&zero);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(rule), "{error}");
    }
}

#[test]
fn no_backups_at_all_give_an_empty_plan() {
    let plan = planned(&[], &policy(|p| p.keep_full = Some(1)));
    assert!(plan.kept.is_empty() && plan.expired.is_empty());
}

#[test]
fn keep_full_keeps_the_newest_and_says_so() {
    let plan = planned(&january(), &policy(|p| p.keep_full = Some(3)));
    assert_eq!(plan.kept.len(), 3);
    assert_eq!(reasons(&plan, "d31"), [KeepReason::Newest, KeepReason::Full]);
    assert_eq!(reasons(&plan, "d29"), [KeepReason::Full]);
    assert!(plan.expired.iter().all(|expired| expired.reason.as_str() == "no rule keeps it"));
    assert_eq!(kept(&january(), &policy(|p| p.keep_full = Some(u32::MAX))).len(), 31);
}

#[test]
fn keep_within_keeps_the_window_and_the_base_that_leads_to_its_start() {
    let plan = planned(&january(), &policy(|p| p.keep_within = Some(3 * DAY)));
    // The window starts on the 29th at midnight; to return to that moment takes the 28th's.
    assert_eq!(plan.kept.len(), 4);
    assert_eq!(reasons(&plan, "d28"), [KeepReason::WindowStart]);
    assert_eq!(reasons(&plan, "d29"), [KeepReason::Within]);
    assert_eq!(reasons(&plan, "d31"), [KeepReason::Newest, KeepReason::Within]);
}

#[test]
fn a_backup_counts_as_inside_the_window_when_it_ended_there() {
    let mut backups = at(&["2026-01-24T12:00:00Z", "2026-01-24T23:59:30Z", "2026-01-31T12:00:00Z"]);
    backups[1].finished_at = time("2026-01-25T00:00:00Z");
    let plan = planned(&backups, &policy(|p| p.keep_within = Some(7 * DAY)));
    assert_eq!(reasons(&plan, "20260124T235930Z"), [KeepReason::Within]);
    assert_eq!(reasons(&plan, "20260124T120000Z"), [KeepReason::WindowStart]);
}

#[test]
fn damaged_backups_stay_inside_the_window_and_never_lead_into_it() {
    let mut backups = january();
    backups[27] = damaged(backups[27].clone());
    backups[28] = failed(backups[28].clone());
    let plan = planned(&backups, &policy(|p| p.keep_within = Some(3 * DAY)));
    assert_eq!(reasons(&plan, "d27"), [KeepReason::WindowStart]);
    assert_eq!(reasons(&plan, "d29"), [KeepReason::Within]);
    assert!(plan.expired.iter().any(|expired| expired.backup.id.as_str() == "d28"));
}

#[test]
fn a_window_longer_than_time_keeps_everything() {
    assert_eq!(kept(&january(), &policy(|p| p.keep_within = Some(Duration::MAX))).len(), 31);
}

#[test]
fn a_stream_has_no_wal_that_would_lead_into_the_window() {
    let backups: Vec<_> = january().into_iter().map(|backup| stream(backup, Some("shop"))).collect();
    assert_eq!(kept(&backups, &policy(|p| p.keep_within = Some(3 * DAY))), ["d29", "d30", "d31"]);
}

#[test]
fn the_newest_of_each_period_stands_for_it() {
    let backups = at(&[
        "2026-01-29T01:00:00Z",
        "2026-01-29T23:00:00Z",
        "2026-01-30T01:00:00Z",
        "2026-01-30T23:59:59Z",
        "2026-01-31T00:00:00Z",
    ]);
    assert_eq!(
        kept(&backups, &policy(|p| p.keep_daily = Some(3))),
        ["20260129T230000Z", "20260130T235959Z", "20260131T000000Z"]
    );
}

#[test]
fn periods_without_a_backup_are_not_counted() {
    let backups = at(&["2023-05-05T00:00:00Z", "2024-02-29T00:00:00Z", "2025-12-31T00:00:00Z"]);
    for rule in [
        policy(|p| p.keep_daily = Some(2)),
        policy(|p| p.keep_weekly = Some(2)),
        policy(|p| p.keep_monthly = Some(2)),
        policy(|p| p.keep_yearly = Some(2)),
    ] {
        assert_eq!(kept(&backups, &rule), ["20240229T000000Z", "20251231T000000Z"], "{rule:?}");
    }
}

#[test]
fn a_week_over_new_year_is_one_week_and_two_years() {
    // 2020-W53 runs from 28 December to 3 January.
    let backups = at(&["2020-12-27T12:00:00Z", "2020-12-31T12:00:00Z", "2021-01-03T12:00:00Z"]);
    assert_eq!(
        kept(&backups, &policy(|p| p.keep_weekly = Some(2))),
        ["20201227T120000Z", "20210103T120000Z"]
    );
    assert_eq!(
        kept(&backups, &policy(|p| p.keep_yearly = Some(2))),
        ["20201231T120000Z", "20210103T120000Z"]
    );
}

#[test]
fn month_ends_and_leap_days_are_their_own_days() {
    let backups = at(&[
        "2024-01-31T23:59:59Z",
        "2024-02-28T12:00:00Z",
        "2024-02-29T23:59:59Z",
        "2024-03-01T00:00:00Z",
        "2024-03-31T12:00:00Z",
    ]);
    assert_eq!(
        kept(&backups, &policy(|p| p.keep_monthly = Some(3))),
        ["20240131T235959Z", "20240229T235959Z", "20240331T120000Z"]
    );
    assert_eq!(kept(&backups, &policy(|p| p.keep_daily = Some(4))).len(), 4);
}

#[test]
fn rules_add_up_and_each_kept_backup_tells_all_of_its_reasons() {
    let rules = policy(|p| (p.keep_daily, p.keep_weekly, p.keep_monthly) = (Some(2), Some(2), Some(2)));
    let plan = planned(&january(), &rules);
    let all = [KeepReason::Newest, KeepReason::Daily, KeepReason::Weekly, KeepReason::Monthly];
    assert_eq!(reasons(&plan, "d31"), all);
    assert_eq!(reasons(&plan, "d30"), [KeepReason::Daily]);
    assert_eq!(reasons(&plan, "d25"), [KeepReason::Weekly], "a Sunday");
    assert_eq!(plan.kept.len(), 3);
}

#[test]
fn pinned_backups_stay_and_take_no_other_ones_place() {
    let mut backups = january();
    backups[0] = pinned(backups[0].clone());
    let plan = planned(&backups, &policy(|p| p.keep_full = Some(2)));
    assert_eq!(reasons(&plan, "d01"), [KeepReason::Pinned]);
    assert_eq!(plan.kept.len(), 3);
}

#[test]
fn unsound_backups_count_for_no_rule_and_go_once_a_sound_one_follows() {
    let mut backups = january();
    backups[30] = damaged(backups[30].clone());
    backups[29] = failed(backups[29].clone());
    backups[27] = damaged(backups[27].clone());
    let plan = planned(&backups, &policy(|p| p.keep_full = Some(3)));
    assert_eq!(reasons(&plan, "d31"), [KeepReason::NothingNewer]);
    assert_eq!(reasons(&plan, "d30"), [KeepReason::NothingNewer]);
    assert_eq!(reasons(&plan, "d29"), [KeepReason::Newest, KeepReason::Full]);
    assert_eq!(reasons(&plan, "d27"), [KeepReason::Full]);
    assert_eq!(reasons(&plan, "d26"), [KeepReason::Full]);
    let d28 = plan.expired.iter().find(|expired| expired.backup.id.as_str() == "d28").unwrap();
    assert_eq!(d28.reason.as_str(), "not sound, and a newer one is");
}

#[test]
fn a_cluster_without_any_sound_backup_keeps_them_all() {
    let backups: Vec<_> = january().into_iter().map(damaged).collect();
    assert_eq!(kept(&backups, &policy(|p| p.keep_full = Some(1))).len(), 31);
}

#[test]
fn a_backup_from_the_future_is_kept_and_stands_for_nothing() {
    let mut backups = january();
    backups.push(base("main/future", time("2031-01-01T00:00:00Z")));
    let plan = planned(&backups, &policy(|p| p.keep_full = Some(1)));
    assert_eq!(reasons(&plan, "future"), [KeepReason::Future]);
    assert_eq!(reasons(&plan, "d31"), [KeepReason::Newest, KeepReason::Full], "the newest that is believed");
    assert_eq!(plan.kept.len(), 2);
}

#[test]
fn a_clock_that_was_set_back_expires_nothing() {
    let plan = plan(&january(), &policy(|p| p.keep_full = Some(1)), time("2020-01-01T00:00:00Z")).unwrap();
    assert!(plan.expired.is_empty());
}

#[test]
fn clusters_kinds_and_databases_are_counted_apart() {
    let early = time("2026-01-01T00:00:00Z");
    let mut backups = january();
    backups.push(base("other/only", early));
    backups.push(stream(base("main/shop", early), Some("shop")));
    backups.push(stream(base("main/mail", early), Some("mail")));
    backups.push(stream(base("main/nameless", early), None));
    let mut remark = base("main/remark", early);
    remark.database = Some("shop".to_owned());
    backups.push(remark);
    let kept = kept(&backups, &policy(|p| p.keep_full = Some(1)));
    assert_eq!(kept, ["mail", "nameless", "shop", "only", "d31"]);
}

#[test]
fn of_two_of_the_same_moment_the_key_decides() {
    let moment = time("2026-01-01T00:00:00Z");
    let backups = [base("main/b", moment), base("main/a", moment)];
    assert_eq!(kept(&backups, &policy(|p| p.keep_daily = Some(1))), ["b"]);
}

#[test]
fn what_was_not_shown_does_not_go() {
    let mut plan = planned(&january(), &policy(|p| p.keep_full = Some(29)));
    plan.limit_to(&BTreeSet::from(["main/d02".parse().unwrap(), "main/d31".parse().unwrap()]));
    assert_eq!(reasons(&plan, "d01"), [KeepReason::NotShown]);
    assert_eq!(plan.expired.len(), 1, "and being shown is no reason to go");
    assert_eq!(plan.expired[0].backup.id.as_str(), "d02");
}

#[test]
fn the_check_before_the_commit_refuses_what_the_rules_must_never_do() {
    let refused = |change: fn(&mut ExpirePlan)| {
        let mut plan = planned(&january(), &policy(|p| p.keep_full = Some(1)));
        change(&mut plan);
        plan.check(time(NOW)).unwrap_err()
    };
    let wrong = refused(|plan| plan.expired[4].backup = pinned(plan.expired[4].backup.clone()));
    assert_eq!(wrong, "main/d05 is pinned and must not expire");
    let wrong = refused(|plan| plan.kept[0].backup.state = BackupState::Damaged);
    assert!(wrong.contains("no newer sound backup is kept"), "{wrong}");
    let wrong = refused(|plan| plan.kept.clear());
    assert!(wrong.contains("no newer sound backup is kept"), "{wrong}");
}

#[test]
fn wal_is_needed_from_the_lowest_start_of_each_servers_timeline() {
    let taken = |id: &str, server: u64, timeline, lsn| {
        let mut backup = base(&format!("main/{id}"), time("2026-01-01T00:00:00Z"));
        backup.system_id = Some(SystemId::from_u64(server));
        backup.timeline = Some(TimelineId::from_u32(timeline));
        backup.start_lsn = Some(Lsn::from_u64(lsn));
        backup
    };
    let mut backups = vec![
        taken("a", 1, 1, 900),
        damaged(taken("b", 1, 1, 300)),
        taken("c", 1, 2, 800),
        // The cluster was made anew: its positions start over.
        taken("d", 2, 1, 100),
    ];
    backups.push(stream(base("main/e", time(NOW)), None));
    let found = oldest_kept(&planned(&backups, &policy(|p| p.keep_within = Some(365 * DAY))).kept);
    let found: Vec<_> = found
        .iter()
        .map(|oldest| (oldest.backup_key.id.as_str(), oldest.timeline.as_u32(), oldest.start_lsn.as_u64()))
        .collect();
    assert_eq!(found, [("b", 1, 300), ("c", 2, 800), ("d", 1, 100)]);
}
