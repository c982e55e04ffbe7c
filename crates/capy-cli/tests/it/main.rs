//! The command as its users run it: one process per step, judged by exit code and output.

mod archiving;
mod cache;
mod check;
mod delta;
mod documents;
mod errors;
mod harness;
mod incremental;
mod interruptions;
mod local;
mod pitr;
mod postgres;
mod restore_point;
mod retention;
mod secrets;
mod server;
mod spool;
mod streams;
mod wal_receive;
