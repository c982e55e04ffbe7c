//! The repository layer as a whole, over stores that work, fail and lie.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod cache;
mod concurrency;
mod damage;
mod delta;
mod faults;
mod fixture;
mod golden;
mod ingest;
mod keys;
mod patch;
mod recognize;
mod removal;
mod requests;
mod sequence;
mod wal;
mod wal_faults;
mod wal_parts;
