//! Key slots: who gets in, who does not, and what a damaged slot may do.

use capy_codec::SlotSecret;
use capy_repo::{Env, Repository};
use capy_types::{ErrorKind, Secret, SlotId};
use futures::TryStreamExt as _;

use crate::fixture::{FAST_KDF, backup, cluster, init, memory_store, open, read, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_denied_and_says_which() {
    let store = memory_store().await;
    init(&store).await;
    let wrong = Secret::from("wrong".to_owned());
    for (secret, expected) in [
        (SlotSecret::Passphrase(&wrong), "no key slot opens with this passphrase"),
        (SlotSecret::KeyFile(&wrong), "no key slot opens with this key file"),
    ] {
        let error = Repository::open(store.clone(), Env::default(), secret).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_slot_opens_the_same_repository_and_the_last_one_stays() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let files = cluster(1);
    backup(&repo, "one", &files).await.unwrap();
    let key_file = Secret::new(vec![7; 32]);
    let slot = repo.add_key_slot(SlotSecret::KeyFile(&key_file), FAST_KDF, "agent").await.unwrap();
    let (slots, problems) = repo.key_slots().await.unwrap();
    assert_eq!((slots.len(), problems.len()), (2, 0));
    let first = slots.iter().find(|other| other.id != slot.id).unwrap().id;
    repo.remove_key_slot(first).await.unwrap();
    assert_eq!(open(&store).await.unwrap_err().kind(), ErrorKind::Denied);
    let again =
        Repository::open(store.clone(), Env::default(), SlotSecret::KeyFile(&key_file)).await.unwrap();
    assert!(read(&again, "one").await.unwrap().files == files);
    assert_eq!(again.remove_key_slot(slot.id).await.unwrap_err().kind(), ErrorKind::Invalid);
    let unknown = SlotId::from_bytes([9; 8]);
    assert_eq!(again.remove_key_slot(unknown).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_slot_locks_nobody_else_out_and_is_not_called_a_wrong_passphrase() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let other = Secret::from("other".to_owned());
    let slot = repo.add_key_slot(SlotSecret::Passphrase(&other), FAST_KDF, "other").await.unwrap();
    let name = capy_format::names::key_slot(&slot.id);
    let object = store.get(&name, 1 << 20).await.unwrap();
    for length in [0, 10, 63, 64, 100, object.len() - 1] {
        store.delete(&name).await.unwrap();
        store.put_new(&name, object.slice(..length)).await.unwrap();
        open(&store).await.expect("the other slot still opens");
        let secret = SlotSecret::Passphrase(&other);
        let error = Repository::open(store.clone(), Env::default(), secret).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "length {length}: {error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_plaintext_reach_the_store() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut files = cluster(2);
    let planted = b"PLANTED-SECRET-0123456789".repeat(1000);
    files.insert("planted-file-name".to_owned(), planted);
    backup(&repo, "one", &files).await.unwrap();
    let objects: Vec<_> = store.list("").try_collect().await.unwrap();
    assert!(objects.len() > 5);
    let secret = secret();
    for info in objects {
        let object = store.get(&info.name, 1 << 30).await.unwrap();
        for needle in [&b"PLANTED-SECRET"[..], b"planted-file-name", secret.expose()] {
            assert!(!object.windows(needle.len()).any(|w| w == needle), "{} leaks", info.name);
        }
    }
}
