//! Object stores behind one narrow, durable interface: [`Store`].
//!
//! Contained by: the repository layer and what is above it. Only this crate names `object_store`
//! and `aws-sdk-s3`. It never reads the environment; credentials come in [`StoreOptions`].
//!
//! Invariants: an object is written once, whole, and only if its name is free
//! ([`Store::put_new`]); when that returns `Ok` the object survives a power failure; a read
//! returns all it was asked for or an error; every operation ends within a bounded time.

mod cache;
mod error;
mod local;
mod memory;
mod name;
mod open;
mod options;
mod probe;
#[cfg(any(test, feature = "s3", feature = "gs", feature = "az"))]
mod remote;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use cache::{CacheCounts, CacheOptions, ReadCache};
pub use error::{StoreError, StoreErrorKind, StoreOp};
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use name::NAME_MAX_BYTES;
pub use open::open_store;
pub use options::StoreOptions;
pub use probe::{ProbeReport, probe};
pub use store::{BucketSettings, ObjectInfo, Store};
