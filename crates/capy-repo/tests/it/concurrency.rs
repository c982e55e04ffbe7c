//! Several writers at once, and writers that sleep too long.

use capy_format::{ObjectKind, Root};
use capy_types::ErrorKind;

use crate::fixture::{backup, begin, cluster, commit, feed, init, memory_store, open, read, try_init};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_that_run_at_once_all_commit_and_all_read_back() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let tasks: Vec<_> = (0..6u64)
        .map(|n| {
            let repo = repo.clone();
            tokio::spawn(async move { backup(&repo, &format!("b{n}"), &cluster(n % 3)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let repo = open(&store).await.unwrap();
    assert_eq!(repo.root().await.unwrap().backups.len(), 6);
    assert_eq!(repo.root().await.unwrap().sessions, []);
    for n in 0..6u64 {
        let back = read(&repo, &format!("b{n}")).await.unwrap();
        assert!(back.files == cluster(n % 3) && back.defects.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_several_that_make_a_repository_in_one_place_at_once_one_does() {
    for _ in 0..8 {
        let store = memory_store().await;
        let making: Vec<_> = (0..4).map(|_| tokio::spawn(try_init(store.clone()))).collect();
        let mut made = Vec::new();
        for one in making {
            match one.await.unwrap() {
                Ok(repo) => made.push(repo),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
            }
        }
        let [winner] = &made[..] else { panic!("{} were made", made.len()) };
        backup(winner, "a", &cluster(1)).await.unwrap();
        // The others' key slots are there, and open nothing.
        let repo = open(&store).await.unwrap();
        assert_eq!(repo.id(), winner.id());
        assert!(read(&repo, "a").await.unwrap().files == cluster(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_chain_is_unbroken_and_each_root_names_its_predecessor() {
    let store = memory_store().await;
    let repo = init(&store).await;
    for n in 0..3 {
        backup(&repo, &format!("b{n}"), &cluster(1)).await.unwrap();
    }
    let newest = repo.root().await.unwrap();
    assert_eq!(newest.generation, 6, "each backup registers and commits");
    let mut hash = None;
    for generation in 0..=newest.generation {
        let name = capy_format::names::root(generation);
        let object = store.get(&name, 1 << 20).await.unwrap();
        let (root, at): (Root, _) = repo.inspect_root(&object, &name).unwrap();
        assert_eq!(root.generation, generation);
        assert_eq!(root.previous, hash);
        hash = Some(at);
        assert_eq!(ObjectKind::Root as u8, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_by_another_process_cannot_commit() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut sleeper = begin(&repo, "sleeper").await.unwrap();
    feed(&mut sleeper, &cluster(1), 1 << 20).await.unwrap();
    repo.fence_sessions(|_| true).await.unwrap();
    let error = commit(&repo, "sleeper", sleeper).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(repo.root().await.unwrap().backups, []);
    backup(&repo, "again", &cluster(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_called_damaged_are_not_built_upon() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let files = cluster(8);
    let first = backup(&repo, "one", &files).await.unwrap();
    let packs: Vec<_> = {
        use futures::TryStreamExt as _;
        let listed: Vec<_> = store.list(capy_format::names::PACKS_PREFIX).try_collect().await.unwrap();
        listed.iter().filter_map(|info| capy_format::names::parse_pack(&info.name)).collect()
    };
    repo.mark_damaged(&packs).await.unwrap();
    let second = backup(&repo, "two", &files).await.unwrap();
    assert!(second.stored_bytes >= first.stored_bytes * 9 / 10, "everything is stored anew");
    for id in ["one", "two"] {
        assert!(read(&repo, id).await.unwrap().files == files);
    }
}
