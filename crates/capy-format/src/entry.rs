//! The entry stream: what a manifest says, one record after the other.

use capy_types::limits::PATH_MAX_BYTES;

use crate::bytes::{Reader, put_signed, put_string, put_varint};
use crate::{Content, FormatError};

/// Longest record in bytes: a path, a link target, names, and 256 references.
const RECORD_MAX_BYTES: u64 = 64 * 1024;
/// Longest owner or group name in bytes, as in a tar header.
const NAME_MAX_BYTES: usize = 256;

/// One record of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An archive begins; what follows belongs to it.
    Archive(ArchiveHeader),
    /// A file.
    File(FileEntry),
    /// A directory.
    Directory(Meta),
    /// A symbolic link.
    Symlink {
        /// Its name and attributes.
        meta: Meta,
        /// Where it points.
        target: Vec<u8>,
    },
    /// The archive ends.
    EndArchive {
        /// Zero bytes at the end of its stream.
        trailing_zeros: u32,
    },
}

/// The beginning of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveHeader {
    /// What it holds.
    pub kind: ArchiveKind,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveKind {
    /// The data directory.
    Base,
    /// A tablespace.
    Tablespace {
        /// Its oid.
        oid: u32,
        /// Where it was on the server.
        location: String,
    },
    /// PostgreSQL's `backup_manifest`, when it came beside the archives.
    BackupManifest,
    /// A byte stream that is no archive.
    Stream,
}

/// Name and attributes of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// The path as it was spelled.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Owner's name.
    pub owner: String,
    /// Group's name.
    pub group: String,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Name and attributes.
    pub meta: Meta,
    /// How it was cut: 0 by content, 1 on the grid.
    pub chunking: u8,
    /// Its bytes.
    pub content: Content,
}

const ARCHIVE: u8 = 1;
const FILE: u8 = 2;
const DIRECTORY: u8 = 3;
const SYMLINK: u8 = 4;
const END_ARCHIVE: u8 = 5;

fn put_meta(out: &mut Vec<u8>, meta: &Meta) {
    put_string(out, &meta.path);
    put_varint(out, u64::from(meta.mode));
    put_varint(out, meta.uid);
    put_varint(out, meta.gid);
    put_signed(out, meta.mtime);
    put_string(out, meta.owner.as_bytes());
    put_string(out, meta.group.as_bytes());
}

fn read_text(reader: &mut Reader<'_>, what: &'static str, limit: usize) -> Result<String, FormatError> {
    let bytes = reader.string(what, limit)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| reader.fail(format!("{what} is not UTF-8")))
}

fn read_meta(reader: &mut Reader<'_>) -> Result<Meta, FormatError> {
    Ok(Meta {
        path: reader.string("path length", PATH_MAX_BYTES)?.to_vec(),
        mode: reader.bounded_u32("mode", u32::MAX)?,
        uid: reader.varint()?,
        gid: reader.varint()?,
        mtime: reader.signed()?,
        owner: read_text(reader, "owner", NAME_MAX_BYTES)?,
        group: read_text(reader, "group", NAME_MAX_BYTES)?,
    })
}

/// Appends the record of `entry`: its length, its type, its fields.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let mut record = Vec::with_capacity(256);
    match entry {
        Entry::Archive(header) => {
            record.push(ARCHIVE);
            match &header.kind {
                ArchiveKind::Base => record.push(0),
                ArchiveKind::Tablespace { oid, location } => {
                    record.push(1);
                    put_varint(&mut record, u64::from(*oid));
                    put_string(&mut record, location.as_bytes());
                }
                ArchiveKind::BackupManifest => record.push(2),
                ArchiveKind::Stream => record.push(3),
            }
        }
        Entry::File(file) => {
            record.push(FILE);
            put_meta(&mut record, &file.meta);
            record.push(file.chunking);
            file.content.encode(&mut record);
        }
        Entry::Directory(meta) => {
            record.push(DIRECTORY);
            put_meta(&mut record, meta);
        }
        Entry::Symlink { meta, target } => {
            record.push(SYMLINK);
            put_meta(&mut record, meta);
            put_string(&mut record, target);
        }
        Entry::EndArchive { trailing_zeros } => {
            record.push(END_ARCHIVE);
            put_varint(&mut record, u64::from(*trailing_zeros));
        }
    }
    put_string(out, &record);
}

/// Reads the record at the start of `bytes`; also returns its length. `None` when more bytes are
/// needed to tell.
///
/// # Errors
/// A record that cannot be.
pub fn decode_entry(object: &str, bytes: &[u8]) -> Result<Option<(Entry, usize)>, FormatError> {
    // The length itself may be cut off: at most three bytes for 64 KiB.
    if bytes.is_empty() || (bytes.len() < 3 && bytes.iter().all(|byte| byte & 0x80 != 0)) {
        return Ok(None);
    }
    let mut outer = Reader::new(object, bytes, 0);
    let length = usize::try_from(outer.bounded("record length", RECORD_MAX_BYTES)?).expect("64 KiB fit");
    let start = outer.offset();
    if outer.remaining() < length {
        return Ok(None);
    }
    let mut reader = Reader::new(object, outer.take(length)?, start);
    let entry = match reader.u8()? {
        ARCHIVE => Entry::Archive(ArchiveHeader { kind: read_archive_kind(&mut reader)? }),
        FILE => {
            let meta = read_meta(&mut reader)?;
            let chunking = reader.u8()?;
            Entry::File(FileEntry { meta, chunking, content: Content::read(&mut reader)? })
        }
        DIRECTORY => Entry::Directory(read_meta(&mut reader)?),
        SYMLINK => {
            let meta = read_meta(&mut reader)?;
            Entry::Symlink { meta, target: reader.string("link target", PATH_MAX_BYTES)?.to_vec() }
        }
        END_ARCHIVE => Entry::EndArchive { trailing_zeros: reader.bounded_u32("trailing zeros", u32::MAX)? },
        other => return Err(reader.fail(format!("unknown type of entry: {other}"))),
    };
    reader.finish()?;
    Ok(Some((entry, start + length)))
}

fn read_archive_kind(reader: &mut Reader<'_>) -> Result<ArchiveKind, FormatError> {
    Ok(match reader.u8()? {
        0 => ArchiveKind::Base,
        1 => ArchiveKind::Tablespace {
            oid: reader.bounded_u32("oid", u32::MAX)?,
            location: read_text(reader, "location", PATH_MAX_BYTES)?,
        },
        2 => ArchiveKind::BackupManifest,
        3 => ArchiveKind::Stream,
        other => return Err(reader.fail(format!("unknown kind of archive: {other}"))),
    })
}
