//! What a server says on a replication connection: the login, who it is, and a base backup.
#![no_main]

use capy_postgres::base_backup_from_script;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for version in [130_000, 150_000] {
        let _ = runtime.block_on(base_backup_from_script(input, version));
    }
});
