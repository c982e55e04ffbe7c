//! Tar as base backups use it: a parser and a writer that do no I/O.
//!
//! The parser takes bytes in any pieces and hands data back as slices of its input; the writer
//! makes the very header bytes PostgreSQL writes, so that a stored archive can be given out again
//! byte for byte. Read are old v7 headers, ustar, pax records and GNU's long names and base-256
//! numbers; refused are hard links, devices, sparse files, and anything whose checksum is wrong.
//!
//! Paths are kept as spelled. [`clean_path`] is the one place where a path of a tar becomes one
//! that may be joined to a directory.
//!
//! Sources: POSIX.1-2017 `pax` (ustar and pax interchange formats), the GNU tar manual's "Basic
//! Tar Format", PostgreSQL's `src/port/tar.c`.

mod error;
mod header;
mod parser;
mod path;
mod pax;
mod writer;

pub use error::TarError;
pub use parser::{EndMarker, TarEnd, TarEvent, TarParser};
pub use path::{PathError, clean_path};
pub use writer::{TarWriteError, TarWriter};

/// Size in bytes of a header, and what data is padded to.
pub const BLOCK_BYTES: usize = 512;

/// Zero bytes that end a tar: two blocks.
pub const END_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// Largest pax record or GNU long name in bytes. A path has at most 4096 bytes; the rest of a pax
/// header is times and owners.
pub const EXTENSION_MAX_BYTES: u64 = 64 * 1024;

/// Most zero bytes accepted after the last entry: far above every blocking factor in use (GNU
/// tar's default is 10 KiB), and still a bound.
pub const TRAILING_ZEROS_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file: [`TarEntry::size`] bytes of data follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to [`TarEntry::link_target`].
    Symlink,
}

/// One entry of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// The path as spelled in the tar, with its `./` and trailing `/`. Not safe to use before
    /// [`clean_path`].
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of data that follow; zero unless it is a file.
    pub size: u64,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner's number.
    pub uid: u64,
    /// Group's number.
    pub gid: u64,
    /// Modification time in seconds since the Unix epoch.
    pub mtime: i64,
    /// Owner's name.
    pub owner: String,
    /// Group's name.
    pub group: String,
    /// Where a symbolic link points; empty otherwise.
    pub link_target: Vec<u8>,
}

/// Bytes that pad `size` bytes of data to whole blocks.
#[must_use]
pub const fn padding_bytes(size: u64) -> u64 {
    let over = size % BLOCK_BYTES as u64;
    if over == 0 { 0 } else { BLOCK_BYTES as u64 - over }
}

#[cfg(test)]
mod tests;
