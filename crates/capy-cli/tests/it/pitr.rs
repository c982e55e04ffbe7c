//! WAL archiving and point-in-time recovery by the binary, on real servers: every archived moment
//! comes back with exactly its rows, and what cannot is refused before anything is written.
//!
//! What depends on the server is checked on every installed major with `CAPY_TEST_MATRIX` set,
//! otherwise on the distribution's; everything else only on the latter.

use capy_testkit::postgres::majors;

/// A test for each supported major, so that none takes as long as all of them. Without
/// `CAPY_TEST_MATRIX` those of other majors than the distribution's have nothing to do.
macro_rules! on_each_major {
    (fn $name:ident($major:ident) $check:block) => {
        mod $name {
            #[allow(unused_imports, reason = "whatever the check needs")]
            use super::*;

            fn check($major: u32) $check

            #[test]
            fn postgresql_13() {
                crate::pitr::on(13, check);
            }
            #[test]
            fn postgresql_14() {
                crate::pitr::on(14, check);
            }
            #[test]
            fn postgresql_15() {
                crate::pitr::on(15, check);
            }
            #[test]
            fn postgresql_16() {
                crate::pitr::on(16, check);
            }
            #[test]
            fn postgresql_17() {
                crate::pitr::on(17, check);
            }
            #[test]
            fn postgresql_18() {
                crate::pitr::on(18, check);
            }
        }
    };
}

mod expire;
mod faults;
mod fetch;
mod harness;
mod push;
mod servers;
mod targets;
mod timelines;

/// Checks a major, if it is one of those that are tested.
fn on(major: u32, check: impl FnOnce(u32)) {
    if majors().contains(&major) {
        check(major);
    }
}

/// The major on which everything is checked that does not depend on it.
fn any_major() -> u32 {
    majors()[0]
}
