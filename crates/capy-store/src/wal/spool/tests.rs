//! A spool with a worker in this process, on a repository in memory.
//!
//! The files are timeline histories: small, and as good as segments here.

use std::time::Duration;

use capy_types::{ClusterName, Ctx, ErrorKind};

use super::*;
use crate::{InitOptions, Key, PushOutcome, Repository};

/// A server's directory, a spool, and a repository.
struct Place {
    dir: tempfile::TempDir,
    location: Location,
}

impl Place {
    async fn new(name: &str) -> Self {
        let place = Self {
            dir: tempfile::tempdir().expect("a directory"),
            location: Location::new(format!("memory://spool-{name}")),
        };
        std::fs::create_dir_all(place.pgwal().join("archive_status")).expect("made");
        let options = InitOptions { kdf_memory_kib: Some(64), ..InitOptions::default() };
        Repository::init(&Ctx::default(), &place.location, &[key()], options).await.expect("a repository");
        place
    }

    fn pgwal(&self) -> PathBuf {
        self.dir.path().join("pg_wal")
    }

    fn spool(&self) -> Spool {
        Spool::open(self.dir.path().join("spool"), &cluster(), &self.location).expect("a spool")
    }

    /// A file that the server has finished.
    fn finish(&self, timeline: u32) -> WalFile {
        let file = history(timeline);
        std::fs::write(self.pgwal().join(file.as_str()), content(timeline)).expect("written");
        self.wait_for(&file);
        file
    }

    fn wait_for(&self, file: &WalFile) {
        let ready = self.pgwal().join("archive_status").join(format!("{file}.ready"));
        std::fs::write(ready, "").expect("written");
    }

    async fn open(&self) -> std::result::Result<Repository, SpoolFault> {
        let opened = Repository::open(&Ctx::default(), &self.location, &key()).await;
        opened.map_err(|error| SpoolFault::from(&error))
    }

    /// Runs a worker until it has nothing to do.
    async fn work(&self) -> SpoolReport {
        self.worker().await.run(&Ctx::default(), async || self.open().await).await.expect("it ends")
    }

    async fn worker(&self) -> SpoolWorker {
        let options = SpoolOptions { idle: Some(Duration::from_millis(20)), ..SpoolOptions::default() };
        let claimed = SpoolWorker::claim(&Ctx::default(), self.spool(), self.pgwal(), options).await;
        claimed.expect("no error").expect("no other")
    }

    /// Asks for a file as archive_command does, of a worker that runs.
    async fn push(&self, file: &WalFile) -> Result<PushedWal> {
        let path = self.pgwal().join(file.as_str());
        self.spool().push(&Ctx::default(), path, Duration::from_secs(60), || Ok(())).await
    }

    /// Asks when nobody is there to answer.
    async fn push_unheard(&self, file: &WalFile) -> Error {
        let path = self.pgwal().join(file.as_str());
        let pushed = self.spool().push(&Ctx::default(), path, Duration::from_millis(50), || Ok(())).await;
        let error = pushed.expect_err("no worker runs");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        error
    }

    async fn is_archived(&self, file: &WalFile) -> bool {
        let repository = self.open().await.expect("it is there");
        repository.repo.get_wal(&cluster(), file).await.is_ok()
    }
}

use crate::PushedWal;

fn key() -> Key {
    Key::passphrase("spool")
}

fn cluster() -> ClusterName {
    "main".parse().expect("a name")
}

fn history(timeline: u32) -> WalFile {
    WalFile::history(capy_types::TimelineId::from_u32(timeline))
}

fn content(timeline: u32) -> String {
    format!("1\t0/{timeline}000028\tfor a test\n")
}

fn names(spool: &Spool, kind: Kind) -> Vec<String> {
    let mut names: Vec<_> = spool.noted(kind).expect("read").iter().map(WalFile::to_string).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_worker_was_ahead_with_is_answered_without_it() {
    let place = Place::new("ahead").await;
    let files: Vec<_> = (2..6).map(|timeline| place.finish(timeline)).collect();
    let report = place.work().await;
    assert_eq!((report.archived, report.failures, report.end), (4, 0, SpoolEnd::Idle));
    for file in &files {
        let pushed = place.push(file).await.expect("acknowledged");
        assert_eq!((&pushed.file, pushed.outcome), (file, PushOutcome::Archived));
        assert!(place.is_archived(file).await);
    }
    // Each answer is given once.
    assert_eq!(names(&place.spool(), Kind::Ok), [""; 0]);
    place.push_unheard(&files[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_asked_for_when_nobody_was_ahead() {
    let place = Place::new("asked").await;
    let file = place.finish(7);
    std::fs::remove_dir_all(place.pgwal().join("archive_status")).expect("removed");
    place.push_unheard(&file).await;
    assert_eq!(names(&place.spool(), Kind::Ask), ["00000007.history"], "it can be done later");
    assert_eq!(place.work().await.archived, 1);
    place.push(&file).await.expect("acknowledged");
    assert_eq!(names(&place.spool(), Kind::Ask), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_is_of_one_file_in_one_repository() {
    let place = Place::new("identity").await;
    let file = place.finish(2);
    place.work().await;
    // The same name in another life: the same place on disk, the same length, the same time.
    let path = place.pgwal().join(file.as_str());
    let time = std::fs::metadata(&path).and_then(|meta| meta.modified()).expect("known");
    std::fs::write(&path, content(9)).expect("written");
    std::fs::File::options().write(true).open(&path).and_then(|f| f.set_modified(time)).expect("set");
    place.push_unheard(&file).await;
    assert_eq!(names(&place.spool(), Kind::Ok), [""; 0], "it will never be right again");
    // What the archive says when it is asked about this content: both are kept, none acknowledged.
    let (pushed, report) = tokio::join!(place.push(&file), place.work());
    assert_eq!(pushed.expect_err("refused").kind(), ErrorKind::Conflict);
    assert_eq!((report.archived, names(&place.spool(), Kind::Ok)), (0, vec![]));

    // A repository elsewhere: it has nothing of this.
    let file = place.finish(3);
    place.work().await;
    let elsewhere = Spool { place: "elsewhere".to_owned(), ..place.spool() };
    let path = place.pgwal().join(file.as_str());
    let pushed = elsewhere.push(&Ctx::default(), &path, Duration::from_millis(50), || Ok(())).await;
    assert!(pushed.is_err());
    place.push(&file).await.expect("still acknowledged for this one");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_truncation_and_flip_of_an_acknowledgement_is_no_acknowledgement() {
    let place = Place::new("damage").await;
    let file = place.finish(2);
    place.work().await;
    let note = place.spool().note(&file, Kind::Ok);
    let whole = std::fs::read(&note).expect("read");
    let source = SourceId::at(&place.pgwal().join(file.as_str())).expect("read");
    let is_believed = |bytes: &[u8]| {
        std::fs::write(&note, bytes).expect("written");
        place.spool().read_acknowledgement(&file).is_some_and(|note| note.source == source)
    };
    assert!(is_believed(&whole));
    for length in 0..whole.len() {
        assert!(!is_believed(&whole[..length]), "{length} bytes of {}", whole.len());
    }
    let text = String::from_utf8(whole).expect("text");
    let part = text.find("\"source\"").expect("named")..text.find(",\"new\"").expect("named");
    for (at, digit) in text.char_indices().filter(|(at, c)| part.contains(at) && c.is_ascii_digit()) {
        let mut other = text.clone();
        other.replace_range(at..=at, if digit == '7' { "8" } else { "7" });
        assert!(!is_believed(other.as_bytes()), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_killed_leaves_what_the_next_one_takes_up() {
    let place = Place::new("killed").await;
    let first = place.finish(2);
    place.work().await;
    // It did not come to say so, or the server asked, was answered, and lost its memory of it.
    place.spool().forget(&first, Kind::Ok);
    let half = place.spool().directory().join(format!(".new.{}.0", i32::MAX - 1));
    std::fs::write(&half, "{\"place\":").expect("written");
    let second = place.finish(3);
    assert_eq!(place.work().await.archived, 2);
    assert!(!half.exists(), "its writer is gone");
    assert_eq!(place.push(&first).await.expect("acknowledged").outcome, PushOutcome::AlreadyThere);
    assert_eq!(place.push(&second).await.expect("acknowledged").outcome, PushOutcome::Archived);

    // What was acknowledged is not done again.
    place.finish(4);
    place.work().await;
    assert_eq!(place.work().await.archived, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_file_is_told_of_until_it_is_archived() {
    let place = Place::new("refused").await;
    let bad = place.finish(2);
    std::fs::write(place.pgwal().join(bad.as_str()), "no history").expect("written");
    let good = place.finish(3);
    let (worker, ctx) = (place.worker().await, Ctx::default());
    let working = worker.run(&ctx, async || place.open().await);
    let asking = async {
        place.push(&good).await.expect("it does not wait for the other");
        let error = place.push(&bad).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let failing = place.spool().failing().expect("read");
        assert_eq!((failing.len(), &failing[0].file, &*failing[0].kind), (1, &bad, "invalid"));
        // Each time the server asks it is tried, and the failure told is a fresh one.
        let error = place.push(&bad).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(place.spool().failing().expect("read")[0].since, failing[0].since);
        std::fs::write(place.pgwal().join(bad.as_str()), content(2)).expect("written");
        place.push(&bad).await.expect("archived");
        assert_eq!(place.spool().failing().expect("read"), []);
        ctx.cancel.cancel();
    };
    let (report, ()) = tokio::join!(working, asking);
    assert!(report.expect("it ends").failures >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_does_not_open_is_told_to_whoever_waits() {
    let place = Place::new("closed").await;
    let file = place.finish(2);
    let fault = SpoolFault::new(ErrorKind::Denied, "no key", Some("bring one".to_owned()));
    let refusing = async || -> std::result::Result<Repository, SpoolFault> { Err(fault.clone()) };
    let (worker, ctx) = (place.worker().await, Ctx::default());
    // The push is first: otherwise it would start another worker, which there is none of here.
    let (pushed, report) = tokio::join!(place.push(&file), worker.run(&ctx, refusing));
    assert_eq!(report.expect("it ends").end, SpoolEnd::NoRepository);
    let error = pushed.expect_err("told");
    assert_eq!((error.kind(), error.hint()), (ErrorKind::Denied, Some("bring one")));
    assert_eq!(place.spool().failing().expect("read").len(), 1, "nothing is hidden");
    // Another worker, with a key: what was told before is not told again.
    let (pushed, _) = tokio::join!(place.push(&file), place.work());
    pushed.expect("archived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_replaced_by_another_gets_no_acknowledgement() {
    let place = Place::new("replaced").await;
    let file = place.finish(2);
    let old = super::upload::OpenArchive::of(place.open().await.expect("open")).await.expect("open");
    let store = place.open().await.expect("open").repo.store().clone();
    let objects = ["config"].map(str::to_owned);
    for name in objects {
        store.delete(&name).await.expect("deleted");
        store.put_new(&name, bytes::Bytes::from_static(b"another")).await.expect("put");
    }
    let (archive, spool, pgwal) = (std::sync::Arc::new(old), place.spool(), place.pgwal());
    let runtime = tokio::runtime::Handle::current();
    let uploading = tokio::task::spawn_blocking({
        let (spool, file) = (spool.clone(), file.clone());
        move || super::upload::upload(&runtime, &archive, &spool, &pgwal, &file)
    });
    let trouble = uploading.await.expect("no panic").expect_err("not acknowledged");
    assert!(trouble.error.to_string().contains("replaced"), "{}", trouble.error);
    assert_eq!(names(&spool, Kind::Ok), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_at_a_time_and_it_makes_way_for_what_is_asked_of_another() {
    let place = Place::new("one").await;
    let first = place.worker().await;
    assert!(place.spool().has_worker().expect("asked"));
    let ctx = Ctx::default();
    let second = SpoolWorker::claim(&ctx, place.spool(), place.pgwal(), SpoolOptions::default()).await;
    assert!(second.expect("no error").is_none());

    let elsewhere = Spool { place: "elsewhere".to_owned(), ..place.spool() };
    elsewhere.write_ask(&history(5), &place.pgwal()).expect("written");
    let report = first.run(&Ctx::default(), async || place.open().await).await.expect("it ends");
    assert_eq!(report.end, SpoolEnd::Displaced);
    assert!(!place.spool().has_worker().expect("asked"));
    assert_eq!(names(&place.spool(), Kind::Ask), ["00000005.history"], "for the one it is meant for");

    // An agent stays, and says what it is there for.
    let options = SpoolOptions { resident: true, ..SpoolOptions::default() };
    let agent = SpoolWorker::claim(&ctx, place.spool(), place.pgwal(), options).await.expect("no error");
    let working = agent.expect("no other").run(&ctx, async || place.open().await);
    let file = place.finish(5);
    let path = place.pgwal().join(file.as_str());
    let asking = async {
        let pushed = elsewhere.push(&ctx, &path, Duration::from_secs(20), || Ok(())).await;
        let error = pushed.expect_err("refused");
        assert!(error.to_string().contains("the agent of this spool"), "{error}");
        place.push(&file).await.expect("its own it does");
        ctx.cancel.cancel();
    };
    let (report, ()) = tokio::join!(working, asking);
    assert_eq!(report.expect("it ends").end, SpoolEnd::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_spool_or_server_is_removed_ends() {
    let place = Place::new("removed").await;
    let worker = place.worker().await;
    std::fs::remove_dir_all(place.dir.path().join("spool")).expect("removed");
    let spool = place.spool();
    let report = worker.run(&Ctx::default(), async || place.open().await).await.expect("it ends");
    assert_eq!(report.end, SpoolEnd::Displaced);
    assert!(!spool.has_worker().expect("asked"));

    let worker = place.worker().await;
    std::fs::remove_dir_all(place.pgwal()).expect("removed");
    let report = worker.run(&Ctx::default(), async || place.open().await).await.expect("it ends");
    assert_eq!(report.end, SpoolEnd::NoDirectory);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_nobody_waits_for_are_not_kept_for_ever() {
    let place = Place::new("prune").await;
    let taken_back = place.finish(2);
    let waiting = place.finish(3);
    place.work().await;
    std::fs::remove_file(place.pgwal().join("archive_status/00000002.history.ready")).expect("removed");
    for file in [&taken_back, &waiting] {
        let note =
            std::fs::File::options().write(true).open(place.spool().note(file, Kind::Ok)).expect("there");
        note.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("set");
    }
    place.work().await;
    assert_eq!(names(&place.spool(), Kind::Ok), ["00000003.history"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_what_the_server_waits_for() {
    let place = Place::new("status").await;
    let repository = place.open().await.expect("open");
    let mut options = WalStatusOptions::default();
    (options.pgwal, options.spool) = (Some(place.pgwal()), Some(place.dir.path().join("spool")));
    let bad = place.finish(2);
    std::fs::write(place.pgwal().join(bad.as_str()), "no history").expect("written");
    let good = place.finish(3);
    let (worker, ctx) = (place.worker().await, Ctx::default());
    let asking = async {
        place.push(&bad).await.expect_err("refused");
        place.push(&good).await.expect("archived");
        ctx.cancel.cancel();
    };
    tokio::join!(worker.run(&ctx, async || place.open().await), asking).0.expect("it ends");
    let ctx = Ctx::default();
    let status = wal_status(&ctx, &place.location, Some(&repository), &cluster(), &options).await;
    let status = status.expect("gathered");
    let server = status.server.expect("asked");
    // The server has not taken note of the good one yet.
    assert_eq!(server.ready, 2);
    assert_eq!(server.oldest_ready.expect("one").file, bad);
    let spool = status.spool.expect("asked");
    assert_eq!((spool.failing.len(), spool.worker_pid), (1, None));
    assert!(
        status.problems.iter().any(|problem| problem.contains("00000002.history fails")),
        "{:?}",
        status.problems
    );

    // Let go of by the server, it fails no more.
    std::fs::remove_file(place.pgwal().join("archive_status/00000002.history.ready")).expect("removed");
    let status = wal_status(&ctx, &place.location, None, &cluster(), &options).await.expect("gathered");
    assert_eq!((status.spool.expect("asked").failing.len(), status.problems.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_every_note_is_as_good_as_no_note() {
    let place = Place::new("garbage").await;
    let file = place.finish(2);
    for garbage in [&b""[..], b"{", b"null", b"{\"place\":1}", &[0xFF; 300]] {
        place.wait_for(&file);
        for kind in Kind::ALL {
            std::fs::write(place.spool().note(&file, kind), garbage).expect("written");
        }
        std::fs::write(place.spool().lock_path(), garbage).expect("written");
        let (pushed, report) = tokio::join!(place.push(&file), place.work());
        pushed.expect("archived, or there already");
        assert_eq!(report.failures, 0);
        assert_eq!(place.spool().failing().expect("read"), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_segment_costs_a_few_hundred_bytes_and_comes_back_whole() {
    let place = Place::new("zeros").await;
    let repository = place.open().await.expect("open");
    let size = 16 << 20;
    let file: WalFile = "000000010000000000000002".parse().expect("a name");
    // The header that PostgreSQL 15 gives a segment, and nothing behind it.
    let mut bytes = Vec::with_capacity(size);
    bytes.extend([0x10, 0xD1, 2, 0, 1, 0, 0, 0]);
    bytes.extend((2 * size as u64).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend((size as u32).to_le_bytes());
    bytes.extend(8192_u32.to_le_bytes());
    bytes.resize(size, 0);
    let bytes = bytes::Bytes::from(bytes);
    let pushed = repository.push_wal_bytes(&cluster(), file.clone(), bytes.clone()).await.expect("archived");
    assert!(pushed.stored_bytes < 2048, "{} bytes", pushed.stored_bytes);
    let back = repository.repo.get_wal(&cluster(), &file).await.expect("it is there");
    assert!(back.bytes == bytes);
}
