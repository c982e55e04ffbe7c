//! A WAL archive in a store that fails, at every call in turn: what is acknowledged is there, only what is
//! absent is called absent, and the next attempt works.

use std::sync::Arc;

use bytes::Bytes;
use capy_objects::Store;
use capy_objects::testing::{Fault, FaultStore};
use capy_repo::{RepoError, StoredWal};
use capy_types::{ErrorKind, SegmentSize};

use crate::fixture::{bytes, init, memory_store, open};
use crate::wal::{SYSTEM, facts, main_cluster, segment};

const FAULTS: [Fault; 4] = [Fault::FailBefore, Fault::FailAfter, Fault::NoSpace, Fault::Truncate];

/// A push as `wal push` makes it: its own opening, the claim, the file.
async fn push(store: &Arc<dyn Store>) -> Result<StoredWal, RepoError> {
    let repo = open(store).await?;
    repo.claim_archive(&main_cluster(), SYSTEM, SegmentSize::try_from(1 << 20).unwrap()).await?;
    repo.put_wal(&main_cluster(), facts(1), content()).await
}

fn content() -> Bytes {
    bytes(1, 1 << 20).into()
}

async fn is_whole(store: &Arc<dyn Store>) -> bool {
    match open(store).await.unwrap().get_wal(&main_cluster(), &segment(1).into()).await {
        Ok(read) => {
            assert!(read.bytes == content(), "what is there is right");
            true
        }
        Err(error) => {
            assert!(error.is_missing_object(), "{error}");
            false
        }
    }
}

/// A store, and the way to it that fails.
async fn faulty() -> (Arc<dyn Store>, Arc<FaultStore>, Arc<dyn Store>) {
    let sound = memory_store().await;
    init(&sound).await;
    let faulty = Arc::new(FaultStore::new(sound.clone(), 42));
    let way: Arc<dyn Store> = faulty.clone();
    (sound, faulty, way)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_through_any_fault_acknowledges_only_what_is_there_and_the_next_one_succeeds() {
    for fault in FAULTS {
        let mut failures = 0;
        for call in 0.. {
            let (sound, faulty, way) = faulty().await;
            faulty.fail_call(call, fault);
            let pushed = push(&way).await;
            let what = format!("{fault:?} at call {call}: {pushed:?}");
            match pushed {
                Ok(StoredWal::Conflict { .. }) => panic!("{what}"),
                Ok(_) => assert!(is_whole(&sound).await, "{what}"),
                Err(error) => {
                    failures += 1;
                    let expected = [ErrorKind::Unavailable, ErrorKind::Corrupt];
                    assert!(expected.contains(&error.kind()), "{what}");
                }
            }
            let there = is_whole(&sound).await;
            let again = push(&sound).await.unwrap();
            assert_eq!(again == StoredWal::Same, there, "{what}, then {again:?}");
            assert!(is_whole(&sound).await, "{what}");
            if !faulty.fired() {
                break;
            }
        }
        assert!(failures >= 3, "{fault:?}: the sweep must have hit something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_nothing_but_errors_acknowledges_nothing_and_calls_nothing_absent() {
    let (sound, faulty, way) = faulty().await;
    let repo = open(&way).await.unwrap();
    for fault in FAULTS {
        faulty.fail_every(Some((1, fault)));
        assert!(push(&way).await.is_err(), "{fault:?}");
        repo.put_wal(&main_cluster(), facts(1), content()).await.unwrap_err();
        let error = repo.get_wal(&main_cluster(), &segment(1).into()).await.unwrap_err();
        assert!(!error.is_missing_object(), "{fault:?}: {error}");
        faulty.fail_every(None);
    }
    push(&way).await.unwrap();
    assert!(is_whole(&sound).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_through_any_fault_gives_the_whole_file_or_an_error_that_is_no_word_on_it() {
    for fault in FAULTS {
        for call in 0.. {
            let (sound, faulty, way) = faulty().await;
            push(&sound).await.unwrap();
            let repo = open(&way).await.unwrap();
            faulty.fail_call(call, fault);
            match repo.get_wal(&main_cluster(), &segment(1).into()).await {
                Ok(read) => assert!(read.bytes == content(), "{fault:?} at call {call}"),
                Err(error) => {
                    assert!(
                        faulty.fired() && !error.is_missing_object(),
                        "{fault:?} at call {call}: {error}"
                    );
                }
            }
            if !faulty.fired() {
                assert!(call > 0);
                break;
            }
        }
    }
}
