//! Documents: what is ignored, what is refused, and where.

use capy_types::{Nonce, PackId, RootHash};
use serde_json::{Value, json};

use super::*;
use crate::FormatProblem;
use crate::tests::samples;

/// A sample document with one field set to another value, or removed.
fn changed(document: &impl serde::Serialize, pointer: &str, value: Option<Value>) -> Vec<u8> {
    let mut json = serde_json::to_value(document).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(field.to_owned(), value),
        None => parent.remove(field),
    };
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn unknown_fields_are_ignored_at_every_level() {
    let record = samples::backup_record();
    for pointer in ["/from_tomorrow", "/stats/from_tomorrow", "/postgres/from_tomorrow", "/manifest/x"] {
        let json = changed(&record, pointer, Some(json!({ "a": [1, 2] })));
        assert_eq!(BackupRecord::from_json("backups/x", &json), Ok(record.clone()), "{pointer}");
    }
}

#[test]
fn a_missing_or_mistyped_field_is_refused_by_name() {
    let refused = |pointer: &str, value| {
        let json = changed(&samples::root(), pointer, value);
        Root::from_json("root/x", &json).unwrap_err().to_string()
    };
    for field in ["generation", "created_at", "nonce", "sessions", "indexes", "backups"] {
        let message = refused(&format!("/{field}"), None);
        assert!(message.contains(&format!("missing field `{field}`")), "{message}");
    }
    assert!(refused("/generation", Some(json!("7"))).contains("invalid type: string"));
    assert!(refused("/nonce", Some(json!("00"))).contains("not a nonce: expected 48 hex digits"));
    assert!(refused("/created_at", Some(json!("2026-11-21T06:54:52"))).contains("with a zone"));
}

#[test]
fn enums_are_lower_case_words() {
    let root = serde_json::to_value(samples::root()).unwrap();
    assert_eq!(root["backups"][0]["state"], "complete");
    assert_eq!(root["backups"][0]["kind"], "base");
    assert_eq!(root["backups"][1]["verification"]["state"], "pending");
    let slot = serde_json::to_value(samples::key_file_slot()).unwrap();
    assert_eq!(slot["kind"], "key_file");
    let upper = changed(&samples::key_slot(), "/kind", Some(json!("Passphrase")));
    assert!(KeySlot::from_json("keys/x", &upper).is_err());
}

#[test]
fn a_syntax_error_is_placed_by_its_offset_even_over_lines() {
    let error = Config::from_json("config", b"{\n  \"repository\": ,\n}").unwrap_err();
    assert_eq!(error.offset, 18, "{error}");
    let message = error.to_string();
    assert_eq!(message, "config: not the document it should be: expected value (at offset 18)");
    assert_eq!(Config::from_json("config", b"").unwrap_err().offset, 0);
    let deep = "[".repeat(100_000);
    assert!(Config::from_json("config", deep.as_bytes()).is_err(), "nesting is bounded");
}

#[test]
fn a_config_of_a_newer_version_names_both() {
    let json = changed(&samples::config(), "/format_version", Some(json!(9)));
    let error = Config::from_json("config", &json).unwrap_err();
    assert_eq!(error.problem, FormatProblem::NewerVersion { found: 9, supported: 2 });
    assert_eq!(error.kind(), capy_types::ErrorKind::Invalid);
}

#[test]
fn parameters_beyond_the_limits_are_refused() {
    for (pointer, value, message) in [
        ("/format_version", 0, "version 0 does not exist"),
        ("/compression_level", 0, "compression level 0"),
        ("/compression_level", 20, "compression level 20"),
        ("/pack_size_bytes", 1 << 30, "packs of 1073741824 bytes"),
        ("/pack_size_bytes", 1000, "packs of 1000 bytes"),
        ("/chunking/grid_bytes", 0, "grid of 0 bytes"),
        ("/chunking/grid_bytes", 12_288 + 1, "grid of 12289 bytes"),
        ("/chunking/grid_bytes", 16 << 20, "grid of 16777216 bytes"),
        ("/chunking/data_min", 65_537, "do not ascend"),
        ("/chunking/data_min", 1, "not all from 64 bytes"),
        ("/chunking/data_max", 16 << 20, "not all from 64 bytes"),
    ] {
        let json = changed(&samples::config(), pointer, Some(json!(value)));
        let error = Config::from_json("config", &json).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_slot_that_contradicts_itself_is_refused() {
    let refused = |pointer, value| {
        let json = changed(&samples::key_slot(), pointer, value);
        KeySlot::from_json("keys/x", &json).unwrap_err().to_string()
    };
    assert!(refused("/wrapped/kdf", None).contains("exactly when it is opened by a passphrase"));
    assert!(refused("/kind", Some(json!("key_file"))).contains("exactly when"));
    assert!(refused("/wrapped/sealed", Some(json!("00"))).contains("sealed key of 1 bytes, not 48"));
    assert!(refused("/wrapped/salt", Some(json!("00"))).contains("a byte string of another length"));
    assert!(refused("/label", Some(json!("x".repeat(513)))).contains("label of 513 bytes"));
    let slot = samples::key_file_slot();
    assert_eq!(KeySlot::from_json("keys/x", &serde_json::to_vec(&slot).unwrap()), Ok(slot));
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    let refused = |pointer, value| {
        let json = changed(&samples::backup_record(), pointer, Some(value));
        BackupRecord::from_json("backups/x", &json).unwrap_err().to_string()
    };
    assert!(refused("/postgres/stop_lsn", json!("0/1")).contains("stops at 0/1, before its start"));
    assert!(refused("/problems_total", json!(0)).contains("1 problems listed of 0"));
    assert!(refused("/manifest/length", json!(5)).contains("manifest: the references do not add up"));
    assert!(refused("/postgres/segment_size", json!(12345)).contains("not a WAL segment size"));
    let mut record = samples::backup_record();
    assert!(!serde_json::to_string(&record).unwrap().contains("incremental_from"), "as it always was");
    record.incremental_from = Some("earlier".parse().unwrap());
    let json = serde_json::to_vec(&record).unwrap();
    assert_eq!(BackupRecord::from_json("backups/x", &json), Ok(record.clone()));
    record.incremental_from = Some(record.key.id.clone());
    assert_eq!(record.check(), Err("put together with itself".to_owned()));
}

/// What [`Root::check`] says of a sample root after `change`.
fn root_problem(change: impl FnOnce(&mut Root)) -> String {
    let mut root = samples::root();
    change(&mut root);
    root.check().unwrap_err()
}

#[test]
fn a_root_that_contradicts_itself_is_refused() {
    assert_eq!(samples::root().check(), Ok(()));
    assert_eq!(samples::first_root().check(), Ok(()));
    assert!(root_problem(|root| root.previous = None).contains("only generation 0 has no predecessor"));
    assert!(root_problem(|root| root.generation = 0).contains("only generation 0"));
    assert!(root_problem(|root| root.indexes[1] = root.indexes[0]).contains("is listed twice"));
    assert!(
        root_problem(|root| root.backups[1].key = root.backups[0].key.clone()).contains("is listed twice")
    );
    assert!(root_problem(|root| root.sessions.push(root.sessions[0].clone())).contains("session"));
    assert!(root_problem(|root| root.condemned.push(root.condemned[0])).contains("condemned pack"));
    assert!(root_problem(|root| root.damaged.push(root.damaged[0])).contains("damaged pack"));
    assert!(root_problem(|root| root.tombstones.push(root.tombstones[0].clone())).contains("buried pack"));
    assert!(root_problem(|root| root.tombstones[0].generation = 8).contains("buried in the future"));
    assert!(root_problem(|root| root.sessions[0].base_generation = 8).contains("began in the future"));
    assert!(
        root_problem(|root| root.condemned.push(root.tombstones[0].pack)).contains("condemned and buried")
    );
    assert!(root_problem(|root| root.backups[0].start_lsn = None).contains("starts nowhere"));
    assert!(root_problem(|root| root.backups[0].label = Some("x".repeat(513))).contains("label of 513"));
}

/// What a root says that pins a backup for `reason`, or that it holds.
fn pinned_for(reason: &str) -> Result<(), String> {
    let mut root = samples::pinned_root();
    root.backups[0].pinned.as_mut().unwrap().reason = reason.to_owned();
    root.check()
}

#[test]
fn a_pin_gives_its_reason_in_one_short_line() {
    assert_eq!(pinned_for("before the move"), Ok(()));
    assert_eq!(pinned_for(&"ö".repeat(200)), Ok(()), "characters are counted, not bytes");
    assert!(pinned_for(&"x".repeat(201)).unwrap_err().contains("201 characters, 200 at most"));
    assert!(pinned_for(" ").unwrap_err().contains("the reason of the pin is empty"));
    assert!(pinned_for("a\nb").unwrap_err().contains("line break"));
    let mut root = samples::pinned_root();
    root.backups[0].pinned.as_mut().unwrap().by = Some("\u{1b}[2J".to_owned());
    assert!(root.check().unwrap_err().contains("name of who pins"));
}

#[test]
fn a_pack_may_be_damaged_and_condemned_at_once() {
    let mut root = samples::root();
    root.damaged = vec![PackId::from_bytes([9; 24])];
    root.condemned = root.damaged.clone();
    assert_eq!(root.check(), Ok(()));
}

#[test]
fn only_the_next_generation_with_the_right_hash_follows() {
    let (previous, hash) = (samples::root(), RootHash::from_bytes([7; 32]));
    let mut next = samples::root();
    next.generation = 8;
    next.previous = Some(hash);
    next.nonce = Nonce::from_bytes([8; 24]);
    assert_eq!(next.check_follows(&previous, &hash), Ok(()));
    let other = RootHash::from_bytes([6; 32]);
    assert!(next.check_follows(&previous, &other).unwrap_err().contains("predecessor's hash"));
    let skipped = Root { generation: 9, ..next.clone() };
    assert!(skipped.check_follows(&previous, &hash).unwrap_err().contains("generation 9 after 7"));
    let repeated = Root { nonce: previous.nonce, ..next };
    assert!(repeated.check_follows(&previous, &hash).unwrap_err().contains("nonce"));
}

#[test]
fn facts_that_contradict_their_file_are_refused() {
    let mut facts = samples::wal_facts();
    assert_eq!(facts.check(), Ok(()));
    let other = "0000000300000016000000B4".parse().unwrap();
    facts.file = other;
    assert!(facts.check().unwrap_err().contains("cannot end at 16/B3FFFFF8"));
    facts.file = "0000000300000016FFFFFFFF".parse().unwrap();
    assert!(facts.check().unwrap_err().contains("cannot be a segment of 16777216 bytes"));
}

#[test]
fn facts_are_read_line_by_line_and_an_event_of_tomorrow_is_let_pass() {
    let mut facts = serde_json::to_value(samples::wal_facts()).unwrap();
    facts["segment"]["events"][1]["what"] = json!("from_tomorrow");
    let lines = format!("{facts}\n{}\n", serde_json::to_string(&samples::history_facts()).unwrap());
    let read = WalFacts::from_json_lines("wal-facts/x", lines.as_bytes()).unwrap();
    assert_eq!(read[0].segment.as_ref().unwrap().events[1].what, WalEventKind::Other);
    assert_eq!(read[1], samples::history_facts());
}

#[test]
fn a_restore_point_points_at_something() {
    let mut point = samples::restore_point();
    assert_eq!(point.check(), Ok(()));
    (point.pitr_time, point.lsn) = (None, None);
    assert_eq!(point.check(), Err("points at no moment".to_owned()));
    point.kind = RestorePointKind::Backup;
    assert_eq!(point.check(), Err("points at no backup".to_owned()));
}
