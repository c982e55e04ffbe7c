//! Where a time is in the archived WAL, on WAL made by hand.

use capy_store::{ClusterName, Ctx, ErrorKind, InitOptions, Key, Location, Repository, Timestamp, WalMoment};

use crate::made_wal::MadeSegment;

fn cluster() -> ClusterName {
    "main".parse().unwrap()
}

/// So many seconds after a start.
fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-11-21T06:00:00Z".parse().unwrap();
    Timestamp::from_micros(start.as_micros() + seconds * 1_000_000)
}

struct Log {
    repository: Repository,
    dir: tempfile::TempDir,
}

impl Log {
    /// Segments 2, 3 and 5: 4 is missing.
    async fn new() -> Self {
        let options = {
            let mut options = InitOptions::default();
            options.kdf_memory_kib = Some(1024);
            options
        };
        let place = Location::new("memory://moments-of-wal");
        let keys = [Key::passphrase("secret")];
        let repository = Repository::init(&Ctx::default(), &place, &keys, options).await.unwrap();
        let log = Self { repository, dir: tempfile::tempdir().unwrap() };
        log.push(MadeSegment::new(1, 2).commit(at(10)).commit(at(20))).await;
        // A clock that was set back: 25 comes after 30 in the log.
        log.push(MadeSegment::new(1, 3).commit(at(22)).commit(at(30)).commit(at(25))).await;
        log
    }

    async fn push(&self, segment: MadeSegment) {
        let path = self.dir.path().join(segment.name());
        std::fs::write(&path, segment.bytes()).unwrap();
        self.repository.push_wal(&Ctx::default(), &cluster(), path).await.unwrap();
    }

    async fn when(&self, seconds: i64) -> WalMoment {
        self.repository.wal_moment(&Ctx::default(), &cluster(), at(seconds), None).await.unwrap()
    }
}

#[tokio::test]
async fn a_time_is_where_recovery_to_it_stops_with_the_transactions_around_it() {
    let log = Log::new().await;
    let around =
        |moment: &WalMoment| (moment.last_before.map(|end| end.time), moment.first_after.map(|end| end.time));

    let before_all = log.when(5).await;
    assert_eq!(around(&before_all), (None, Some(at(10))));
    let between = log.when(15).await;
    assert_eq!(around(&between), (Some(at(10)), Some(at(20))));
    assert_eq!((between.lsn, between.doubts.len()), (between.first_after.unwrap().lsn, 0));
    assert!(between.last_before.unwrap().lsn < between.lsn);
    let exact = log.when(20).await;
    assert_eq!(around(&exact), (Some(at(20)), Some(at(22))), "what ended at the time itself is before");
    let over_the_border = log.when(21).await;
    assert_eq!(around(&over_the_border), (Some(at(20)), Some(at(22))));
    assert_eq!(over_the_border.segment, MadeSegment::new(1, 3).name());
    let clock = log.when(26).await;
    assert_eq!(around(&clock), (Some(at(22)), Some(at(30))), "the first later one stops a recovery");
    let after_all = log.when(99).await;
    assert_eq!(around(&after_all), (Some(at(25)), None));
    assert_eq!(after_all.doubts, ["what happened until then may not be archived yet"]);

    log.push(MadeSegment::new(1, 5).commit(at(50))).await;
    let over_a_hole = log.when(40).await;
    assert_eq!(around(&over_a_hole), (Some(at(25)), Some(at(50))));
    let names = (MadeSegment::new(1, 3).name(), MadeSegment::new(1, 5).name());
    assert_eq!(over_a_hole.doubts, [format!("segments are missing between {} and {}", names.0, names.1)]);
    assert!(log.when(15).await.doubts.is_empty(), "a hole behind it does not matter");

    let (ctx, timeline) = (Ctx::default(), Some("7".parse().unwrap()));
    let unknown = log.repository.wal_moment(&ctx, &cluster(), at(1), timeline).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::NotFound);
}
