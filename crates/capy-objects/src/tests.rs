//! Every store through the one suite, and the network's faults through a real server.

#[cfg(feature = "s3")]
mod network;
#[cfg(feature = "s3")]
mod s3;

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;

use crate::remote::RemoteStore;
use crate::testing::{FaultStore, RecordingStore, conformance};
use crate::{LocalStore, MemoryStore, Store};

#[tokio::test]
async fn memory_conforms() {
    conformance::check(&(Arc::new(MemoryStore::default()) as Arc<dyn Store>), "dir/sub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_directory_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    let store = LocalStore::open(scratch.path(), true).await.unwrap();
    conformance::check(&(Arc::new(store) as Arc<dyn Store>), "dir/sub").await;
    assert_eq!(std::fs::read_dir(scratch.path().join(".tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_remote_store_below_a_prefix_conforms() {
    for base in ["", "some/prefix/"] {
        let limit = Duration::from_secs(60);
        let store = RemoteStore::new(Arc::new(InMemory::new()), base.to_owned(), "test://".to_owned(), limit);
        conformance::check(&(Arc::new(store) as Arc<dyn Store>), "dir").await;
    }
}

#[tokio::test]
async fn the_wrappers_of_tests_conform() {
    let faultless: Arc<dyn Store> = Arc::new(FaultStore::new(Arc::new(MemoryStore::default()), 1));
    let store: Arc<dyn Store> = Arc::new(RecordingStore::new(faultless));
    conformance::check(&store, "dir").await;
}
