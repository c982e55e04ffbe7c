//! The entry stream: what a manifest says, one record after the other.
//!
//! A record is its length and that many bytes, so a reader can take the stream in pieces of any
//! size. Invariant: an entry that passes [`Entry::check`] encodes to a record that decodes to it.

use capy_types::limits::PATH_MAX_BYTES;

use crate::bytes::{Reader, put_signed, put_string, put_varint};
use crate::limits::{OWNER_MAX_BYTES, RECORD_MAX_BYTES};
use crate::{Content, FormatError};

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

impl ArchiveKind {
    /// Where its files are, seen from the data directory: `pg_tblspc/OID/` for a tablespace's.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Tablespace { oid, .. } => format!("pg_tblspc/{oid}/"),
            _ => String::new(),
        }
    }
}

/// Name and attributes of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// The path as it was spelled.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner's number.
    pub uid: u64,
    /// Group's number.
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
    /// How it was cut: 0 by content, 1 on the grid. For people and for the next backup; reading
    /// does not depend on it.
    pub chunking: u8,
    /// Its bytes.
    pub content: Content,
}

/// Type bytes of records.
const ARCHIVE: u8 = 1;
const FILE: u8 = 2;
const DIRECTORY: u8 = 3;
const SYMLINK: u8 = 4;
const END_ARCHIVE: u8 = 5;

/// Kind bytes of archives.
const BASE: u8 = 0;
const TABLESPACE: u8 = 1;
const BACKUP_MANIFEST: u8 = 2;
const STREAM: u8 = 3;

impl Entry {
    /// Whether it is within the limits of a record: to be checked before it is encoded, since a
    /// record beyond them would not decode.
    ///
    /// # Errors
    /// One fact about what is not.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Archive(ArchiveHeader { kind: ArchiveKind::Tablespace { location, .. } }) => {
                check_len("location", location.len(), PATH_MAX_BYTES)
            }
            Self::Archive(_) | Self::EndArchive { .. } => Ok(()),
            Self::File(file) => {
                file.meta.check()?;
                file.content.check()
            }
            Self::Directory(meta) => meta.check(),
            Self::Symlink { meta, target } => {
                meta.check()?;
                check_len("link target", target.len(), PATH_MAX_BYTES)
            }
        }
    }
}

impl Meta {
    fn check(&self) -> Result<(), String> {
        check_len("path", self.path.len(), PATH_MAX_BYTES)?;
        check_len("owner", self.owner.len(), OWNER_MAX_BYTES)?;
        check_len("group", self.group.len(), OWNER_MAX_BYTES)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_string(out, &self.path);
        put_varint(out, u64::from(self.mode));
        put_varint(out, self.uid);
        put_varint(out, self.gid);
        put_signed(out, self.mtime);
        put_string(out, self.owner.as_bytes());
        put_string(out, self.group.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            path: reader.string("path length", PATH_MAX_BYTES)?.to_vec(),
            mode: reader.bounded_u32("mode", u32::MAX)?,
            uid: reader.varint()?,
            gid: reader.varint()?,
            mtime: reader.signed()?,
            owner: reader.text("owner", OWNER_MAX_BYTES)?.to_owned(),
            group: reader.text("group", OWNER_MAX_BYTES)?.to_owned(),
        })
    }
}

fn check_len(what: &str, found: usize, limit: usize) -> Result<(), String> {
    if found <= limit { Ok(()) } else { Err(format!("{what} of {found} bytes, {limit} at most")) }
}

/// Appends the record of `entry`: its length, its type, its fields.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    debug_assert_eq!(entry.check(), Ok(()), "an entry must be within the limits to be read again");
    let mut record = Vec::with_capacity(256);
    match entry {
        Entry::Archive(header) => {
            record.push(ARCHIVE);
            put_archive_kind(&mut record, &header.kind);
        }
        Entry::File(file) => {
            record.push(FILE);
            file.meta.encode(&mut record);
            record.push(file.chunking);
            file.content.encode(&mut record);
        }
        Entry::Directory(meta) => {
            record.push(DIRECTORY);
            meta.encode(&mut record);
        }
        Entry::Symlink { meta, target } => {
            record.push(SYMLINK);
            meta.encode(&mut record);
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
/// needed to tell; at the end of the stream that means it was cut off.
///
/// # Errors
/// A record that cannot be. Offsets are those within `bytes`.
pub fn decode_entry(object: &str, bytes: &[u8]) -> Result<Option<(Entry, usize)>, FormatError> {
    if !has_length(bytes) {
        return Ok(None);
    }
    let mut outer = Reader::new(object, bytes, 0);
    let length = outer.bounded("record length", RECORD_MAX_BYTES as u64)?;
    let length = usize::try_from(length).expect("64 KiB fit");
    if outer.remaining() < length {
        return Ok(None);
    }
    let start = outer.offset();
    let mut reader = Reader::new(object, outer.take(length)?, start);
    let entry = read_entry(&mut reader)?;
    reader.finish()?;
    Ok(Some((entry, bytes.len() - outer.remaining())))
}

/// Whether the length before a record is there in full, or already too long to be one: the
/// limit of 64 KiB takes three bytes.
fn has_length(bytes: &[u8]) -> bool {
    const LENGTH_BYTES_MAX: usize = 3;
    bytes.len() > LENGTH_BYTES_MAX || bytes.iter().any(|byte| byte & 0x80 == 0)
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, FormatError> {
    let start = reader.offset();
    Ok(match reader.u8()? {
        ARCHIVE => Entry::Archive(ArchiveHeader { kind: read_archive_kind(reader)? }),
        FILE => {
            let meta = Meta::read(reader)?;
            let chunking = reader.u8()?;
            Entry::File(FileEntry { meta, chunking, content: Content::read(reader)? })
        }
        DIRECTORY => Entry::Directory(Meta::read(reader)?),
        SYMLINK => {
            let meta = Meta::read(reader)?;
            Entry::Symlink { meta, target: reader.string("link target", PATH_MAX_BYTES)?.to_vec() }
        }
        END_ARCHIVE => Entry::EndArchive { trailing_zeros: reader.bounded_u32("trailing zeros", u32::MAX)? },
        other => return Err(reader.fail_at(start, format!("unknown type of entry: {other}"))),
    })
}

fn put_archive_kind(out: &mut Vec<u8>, kind: &ArchiveKind) {
    match kind {
        ArchiveKind::Base => out.push(BASE),
        ArchiveKind::Tablespace { oid, location } => {
            out.push(TABLESPACE);
            put_varint(out, u64::from(*oid));
            put_string(out, location.as_bytes());
        }
        ArchiveKind::BackupManifest => out.push(BACKUP_MANIFEST),
        ArchiveKind::Stream => out.push(STREAM),
    }
}

fn read_archive_kind(reader: &mut Reader<'_>) -> Result<ArchiveKind, FormatError> {
    let start = reader.offset();
    Ok(match reader.u8()? {
        BASE => ArchiveKind::Base,
        TABLESPACE => ArchiveKind::Tablespace {
            oid: reader.bounded_u32("oid", u32::MAX)?,
            location: reader.text("location", PATH_MAX_BYTES)?.to_owned(),
        },
        BACKUP_MANIFEST => ArchiveKind::BackupManifest,
        STREAM => ArchiveKind::Stream,
        other => return Err(reader.fail_at(start, format!("unknown kind of archive: {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut() {
        let entries = samples::entries();
        let mut stream = Vec::new();
        entries.iter().for_each(|entry| encode_entry(entry, &mut stream));
        for piece in 1..stream.len() {
            let (mut read, mut buffer) = (Vec::new(), Vec::new());
            for bytes in stream.chunks(piece) {
                buffer.extend_from_slice(bytes);
                while let Some((entry, length)) = decode_entry("manifest", &buffer).unwrap() {
                    read.push(entry);
                    buffer.drain(..length);
                }
            }
            assert!(buffer.is_empty());
            assert_eq!(read, entries, "in pieces of {piece} bytes");
        }
    }

    #[test]
    fn a_record_beyond_the_limit_is_refused_before_its_bytes_come() {
        let decode = |bytes: &[u8]| decode_entry("manifest", bytes).map(|found| found.is_some());
        assert_eq!(decode(&[]), Ok(false));
        assert_eq!(decode(&[0xff, 0xff]), Ok(false));
        let limit = decode(&[0x81, 0x80, 0x04]).unwrap_err().to_string();
        assert_eq!(limit, "manifest: record length of 65537 is beyond the limit of 65536 (at offset 0)");
        assert!(decode(&[0xff, 0xff, 0xff, 0xff]).is_err(), "a length of four bytes");
        assert!(decode(&[0]).is_err(), "an empty record");
        assert!(decode(&[1, 6]).unwrap_err().to_string().contains("unknown type of entry: 6 (at offset 1)"));
    }

    #[test]
    fn an_entry_that_would_not_decode_fails_its_check() {
        let meta = |path: usize, owner: usize| Meta {
            path: vec![b'a'; path],
            owner: "o".repeat(owner),
            ..Meta::default()
        };
        assert_eq!(Entry::Directory(meta(4096, 256)).check(), Ok(()));
        assert_eq!(Entry::Directory(meta(4097, 0)).check(), Err("path of 4097 bytes, 4096 at most".into()));
        assert!(Entry::Directory(meta(1, 257)).check().unwrap_err().contains("owner"));
        let target = vec![b'a'; 4097];
        assert!(Entry::Symlink { meta: meta(1, 1), target }.check().unwrap_err().contains("link target"));
        let content = Content { length: 1, ..Content::default() };
        assert!(Entry::File(FileEntry { meta: meta(1, 1), chunking: 0, content }).check().is_err());
    }

    #[test]
    fn the_longest_entry_is_within_the_record_limit() {
        let file = FileEntry {
            meta: Meta {
                path: vec![b'p'; 4096],
                mode: u32::MAX,
                uid: u64::MAX,
                gid: u64::MAX,
                mtime: i64::MIN,
                owner: "o".repeat(256),
                group: "g".repeat(256),
            },
            chunking: 1,
            content: samples::widest_content(),
        };
        let entry = Entry::File(file);
        let mut record = Vec::new();
        encode_entry(&entry, &mut record);
        assert!(record.len() < 21 * 1024, "{}", record.len());
        assert_eq!(decode_entry("manifest", &record), Ok(Some((entry, record.len()))));
    }
}
