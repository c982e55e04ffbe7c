//! Backups taken out of the root: one by one, many at once, and not those that are pinned.

use capy_format::{BackupEntry, Pin};
use capy_repo::{RepoError, Repository};
use capy_types::{BackupKey, ErrorKind, Timestamp};

use crate::fixture::{backup, cluster, init, key, memory_store};

fn pin(reason: &str) -> Option<Pin> {
    Some(Pin { reason: reason.to_owned(), by: None, at: Timestamp::from_micros(0) })
}

/// A repository with these backups of `main`.
async fn with_backups(ids: &[&str]) -> Repository {
    let repo = init(&memory_store().await).await;
    for id in ids {
        backup(&repo, id, &cluster(1)).await.unwrap();
    }
    repo
}

async fn listed(repo: &Repository) -> Vec<String> {
    repo.root().await.unwrap().backups.iter().map(|entry| entry.key.id.to_string()).collect()
}

/// Chooses all that are not pinned.
fn unpinned(backups: &[BackupEntry]) -> Result<(Vec<BackupKey>, usize), RepoError> {
    let keys: Vec<_> =
        backups.iter().filter(|entry| entry.pinned.is_none()).map(|entry| entry.key.clone()).collect();
    let count = keys.len();
    Ok((keys, count))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_backup_is_removed_only_after_its_pin() {
    let repo = with_backups(&["one"]).await;
    repo.set_pin(&key("one"), pin("audit")).await.unwrap();
    let error = repo.unlink_backup(&key("one")).await.unwrap_err();
    assert_eq!(error.to_string(), "backup main/one is pinned: audit");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let again = repo.set_pin(&key("one"), pin("audit of 2026")).await.unwrap();
    assert_eq!(again.pinned, pin("audit of 2026"), "a new pin replaces the old one");
    repo.set_pin(&key("one"), None).await.unwrap();
    repo.unlink_backup(&key("one")).await.unwrap();
    assert_eq!(repo.set_pin(&key("one"), None).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_without_a_reason_is_invalid_and_commits_nothing() {
    let repo = with_backups(&["one"]).await;
    let before = repo.root().await.unwrap();
    assert_eq!(repo.set_pin(&key("one"), pin("")).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(repo.root().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_backups_go_in_one_commit_and_none_in_no_commit() {
    let repo = with_backups(&["one", "two", "three"]).await;
    repo.set_pin(&key("two"), pin("audit")).await.unwrap();
    let before = repo.root().await.unwrap().generation;
    assert_eq!(repo.unlink_backups(unpinned).await.unwrap(), 2);
    assert_eq!(listed(&repo).await, ["two"]);
    assert_eq!(repo.root().await.unwrap().generation, before + 1);
    assert_eq!(repo.unlink_backups(unpinned).await.unwrap(), 0);
    assert_eq!(repo.root().await.unwrap().generation, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_backup_that_must_not_go_keeps_them_all() {
    let repo = with_backups(&["one", "two"]).await;
    repo.set_pin(&key("two"), pin("audit")).await.unwrap();
    let both = |_: &[BackupEntry]| Ok((vec![key("one"), key("two")], ()));
    assert_eq!(repo.unlink_backups(both).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(listed(&repo).await, ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_between_the_choice_and_the_commit_is_chosen_again() {
    let repo = with_backups(&["one", "two"]).await;
    let mut calls = 0;
    let choose = |backups: &[BackupEntry]| {
        calls += 1;
        if calls == 2 {
            // The root is read and the choice is about to be committed: another one comes first.
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(repo.set_pin(&key("two"), pin("audit")))
            })?;
        }
        unpinned(backups)
    };
    assert_eq!(repo.unlink_backups(choose).await.unwrap(), 1, "of the last choice, not the first");
    assert_eq!(listed(&repo).await, ["two"]);
}
