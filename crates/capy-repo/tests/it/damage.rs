//! The damage matrix: every kind of object deleted, truncated, flipped or swapped, against
//! verification, reading and the next backup.

use std::sync::Arc;

use bytes::Bytes;
use capy_format::names;
use capy_objects::Store;
use capy_repo::{ReadOptions, Repository, verify_structure};
use capy_types::{Ctx, ErrorKind};
use futures::TryStreamExt as _;

use crate::fixture::{backup, cluster, init, memory_store, open, read};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    Delete,
    Truncate,
    FlipStart,
    FlipMiddle,
    FlipEnd,
    Swap,
}

pub(crate) const ALL: [Damage; 6] =
    [Damage::Delete, Damage::Truncate, Damage::FlipStart, Damage::FlipMiddle, Damage::FlipEnd, Damage::Swap];

pub(crate) async fn objects(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    let listed: Vec<_> = store.list(prefix).try_collect().await.unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|info| info.name).collect();
    names.sort();
    names
}

async fn replace(store: &Arc<dyn Store>, name: &str, bytes: Bytes) {
    store.delete(name).await.unwrap();
    store.put_new(name, bytes).await.unwrap();
}

pub(crate) async fn damage(store: &Arc<dyn Store>, name: &str, other: &str, how: Damage) {
    let object = store.get(name, 1 << 30).await.unwrap();
    let flipped = |at: usize| {
        let mut bytes = object.to_vec();
        bytes[at] ^= 0x10;
        Bytes::from(bytes)
    };
    match how {
        Damage::Delete => store.delete(name).await.unwrap(),
        Damage::Truncate => replace(store, name, object.slice(..object.len() * 2 / 3)).await,
        Damage::FlipStart => replace(store, name, flipped(20)).await,
        Damage::FlipMiddle => replace(store, name, flipped(object.len() / 2)).await,
        Damage::FlipEnd => replace(store, name, flipped(object.len() - 3)).await,
        Damage::Swap => {
            let there = store.get(other, 1 << 30).await.unwrap();
            replace(store, name, there).await;
            replace(store, other, object).await;
        }
    }
}

async fn fresh() -> (Arc<dyn Store>, Repository) {
    let store = memory_store().await;
    let repo = init(&store).await;
    backup(&repo, "one", &cluster(1)).await.unwrap();
    backup(&repo, "two", &cluster(2)).await.unwrap();
    (store, repo)
}

/// What verification of everything finds, as text; an error counts as found.
pub(crate) async fn verify(store: &Arc<dyn Store>) -> Vec<String> {
    let ctx = Ctx::default();
    let repo = match open(store).await {
        Ok(repo) => repo,
        Err(error) => return vec![error.to_string()],
    };
    let backups = match repo.root().await {
        Ok(root) => root.backups,
        Err(error) => return vec![error.to_string()],
    };
    let mut found: Vec<_> = verify_structure(&repo, &ctx, &ReadOptions::default(), &backups)
        .await
        .unwrap()
        .defects
        .iter()
        .map(|affected| affected.defect.to_string())
        .collect();
    for backup in &backups {
        match read(&repo, backup.key.id.as_str()).await {
            Ok(back) => found.extend(back.defects.iter().map(|(_, defect)| defect.to_string())),
            Err(error) => found.push(error.to_string()),
        }
    }
    found
}

/// No backup may read back with wrong bytes: each file is right, or reported.
async fn check_nothing_wrong_is_read(store: &Arc<dyn Store>, what: &str) {
    let Ok(repo) = open(store).await else { return };
    for (id, seed) in [("one", 1), ("two", 2)] {
        match read(&repo, id).await {
            Ok(back) => {
                let expected = cluster(seed);
                for (path, content) in &back.files {
                    assert!(expected[path] == *content, "{what}: {path} of {id} is wrong");
                }
                assert!(
                    back.files.len() == expected.len() || !back.defects.is_empty(),
                    "{what}: silent loss"
                );
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound),
                "{what}: {} {error}",
                error.kind()
            ),
        }
    }
}

async fn sweep(prefix: &str) {
    let (probe, _) = fresh().await;
    let count = objects(&probe, prefix).await.len();
    assert!(count > 1, "{prefix} needs two objects to swap");
    for how in ALL {
        for n in 0..count {
            let (store, _) = fresh().await;
            let names = objects(&store, prefix).await;
            let (name, other) = (&names[n], &names[(n + 1) % count]);
            damage(&store, name, other, how).await;
            let what = format!("{how:?} of {name}");
            check_nothing_wrong_is_read(&store, &what).await;
            let found = verify(&store).await;
            assert!(!found.is_empty(), "{what}: verification finds nothing");
            // The next backup either says what is wrong or is whole.
            if let Ok(repo) = open(&store).await {
                match backup(&repo, "next", &cluster(1)).await {
                    Ok(_)
                        if matches!(how, Damage::Delete | Damage::Truncate)
                            || prefix != names::PACKS_PREFIX =>
                    {
                        let back = read(&repo, "next").await.unwrap();
                        assert!(back.files == cluster(1) && back.defects.is_empty(), "{what}: next backup");
                    }
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs() {
    sweep(names::PACKS_PREFIX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes() {
    sweep(names::INDEX_PREFIX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records() {
    sweep("backups/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_root() {
    for how in ALL {
        let (store, _) = fresh().await;
        let names = objects(&store, names::ROOT_PREFIX).await;
        damage(&store, &names[0], &names[1], how).await;
        let what = format!("{how:?} of {}", names[0]);
        check_nothing_wrong_is_read(&store, &what).await;
        if how == Damage::Delete {
            // The chain then ends one commit earlier, which is a whole repository: only who
            // remembers the newer root can tell.
            let root = open(&store).await.unwrap().root().await.unwrap();
            assert_eq!(root.backups.len(), 1);
        } else {
            assert!(!verify(&store).await.is_empty(), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config() {
    for how in ALL {
        let (store, _) = fresh().await;
        let keys = objects(&store, names::KEYS_PREFIX).await;
        damage(&store, names::CONFIG, &keys[0], how).await;
        let error = open(&store).await.unwrap_err();
        let expected = if how == Damage::Delete { ErrorKind::NotFound } else { ErrorKind::Corrupt };
        assert!(
            error.kind() == expected
                || error.kind() == ErrorKind::Invalid
                || error.kind() == ErrorKind::Denied,
            "{how:?}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_repository_with_the_same_passphrase_do_not_open() {
    let (store, _) = fresh().await;
    let (foreign, _) = fresh().await;
    for prefix in [names::PACKS_PREFIX, names::INDEX_PREFIX] {
        let object = foreign.get(&objects(&foreign, prefix).await[0], 1 << 30).await.unwrap();
        replace(&store, &objects(&store, prefix).await[0].clone(), object).await;
    }
    check_nothing_wrong_is_read(&store, "foreign objects").await;
    assert!(!verify(&store).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defect_names_the_files_and_backups_it_touches() {
    let (store, repo) = fresh().await;
    let name = objects(&store, names::PACKS_PREFIX).await[0].clone();
    damage(&store, &name, &name, Damage::Delete).await;
    let ctx = Ctx::default();
    let backups = repo.root().await.unwrap().backups;
    let report = verify_structure(&repo, &ctx, &ReadOptions::default(), &backups).await.unwrap();
    assert_eq!(report.damaged_packs.len(), 1);
    let touched = report.defects.iter().find(|affected| affected.defect.object == name).expect("named");
    assert!(!touched.backups.is_empty() || report.defects.len() > 1, "{report:?}");
}
