//! The repository layer as a whole, over stores that work, fail and lie.

mod concurrency;
mod damage;
mod faults;
mod fixture;
mod ingest;
mod keys;
mod requests;
