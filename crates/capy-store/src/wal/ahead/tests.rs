//! A recovery in this process: requests one after another, a worker beside them.

use std::time::Duration;

use bytes::Bytes;
use capy_types::{Ctx, ErrorKind, Lsn, SegmentName, SystemId, TimelineId};

use super::*;
use crate::{InitOptions, Key};

const SIZE: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::try_from(SIZE).expect("1 MiB")
}

fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::containing(TimelineId::from_u32(timeline), Lsn::from_u64(number * SIZE), size())
}

/// A segment with a header of PostgreSQL 15, and bytes of its own behind it.
fn content(timeline: u32, number: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(size().bytes() as usize);
    bytes.extend(0xD110_u16.to_le_bytes());
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(timeline.to_le_bytes());
    bytes.extend((number * SIZE).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(SystemId::from_u64(7).as_u64().to_le_bytes());
    bytes.extend((SIZE as u32).to_le_bytes());
    bytes.extend(8192_u32.to_le_bytes());
    let mut word = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(timeline);
    while bytes.len() < SIZE as usize {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend(word.to_le_bytes());
    }
    bytes.into()
}

struct Recovery {
    dir: tempfile::TempDir,
    location: Location,
    repository: Repository,
}

impl Recovery {
    async fn new(name: &str) -> Self {
        let location = Location::new(format!("memory://ahead-{name}"));
        let options = InitOptions { kdf_memory_kib: Some(64), ..InitOptions::default() };
        let keys = [Key::passphrase("ahead")];
        let repository = Repository::init(&Ctx::default(), &location, &keys, options).await.expect("made");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("pg_wal")).expect("made");
        Self { dir, location, repository }
    }

    async fn archive(&self, timeline: u32, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let file = segment(timeline, number).into();
            let pushed = self.repository.push_wal_bytes(&cluster(), file, content(timeline, number)).await;
            pushed.expect("archived");
        }
    }

    fn pgwal(&self) -> PathBuf {
        self.dir.path().join("pg_wal")
    }

    fn ahead(&self) -> FetchAhead {
        let ahead = FetchAhead::beside(self.pgwal(), &cluster(), &self.location).expect("a place");
        ahead.with_idle(Duration::from_secs(2))
    }

    /// As restore_command does: where it came from, and what it is. `None` when it is absent.
    async fn fetch(&self, name: SegmentName) -> Option<(bool, Vec<u8>)> {
        let (ctx, file, target) = (Ctx::default(), WalFile::from(name), self.pgwal().join("RECOVERYXLOG"));
        let was_ahead = self.ahead().take(&ctx, &file, &target).await.is_some();
        if !was_ahead {
            match self.repository.fetch_wal(&ctx, &cluster(), &file, &target).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                fetched => fetched.map(drop).expect("fetched"),
            }
            self.ahead().follow(&file).expect("noted");
        }
        let bytes = std::fs::read(&target).expect("there");
        std::fs::remove_file(&target).expect("removed");
        Some((was_ahead, bytes))
    }

    async fn run(&self, budget: AheadBudget) -> Result<AheadReport> {
        self.ahead().run(&Ctx::default(), &self.repository, budget).await
    }

    fn present(&self) -> Vec<SegmentName> {
        let mut present = self.ahead().present(size()).unwrap_or_default();
        present.sort();
        present
    }

    /// The names in the hidden directory, in order.
    fn shelf(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.ahead().log().parent().expect("above")).expect("read");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("read").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    async fn until(&self, what: impl Fn(&[SegmentName]) -> bool) {
        for _ in 0..2000 {
            if what(&self.present()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not in time: {:?}", self.present());
    }
}

fn put(ahead: &FetchAhead, file: &WalFile, bytes: &[u8]) {
    let fill = |sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
        // As they come out of an object: in pieces of no particular size.
        bytes.chunks(100_000).for_each(|piece| sink(piece).expect("written"));
        Ok(())
    };
    let part = ahead.begin(file).expect("begun");
    ahead.put(file, part, bytes.len() as u64, fill).expect("put");
}

fn cluster() -> ClusterName {
    "main".parse().expect("a name")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_segment_is_right_and_the_end_is_the_archives_word() {
    let recovery = Recovery::new("replay").await;
    recovery.archive(1, 1..31).await;
    let replaying = async {
        let mut ahead = 0;
        recovery.until(|present| present.len() == 8).await;
        for number in 1..31 {
            let (was_ahead, bytes) = recovery.fetch(segment(1, number)).await.expect("it is archived");
            assert!(bytes == content(1, number), "segment {number}");
            ahead += u32::from(was_ahead);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(ahead >= 8, "{ahead} of 30 were there already");
        assert_eq!(recovery.fetch(segment(1, 31)).await, None);
        // It comes later: what was absent once is not absent for ever, here as for the worker.
        recovery.archive(1, 31..34).await;
        assert!(recovery.fetch(segment(1, 31)).await.is_some());
        recovery.until(|present| present == [32, 33].map(|n| segment(1, n))).await;
    };
    let started = async {
        recovery.ahead().follow(&segment(1, 0).into()).expect("noted");
        recovery.run(AheadBudget::Bytes(8 * SIZE)).await.expect("no fault")
    };
    let (report, ()) = tokio::join!(started, replaying);
    assert!(report.fetched >= 10, "{report:?}");
    // The recovery is over: nothing is left of it.
    assert!(!recovery.pgwal().join(DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_kept_and_filled_again() {
    let recovery = Recovery::new("budget").await;
    recovery.archive(1, 1..20).await;
    recovery.ahead().follow(&segment(1, 1).into()).expect("noted");
    let using = async {
        recovery.until(|present| present.len() == 3).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(recovery.present(), [2, 3, 4].map(|n| segment(1, n)));
        assert!(recovery.fetch(segment(1, 2)).await.expect("there").0);
        recovery.until(|present| present == [3, 4, 5].map(|n| segment(1, n))).await;
        // A jump, as to another timeline's segment: what lies outside makes room.
        recovery.ahead().follow(&segment(1, 10).into()).expect("noted");
        recovery.until(|present| present == [11, 12, 13].map(|n| segment(1, n))).await;
    };
    let (report, ()) = tokio::join!(recovery.run(AheadBudget::Segments(3)), using);
    assert_eq!(report.expect("no fault").fetched, 7);
    // Less than a segment is one.
    assert_eq!(AheadBudget::Bytes(5).segments(size()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_on_recovering_keeps_what_is_ahead_and_no_more() {
    let recovery = Recovery::new("standby").await;
    recovery.archive(1, 1..8).await;
    std::fs::write(recovery.dir.path().join("standby.signal"), "").expect("written");
    recovery.ahead().follow(&segment(1, 1).into()).expect("noted");
    let using = async {
        recovery.until(|present| present.len() == 4).await;
        recovery.ahead().follow(&segment(1, 3).into()).expect("noted");
    };
    let (report, ()) = tokio::join!(recovery.run(AheadBudget::Segments(4)), using);
    assert_eq!(report.expect("no fault").removed, 2);
    assert_eq!(recovery.present(), [4, 5, 6, 7].map(|n| segment(1, n)));
    // No longer recovering: the next worker clears them.
    std::fs::remove_file(recovery.dir.path().join("standby.signal")).expect("removed");
    recovery.run(AheadBudget::Segments(4)).await.expect("no fault");
    assert!(!recovery.pgwal().join(DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_segment_its_name_says_is_never_used() {
    let recovery = Recovery::new("foreign").await;
    recovery.archive(1, 1..4).await;
    let ahead = recovery.ahead();
    ahead.make_directory().expect("made");
    let right = content(1, 2);
    let longer = [&right[..], &[0]].concat();
    let wrong: [(&str, Bytes); 6] = [
        ("another timeline's", content(2, 2)),
        ("another segment's", content(1, 3)),
        ("empty", Bytes::new()),
        ("cut off", right.slice(..right.len() - 1)),
        ("longer", longer.into()),
        ("zeros", vec![0; right.len()].into()),
    ];
    for (what, bytes) in wrong {
        let file = WalFile::from(segment(1, 2));
        put(&ahead, &file, &bytes);
        let (was_ahead, fetched) = recovery.fetch(segment(1, 2)).await.expect("archived");
        assert!(!was_ahead && fetched == right, "{what}");
        assert!(recovery.present().is_empty(), "{what} is removed");
    }
    // The right header with one bit of the rest turned, wherever it is; and one nobody vouches for.
    let shelf = |name: String| ahead.log().with_file_name(name);
    let whole = || recovery.shelf().into_iter().find(|name| name.starts_with("0000")).expect("there");
    for at in [40, 8191, 8192, SIZE as usize / 2, SIZE as usize - 1] {
        put(&ahead, &segment(1, 2).into(), &right);
        let mut damaged = right.to_vec();
        damaged[at] ^= 0x10;
        std::fs::write(shelf(whole()), damaged).expect("written");
        let (was_ahead, fetched) = recovery.fetch(segment(1, 2)).await.expect("archived");
        assert!(!was_ahead && fetched == right, "byte {at}");
    }
    // What a crash of the machine leaves, since nothing here is flushed: zeros behind what was written back.
    for written in [8192, SIZE as usize - 4096] {
        put(&ahead, &segment(1, 2).into(), &right);
        let mut left = right[..written].to_vec();
        left.resize(SIZE as usize, 0);
        std::fs::write(shelf(whole()), left).expect("written");
        let (was_ahead, fetched) = recovery.fetch(segment(1, 2)).await.expect("archived");
        assert!(!was_ahead && fetched == right, "{written} bytes written");
    }
    for sum in [".", ".0123456789abcdef", ""] {
        put(&ahead, &segment(1, 2).into(), &right);
        std::fs::rename(shelf(whole()), shelf(format!("{}{sum}", segment(1, 2)))).expect("renamed");
        assert!(!recovery.fetch(segment(1, 2)).await.expect("archived").0, "{sum:?}");
    }
    std::fs::remove_file(shelf(whole())).expect("the one without a sum");
    // Other archives have other directories.
    put(&ahead, &segment(1, 2).into(), &right);
    let target = recovery.pgwal().join("RECOVERYXLOG");
    let others = [("other", &recovery.location), ("main", &Location::new("memory://ahead-elsewhere"))];
    for (name, location) in others {
        let other = FetchAhead::beside(recovery.pgwal(), &name.parse().expect("a name"), location);
        let taken = other.expect("a place").take(&Ctx::default(), &segment(1, 2).into(), &target).await;
        assert_eq!(taken, None);
    }
    assert!(recovery.fetch(segment(1, 2)).await.expect("there").0);
}

#[test]
fn only_what_a_server_recovers_itself_is_left_for_it_to_flush() {
    let is = |path: &str| FetchAhead::is_for_recovery(Path::new(path));
    assert!(is("pg_wal/RECOVERYXLOG") && is("/data/pg_wal/RECOVERYXLOG") && is("RECOVERYXLOG"));
    let segment = "pg_wal/000000010000000000000003";
    assert!(!is(segment) && !is("pg_wal/RECOVERYHISTORY") && !is("/RECOVERYXLOG/other") && !is("/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_ends_the_worker_and_is_met_by_the_fetch_itself() {
    let recovery = Recovery::new("damaged").await;
    recovery.archive(1, 1..6).await;
    let name = capy_format::names::wal(&cluster(), &segment(1, 4).into());
    let store = recovery.repository.repo.store();
    store.delete(&name).await.expect("deleted");
    store.put_new(&name, Bytes::from_static(b"damaged")).await.expect("put");
    recovery.ahead().follow(&segment(1, 1).into()).expect("noted");
    let error = recovery.run(AheadBudget::Segments(10)).await.expect_err("a fault");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(recovery.fetch(segment(1, 2)).await.expect("there").0, "what was there before is used");
    let target = recovery.pgwal().join("RECOVERYXLOG");
    let fetched =
        recovery.repository.fetch_wal(&Ctx::default(), &cluster(), &segment(1, 4).into(), &target).await;
    assert_eq!(fetched.expect_err("a fault").kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_ends_when_its_directory_is_removed_and_never_makes_the_servers() {
    let recovery = Recovery::new("removed").await;
    recovery.archive(1, 1..4).await;
    recovery.ahead().follow(&segment(1, 1).into()).expect("noted");
    let removing = async {
        recovery.until(|present| present.len() == 2).await;
        std::fs::remove_dir_all(recovery.pgwal()).expect("removed");
    };
    let (outcome, ()) = tokio::join!(recovery.run(AheadBudget::Segments(4)), removing);
    assert_eq!(outcome.expect_err("ended").kind(), ErrorKind::Cancelled);
    recovery.run(AheadBudget::Segments(4)).await.expect_err("there is no such directory");
    assert!(!recovery.pgwal().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_switch_uses_nothing_of_the_old_timeline() {
    let recovery = Recovery::new("timelines").await;
    recovery.archive(1, 1..8).await;
    recovery.archive(2, 3..9).await;
    recovery.ahead().follow(&segment(1, 1).into()).expect("noted");
    let replaying = async {
        recovery.until(|present| present == [2, 3, 4].map(|n| segment(1, n))).await;
        assert!(recovery.fetch(segment(1, 2)).await.expect("there").1 == content(1, 2));
        for number in 3..9 {
            let (_, bytes) = recovery.fetch(segment(2, number)).await.expect("archived");
            assert!(bytes == content(2, number), "segment {number}");
        }
        // The server asks for the next one, learns that there is none, and takes that for the end.
        assert_eq!(recovery.fetch(segment(2, 9)).await, None);
    };
    let (report, ()) = tokio::join!(recovery.run(AheadBudget::Segments(3)), replaying);
    report.expect("no fault");
    assert!(!recovery.pgwal().join(DIRECTORY).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_left_is_cleared_by_the_next_one() {
    let recovery = Recovery::new("left").await;
    recovery.archive(1, 1..4).await;
    let ahead = recovery.ahead();
    ahead.make_directory().expect("made");
    ahead.begin(&segment(1, 2).into()).expect("begun");
    ahead.begin(&segment(1, 9).into()).expect("begun");
    // Nobody is at it, so that nobody waits for it.
    assert!(!recovery.fetch(segment(1, 1)).await.expect("archived").0);
    std::fs::write(recovery.dir.path().join("standby.signal"), "").expect("written");
    let report = recovery.run(AheadBudget::Segments(4)).await;
    let [second, third, lock, wanted] = &recovery.shelf()[..] else { panic!("{:?}", recovery.shelf()) };
    assert_eq!((lock.as_str(), wanted.as_str()), ("lock", "wanted"));
    assert!(second.starts_with(segment(1, 2).to_string().as_str()));
    assert!(third.starts_with(segment(1, 3).to_string().as_str()));
    assert_eq!(report.expect("no fault").fetched, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_everything_says_nothing_about_a_file() {
    let recovery = Recovery::new("gone").await;
    recovery.archive(1, 1..2).await;
    let target = recovery.pgwal().join("RECOVERYXLOG");
    let fetch = async || {
        let (ctx, file) = (Ctx::default(), WalFile::from(segment(1, 9)));
        recovery.repository.fetch_wal(&ctx, &cluster(), &file, &target).await.expect_err("not there")
    };
    assert_eq!(fetch().await.kind(), ErrorKind::NotFound);
    recovery.repository.repo.store().delete("config").await.expect("deleted");
    assert_eq!(fetch().await.kind(), ErrorKind::Unavailable);
}
