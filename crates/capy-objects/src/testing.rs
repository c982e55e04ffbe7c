//! Stores for tests, and the suite that every store must pass.
//!
//! Contained by: the tests of this crate and of those above it, behind the feature `testing`.
//! [`RecordingStore`] counts, so that a test can say how many requests something may take;
//! [`FaultStore`] fails, delays and lies with a seed; [`conformance`] is what a store promises.

pub mod conformance;
mod fault;
mod recording;

pub use fault::{Fault, FaultStore, Lie};
pub use recording::{Counts, RecordingStore};
