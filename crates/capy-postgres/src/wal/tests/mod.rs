//! The WAL reader on segments made by hand: every rule, every error, every limit.

mod crossing;
mod decoding;
mod headers;
mod limits;
mod noise;
mod scanning;
mod synthetic;
