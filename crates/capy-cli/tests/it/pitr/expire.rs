//! Retention beside WAL: what is kept can be recovered as before, and nothing else is left behind.

use serde_json::Value;

use super::any_major;
use super::harness::{archived, archiving, everything, insert_and_archive, recovers_to, refused, windows};
use crate::archiving::Archiving;
use crate::harness::Run;

fn expire(archiving: &Archiving, options: &[&str]) -> Run {
    archiving.run(&[&["expire", "--json"], options].concat())
}

/// What can be recovered from each of these backups.
fn promised(archiving: &Archiving, keys: &[&str]) -> Vec<Value> {
    let mut backups = windows(archiving)["backups"].as_array().expect("a list").clone();
    backups.retain(|backup| keys.iter().any(|key| backup["backup_key"] == **key));
    assert_eq!(backups.len(), keys.len(), "{backups:?}");
    backups
}

#[test]
fn what_expire_keeps_is_recovered_as_before_and_older_wal_is_gone() {
    let archiving = archiving(any_major(), &[], &[]);
    let first = archiving.back_up();
    let old = insert_and_archive(&archiving, 2);
    let second = archiving.back_up();
    let kept = insert_and_archive(&archiving, 3);
    let third = archiving.back_up();
    insert_and_archive(&archiving, 4);
    let before = (promised(&archiving, &[&second, &third]), everything(&archiving));

    let shown = expire(&archiving, &["--keep-full", "2", "--dry-run"]).ok().json();
    assert_eq!(shown["expired"][0]["backup"]["backup_key"], first, "{shown}");
    assert!(everything(&archiving) == before.1, "a dry run removes nothing");

    let done = expire(&archiving, &["--keep-full", "2", "--yes"]).ok().json();
    assert_eq!((&done["expired"], &done["wal"]), (&shown["expired"], &shown["wal"]), "as it was shown");
    let files = archived(&archiving);
    assert!(!files.contains(&old) && files.contains(&kept), "{files:?}");
    assert_eq!(promised(&archiving, &[&second, &third]), before.0);
    refused(&archiving, &["--target-name", "after_2"], "", "");
    recovers_to(&archiving, &["--target-name", "after_3"], "1 2 3");
    recovers_to(&archiving, &["--target", "latest"], "1 2 3 4");

    // Again nothing, and archiving goes on.
    let again = expire(&archiving, &["--keep-full", "2", "--yes"]).ok().json();
    assert_eq!(again["expired"], serde_json::json!([]), "{again}");
    insert_and_archive(&archiving, 5);
    recovers_to(&archiving, &["--target", "latest"], "1 2 3 4 5");
}

#[test]
fn a_pinned_backup_keeps_its_way_to_the_present() {
    let archiving = archiving(any_major(), &[], &[]);
    let first = archiving.back_up();
    let old = insert_and_archive(&archiving, 2);
    archiving.back_up();
    insert_and_archive(&archiving, 3);
    archiving.run(&["pin", &first, "--reason", "the audit"]).ok();
    let done = expire(&archiving, &["--keep-full", "1", "--yes"]).ok().json();
    assert_eq!(done["expired"], serde_json::json!([]), "{done}");
    assert!(archived(&archiving).contains(&old));
    recovers_to(&archiving, &["--target-name", "after_2"], "1 2");
}
