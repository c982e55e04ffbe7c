//! Objects of a WAL archive taken apart, whole and damaged in every part.

use std::path::PathBuf;

use capy_store::inspect::{Inspection, WalObject};
use capy_store::{Ctx, ErrorKind, InitOptions, Key, Location, Repository, Timestamp};

use crate::made_wal::MadeSegment;

const HEADER_BYTES: usize = 64;
const TRAILER_BYTES: usize = 16;
const HISTORY: &[u8] = b"1\t0/2000000\tno recovery target specified\n";

/// A repository on disk with a segment and a history.
struct Archive {
    dir: tempfile::TempDir,
    repository: Repository,
    ctx: Ctx,
    segment: String,
}

impl Archive {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ctx, mut options) = (Ctx::default(), InitOptions::default());
        options.kdf_memory_kib = Some(1024);
        let place = Location::new(dir.path().join("repo").to_str().unwrap());
        let repository = Repository::init(&ctx, &place, &[Key::passphrase("secret")], options).await.unwrap();
        let made =
            MadeSegment::new(1, 2).restore_point("here", Timestamp::from_micros(1_800_000_000_000_000));
        let archive = Self { dir, repository, ctx, segment: made.name() };
        archive.push(&archive.segment, &made.bytes()).await.unwrap();
        archive.push("00000002.history", HISTORY).await.unwrap();
        archive
    }

    async fn push(&self, name: &str, bytes: &[u8]) -> capy_store::Result<()> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        self.repository.push_wal(&self.ctx, &"main".parse().unwrap(), path).await.map(drop)
    }

    fn object(&self) -> PathBuf {
        self.dir.path().join("repo/wal/main/00000001").join(&self.segment)
    }

    async fn try_inspect(&self, what: &str) -> capy_store::Result<Inspection> {
        let what: WalObject = what.parse()?;
        self.repository.inspect_wal(&self.ctx, &what).await
    }

    async fn inspect(&self, what: &str) -> Inspection {
        self.try_inspect(what).await.unwrap()
    }

    /// The segment's object with these bytes.
    async fn damaged(&self, bytes: &[u8]) -> Inspection {
        std::fs::write(self.object(), bytes).unwrap();
        let found = self.inspect(&format!("main/{}", self.segment)).await;
        assert!(std::fs::read(self.object()).unwrap() == bytes, "looking changes nothing");
        assert!(!found.problems.is_empty(), "{found:?}");
        found
    }
}

#[tokio::test]
async fn a_whole_object_shows_its_header_facts_file_and_trailer() {
    let archive = Archive::new().await;
    for what in [format!("main/{}", archive.segment), format!("wal/main/00000001/{}", archive.segment)] {
        let found = archive.inspect(&what).await;
        assert_eq!(found.problems, [""; 0]);
        assert_eq!(
            (found.header["kind"].as_str(), found.header["plain_len"].as_u64()),
            (Some("wal"), Some(1 << 24))
        );
        let content = &found.content;
        assert_eq!(content["facts"]["segment"]["events"][0]["what"]["restore_point"]["name"], "here");
        assert_eq!(content["facts"]["content"], content["file"]["content"]);
        assert_eq!(content["file"]["kind"], "segment");
        let (at, length) = (&content["trailer"]["facts_at"], &content["trailer"]["facts_len"]);
        let end = at.as_u64().unwrap() + length.as_u64().unwrap() + TRAILER_BYTES as u64;
        assert_eq!(end, found.size_bytes);
    }
    let history = archive.inspect("main/00000002.history").await;
    assert_eq!(
        (history.problems.len(), history.content["file"]["text"].as_str()),
        (0, std::str::from_utf8(HISTORY).ok())
    );
    let whose = archive.inspect("archives/main").await;
    assert_eq!((whose.problems.len(), whose.content["segment_size"].as_u64()), (0, Some(1 << 24)));
}

#[tokio::test]
async fn another_content_of_a_file_is_looked_at_by_its_objects_name() {
    let archive = Archive::new().await;
    let other = MadeSegment::new(1, 2).restore_point("there", Timestamp::from_micros(1_800_000_000_000_000));
    let error = archive.push(&archive.segment, &other.bytes()).await.expect_err("another content");
    assert!(error.to_string().contains("the WAL differs from 0/20000"), "{error}");
    let name = error.to_string().rsplit(' ').next().unwrap().to_owned();
    let found = archive.inspect(&name).await;
    assert_eq!(found.problems, [""; 0]);
    assert_eq!(found.content["facts"]["segment"]["events"][0]["what"]["restore_point"]["name"], "there");
}

#[tokio::test]
async fn damage_to_one_part_hides_no_other() {
    let archive = Archive::new().await;
    let sound = std::fs::read(archive.object()).unwrap();
    let end = sound.len();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let name = |events: &serde_json::Value| events[0]["what"]["restore_point"]["name"].clone();

    // In the trailer: its magic, its length.
    for at in [end - 1, end - TRAILER_BYTES] {
        let found = archive.damaged(&flipped(at)).await;
        assert!(!found.content["file"]["content"].is_null(), "{found:?}");
        let (stored, read) = (&found.content["facts"]["segment"], &found.content["facts_from_file"]);
        let events = if stored.is_null() { read } else { stored };
        assert_eq!(name(&events["events"]), "here", "byte {at} of {end}: {found:?}");
    }
    // In the facts: they are read from the file again.
    let found = archive.damaged(&flipped(end - TRAILER_BYTES - 1)).await;
    assert!(found.problems[0].contains("the facts: fails authentication"), "{:?}", found.problems);
    assert_eq!(name(&found.content["facts_from_file"]["events"]), "here");
    // In the file, and in its header: the facts still tell of it.
    for at in [HEADER_BYTES + 10, 0, 50] {
        let found = archive.damaged(&flipped(at)).await;
        assert_eq!(name(&found.content["facts"]["segment"]["events"]), "here", "byte {at}");
        assert!(found.content["file"].is_null());
    }
    // Cut off: in the trailer, in the facts, in the file, in the header, at once.
    for length in [end - 1, end - TRAILER_BYTES - 5] {
        let found = archive.damaged(&sound[..length]).await;
        assert!(!found.content["file"].is_null(), "cut to {length} of {end}: {found:?}");
    }
    for length in [HEADER_BYTES + 20, HEADER_BYTES - 1, 5, 0] {
        let found = archive.damaged(&sound[..length]).await;
        assert!(found.content["file"].is_null() && found.content["facts"].is_null());
    }
    // What lies under another name does not open there.
    std::fs::write(archive.object(), &sound).unwrap();
    let moved = archive.object().with_file_name("000000010000000000000007");
    std::fs::copy(archive.object(), moved).unwrap();
    let found = archive.inspect("main/000000010000000000000007").await;
    assert!(found.problems.iter().any(|problem| problem.contains("fails authentication")), "{found:?}");
}

#[tokio::test]
async fn what_is_no_object_of_an_archive_is_refused() {
    let archive = Archive::new().await;
    for what in ["", "main", "main/x", "/000000010000000000000002", "packs/00", "root/1", "config"] {
        assert_eq!(archive.try_inspect(what).await.expect_err(what).kind(), ErrorKind::Invalid, "{what}");
    }
    let absent = archive.try_inspect("main/0000000100000000000000F0").await.expect_err("absent");
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}
