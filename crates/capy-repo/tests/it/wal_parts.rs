//! Parts of segments: what is stored is read again, in whatever pieces it came.

use std::sync::Arc;

use capy_objects::Store;
use capy_repo::{Repository, StoredPart, WalParts};
use capy_types::{ClusterName, WalFile};
use futures::TryStreamExt;

use crate::fixture::{bytes, init, memory_store};

fn cluster() -> ClusterName {
    "main".parse().unwrap()
}

fn segment() -> WalFile {
    "000000010000000000000005".parse().unwrap()
}

/// The segment's bytes.
fn wal(range: std::ops::Range<usize>) -> Vec<u8> {
    bytes(5, 100_000)[range].to_vec()
}

async fn put(repo: &Repository, start: usize, end: usize) -> StoredPart {
    let offset = u32::try_from(start).unwrap();
    repo.put_wal_part(&cluster(), &segment(), offset, &wal(start..end)).await.unwrap()
}

async fn read(repo: &Repository) -> WalParts {
    repo.read_wal_parts(&cluster(), &segment()).await.unwrap()
}

/// The ranges of the parts that are stored.
async fn ranges(store: &Arc<dyn Store>) -> Vec<String> {
    let listed: Vec<_> = store.list("wal-parts/").try_collect().await.unwrap();
    let mut ranges: Vec<_> =
        listed.iter().map(|info| info.name.rsplit_once('.').unwrap().1.to_owned()).collect();
    ranges.sort();
    ranges
}

async fn damage(store: &Arc<dyn Store>, range: &str) {
    let name = format!("wal-parts/main/{}.{range}", segment());
    let mut object = store.get(&name, 1 << 20).await.unwrap().to_vec();
    *object.last_mut().unwrap() ^= 1;
    store.delete(&name).await.unwrap();
    store.put_new(&name, object.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_hold_a_segment_up_to_the_first_gap() {
    let store = memory_store().await;
    let repo = init(&store).await;
    assert!(read(&repo).await.bytes.is_empty());
    put(&repo, 100, 200).await;
    assert!(read(&repo).await.bytes.is_empty(), "its beginning is not there");
    assert_eq!(repo.segments_in_parts(&cluster()).await.unwrap(), [(segment(), 0)]);
    put(&repo, 0, 150).await;
    put(&repo, 201, 300).await;
    assert_eq!(read(&repo).await.bytes, wal(0..200));
    assert_eq!(repo.segments_in_parts(&cluster()).await.unwrap(), [(segment(), 200)]);
    put(&repo, 150, 201).await;
    assert_eq!(read(&repo).await.bytes, wal(0..300));
    repo.remove_wal_parts(&cluster(), &segment()).await.unwrap();
    assert!(ranges(&store).await.is_empty());
    assert!(repo.segments_in_parts(&cluster()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_stored_once_and_never_replaced() {
    let store = memory_store().await;
    let repo = init(&store).await;
    assert!(matches!(put(&repo, 0, 100).await, StoredPart::New { .. }));
    assert_eq!(put(&repo, 0, 100).await, StoredPart::Same);
    let others = repo.put_wal_part(&cluster(), &segment(), 0, &[9; 100]).await.unwrap();
    assert_eq!(others, StoredPart::Differs);
    assert_eq!(read(&repo).await.bytes, wal(0..100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_costs_no_more_than_nobody_else_holds_and_can_be_stored_again() {
    let store = memory_store().await;
    let repo = init(&store).await;
    for (start, end) in [(0, 100), (0, 300), (100, 250), (250, 400)] {
        put(&repo, start, end).await;
    }
    damage(&store, "00000000-0000012c").await;
    let found = read(&repo).await;
    assert_eq!((found.bytes, found.damage.is_none()), (wal(0..400).into(), true), "others hold the same");
    damage(&store, "000000fa-00000190").await;
    let found = read(&repo).await;
    assert_eq!((found.bytes, found.damage.is_none()), (wal(0..250).into(), false), "fewer than were stored");
    assert!(matches!(put(&repo, 250, 400).await, StoredPart::New { .. }));
    assert_eq!(read(&repo).await.bytes, wal(0..400));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_disagree_are_damage() {
    let store = memory_store().await;
    let repo = init(&store).await;
    put(&repo, 0, 100).await;
    repo.put_wal_part(&cluster(), &segment(), 50, &[9; 100]).await.unwrap();
    let found = read(&repo).await;
    assert_eq!(found.bytes, wal(0..100));
    assert!(found.damage.unwrap().to_string().contains("differs from the parts"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parts_become_one_and_what_is_behind_a_gap_stays() {
    let store = memory_store().await;
    let repo = init(&store).await;
    for (start, end) in [(0, 10), (10, 25), (20, 60), (70, 80)] {
        put(&repo, start, end).await;
    }
    assert_eq!(repo.compact_wal_parts(&cluster(), &segment()).await.unwrap(), 3);
    assert_eq!(ranges(&store).await, ["00000000-0000003c", "00000046-00000050"]);
    assert_eq!(read(&repo).await.bytes, wal(0..60));
    assert_eq!(repo.compact_wal_parts(&cluster(), &segment()).await.unwrap(), 1, "nothing to do");
    assert_eq!(ranges(&store).await.len(), 2);
}
