//! What every store promises, as one suite. Run it over each store, wrapped or not.
//!
//! Each case works below a directory of its own and panics with its name and what was wrong.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::{ObjectInfo, Store, StoreError, StoreErrorKind};

/// Writers that race for one name.
const RACERS: usize = 8;

/// Names listed: more than one page of any store (S3 sends 1000 at most).
const LISTED: usize = 1_100;

/// Size of the large object in bytes: a pack at its limit.
const LARGE_BYTES: usize = 40 << 20;

/// Runs every case over `store`, below `directory` (a name without `/` at its end).
///
/// # Panics
/// When the store breaks a promise.
///
/// # Cancellation
/// Objects of the case at hand are left.
pub async fn check(store: &Arc<dyn Store>, directory: &str) {
    let store = store.as_ref();
    let at = |case: &str| format!("{directory}/{case}");
    println!("conformance of {}: create", store.url());
    create_once(store, &at("create")).await;
    race(store, &at("race")).await;
    race_of_equals(store, &at("equals")).await;
    println!("conformance of {}: read", store.url());
    ranges(store, &at("ranges")).await;
    empty_object(store, &at("empty")).await;
    absent(store, &at("absent")).await;
    large_object(store, &at("large")).await;
    println!("conformance of {}: list", store.url());
    list_many(store, &at("many")).await;
    first(store, &at("first")).await;
    deletes(store, &at("deletes")).await;
    hostile_names(store).await;
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> StoreErrorKind {
    outcome.expect_err("the store must refuse this").kind
}

async fn names(store: &dyn Store, prefix: &str) -> Vec<ObjectInfo> {
    let mut found: Vec<_> = store.list(prefix).try_collect().await.expect("listing works");
    found.sort();
    found
}

async fn remove(store: &dyn Store, name: &str) {
    store.delete(name).await.expect("deleting works");
}

/// A create is refused when the name is taken, unless by the same content; nothing changes.
async fn create_once(store: &dyn Store, name: &str) {
    let body = Bytes::from_static(b"first");
    store.put_new(name, body.clone()).await.expect("the name is free");
    store.put_new(name, body.clone()).await.expect("the same again is a repeated attempt");
    for other in [&b"other"[..], b"", b"first and more"] {
        let refused = store.put_new(name, Bytes::copy_from_slice(other)).await;
        assert_eq!(kind(refused), StoreErrorKind::AlreadyExists, "{other:?}");
    }
    assert_eq!(store.get(name, 100).await.expect("it reads"), body);
    remove(store, name).await;
    store.put_new(name, Bytes::from_static(b"other")).await.expect("the name is free again");
    assert_eq!(store.get(name, 100).await.expect("it reads"), "other");
    remove(store, name).await;
}

/// Of creates with different contents at once, one succeeds, and its content is there.
async fn race(store: &dyn Store, name: &str) {
    let bodies: Vec<Bytes> = (0..RACERS).map(|n| vec![n as u8; 1000 + n].into()).collect();
    let outcomes = join_all(bodies.iter().map(|body| store.put_new(name, body.clone()))).await;
    let mut winners = Vec::new();
    for (outcome, body) in outcomes.into_iter().zip(&bodies) {
        match outcome {
            Ok(()) => winners.push(body),
            Err(error) => assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1, "winners of a race");
    assert_eq!(store.get(name, 10_000).await.expect("it reads"), *winners[0]);
    remove(store, name).await;
}

/// Creates with the same content at once all succeed.
async fn race_of_equals(store: &dyn Store, name: &str) {
    let body = Bytes::from_static(b"all write this");
    for outcome in join_all((0..RACERS / 2).map(|_| store.put_new(name, body.clone()))).await {
        outcome.expect("equal contents do not conflict");
    }
    remove(store, name).await;
}

/// A range reads as exactly that range, or is an error that says how much is there.
async fn ranges(store: &dyn Store, name: &str) {
    let body: Bytes = (0..10_000_u32).map(|n| (n * 7 % 251) as u8).collect::<Vec<_>>().into();
    store.put_new(name, body.clone()).await.expect("the name is free");
    for range in [0..1, 0..10_000, 9_999..10_000, 4_000..4_096, 1..9_999] {
        let found = store.get_range(name, range.clone()).await.expect("the range lies within");
        assert!(found == body.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    assert!(store.get_range(name, 5..5).await.expect("an empty range is empty").is_empty());
    for (range, found) in [(9_999..10_001, 1), (0..20_000, 10_000), (10_000..10_001, 0), (50_000..50_010, 0)]
    {
        let expected = range.end - range.start;
        let refused = kind(store.get_range(name, range.clone()).await);
        assert_eq!(refused, StoreErrorKind::Truncated { expected, found }, "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "it must be refused")]
    let backwards = 7..3;
    assert!(matches!(kind(store.get_range(name, backwards).await), StoreErrorKind::Invalid { .. }));
    let too_large = kind(store.get(name, 9_999).await);
    assert_eq!(too_large, StoreErrorKind::TooLarge { size: 10_000, max: 9_999 });
    assert_eq!(store.get(name, 10_000).await.expect("it fits"), body);
    remove(store, name).await;
}

/// An object of no bytes is an object.
async fn empty_object(store: &dyn Store, directory: &str) {
    let name = format!("{directory}/object");
    store.put_new(&name, Bytes::new()).await.expect("the name is free");
    assert_eq!(store.head(&name).await.expect("it is there").size, 0);
    assert!(store.get(&name, 0).await.expect("it reads").is_empty());
    let truncated = StoreErrorKind::Truncated { expected: 1, found: 0 };
    assert_eq!(kind(store.get_range(&name, 0..1).await), truncated);
    assert_eq!(kind(store.put_new(&name, Bytes::from_static(b"x")).await), StoreErrorKind::AlreadyExists);
    assert_eq!(names(store, &format!("{directory}/")).await, [ObjectInfo { name: name.clone(), size: 0 }]);
    remove(store, &name).await;
}

/// What is not there is not found, not empty and not unavailable.
async fn absent(store: &dyn Store, directory: &str) {
    let name = format!("{directory}/nothing");
    assert_eq!(kind(store.get(&name, 10).await), StoreErrorKind::NotFound);
    assert_eq!(kind(store.get_range(&name, 0..10).await), StoreErrorKind::NotFound);
    assert_eq!(kind(store.head(&name).await), StoreErrorKind::NotFound);
    store.delete(&name).await.expect("deleting what is absent succeeds");
    assert_eq!(names(store, &format!("{directory}/")).await, []);
    assert_eq!(store.first(&format!("{directory}/")).await.expect("listing works"), None);
}

/// A pack at its limit goes in and comes out whole and in parts.
async fn large_object(store: &dyn Store, name: &str) {
    let body: Bytes = (0..LARGE_BYTES).map(|n| (n % 253) as u8).collect::<Vec<_>>().into();
    store.put_new(name, body.clone()).await.expect("the name is free");
    let size = LARGE_BYTES as u64;
    assert_eq!(store.head(name).await.expect("it is there").size, size);
    assert!(store.get(name, size).await.expect("it reads") == body, "the whole object differs");
    for range in [0..64, size - 64..size, size / 2..size / 2 + (4 << 20)] {
        let found = store.get_range(name, range.clone()).await.expect("the range lies within");
        assert!(found == body.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    remove(store, name).await;
}

/// A listing shows every name below the prefix once, over many pages, and no other.
async fn list_many(store: &dyn Store, directory: &str) {
    let expected: BTreeSet<String> =
        (0..LISTED).map(|n| format!("{directory}/{:02x}/{n:05}", n % 16)).collect();
    // A neighbour whose name starts alike.
    let neighbour = format!("{directory}-not");
    store.put_new(&neighbour, Bytes::new()).await.expect("the name is free");
    let writes = stream::iter(&expected).map(|name| store.put_new(name, Bytes::from_static(b"x")));
    writes.buffer_unordered(16).try_collect::<()>().await.expect("the names are free");
    let found = names(store, &format!("{directory}/")).await;
    assert!(found.iter().all(|info| info.size == 1), "a size is wrong");
    assert_eq!(found.len(), LISTED, "names listed");
    assert!(found.iter().map(|info| &info.name).eq(&expected), "the names differ");
    let part = names(store, &format!("{directory}/0a/")).await;
    assert_eq!(part.len(), expected.iter().filter(|name| name.contains("/0a/")).count());
    let middle = expected.iter().nth(LISTED / 2).expect("there are that many");
    let prefix = format!("{directory}/");
    let later: Vec<_> = store.list_after(&prefix, middle).try_collect().await.expect("listing works");
    let after: Vec<_> = expected.iter().skip(LISTED / 2 + 1).collect();
    assert!(later.iter().map(|info| &info.name).eq(after), "names after {middle}, in order");
    let deletes = stream::iter(&expected).map(|name| store.delete(name));
    deletes.buffer_unordered(16).try_collect::<()>().await.expect("deleting works");
    remove(store, &neighbour).await;
    assert_eq!(names(store, &format!("{directory}/")).await, []);
}

/// `first` is the smallest name, at any depth, where byte order and component order agree.
async fn first(store: &dyn Store, directory: &str) {
    let prefix = format!("{directory}/");
    for (name, smallest) in [("m", "m"), ("n/a/b", "m"), ("c/z/0", "c/z/0"), ("B", "B")] {
        store.put_new(&format!("{prefix}{name}"), Bytes::new()).await.expect("the name is free");
        let found = store.first(&prefix).await.expect("listing works").expect("something is there");
        assert_eq!(found.name, format!("{prefix}{smallest}"), "after adding {name}");
    }
    let below = store.first(&format!("{prefix}n/")).await.expect("listing works");
    assert_eq!(below.map(|info| info.name), Some(format!("{prefix}n/a/b")));
    for name in ["m", "n/a/b", "c/z/0", "B"] {
        remove(store, &format!("{prefix}{name}")).await;
    }
    assert_eq!(store.first(&prefix).await.expect("listing works"), None);
}

/// A deleted object is gone from reads and listings at once; deleting it again succeeds.
async fn deletes(store: &dyn Store, directory: &str) {
    let name = format!("{directory}/x");
    store.put_new(&name, Bytes::from_static(b"x")).await.expect("the name is free");
    for _ in 0..2 {
        remove(store, &name).await;
        assert_eq!(kind(store.head(&name).await), StoreErrorKind::NotFound);
        assert_eq!(names(store, &format!("{directory}/")).await, []);
    }
}

/// Names that could leave the store, hide in it, or mean two things are refused by all of them.
async fn hostile_names(store: &dyn Store) {
    let long = "a".repeat(300);
    for name in [
        "",
        "/etc/x",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        ".hidden",
        "a/.tmp/b",
        "a\0b",
        "a b",
        "a%2fb",
        &long,
    ] {
        let invalid =
            |found: StoreErrorKind| assert!(matches!(found, StoreErrorKind::Invalid { .. }), "{name:?}");
        invalid(kind(store.put_new(name, Bytes::new()).await));
        invalid(kind(store.get(name, 10).await));
        invalid(kind(store.get_range(name, 0..1).await));
        invalid(kind(store.head(name).await));
        invalid(kind(store.delete(name).await));
    }
    for prefix in ["a", "/", "../", "a//", ".hidden/"] {
        let invalid =
            |found: StoreErrorKind| assert!(matches!(found, StoreErrorKind::Invalid { .. }), "{prefix:?}");
        invalid(kind(store.list(prefix).try_collect::<Vec<_>>().await));
        invalid(kind(store.first(prefix).await));
    }
}
