//! Object names: a name that is parsed is the name that is made.
#![no_main]

use capy_format::names;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|name: &str| {
    let made = [
        names::parse_root(name).map(names::root),
        names::parse_key_slot(name).map(|id| names::key_slot(&id)),
        names::parse_pack(name).map(|id| names::pack(&id)),
        names::parse_index(name).map(|id| names::index(&id)),
        names::parse_backup(name).map(|key| names::backup(&key)),
    ];
    assert!(made.iter().flatten().all(|made| made == name), "{name:?} is an alias of {made:?}");
    assert!(made.iter().flatten().count() <= 1, "{name:?} names two objects");
});
