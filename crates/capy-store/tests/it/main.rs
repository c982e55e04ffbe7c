//! The library as an agent uses it, on synthetic base backups: what is taken, refused, marked,
//! restored and verified. Real servers are in the command's tests.

mod backup;
mod base_tar;
mod fixture;
mod restore;
mod verify;
