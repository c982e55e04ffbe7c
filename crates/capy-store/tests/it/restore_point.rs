//! Restore points as an agent makes them, on a repository in memory and WAL made by hand. Those that a
//! server writes are in the command's tests.

use std::sync::atomic::{AtomicU32, Ordering};

use capy_store::{
    BackupOptions, BackupSource, ClusterName, Ctx, Error, ErrorKind, InitOptions, Key, Location, Lsn,
    Recovery, RecoveryChoice, RecoveryTarget, Repository, RestorePointAt, RestorePointInfo, RestorePointKind,
    RestorePointOptions, RestorePointState, TargetTimeline, TimelineId, Timestamp,
};

use crate::base_tar::{BaseTar, STOP};
use crate::fixture::{Fixture, latest};
use crate::made_wal::MadeSegment;

/// A repository in memory.
struct Moments {
    repository: Repository,
    ctx: Ctx,
    /// Where files to be pushed lie.
    dir: tempfile::TempDir,
}

fn cluster() -> ClusterName {
    "main".parse().unwrap()
}

impl Moments {
    /// With nothing in it.
    async fn empty() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let place = Location::new(format!("memory://moments-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let ctx = Ctx::default();
        let mut options = InitOptions::default();
        options.kdf_memory_kib = Some(1024);
        let repository = Repository::init(&ctx, &place, &[Key::passphrase("secret")], options).await.unwrap();
        Self { repository, ctx, dir: tempfile::tempdir().unwrap() }
    }

    /// With a base backup and the WAL that it needs; and when the backup was done.
    async fn with_base() -> (Self, Timestamp) {
        let moments = Self::empty().await;
        let tar = std::io::Cursor::new(BaseTar::new(1).bytes());
        let options = BackupOptions::new(cluster());
        let taken = moments.repository.backup(&moments.ctx, BackupSource::tar_reader(tar), options).await;
        moments.push(MadeSegment::new(1, 2).up_to(STOP)).await;
        (moments, taken.unwrap().backup.finished_at)
    }

    async fn stream(&self) -> String {
        let source = BackupSource::stream("dump.sql", &b"select 1;"[..]);
        let taken = self.repository.backup(&self.ctx, source, BackupOptions::new(cluster())).await.unwrap();
        taken.backup.backup_key.to_string()
    }

    async fn push(&self, segment: MadeSegment) {
        let name = segment.name();
        self.push_file(&name, &segment.bytes()).await;
    }

    async fn push_file(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        self.repository.push_wal(&self.ctx, &cluster(), path).await.unwrap();
    }

    async fn try_create(&self, label: &str, at: RestorePointAt) -> Result<RestorePointInfo, Error> {
        let options = RestorePointOptions::new(label, at);
        self.repository.create_restore_point(&self.ctx, &cluster(), options).await
    }

    async fn create(&self, label: &str, at: RestorePointAt) -> RestorePointInfo {
        self.try_create(label, at).await.unwrap()
    }

    async fn refuses(&self, label: &str, at: RestorePointAt, kind: ErrorKind) -> String {
        let error = self.try_create(label, at).await.expect_err("it is refused");
        assert_eq!(error.kind(), kind, "{error}");
        error.to_string()
    }

    async fn list(&self) -> Vec<RestorePointInfo> {
        self.repository.list_restore_points(&self.ctx, None).await.unwrap()
    }

    /// State and reason of the point with this label, now.
    async fn state(&self, label: &str) -> (RestorePointState, String) {
        let point = self.list().await.into_iter().find(|point| point.label == label).unwrap();
        (point.state, point.reason.unwrap_or_default())
    }

    /// What a restore to a target would do, on the newest timeline.
    async fn plan_to(&self, target: RecoveryTarget) -> Result<RecoveryChoice, Error> {
        let mut recovery = Recovery::to(target);
        recovery.wal_into = true;
        let plan =
            self.repository.plan_recovery(&self.ctx, &"main/latest".parse().unwrap(), recovery).await?;
        Ok(plan.expect("it needs WAL"))
    }

    /// Why there is none.
    async fn unplanned(&self, target: RecoveryTarget) -> String {
        let error = self.plan_to(target).await.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        format!("{error}; {}", error.hint().unwrap_or_default())
    }

    /// What a restore to a label would do; none for a backup as it is.
    async fn plan(&self, label: &str, timeline: TargetTimeline) -> Result<Option<RecoveryChoice>, Error> {
        let mut recovery = Recovery::to(RecoveryTarget::Name(label.to_owned()));
        recovery.timeline = timeline;
        recovery.wal_into = true;
        self.repository.plan_recovery(&self.ctx, &"main/latest".parse().unwrap(), recovery).await
    }
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_micros(time.as_micros() + seconds * 1_000_000)
}

#[tokio::test]
async fn a_label_of_a_backup_lasts_as_long_as_the_backup() {
    let moments = Moments::empty().await;
    let key = moments.stream().await;
    let latest = RestorePointAt::Backup("main/latest".parse().unwrap());
    let point = moments.create("golden", latest).await;
    assert_eq!((point.kind, point.state), (RestorePointKind::Backup, RestorePointState::Reachable));
    assert_eq!(point.backup_key.as_ref().unwrap().to_string(), key);
    assert_eq!(moments.list().await, std::slice::from_ref(&point));
    // There is no archive: the backup is restored as it is.
    assert_eq!(moments.plan("golden", TargetTimeline::Latest).await.unwrap(), None);

    moments.repository.delete_backup(&moments.ctx, &key.parse().unwrap()).await.unwrap();
    let (state, reason) = moments.state("golden").await;
    assert_eq!(state, RestorePointState::Unreachable);
    assert!(reason.contains(&key), "{reason}");
    moments.repository.delete_restore_point(&moments.ctx, &cluster(), &point.id).await.unwrap();
    assert_eq!(moments.list().await, []);
    let gone = moments.repository.delete_restore_point(&moments.ctx, &cluster(), &point.id).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_makes_no_restore_point_is_refused() {
    let moments = Moments::empty().await;
    let backup = || RestorePointAt::Backup("main/latest".parse().unwrap());
    let said = moments.refuses("x", RestorePointAt::Lsn(Lsn::from_u64(1)), ErrorKind::NotFound).await;
    assert!(said.contains("neither WAL nor a backup of main"), "{said}");
    moments.stream().await;
    let said = moments.refuses("x", RestorePointAt::Now, ErrorKind::NotFound).await;
    assert!(said.contains("no WAL archive main"), "{said}");
    for label in ["", "two\nlines", "bell\x07", &"x".repeat(513)] {
        moments.refuses(label, backup(), ErrorKind::Invalid).await;
    }
    moments.refuses("x", RestorePointAt::Lsn(Lsn::INVALID), ErrorKind::Invalid).await;
    let other = RestorePointAt::Backup("other/latest".parse().unwrap());
    moments.refuses("x", other, ErrorKind::Invalid).await;
    let missing = RestorePointAt::Backup("main/none".parse().unwrap());
    moments.refuses("x", missing, ErrorKind::NotFound).await;
    let mut long = RestorePointOptions::new("x", backup());
    long.note = Some("x".repeat(5000));
    let long = moments.repository.create_restore_point(&moments.ctx, &cluster(), long).await;
    assert_eq!(long.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(moments.list().await, []);
}

#[tokio::test]
async fn a_label_is_unique_for_its_kind() {
    let moments = Moments::empty().await;
    moments.stream().await;
    let backup = || RestorePointAt::Backup("main/latest".parse().unwrap());
    let lsn = || RestorePointAt::Lsn(Lsn::from_u64(0x300_0000));
    moments.create("x", backup()).await;
    // Without an archive a moment waits for one.
    assert_eq!(moments.create("x", lsn()).await.state, RestorePointState::Pending);
    for at in [backup(), lsn()] {
        let said = moments.refuses("x", at, ErrorKind::Conflict).await;
        assert!(said.contains("a restore point \"x\" already: main/"), "{said}");
    }
    let moment = moments.list().await.into_iter().find(|point| point.kind == RestorePointKind::Pitr).unwrap();
    moments.repository.delete_restore_point(&moments.ctx, &cluster(), &moment.id).await.unwrap();
    moments.create("x", RestorePointAt::Lsn(Lsn::from_u64(0x300_0000))).await;
}

#[tokio::test]
async fn a_moment_is_pending_until_wal_proves_it_and_a_hole_ends_the_hope() {
    let (moments, done) = Moments::with_base().await;
    let soon = moments.create("soon", RestorePointAt::Time(later(done, 100))).await;
    assert_eq!(soon.state, RestorePointState::Pending);
    assert!(soon.backup_key.is_some(), "the backup that waits for it is known");
    let early = moments.create("early", RestorePointAt::Time(later(done, -1000))).await;
    assert_eq!((early.state, early.backup_key), (RestorePointState::Unreachable, None));
    let far = moments.create("far", RestorePointAt::Lsn(Lsn::from_u64(0x500_0028))).await;
    assert_eq!(far.state, RestorePointState::Pending);

    moments.push(MadeSegment::new(1, 3).commit(later(done, 50)).commit(later(done, 200))).await;
    assert_eq!(moments.state("soon").await, (RestorePointState::Reachable, String::new()));
    assert_eq!(moments.state("far").await.0, RestorePointState::Pending);
    let choice = moments.plan("soon", TargetTimeline::Latest).await.unwrap().unwrap();
    assert_eq!(choice.target, format!("time {}", later(done, 100)));
    assert_eq!(choice.last_segment, MadeSegment::new(1, 3).name());

    // 4 is missing.
    moments.push(MadeSegment::new(1, 5).commit(later(done, 300))).await;
    let (state, reason) = moments.state("far").await;
    assert_eq!(state, RestorePointState::Unreachable);
    assert!(reason.contains("000000010000000000000004 is missing"), "{reason}");
    let error = moments.plan("far", TargetTimeline::Latest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with("restore point \"far\" is lsn 0/5000028"), "{error}");
}

#[tokio::test]
async fn a_name_that_the_log_has_is_not_given_again_and_goes_before_a_label() {
    let (moments, done) = Moments::with_base().await;
    let label = moments.create("later by hand", RestorePointAt::Time(later(done, 20))).await;
    let marked = MadeSegment::new(1, 3).commit(later(done, 10)).restore_point("by hand", later(done, 11));
    moments.push(marked.restore_point("later by hand", later(done, 12)).commit(later(done, 30))).await;
    let said = moments.refuses("by hand", RestorePointAt::Now, ErrorKind::Conflict).await;
    assert!(said.contains("the WAL has a restore point \"by hand\" already, at 0/3"), "{said}");
    moments.stream().await;
    moments.create("by hand", RestorePointAt::Backup("main/latest".parse().unwrap())).await;
    for name in ["by hand", "later by hand"] {
        let choice = moments.plan(name, TargetTimeline::Latest).await.unwrap().unwrap();
        assert_eq!(choice.target, format!("name {name:?}"));
    }
    assert_eq!(moments.state("later by hand").await.0, RestorePointState::Reachable);
    assert!(!label.in_wal);
}

#[tokio::test]
async fn a_name_means_its_first_restore_point_whichever_backups_there_are() {
    let (moments, done) = Moments::with_base().await;
    let name = || RecoveryTarget::Name("again".to_owned());
    let marked = |number, seconds| {
        MadeSegment::new(1, number).commit(later(done, seconds)).restore_point("again", later(done, seconds))
    };
    moments.push(marked(3, 10)).await;
    moments.push(marked(4, 20)).await;
    let choice = moments.plan_to(name()).await.unwrap();
    let first = Lsn::from_u64(marked(3, 10).position().as_u64() - 104);
    let told = format!("2 restore points have that name: recovery stops at the first, {first}");
    assert_eq!(choice.notices, [told]);
    // Before the backup, so that no recovery of it meets it.
    moments.push(marked(1, -10)).await;
    let said = moments.unplanned(name()).await;
    assert!(said.contains("the first restore point of that name, at 0/10000"), "{said}");
    assert!(said.contains("is before the backup's end; "), "{said}");
    assert!(said.contains(&format!("the nearest that can: lsn {first}")), "{said}");
    moments.plan_to(RecoveryTarget::Lsn(first)).await.unwrap();
}

#[tokio::test]
async fn a_label_means_the_timeline_of_when_it_was_made() {
    let (moments, done) = Moments::with_base().await;
    let marked = MadeSegment::new(1, 3).commit(later(done, -2)).commit(later(done, -1)).up_to(0x300_0400);
    let (fork, lsn) = (0x300_0200_u64, Lsn::from_u64(0x300_0300));
    moments.push(marked).await;
    moments.create("here", RestorePointAt::Lsn(lsn)).await;
    // Somebody goes back to before it, and on from there.
    let forked =
        MadeSegment::new(2, 3).commit(later(done, -2)).up_to(fork).commit(later(done, 5)).up_to(0x300_0400);
    moments.push_file("00000002.history", format!("1\t{}\ttest\n", Lsn::from_u64(fork)).as_bytes()).await;
    moments.push(forked).await;
    moments.create("there", RestorePointAt::Lsn(lsn)).await;

    for (label, timeline) in [("here", 1), ("there", 2)] {
        let timeline = TimelineId::from_u32(timeline);
        assert_eq!(moments.state(label).await, (RestorePointState::Reachable, String::new()));
        let choice = moments.plan(label, TargetTimeline::Latest).await.unwrap().unwrap();
        assert_eq!((choice.timeline, choice.target), (timeline, format!("lsn {lsn}")), "{label}");
    }
    // Whoever names a timeline means it.
    let choice = moments.plan("here", TargetTimeline::Id(TimelineId::from_u32(2))).await.unwrap().unwrap();
    assert_eq!(choice.timeline, TimelineId::from_u32(2));
    // The old timeline gets no more WAL.
    let beyond = moments.create("beyond", RestorePointAt::Lsn(Lsn::from_u64(0x500_0000))).await;
    assert_eq!((beyond.state, beyond.timeline), (RestorePointState::Pending, Some(TimelineId::from_u32(2))));
}

#[tokio::test]
async fn what_was_written_behind_a_fork_is_no_target_of_the_timeline_that_left_it() {
    let (moments, done) = Moments::with_base().await;
    let before =
        MadeSegment::new(1, 3).commit_of(801, later(done, 10)).restore_point("kept", later(done, 11));
    let fork = before.position();
    let abandoned = before.commit_of(802, later(done, 30)).restore_point("lost", later(done, 31));
    moments.push(abandoned).await;
    moments.push(MadeSegment::new(1, 4).commit_of(803, later(done, 40))).await;
    moments.push_file("00000002.history", format!("1\t{fork}\ttest\n").as_bytes()).await;

    let latest = moments.plan_to(RecoveryTarget::Latest).await.unwrap();
    let last = Lsn::from_u64(fork.as_u64() - 104);
    assert_eq!((latest.timeline, latest.target), (TimelineId::from_u32(2), format!("lsn {last}")));
    assert_eq!((latest.end_lsn, latest.last_segment), (fork, MadeSegment::new(1, 3).name()));
    let missing = MadeSegment::new(2, 3).name();
    assert!(latest.notices.iter().any(|notice| notice.contains(&missing)), "{:?}", latest.notices);
    for (target, found) in [
        (RecoveryTarget::Name("kept".to_owned()), true),
        (RecoveryTarget::Name("lost".to_owned()), false),
        (RecoveryTarget::Xid(801), true),
        (RecoveryTarget::Xid(802), false),
        (RecoveryTarget::Xid(803), false),
        (RecoveryTarget::Time(later(done, 5)), true),
        (RecoveryTarget::Time(later(done, 20)), false),
        (RecoveryTarget::Lsn(last), true),
        (RecoveryTarget::Lsn(fork), false),
        (RecoveryTarget::Lsn(Lsn::from_u64(0x400_0028)), false),
    ] {
        if found {
            moments.plan_to(target).await.unwrap();
        } else {
            let said = moments.unplanned(target.clone()).await;
            assert!(said.contains(&format!("end of the archive: {missing}")), "{target:?}: {said}");
        }
    }
    // With a later segment of the new timeline it is a hole.
    moments.push(MadeSegment::new(2, 4).commit_of(804, later(done, 50))).await;
    let said = moments.unplanned(RecoveryTarget::Xid(804)).await;
    assert!(said.contains(&format!("{missing} is missing")), "{said}");
    let latest = moments.plan_to(RecoveryTarget::Latest).await.unwrap();
    assert_eq!((latest.target, latest.end_lsn), (format!("lsn {last}"), fork));
    // And with its own copy all is well.
    let own = MadeSegment::new(2, 3).commit_of(801, later(done, 10)).restore_point("kept", later(done, 11));
    moments.push(own.commit_of(805, later(done, 45))).await;
    assert_eq!(moments.plan_to(RecoveryTarget::Latest).await.unwrap().target, "latest");
    moments.plan_to(RecoveryTarget::Xid(804)).await.unwrap();
}

#[tokio::test]
async fn a_backup_with_an_archive_is_recovered_to_its_end() {
    let (moments, _) = Moments::with_base().await;
    let at = RestorePointAt::Backup("main/latest".parse().unwrap());
    let point = moments.create("golden", at).await;
    assert_eq!(point.state, RestorePointState::Reachable);
    let choice = moments.plan("golden", TargetTimeline::Latest).await.unwrap().unwrap();
    assert_eq!((Some(choice.backup_key), choice.target.as_str()), (point.backup_key, "immediate"));
    let mut recovery = Recovery::to(RecoveryTarget::Name("golden".to_owned()));
    recovery.wal_into = true;
    let other = "main/another".parse().unwrap();
    let error = moments.repository.plan_recovery(&moments.ctx, &other, recovery).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_backup_without_its_wal_waits_for_it() {
    let moments = Moments::empty().await;
    let tar = std::io::Cursor::new(BaseTar::new(1).bytes());
    let options = BackupOptions::new(cluster());
    moments.repository.backup(&moments.ctx, BackupSource::tar_reader(tar), options).await.unwrap();
    let at = RestorePointAt::Backup("main/latest".parse().unwrap());
    assert_eq!(moments.create("golden", at).await.state, RestorePointState::Pending);
    moments.push(MadeSegment::new(1, 3)).await;
    let said = moments.unplanned(RecoveryTarget::Latest).await;
    let missing = MadeSegment::new(1, 2).name();
    assert!(said.contains(&format!("its own WAL is not in the archive: {missing} is missing")), "{said}");
    moments.push(MadeSegment::new(1, 2).up_to(STOP)).await;
    assert_eq!(moments.state("golden").await.0, RestorePointState::Reachable);
    moments.plan_to(RecoveryTarget::Latest).await.unwrap();
}

#[tokio::test]
async fn a_timeline_that_left_before_the_backups_end_is_not_reached_from_it() {
    let (moments, _) = Moments::with_base().await;
    let fork = Lsn::from_u64(STOP - 8);
    moments.push_file("00000002.history", format!("1\t{fork}\ttest\n").as_bytes()).await;
    let said = moments.unplanned(RecoveryTarget::Latest).await;
    assert!(said.contains("timeline 2 does not come from its timeline 1, or left it earlier"), "{said}");
}

#[tokio::test]
async fn transactions_that_end_out_of_order_stop_a_recovery_where_the_server_would() {
    let (moments, done) = Moments::with_base().await;
    // Neither numbers nor times increase.
    for (number, xid, seconds) in [(3, 901, 100), (4, 900, 50), (5, 902, 200), (6, 903, 300)] {
        moments.push(MadeSegment::new(1, number).commit_of(xid, later(done, seconds))).await;
    }
    let at = |seconds| RecoveryTarget::Time(later(done, seconds));
    // The last segment that is needed is the one behind the stop.
    for (target, stops_in) in [
        (RecoveryTarget::Xid(900), 4),
        (RecoveryTarget::Xid(901), 3),
        (at(40), 3),
        (at(60), 3),
        (at(100), 5),
        (at(150), 5),
    ] {
        let choice = moments.plan_to(target.clone()).await.unwrap();
        assert_eq!(choice.last_segment, MadeSegment::new(1, stops_in + 1).name(), "{target:?}");
    }
}

#[tokio::test]
async fn a_segment_that_was_lost_from_the_middle_of_the_archive_is_missed_before_a_restore_begins() {
    let fixture = Fixture::new().await;
    let done = fixture.back_up(BaseTar::new(1).bytes()).await.backup.finished_at;
    let mut segments = vec![MadeSegment::new(1, 2).up_to(STOP)];
    // So many that their facts are gathered.
    segments
        .extend((3..=70).map(|n| MadeSegment::new(1, n).commit(later(done, 10 * i64::try_from(n).unwrap()))));
    for segment in segments {
        let path = fixture.path(&segment.name());
        std::fs::write(&path, segment.bytes()).unwrap();
        fixture.repository.push_wal(&fixture.ctx, &cluster(), &path).await.unwrap();
        std::fs::remove_file(path).unwrap();
    }
    let plan = async |target: RecoveryTarget| {
        let mut recovery = Recovery::to(target);
        recovery.wal_into = true;
        Ok::<_, Error>(fixture.repository.plan_recovery(&fixture.ctx, &latest(), recovery).await?.unwrap())
    };
    let (early, late) = (RecoveryTarget::Time(later(done, 105)), RecoveryTarget::Time(later(done, 505)));
    assert_eq!(plan(RecoveryTarget::Latest).await.unwrap().last_segment, MadeSegment::new(1, 70).name());
    assert_eq!(fixture.objects("wal-facts").len(), 1);
    plan(late.clone()).await.unwrap();

    let lost = MadeSegment::new(1, 40).name();
    std::fs::remove_file(fixture.path("repo/wal/main/00000001").join(&lost)).unwrap();
    let error = plan(late).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&format!("{lost} is missing")), "{error}");
    let choice = plan(RecoveryTarget::Latest).await.unwrap();
    assert_eq!(choice.last_segment, MadeSegment::new(1, 39).name());
    assert!(choice.notices[0].contains(&format!("{lost} is missing")), "{:?}", choice.notices);
    plan(early).await.unwrap();
}

#[tokio::test]
async fn a_damaged_restore_point_is_told_and_does_not_keep_a_recovery_from_the_logs_own_names() {
    let fixture = Fixture::new().await;
    fixture.back_up(BaseTar::new(1).bytes()).await;
    let at = RestorePointAt::Backup("main/latest".parse().unwrap());
    let options = RestorePointOptions::new("golden", at);
    fixture.repository.create_restore_point(&fixture.ctx, &cluster(), options).await.unwrap();
    let object = fixture.objects("restore-points").remove(0);
    let mut bytes = std::fs::read(&object).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&object, bytes).unwrap();

    let listed = fixture.repository.list_restore_points(&fixture.ctx, None).await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Corrupt);
    let mut recovery = Recovery::to(RecoveryTarget::Name("golden".to_owned()));
    recovery.wal_into = true;
    let error = fixture.repository.plan_recovery(&fixture.ctx, &latest(), recovery).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no WAL archive main");
}
