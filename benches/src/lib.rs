//! Seeded data for the benches: the same bytes on every machine and in every run.
//!
//! Three kinds of bytes ([`random`], [`text`], [`pages`]), tars of any files ([`Archive`]), and
//! whole base backups ([`Cluster`]).
//! Invariant: what a generator makes of a seed does not change, or figures of different days could
//! not be compared.

mod archive;
mod cluster;
mod data;

pub use archive::Archive;
pub use cluster::Cluster;
pub use data::{PAGE_BYTES, pages, random, text};

#[cfg(test)]
mod tests;
