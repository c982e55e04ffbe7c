//! The library as an agent uses it, on synthetic base backups: what is taken, refused, marked,
//! restored and verified. Real servers are in the command's tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backup;
mod base_tar;
mod expire;
mod fixture;
mod inspect_wal;
mod made_wal;
mod moment;
mod restore;
mod restore_point;
mod verify;
