//! The envelope: the 64 bytes every object starts with.
//!
//! Invariant: a decoded [`Header`] is one this format can have written. Its kind, suite,
//! compression and lengths agree, so a reader may allocate by its lengths.

use std::cmp::Ordering;

use capy_types::{Nonce, RepositoryId};

use crate::bytes::Reader;
use crate::limits::{OBJECT_PLAIN_MAX_BYTES, PLAIN_OBJECT_MAX_BYTES, TAG_BYTES};
use crate::{FORMAT_VERSION, FormatError, FormatProblem, VERSION_1};

/// What every object starts with.
pub const MAGIC: [u8; 8] = *b"capystor";
/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 64;

/// Suite byte of objects that are not sealed.
const SUITE_NONE: u8 = 0;
/// Suite byte of ChaCha20-Poly1305, the only suite of version 1.
const SUITE_CHACHA20_POLY1305: u8 = 1;
/// Compression byte of bodies stored as they are.
pub(crate) const COMPRESSION_RAW: u8 = 0;
/// Compression byte of bodies stored as one zstd frame.
pub(crate) const COMPRESSION_ZSTD: u8 = 1;

/// Offsets of the header's fields in bytes.
mod at {
    pub(super) const VERSION: u64 = 8;
    pub(super) const KIND: u64 = 10;
    pub(super) const SUITE: u64 = 11;
    pub(super) const COMPRESSION: u64 = 12;
    pub(super) const RESERVED: u64 = 13;
    pub(super) const NONCE: u64 = 32;
    pub(super) const PLAIN_LEN: u64 = 56;
    pub(super) const STORED_LEN: u64 = 60;
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// The repository's identity and parameters.
    Config = 1,
    /// One way to open the master key.
    KeySlot = 2,
    /// One generation of the root.
    Root = 3,
    /// Which frame is in which pack.
    Index = 4,
    /// Many frames.
    Pack = 5,
    /// A backup's record.
    Backup = 6,
    /// A WAL segment or history file.
    Wal = 7,
    /// Facts about WAL files.
    WalFacts = 8,
    /// Whose WAL an archive takes.
    Archive = 9,
    /// A moment to return to.
    RestorePoint = 10,
}

impl ObjectKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Config,
        Self::KeySlot,
        Self::Root,
        Self::Index,
        Self::Pack,
        Self::Backup,
        Self::Wal,
        Self::WalFacts,
        Self::Archive,
        Self::RestorePoint,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::KeySlot => "key slot",
            Self::Root => "root",
            Self::Index => "index",
            Self::Pack => "pack",
            Self::Backup => "backup record",
            Self::Wal => "wal",
            Self::WalFacts => "wal facts",
            Self::Archive => "archive",
            Self::RestorePoint => "restore point",
        }
    }

    fn from_u8(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether its body is sealed as a whole, under a key derived from the header's nonce.
    #[must_use]
    pub const fn is_sealed(self) -> bool {
        match self {
            Self::Root
            | Self::Index
            | Self::Backup
            | Self::Wal
            | Self::WalFacts
            | Self::Archive
            | Self::RestorePoint => true,
            Self::Config | Self::KeySlot | Self::Pack => false,
        }
    }
}

/// The header of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The lowest version of the format that knows everything in the object: see [`VERSION_1`] and
    /// [`VERSION_DELTA`](crate::VERSION_DELTA).
    pub version: u16,
    /// What it is.
    pub kind: ObjectKind,
    /// Sealing suite: 1 for ChaCha20-Poly1305; 0 for config and key slots, which are not sealed.
    pub suite: u8,
    /// Compression of the body: 0 as it is, 1 one zstd frame.
    pub compression: u8,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// What its key is derived from; the pack's id in packs; zero in config and key slots.
    pub nonce: Nonce,
    /// Length of the plaintext body in bytes; 0 for packs.
    pub plain_len: u32,
    /// Length of the stored body in bytes; 0 for packs.
    pub stored_len: u32,
}

impl Header {
    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[10] = self.kind as u8;
        out[11] = self.suite;
        out[12] = self.compression;
        out[16..32].copy_from_slice(self.repository.as_bytes());
        out[32..56].copy_from_slice(self.nonce.as_bytes());
        out[56..60].copy_from_slice(&self.plain_len.to_le_bytes());
        out[60..].copy_from_slice(&self.stored_len.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// Not ours, a newer version (naming both), too short, or fields that no writer
    /// puts together.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, 0);
        read_magic(object, bytes, &mut reader)?;
        let version = read_version(object, &mut reader)?;
        let kind = reader.u8()?;
        let kind = ObjectKind::from_u8(kind)
            .ok_or_else(|| FormatError::value(object, at::KIND, format!("unknown kind of object: {kind}")))?;
        let (suite, compression) = (reader.u8()?, reader.u8()?);
        if reader.array::<3>()? != [0; 3] {
            return Err(FormatError::value(object, at::RESERVED, "reserved bytes are not zero"));
        }
        let header = Self {
            version,
            kind,
            suite,
            compression,
            repository: RepositoryId::from_bytes(reader.array()?),
            nonce: Nonce::from_bytes(reader.array()?),
            plain_len: reader.u32()?,
            stored_len: reader.u32()?,
        };
        header.check_suite(object)?;
        header.check_lengths(object)?;
        Ok(header)
    }

    /// Suite, compression and nonce as its kind has them.
    fn check_suite(&self, object: &str) -> Result<(), FormatError> {
        let fail = |offset, what: String| Err(FormatError::value(object, offset, what));
        let open = matches!(self.kind, ObjectKind::Config | ObjectKind::KeySlot);
        let suite = if open { SUITE_NONE } else { SUITE_CHACHA20_POLY1305 };
        if self.suite != suite {
            return fail(at::SUITE, format!("sealing suite {} on a {}", self.suite, self.kind.as_str()));
        }
        let compression = if self.kind.is_sealed() { COMPRESSION_ZSTD } else { COMPRESSION_RAW };
        if self.compression > compression {
            return fail(
                at::COMPRESSION,
                format!("compression {} on a {}", self.compression, self.kind.as_str()),
            );
        }
        if open && self.nonce.as_bytes() != &[0; Nonce::LEN] {
            return fail(at::NONCE, format!("a nonce on a {}, which is not sealed", self.kind.as_str()));
        }
        Ok(())
    }

    /// Lengths that agree with each other and with the kind's limit.
    fn check_lengths(&self, object: &str) -> Result<(), FormatError> {
        let limit = match self.kind {
            ObjectKind::Pack => 0,
            ObjectKind::Config | ObjectKind::KeySlot => PLAIN_OBJECT_MAX_BYTES,
            _ => OBJECT_PLAIN_MAX_BYTES,
        };
        if self.plain_len > limit {
            let (found, limit) = (u64::from(self.plain_len), u64::from(limit));
            let problem = FormatProblem::Limit { what: "plaintext length", found, limit };
            return Err(FormatError::new(object, at::PLAIN_LEN, problem));
        }
        let tag = if self.kind.is_sealed() { TAG_BYTES as u64 } else { 0 };
        let (plain, stored) = (u64::from(self.plain_len), u64::from(self.stored_len));
        let agree = match self.compression {
            COMPRESSION_RAW => stored == plain + tag,
            _ => stored > tag && stored < plain + tag,
        };
        if agree {
            return Ok(());
        }
        let what = format!("{stored} stored bytes cannot hold a plaintext of {plain}");
        Err(FormatError::value(object, at::STORED_LEN, what))
    }
}

fn read_magic(object: &str, bytes: &[u8], reader: &mut Reader<'_>) -> Result<(), FormatError> {
    let magic = reader.take(MAGIC.len().min(bytes.len()))?;
    if magic == MAGIC {
        return Ok(());
    }
    let problem = if MAGIC.starts_with(magic) {
        FormatProblem::Truncated { expected: HEADER_BYTES as u64, found: bytes.len() as u64 }
    } else {
        FormatProblem::NotOurs
    };
    Err(FormatError::new(object, 0, problem))
}

fn read_version(object: &str, reader: &mut Reader<'_>) -> Result<u16, FormatError> {
    let found = reader.u16()?;
    if found > FORMAT_VERSION {
        let problem = FormatProblem::NewerVersion { found, supported: FORMAT_VERSION };
        return Err(FormatError::new(object, at::VERSION, problem));
    }
    if found < VERSION_1 {
        return Err(FormatError::value(object, at::VERSION, "format version 0 does not exist"));
    }
    Ok(found)
}

/// Splits an object that is not a pack into its header and stored body.
///
/// # Errors
/// What [`Header::decode`] answers; another kind than `expect`; a body shorter or longer than the
/// header says.
pub fn split_object<'a>(
    object: &str,
    bytes: &'a [u8],
    expect: ObjectKind,
) -> Result<(Header, &'a [u8]), FormatError> {
    let header = Header::decode(object, bytes)?;
    if header.kind != expect {
        let problem = FormatProblem::Kind { expected: expect.as_str(), found: header.kind.as_str() };
        return Err(FormatError::new(object, at::KIND, problem));
    }
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let (expected, found) = (u64::from(header.stored_len), body.len() as u64);
    let problem = match found.cmp(&expected) {
        Ordering::Equal => return Ok((header, body)),
        Ordering::Less => FormatProblem::Truncated { expected, found },
        Ordering::Greater => FormatProblem::TooLong { expected, found },
    };
    Err(FormatError::new(object, HEADER_BYTES as u64, problem))
}

/// What a sealed object is bound to: its header and its name, so that it opens under no other.
#[must_use]
pub fn object_aad(header: &[u8; HEADER_BYTES], name: &str) -> Vec<u8> {
    [header.as_slice(), name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    fn refused(change: impl FnOnce(&mut [u8; HEADER_BYTES])) -> String {
        let mut bytes = samples::header(ObjectKind::Root).encode();
        change(&mut bytes);
        Header::decode("root/x", &bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_newer_version_is_refused_naming_both() {
        let message = refused(|bytes| bytes[8] = 3);
        assert_eq!(message, "root/x: format version 3 found, this program reads up to 2 (at offset 8)");
        assert!(refused(|bytes| bytes[8] = 0).contains("version 0 does not exist"));
    }

    #[test]
    fn foreign_bytes_are_told_from_a_truncated_object() {
        let foreign = Header::decode("config", b"PK\x03\x04 a zip file").unwrap_err();
        assert_eq!(foreign.to_string(), "config: not a capy-store object (at offset 0)");
        let cut = Header::decode("config", b"capys").unwrap_err();
        assert_eq!(cut.to_string(), "config: truncated: 64 bytes expected, 5 found (at offset 0)");
        assert!(Header::decode("config", b"").is_err());
    }

    #[test]
    fn fields_no_writer_puts_together_are_refused_where_they_are() {
        assert!(refused(|bytes| bytes[10] = 11).contains("unknown kind of object: 11 (at offset 10)"));
        assert!(refused(|bytes| bytes[11] = 2).contains("sealing suite 2 on a root (at offset 11)"));
        assert!(refused(|bytes| bytes[11] = 0).contains("sealing suite 0 on a root"), "a missing seal");
        assert!(refused(|bytes| bytes[12] = 2).contains("compression 2 on a root (at offset 12)"));
        assert!(refused(|bytes| bytes[14] = 1).contains("reserved bytes are not zero"));
        assert!(refused(|bytes| bytes[59] = 0x80).contains("is beyond the limit of 1073741824"));
        assert!(refused(|bytes| bytes[62] = 1).contains("cannot hold a plaintext of"));
    }

    #[test]
    fn an_object_of_another_kind_or_length_is_refused() {
        let mut object = samples::header(ObjectKind::Index).encode().to_vec();
        object.resize(HEADER_BYTES + samples::STORED_LEN as usize, 7);
        let (_, body) = split_object("index/x", &object, ObjectKind::Index).unwrap();
        assert_eq!(body.len(), samples::STORED_LEN as usize);
        let kind = split_object("index/x", &object, ObjectKind::Root).unwrap_err().to_string();
        assert_eq!(kind, "index/x: an object of kind index found where root was expected (at offset 10)");
        object.push(0);
        let long = split_object("index/x", &object, ObjectKind::Index).unwrap_err().to_string();
        assert_eq!(long, "index/x: 301 bytes found where 300 were expected (at offset 64)");
        object.truncate(HEADER_BYTES + 10);
        let short = split_object("index/x", &object, ObjectKind::Index).unwrap_err().to_string();
        assert_eq!(short, "index/x: truncated: 300 bytes expected, 10 found (at offset 64)");
    }
}
