//! WAL archives: files stored outside the root, each under its own name, created and never changed.
//!
//! A pushed file does not touch the root: that its object exists is what makes it archived. With it
//! goes what is known about it ([`WalFacts`](capy_format::WalFacts)), readable by itself; facts of
//! many segments are gathered into cache objects, so that a catalog of a long archive is a few
//! reads.
//!
//! Contained by: the façade, which knows what the bytes mean. Invariants: a file is acknowledged
//! only when it is durable under its name with exactly these bytes; another content under the same
//! name is kept beside it and reported, never served; what is read matches its content id.

mod archive;
mod catalog;
mod content;
mod gather;
mod parts;
mod points;
mod store;

pub use catalog::{ListedWal, WalCatalog};
pub use content::{ReadWal, StoredContent};
pub use parts::{StoredPart, WalParts};
pub use store::{StoredWal, WAL_OBJECT_MAX_BYTES};
