//! A store that fails, at every call in turn: the error is loud, the repository stays whole, and
//! running again succeeds.

use std::sync::Arc;

use capy_objects::Store;
use capy_objects::testing::{Fault, FaultStore};
use capy_types::ErrorKind;

use crate::fixture::{backup, cluster, init, memory_store, open, read};

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_single_call_leaves_the_repository_readable_and_the_next_run_converges() {
    let files = cluster(1);
    for fault in [Fault::FailBefore, Fault::FailAfter, Fault::NoSpace] {
        let mut failures = 0;
        for call in 0.. {
            let memory = memory_store().await;
            let faulty = Arc::new(FaultStore::new(memory.clone(), 42));
            let store: Arc<dyn Store> = faulty.clone();
            backup(&init(&memory).await, "base", &cluster(2)).await.unwrap();
            faulty.fail_call(call, fault);
            let outcome = match open(&store).await {
                Ok(repo) => backup(&repo, "one", &files).await.map(|_| ()),
                Err(error) => Err(error),
            };
            let clean = open(&memory).await.unwrap();
            let visible = clean.root().await.unwrap().backups.iter().any(|b| b.key.id.as_str() == "one");
            if let Err(error) = &outcome {
                failures += 1;
                assert!(
                    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt | ErrorKind::Conflict),
                    "{fault:?} at call {call}: {error}"
                );
            } else {
                assert!(visible, "{fault:?} at call {call}: success was reported");
            }
            if visible {
                assert!(read(&clean, "one").await.unwrap().files == files, "{fault:?} at call {call}");
            }
            assert!(read(&clean, "base").await.unwrap().files == cluster(2));
            backup(&clean, "again", &files).await.unwrap();
            assert!(read(&clean, "again").await.unwrap().files == files);
            if !faulty.fired() {
                break;
            }
        }
        assert!(failures > 5, "{fault:?}: the sweep must have hit something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_fails_the_backup_and_a_freed_one_takes_it() {
    let memory = memory_store().await;
    let faulty = Arc::new(FaultStore::new(memory.clone(), 7));
    let store: Arc<dyn Store> = faulty.clone();
    let repo = init(&store).await;
    faulty.full_after(Some(2 << 20));
    let error = backup(&repo, "one", &cluster(1)).await.unwrap_err();
    assert!(error.to_string().contains("space"), "{error}");
    assert_eq!(repo.root().await.unwrap().backups, []);
    faulty.full_after(None);
    backup(&repo, "one", &cluster(1)).await.unwrap();
    assert!(read(&repo, "one").await.unwrap().files == cluster(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_failures_and_delays_never_corrupt_anything() {
    for seed in 0..12 {
        println!("seed {seed}");
        let memory = memory_store().await;
        init(&memory).await;
        let faulty = Arc::new(FaultStore::new(memory.clone(), seed));
        faulty.fail_randomly(0.04);
        faulty.delay_randomly(std::time::Duration::from_millis(2));
        let store: Arc<dyn Store> = faulty;
        let tasks: Vec<_> = (0..3u64)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    let repo = open(&store).await?;
                    backup(&repo, &format!("b{n}"), &cluster(n)).await
                })
            })
            .collect();
        for task in tasks {
            let _ = task.await.expect("no panic, no hang");
        }
        let clean = open(&memory).await.unwrap();
        for entry in clean.root().await.unwrap().backups {
            let n = entry.key.id.as_str()[1..].parse().unwrap();
            assert!(read(&clean, entry.key.id.as_str()).await.unwrap().files == cluster(n), "seed {seed}");
        }
        backup(&clean, "last", &cluster(9)).await.unwrap();
    }
}
