//! WAL archives: what is acknowledged is there, once, and what is listed is true.

use bytes::Bytes;
use capy_format::{SegmentFacts, WalFacts, names};
use capy_repo::{Repository, StoredWal};
use capy_types::{
    ChunkId, ClusterName, Ctx, ErrorKind, Lsn, SegmentName, SegmentSize, SystemId, TimelineId, Timestamp,
    WalFile,
};

use crate::fixture::{bytes, init, memory_store};

pub(crate) const SYSTEM: SystemId = SystemId::from_u64(7_571_234_567_890_123_456);

pub(crate) fn main_cluster() -> ClusterName {
    "main".parse().unwrap()
}

pub(crate) fn segment(number: u64) -> SegmentName {
    let size = SegmentSize::try_from(1 << 20).unwrap();
    SegmentName::containing(TimelineId::from_u32(1), Lsn::from_u64(number << 20), size)
}

pub(crate) fn facts(number: u64) -> WalFacts {
    let segment = segment(number);
    WalFacts {
        file: segment.into(),
        content: ChunkId::from_bytes([0; 32]),
        size: 0,
        archived_at: Timestamp::from_micros(0),
        segment: Some(SegmentFacts {
            system_id: SYSTEM,
            major: 15,
            segment_size: segment.size(),
            first: Some(segment.start()),
            last: Some(segment.start()),
            end: segment.end(),
            stopped: None,
            commits: number,
            aborts: 0,
            first_end: None,
            last_end: None,
            times: None,
            events: Vec::new(),
            more_events: 0,
            tail: None,
            head: None,
        }),
    }
}

async fn put(repo: &Repository, number: u64, content: Vec<u8>) -> StoredWal {
    repo.put_wal(&main_cluster(), facts(number), Bytes::from(content)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_back_and_a_second_push_of_it_changes_nothing() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let content = bytes(1, 1 << 20);
    assert!(
        matches!(put(&repo, 1, content.clone()).await, StoredWal::New { stored_bytes } if stored_bytes > 1000)
    );
    assert_eq!(put(&repo, 1, content.clone()).await, StoredWal::Same);
    let read = repo.get_wal(&main_cluster(), &segment(1).into()).await.unwrap();
    assert!(read.bytes == content);
    assert_eq!((read.facts.size, read.facts.segment.unwrap().commits), (1 << 20, 1));
    let missing = repo.get_wal(&main_cluster(), &segment(2).into()).await.unwrap_err();
    assert!(missing.is_missing_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_is_kept_beside_the_first_and_never_served() {
    let store = memory_store().await;
    let repo = init(&store).await;
    put(&repo, 1, bytes(1, 5000)).await;
    for _ in 0..2 {
        let StoredWal::Conflict { first, kept_as } = put(&repo, 1, bytes(2, 5000)).await else {
            panic!("two contents under one name");
        };
        assert!(first.unwrap().bytes == bytes(1, 5000));
        assert!(store.head(&kept_as).await.is_ok());
        let catalog = repo.wal_catalog(&Ctx::default(), &main_cluster()).await.unwrap();
        assert_eq!(catalog.conflicts, [kept_as]);
    }
    assert!(repo.get_wal(&main_cluster(), &segment(1).into()).await.unwrap().bytes == bytes(1, 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_byte_is_noticed_and_a_good_copy_is_then_kept() {
    let store = memory_store().await;
    let repo = init(&store).await;
    put(&repo, 1, bytes(1, 300)).await;
    let name = names::wal(&main_cluster(), &segment(1).into());
    let object = store.get(&name, 1 << 20).await.unwrap();
    for at in 0..object.len() {
        let mut damaged = object.to_vec();
        damaged[at] ^= 1;
        store.delete(&name).await.unwrap();
        store.put_new(&name, damaged.into()).await.unwrap();
        let error = repo.get_wal(&main_cluster(), &segment(1).into()).await.unwrap_err();
        // A later version is no damage by itself.
        let version = error.to_string().contains("this program reads up to");
        assert_eq!(
            error.kind(),
            if version { ErrorKind::Invalid } else { ErrorKind::Corrupt },
            "byte {at}: {error}"
        );
    }
    assert!(matches!(put(&repo, 1, bytes(1, 300)).await, StoredWal::Conflict { first: None, .. }));
    for length in [0, 15, 64, object.len() - 1] {
        store.delete(&name).await.unwrap();
        store.put_new(&name, object.slice(..length)).await.unwrap();
        assert_eq!(
            repo.get_wal(&main_cluster(), &segment(1).into()).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        let catalog = repo.wal_catalog(&Ctx::default(), &main_cluster()).await.unwrap();
        assert_eq!((catalog.files.len(), catalog.problems.len()), (1, 1), "length {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_takes_the_wal_of_one_system() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let size = SegmentSize::DEFAULT;
    assert_eq!(repo.archive(&main_cluster()).await.unwrap(), None);
    let made = repo.claim_archive(&main_cluster(), SYSTEM, size).await.unwrap();
    assert_eq!(repo.claim_archive(&main_cluster(), SYSTEM, size).await.unwrap(), made);
    let other = repo.claim_archive(&main_cluster(), SystemId::from_u64(1), size).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict);
    assert!(
        other.to_string().contains("its system identifier is 7571234567890123456, this one's 1"),
        "{other}"
    );
    let small = SegmentSize::try_from(1 << 20).unwrap();
    let other = repo.claim_archive(&main_cluster(), SYSTEM, small).await.unwrap_err();
    assert!(other.to_string().contains("16777216 bytes"), "{other}");
}

/// The segment numbers a catalog lists, and how many facts objects there are then.
async fn listed(repo: &Repository) -> (Vec<u64>, usize) {
    let catalog = repo.wal_catalog(&Ctx::default(), &main_cluster()).await.unwrap();
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    let number = |file: &WalFile| file.segment(segment(0).size()).unwrap().number();
    for (file, listed) in &catalog.files {
        let facts = listed.facts.as_ref().unwrap().segment.as_ref().unwrap();
        assert_eq!(facts.commits, number(file), "the facts are the file's own");
    }
    let gathered = store_names(repo, names::WAL_FACTS_PREFIX).await.len();
    (catalog.files.keys().map(number).collect(), gathered)
}

async fn store_names(repo: &Repository, prefix: &str) -> Vec<String> {
    use futures::TryStreamExt;
    let infos: Vec<_> = repo.store().list(prefix).try_collect().await.unwrap();
    infos.into_iter().map(|info| info.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn gathered_facts_say_the_same_as_loose_ones_while_the_archive_grows_and_shrinks() {
    let store = memory_store().await;
    let repo = init(&store).await;
    for number in (1..=200).filter(|n| *n != 150) {
        put(&repo, number, bytes(number, 200)).await;
    }
    let all =
        |skip: &[u64], from: u64, to: u64| (from..=to).filter(|n| !skip.contains(n)).collect::<Vec<_>>();
    assert_eq!(listed(&repo).await, (all(&[150], 1, 200), 1), "149 in one run; 50 stay loose");
    assert_eq!(listed(&repo).await, (all(&[150], 1, 200), 1), "read from the run");
    // The late segment closes the gap.
    put(&repo, 150, bytes(150, 200)).await;
    assert_eq!(listed(&repo).await.0, all(&[], 1, 200));
    for number in 201..=300 {
        put(&repo, number, bytes(number, 200)).await;
    }
    assert_eq!(listed(&repo).await, (all(&[], 1, 300), 1), "one longer run took the place of the first");
    let removed: Vec<WalFile> = (1..=40).map(|number| segment(number).into()).collect();
    repo.remove_wal(&main_cluster(), &removed).await.unwrap();
    assert_eq!(listed(&repo).await, (all(&[], 41, 300), 1));
    assert_eq!(listed(&repo).await.0, all(&[], 41, 300));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_first_segment_is_gone_is_not_believed() {
    let store = memory_store().await;
    let repo = init(&store).await;
    for number in 1..=100 {
        put(&repo, number, bytes(number, 200)).await;
    }
    assert_eq!(listed(&repo).await.1, 1);
    // As when expiry was cut off between a reader's listing and its own deletions.
    for number in 1..=10 {
        store.delete(&names::wal(&main_cluster(), &segment(number).into())).await.unwrap();
    }
    assert_eq!(listed(&repo).await.0, (11..=100).collect::<Vec<_>>());
}
