//! What holds of every policy on any set of backups.

use std::collections::BTreeSet;
use std::time::Duration;

use capy_types::Timestamp;
use proptest::prelude::*;

use super::policy::{RetentionPolicy, plan};
use super::tests::{DAY, base, pinned, time};
use crate::{BackupInfo, BackupKind, BackupState, VerificationState};

/// The present of every case; backups lie up to three years before and a little after.
fn now() -> Timestamp {
    time("2026-03-01T00:00:00Z")
}

fn ago(minutes: i64) -> Timestamp {
    Timestamp::from_micros(now().as_micros() - minutes * 60_000_000)
}

prop_compose! {
    fn any_backup()(
        minutes in prop_oneof![-3_000_i64..1_600_000, -10_i64..10_000],
        lasted in 0_i64..3_000,
        cluster in 0..2_u8,
        database in prop_oneof![Just(None), Just(Some("shop")), Just(Some("mail"))],
        is_stream in any::<bool>(),
        is_damaged in prop::bool::weighted(0.2),
        has_failed in prop::bool::weighted(0.2),
        is_pinned in prop::bool::weighted(0.1),
    ) -> (u8, BackupInfo) {
        let mut backup = base("main/later", ago(minutes));
        backup.finished_at = ago(minutes - lasted);
        if is_stream {
            (backup.kind, backup.database) = (BackupKind::Stream, database.map(str::to_owned));
        }
        if is_damaged {
            backup.state = BackupState::Damaged;
        }
        if has_failed {
            backup.verification_state = VerificationState::Failed;
        }
        (cluster, if is_pinned { pinned(backup) } else { backup })
    }
}

/// Backups with a key each.
fn any_backups() -> impl Strategy<Value = Vec<BackupInfo>> {
    prop::collection::vec(any_backup(), 0..60).prop_map(|backups| {
        let named = |(n, (cluster, mut backup)): (usize, (u8, BackupInfo))| {
            backup.backup_key = format!("c{cluster}/b{n:02}").parse().unwrap();
            (backup.cluster, backup.id) = (backup.backup_key.cluster.clone(), backup.backup_key.id.clone());
            backup
        };
        backups.into_iter().enumerate().map(named).collect()
    })
}

fn count() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(1_u32..8)
}

prop_compose! {
    fn any_policy()(
        keep_full in prop::option::of(1_u32..8),
        keep_within in prop::option::of((1_u32..800).prop_map(|days| days * DAY)),
        (keep_daily, keep_weekly, keep_monthly, keep_yearly) in (count(), count(), count(), count()),
    ) -> RetentionPolicy {
        let policy =
            RetentionPolicy { keep_full, keep_within, keep_daily, keep_weekly, keep_monthly, keep_yearly };
        let none = policy == RetentionPolicy::default();
        RetentionPolicy { keep_full: if none { Some(1) } else { keep_full }, ..policy }
    }
}

fn same_series(a: &BackupInfo, b: &BackupInfo) -> bool {
    let database =
        |backup: &BackupInfo| backup.database.clone().filter(|_| backup.kind == BackupKind::Stream);
    (&a.cluster, a.kind, database(a)) == (&b.cluster, b.kind, database(b))
}

fn is_sound_and_past(backup: &BackupInfo) -> bool {
    backup.state == BackupState::Complete
        && backup.verification_state != VerificationState::Failed
        && backup.created_at <= now()
        && backup.finished_at <= now()
}

fn started(policy: &RetentionPolicy) -> Option<Timestamp> {
    let micros = |within: Duration| i64::try_from(within.as_micros()).unwrap();
    policy.keep_within.map(|within| Timestamp::from_micros(now().as_micros() - micros(within)))
}

proptest! {
    #[test]
    fn nothing_goes_that_must_stay(backups in any_backups(), policy in any_policy()) {
        let plan = plan(&backups, &policy, now()).unwrap();
        prop_assert_eq!(plan.kept.len() + plan.expired.len(), backups.len());
        prop_assert_eq!(plan.check(now()), Ok(()));
        prop_assert!(plan.kept.iter().all(|kept| !kept.reasons.is_empty()));
        for gone in plan.expired.iter().map(|expired| &expired.backup) {
            prop_assert!(gone.pinned.is_none(), "pinned: {}", gone.backup_key);
            prop_assert!(gone.created_at <= now() && gone.finished_at <= now(), "future: {}", gone.backup_key);
            prop_assert!(started(&policy).is_none_or(|start| gone.finished_at < start), "within: {}", gone.backup_key);
            let newer_sound_is_kept = plan.kept.iter().any(|kept| {
                let kept = &kept.backup;
                same_series(kept, gone)
                    && is_sound_and_past(kept)
                    && (kept.created_at, &kept.backup_key) > (gone.created_at, &gone.backup_key)
            });
            prop_assert!(newer_sound_is_kept, "the newest complete: {}", gone.backup_key);
        }
    }

    #[test]
    fn what_was_kept_once_is_kept_again_for_the_same_reasons(
        backups in any_backups(),
        policy in any_policy(),
    ) {
        let first = plan(&backups, &policy, now()).unwrap();
        let left: Vec<_> = first.kept.iter().map(|kept| kept.backup.clone()).collect();
        let second = plan(&left, &policy, now()).unwrap();
        prop_assert_eq!(&second.expired, &[]);
        prop_assert_eq!(&second.kept, &first.kept);
    }

    #[test]
    fn another_rule_never_makes_a_backup_go(
        backups in any_backups(),
        (some, more) in (any_policy(), any_policy()),
    ) {
        let both = RetentionPolicy {
            keep_full: some.keep_full.max(more.keep_full),
            keep_within: some.keep_within.max(more.keep_within),
            keep_daily: some.keep_daily.max(more.keep_daily),
            keep_weekly: some.keep_weekly.max(more.keep_weekly),
            keep_monthly: some.keep_monthly.max(more.keep_monthly),
            keep_yearly: some.keep_yearly.max(more.keep_yearly),
        };
        let keys = |policy: &RetentionPolicy| -> BTreeSet<_> {
            let plan = plan(&backups, policy, now()).unwrap();
            // The base that leads into the window is another one when the window is.
            let kept = plan.kept.iter().filter(|kept| kept.reasons != [super::KeepReason::WindowStart]);
            kept.map(|kept| kept.backup.backup_key.clone()).collect()
        };
        prop_assert!(keys(&some).is_subset(&keys(&both)));
    }

    #[test]
    fn the_order_of_the_backups_does_not_matter(
        (backups, shuffled) in any_backups().prop_flat_map(|b| (Just(b.clone()), Just(b).prop_shuffle())),
        policy in any_policy(),
    ) {
        prop_assert_eq!(plan(&backups, &policy, now()).unwrap(), plan(&shuffled, &policy, now()).unwrap());
    }
}
