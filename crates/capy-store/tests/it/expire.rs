//! Retention on a real repository: one commit, pins that hold, others that commit meanwhile.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use capy_store::{
    BackupInfo, BackupKey, BackupOptions, BackupSource, Ctx, Error, ErrorKind, ExpireOptions, ExpireReport,
    InitOptions, KeepReason, Key, Location, Repository, RetentionPolicy,
};

use crate::base_tar::{BaseTar, START, STOP};
use crate::fixture::Fixture;
use crate::made_wal::MadeSegment;

/// A repository in memory.
struct Memory {
    repository: Repository,
    ctx: Ctx,
}

impl Memory {
    async fn new() -> Self {
        let ctx = Ctx::default();
        let mut options = InitOptions::default();
        options.kdf_memory_kib = Some(1024);
        let place = Location::new("memory://");
        let repository = Repository::init(&ctx, &place, &[Key::passphrase("secret")], options).await.unwrap();
        Self { repository, ctx }
    }

    /// With streams `s0`, `s1`, … of the database `shop` in `main`.
    async fn with_streams(count: usize) -> Self {
        let memory = Self::new().await;
        for n in 0..count {
            memory.back_up("main", &format!("s{n}"), Some("shop")).await;
        }
        memory
    }

    async fn back_up(&self, cluster: &str, id: &str, database: Option<&str>) -> BackupInfo {
        let mut options = BackupOptions::new(cluster.parse().unwrap());
        options.id = Some(id.parse().unwrap());
        options.database = database.map(str::to_owned);
        let source = BackupSource::stream("dump.sql", std::io::Cursor::new(id.to_owned()));
        self.repository.backup(&self.ctx, source, options).await.unwrap().backup
    }

    async fn try_expire(&self, change: impl FnOnce(&mut ExpireOptions)) -> Result<ExpireReport, Error> {
        let mut options = ExpireOptions::new(RetentionPolicy::default());
        change(&mut options);
        self.repository.expire(&self.ctx, &options).await
    }

    async fn expire(&self, change: impl FnOnce(&mut ExpireOptions)) -> ExpireReport {
        self.try_expire(change).await.unwrap()
    }

    async fn pin(&self, key: &str) {
        self.repository.pin_backup(&self.ctx, &key_of(key), "audit", Some("ops")).await.unwrap();
    }

    async fn listed(&self) -> Vec<String> {
        let backups = self.repository.list_backups(&self.ctx, None).await.unwrap();
        backups.iter().map(|backup| backup.backup_key.to_string()).collect()
    }

    async fn root(&self) -> serde_json::Value {
        self.repository.inspect_root(&self.ctx, None).await.unwrap().content
    }

    async fn generation(&self) -> u64 {
        self.root().await["generation"].as_u64().unwrap()
    }
}

fn key_of(text: &str) -> BackupKey {
    text.parse().unwrap()
}

fn keys<'a>(backups: impl IntoIterator<Item = &'a BackupInfo>) -> Vec<String> {
    backups.into_iter().map(|backup| backup.backup_key.to_string()).collect()
}

#[tokio::test]
async fn a_dry_run_says_what_goes_and_the_real_one_does_it_in_one_commit() {
    let memory = Memory::with_streams(4).await;
    let before = memory.generation().await;
    let shown = memory.expire(|o| (o.policy.keep_full, o.dry_run) = (Some(2), true)).await;
    assert!(shown.dry_run);
    assert_eq!(keys(shown.expired.iter().map(|e| &e.backup)), ["main/s0", "main/s1"]);
    assert_eq!(memory.generation().await, before, "nothing is written");

    let done = memory.expire(|o| o.policy.keep_full = Some(2)).await;
    assert_eq!(done.expired, shown.expired);
    assert_eq!(keys(done.kept.iter().map(|k| &k.backup)), ["main/s2", "main/s3"]);
    assert_eq!(done.expired_bytes, 4, "the streams hold their own ids");
    assert!(done.expired_stored_bytes > 0);
    assert_eq!(memory.listed().await, ["main/s2", "main/s3"]);
    assert_eq!(memory.generation().await, before + 1);

    let again = memory.expire(|o| o.policy.keep_full = Some(2)).await;
    assert!(again.expired.is_empty());
    assert_eq!(memory.generation().await, before + 1, "nothing to do is no commit");
}

#[tokio::test]
async fn a_policy_without_a_rule_is_invalid_and_removes_nothing() {
    let memory = Memory::with_streams(2).await;
    let error = memory.try_expire(|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = memory.try_expire(|o| o.policy.keep_full = Some(0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.hint(), Some("leave the rule out"));
    assert_eq!(memory.listed().await.len(), 2);
}

#[tokio::test]
async fn a_pinned_backup_survives_expire_and_delete_until_it_is_unpinned() {
    let memory = Memory::with_streams(3).await;
    memory.pin("main/s0").await;
    let report = memory.expire(|o| o.policy.keep_full = Some(1)).await;
    assert_eq!(report.kept[0].reasons, [KeepReason::Pinned]);
    let pin = report.kept[0].backup.pinned.as_ref().unwrap();
    assert_eq!((pin.reason.as_str(), pin.by.as_deref()), ("audit", Some("ops")));
    assert_eq!(memory.listed().await, ["main/s0", "main/s2"]);

    let error = memory.repository.delete_backup(&memory.ctx, &key_of("main/s0")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.to_string(), "backup main/s0 is pinned: audit");
    assert_eq!(error.hint(), Some("take the pin off first, with `unpin`"));

    let unpinned = memory.repository.unpin_backup(&memory.ctx, &key_of("main/s0")).await.unwrap();
    assert_eq!(unpinned.pinned, None);
    memory.expire(|o| o.policy.keep_full = Some(1)).await;
    assert_eq!(memory.listed().await, ["main/s2"]);
}

#[tokio::test]
async fn pins_need_a_backup_and_a_reason() {
    let memory = Memory::with_streams(1).await;
    let pin = async |key: &str, reason: &str| {
        memory.repository.pin_backup(&memory.ctx, &key_of(key), reason, None).await.unwrap_err().kind()
    };
    assert_eq!(pin("main/none", "audit").await, ErrorKind::NotFound);
    assert_eq!(pin("main/s0", "").await, ErrorKind::Invalid);
    assert_eq!(pin("main/s0", &"x".repeat(201)).await, ErrorKind::Invalid);
}

#[tokio::test]
async fn other_clusters_are_left_alone_and_an_unknown_one_is_not_found() {
    let memory = Memory::with_streams(2).await;
    memory.back_up("other", "o0", Some("shop")).await;
    memory.back_up("other", "o1", Some("shop")).await;
    let report =
        memory.expire(|o| (o.policy.keep_full, o.cluster) = (Some(1), Some("main".parse().unwrap()))).await;
    assert_eq!(keys(report.kept.iter().map(|k| &k.backup)), ["main/s1"]);
    assert_eq!(memory.listed().await, ["main/s1", "other/o0", "other/o1"]);
    let error = memory
        .try_expire(|o| (o.policy.keep_full, o.cluster) = (Some(1), Some("mian".parse().unwrap())))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "no backups of cluster mian");
}

#[tokio::test]
async fn what_was_pinned_or_added_after_it_was_shown_does_not_surprise() {
    let memory = Memory::with_streams(3).await;
    let dry = memory.expire(|o| (o.policy.keep_full, o.dry_run) = (Some(1), true)).await;
    let shown: BTreeSet<_> = dry.expired.iter().map(|e| e.backup.backup_key.clone()).collect();
    memory.pin("main/s0").await;
    memory.back_up("main", "s3", Some("shop")).await;
    let done = memory.expire(|o| (o.policy.keep_full, o.shown) = (Some(1), Some(shown))).await;
    assert_eq!(keys(done.expired.iter().map(|e| &e.backup)), ["main/s1"]);
    assert_eq!(memory.listed().await, ["main/s0", "main/s2", "main/s3"]);
    assert_eq!(done.kept[1].reasons, [KeepReason::NotShown]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn expiring_pinning_and_backing_up_at_once_loses_nothing_that_must_stay() {
    let memory = Memory::with_streams(8).await;
    let expire = memory.expire(|o| o.policy.keep_full = Some(1));
    let expire_too = memory.expire(|o| o.policy.keep_full = Some(2));
    let pin_key = key_of("main/s1");
    let pin = memory.repository.pin_backup(&memory.ctx, &pin_key, "audit", None);
    let backup = memory.back_up("main", "s8", Some("shop"));
    let (_, _, pinned, _) = tokio::join!(expire, expire_too, pin, backup);
    let listed = memory.listed().await;
    assert!(listed.contains(&"main/s8".to_owned()), "a new backup stays: {listed:?}");
    assert_eq!(
        listed.contains(&"main/s1".to_owned()),
        pinned.is_ok(),
        "a pin that was set holds: {listed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_still_running_is_not_garbage() {
    let memory = Memory::with_streams(2).await;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut options = BackupOptions::new("main".parse().unwrap());
    options.id = Some("running".parse().unwrap());
    options.database = Some("shop".to_owned());
    let running = memory.repository.backup(&memory.ctx, BackupSource::stream("dump.sql", reader), options);
    let meanwhile = async {
        writer.write_all(b"first half, ").unwrap();
        while memory.root().await["sessions"].as_array().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let report = memory.expire(|o| o.policy.keep_full = Some(1)).await;
        writer.write_all(b"second half").unwrap();
        drop(writer);
        report
    };
    let (finished, report) = tokio::join!(running, meanwhile);
    assert_eq!(keys(report.expired.iter().map(|e| &e.backup)), ["main/s0"]);
    assert!(finished.unwrap().is_complete());
    assert_eq!(memory.listed().await, ["main/s1", "main/running"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_of_a_backup_that_began_before_all_bases_that_are_kept_stays() {
    let fixture = Fixture::new().await;
    // An older dump says nothing of the base backups.
    let dump = |input| {
        let mut options = BackupOptions::new("main".parse().unwrap());
        options.database = Some("shop".to_owned());
        fixture.repository.backup(&fixture.ctx, BackupSource::stream("dump.sql", input), options)
    };
    dump(Box::new(&b"select 1;"[..]) as Box<dyn std::io::Read + Send>).await.unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let running = dump(Box::new(reader));
    let meanwhile = async {
        writer.write_all(b"first half, ").unwrap();
        let sessions = async || {
            let root = fixture.repository.inspect_root(&fixture.ctx, None).await.unwrap().content;
            root["sessions"].as_array().unwrap().len()
        };
        while sessions().await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fixture.back_up(BaseTar::new(1).bytes()).await;
        for segment in [MadeSegment::new(1, 1), MadeSegment::new(1, 2).up_to(STOP)] {
            let path = fixture.path(&segment.name());
            std::fs::write(&path, segment.bytes()).unwrap();
            fixture.repository.push_wal(&fixture.ctx, &"main".parse().unwrap(), &path).await.unwrap();
        }
        let during = expire_to_one(&fixture).await;
        drop(writer);
        during
    };
    let (finished, during) = tokio::join!(running, meanwhile);
    finished.unwrap();
    assert!(during.wal.is_empty(), "{:?}", during.wal);
    assert!(during.notices[0].contains("may still run and need it"), "{:?}", during.notices);
    let after = expire_to_one(&fixture).await;
    assert_eq!((after.wal[0].files, &after.wal[0].first), (1, &MadeSegment::new(1, 1).name()));
}

async fn expire_to_one(fixture: &Fixture) -> ExpireReport {
    let mut policy = RetentionPolicy::default();
    policy.keep_full = Some(1);
    fixture.repository.expire(&fixture.ctx, &ExpireOptions::new(policy)).await.unwrap()
}

#[tokio::test]
async fn streams_without_a_database_are_expired_with_a_word_about_it() {
    let memory = Memory::new().await;
    memory.back_up("main", "shop", None).await;
    memory.back_up("main", "globals", None).await;
    let report = memory.expire(|o| (o.policy.keep_full, o.dry_run) = (Some(1), true)).await;
    assert!(report.notices[0].contains("count as one series, main/shop among them"), "{:?}", report.notices);
}

#[tokio::test]
async fn the_oldest_kept_base_backup_says_where_wal_must_begin() {
    let fixture = Fixture::new().await;
    let first = fixture.back_up(BaseTar::new(1).bytes()).await.backup;
    let second = fixture.back_up(BaseTar::new(1).bytes()).await.backup;
    let mut policy = RetentionPolicy::default();
    policy.keep_within = Some(Duration::from_secs(3600));
    let mut options = ExpireOptions::new(policy);
    let all = fixture.repository.expire(&fixture.ctx, &options).await.unwrap();
    assert!(all.expired.is_empty());
    assert_eq!(all.oldest_kept.len(), 1);
    let oldest = &all.oldest_kept[0];
    assert_eq!((&oldest.backup_key, oldest.start_lsn.as_u64()), (&first.backup_key, START));
    assert_eq!((oldest.timeline.as_u32(), oldest.system_id), (1, first.system_id));

    options.policy.keep_within = None;
    options.policy.keep_full = Some(1);
    let one = fixture.repository.expire(&fixture.ctx, &options).await.unwrap();
    assert_eq!(keys(one.expired.iter().map(|e| &e.backup)), [first.backup_key.to_string()]);
    assert_eq!(one.oldest_kept[0].backup_key, second.backup_key);
}
