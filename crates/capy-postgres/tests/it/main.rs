//! capy-postgres against a real PostgreSQL server of this machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod archive;
mod archiving;
mod authentication;
mod base_backup;
mod incremental;
mod local;
mod majors;
mod pages;
mod recovery;
mod tls;
mod wal_reader;
mod wal_stream;
