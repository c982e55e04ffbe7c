//! Seeded data for the benches: the same bytes on every machine and in every run.
//!
//! Invariant: what a generator makes of a seed does not change, or figures of different days could
//! not be compared.

mod data;

pub use data::{PAGE_BYTES, pages, random, text};
