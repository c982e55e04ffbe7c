//! The small files of a cluster: `backup_label`, `tablespace_map`, `pg_control`, and pages.
#![no_main]

use capy_postgres::control::ControlFile;
use capy_postgres::label::{BackupLabel, TablespaceMap};
use capy_postgres::page::PageChecker;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = BackupLabel::parse(input);
    let _ = TablespaceMap::parse(input);
    let _ = ControlFile::parse(input);
    let mut checker = PageChecker::new(0);
    checker.feed(input, |_| {});
    let _ = checker.finish(|_| {});
});
