//! The local store's own promises: nothing half-made, nothing left behind, modes, crash leftovers.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use super::write::Step;
use super::*;

/// Makes one step of a write fail, with the error given.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Option<(Step, Errno)>>);

impl Faults {
    pub(super) fn fail(&self, fault: Option<(Step, Errno)>) {
        *self.0.lock().unwrap() = fault;
    }

    pub(super) fn check(&self, step: Step) -> io::Result<()> {
        match *self.0.lock().unwrap() {
            Some((failing, error)) if failing == step => Err(error.into()),
            _ => Ok(()),
        }
    }
}

async fn store() -> (tempfile::TempDir, LocalStore) {
    let scratch = tempfile::tempdir().unwrap();
    let store = LocalStore::open(scratch.path().join("a/b"), true).await.unwrap();
    (scratch, store)
}

fn temporaries(store: &LocalStore) -> usize {
    fs::read_dir(store.place.root.join(".tmp")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_no_temporary_and_the_next_attempt_succeeds() {
    for step in [
        Step::MakeDirectories,
        Step::CreateTemporary,
        Step::Write,
        Step::SyncFile,
        Step::Rename,
        Step::SyncDirectory,
    ] {
        let (_scratch, store) = store().await;
        store.place.writer.faults.fail(Some((step, Errno::NOSPC)));
        let error = store.put_new("packs/00/x", Bytes::from_static(b"body")).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NoSpace, "{step:?}");
        assert_eq!(temporaries(&store), 0, "{step:?}");
        let named = store.head("packs/00/x").await.is_ok();
        assert_eq!(named, step == Step::SyncDirectory, "{step:?}");
        store.place.writer.faults.fail(None);
        store.put_new("packs/00/x", Bytes::from_static(b"body")).await.unwrap();
        assert_eq!(store.get("packs/00/x", 4).await.unwrap(), "body");
    }
}

/// Whoever made it may have died before it was on disk.
#[tokio::test]
async fn an_object_that_is_there_already_counts_only_once_its_directory_is_on_disk() {
    let (_scratch, store) = store().await;
    let put =
        async |body| store.put_new("packs/00/x", Bytes::from_static(body)).await.map_err(|error| error.kind);
    store.place.writer.faults.fail(Some((Step::SyncDirectory, Errno::IO)));
    let first = put(b"body").await.unwrap_err();
    assert!(store.head("packs/00/x").await.is_ok());
    assert_eq!(put(b"body").await, Err(first.clone()), "the same content");
    assert_eq!(put(b"other").await, Err(first), "another content");
    store.place.writer.faults.fail(None);
    assert_eq!(put(b"body").await, Ok(()));
    assert_eq!(put(b"other").await, Err(StoreErrorKind::AlreadyExists));
}

#[tokio::test]
async fn files_are_0600_and_directories_0700() {
    let (_scratch, store) = store().await;
    store.put_new("packs/00/x", Bytes::from_static(b"x")).await.unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(store.place.root.join("packs/00/x")), 0o600);
    assert_eq!(mode(store.place.root.join("packs/00")), 0o700);
    assert_eq!(mode(store.place.root.join(".tmp")), 0o700);
    assert_eq!(mode(store.place.root.clone()), 0o700);
}

#[tokio::test]
async fn leftovers_of_dead_writers_are_swept_and_those_of_live_ones_are_not() {
    let (_scratch, store) = store().await;
    let directory = store.place.root.join(".tmp");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("1-0"), b"dead").unwrap();
    let live = fs::File::create(directory.join("1-1")).unwrap();
    rustix::fs::flock(&live, rustix::fs::FlockOperation::LockExclusive).unwrap();
    store.put_new("x", Bytes::from_static(b"x")).await.unwrap();
    assert!(!directory.join("1-0").exists());
    assert!(directory.join("1-1").exists());
}

#[tokio::test]
async fn hidden_and_foreign_things_are_no_objects_but_foreign_files_are_seen() {
    let (_scratch, store) = store().await;
    let root = &store.place.root;
    fs::write(root.join(".hidden"), b"").unwrap();
    fs::create_dir_all(root.join("empty/deep")).unwrap();
    assert_eq!(store.first("").await.unwrap(), None);
    fs::write(root.join("some file"), b"12").unwrap();
    let seen = store.first("").await.unwrap();
    assert_eq!(seen, Some(ObjectInfo { name: "some file".to_owned(), size: 2 }));
    assert_eq!(store.head("empty").await.unwrap_err().kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn opening_creates_only_when_asked_and_only_directories() {
    let scratch = tempfile::tempdir().unwrap();
    let absent = scratch.path().join("x");
    assert_eq!(LocalStore::open(&absent, false).await.unwrap_err().kind, StoreErrorKind::NotFound);
    assert!(!absent.exists());
    fs::write(&absent, b"").unwrap();
    let error = LocalStore::open(&absent, true).await.unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
}

#[tokio::test]
async fn a_store_that_vanished_is_an_error_not_an_empty_listing() {
    let (_scratch, store) = store().await;
    store.put_new("a/x", Bytes::from_static(b"x")).await.unwrap();
    fs::remove_dir_all(&store.place.root).unwrap();
    for prefix in ["", "a/"] {
        assert!(store.list(prefix).next().await.unwrap().is_err(), "{prefix:?}");
        assert!(store.first(prefix).await.is_err(), "{prefix:?}");
    }
}

/// What the test below runs in a process with a file size limit of 64 KiB.
#[tokio::test]
async fn child_writes_over_the_file_size_limit() {
    let Some(root) = std::env::var_os("CAPY_TEST_LIMITED_STORE") else { return };
    let store = LocalStore::open(root, true).await.unwrap();
    let error = store.put_new("x", vec![7; 1 << 20].into()).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoSpace);
    assert!(store.first("").await.unwrap().is_none());
    assert_eq!(temporaries(&store), 0);
    store.put_new("x", vec![7; 1 << 10].into()).await.unwrap();
    println!("the limit was met");
}

#[test]
fn a_short_write_is_no_space_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    // The shell ignores the signal that would kill the process, and its child inherits that.
    let output = std::process::Command::new("bash")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact --nocapture local::tests::child_writes_over_the_file_size_limit")
        .arg(std::env::current_exe().unwrap())
        .env("CAPY_TEST_LIMITED_STORE", scratch.path().join("store"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the limit was met"), "{text}");
}
