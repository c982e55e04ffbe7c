//! The probe on honest stores and on stores that lie.

use std::sync::Arc;

use capy_types::SeededEntropy;

use super::*;
use crate::MemoryStore;
use crate::testing::{Fault, FaultStore, Lie};

async fn probe_lying(lie: Option<Lie>) -> (ProbeReport, Arc<MemoryStore>) {
    let memory = Arc::new(MemoryStore::default());
    let store = FaultStore::new(memory.clone(), 3);
    store.lie(lie);
    (probe(&store, &SeededEntropy::new(5)).await.unwrap(), memory)
}

#[tokio::test]
async fn an_honest_store_passes_and_nothing_is_left() {
    let (report, memory) = probe_lying(None).await;
    assert!(report.multi_writer_safe && report.range_reads && report.listing && report.read_after_write);
    assert_eq!(report.faults, [""; 0]);
    assert_eq!(memory.first("").await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_ignores_if_none_match_is_found_out_by_a_second_create() {
    let (report, memory) = probe_lying(Some(Lie::IgnoresIfAbsent)).await;
    assert!(!report.multi_writer_safe && !report.conditional_create);
    assert!(report.faults.iter().any(|fault| fault.contains("ignores if-none-match")), "{:?}", report.faults);
    assert_eq!(memory.first("").await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_checks_and_then_writes_is_found_out_by_a_race() {
    let (report, memory) = probe_lying(Some(Lie::ChecksThenWrites)).await;
    assert!(report.conditional_create, "one after another it behaves");
    assert!(!report.multi_writer_safe && !report.conditional_create_concurrent);
    assert!(report.faults.iter().any(|fault| fault.contains("not atomically")), "{:?}", report.faults);
    assert_eq!(memory.first("").await.unwrap(), None);
}

#[tokio::test]
async fn a_listing_that_hides_objects_is_found_out() {
    let store = FaultStore::new(Arc::new(MemoryStore::default()), 3);
    store.hide_from_list("probe/");
    let report = probe(&store, &SeededEntropy::new(5)).await.unwrap();
    assert!(!report.listing && !report.multi_writer_safe);
}

#[tokio::test]
async fn a_store_in_trouble_is_an_error_not_a_verdict() {
    let mut failures = 0;
    for call in 0.. {
        let store = FaultStore::new(Arc::new(MemoryStore::default()), 3);
        store.fail_call(call, Fault::FailBefore);
        match probe(&store, &SeededEntropy::new(5)).await {
            Err(error) => assert_eq!(error.kind, StoreErrorKind::Unavailable, "call {call}"),
            Ok(report) => assert!(report.multi_writer_safe, "call {call}: {:?}", report.faults),
        }
        failures += u32::from(store.fired());
        if !store.fired() {
            break;
        }
    }
    assert!(failures > 20, "{failures} calls failed");
}
