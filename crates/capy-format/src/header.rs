//! The 64 bytes every object starts with.

use capy_types::{Nonce, RepositoryId};

use crate::bytes::Reader;
use crate::{FORMAT_VERSION, FormatError, FormatProblem};

/// What every object starts with.
pub const MAGIC: [u8; 8] = *b"capystor";
/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 64;

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
    /// Facts about WAL segments.
    WalFacts = 8,
}

impl ObjectKind {
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
        }
    }

    const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Config,
            2 => Self::KeySlot,
            3 => Self::Root,
            4 => Self::Index,
            5 => Self::Pack,
            6 => Self::Backup,
            7 => Self::Wal,
            8 => Self::WalFacts,
            _ => return None,
        })
    }
}

/// The header of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: ObjectKind,
    /// Sealing suite; 0 for objects that are not sealed.
    pub suite: u8,
    /// Compression of the body.
    pub compression: u8,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// What its key is derived from.
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
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
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
    /// Not ours, a newer version, too short, an unknown kind.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, 0);
        let magic = reader.take(MAGIC.len().min(bytes.len()))?;
        if magic != MAGIC {
            let problem = if MAGIC.starts_with(magic) {
                FormatProblem::Truncated { expected: HEADER_BYTES as u64, found: bytes.len() as u64 }
            } else {
                FormatProblem::NotOurs
            };
            return Err(FormatError::new(object, 0, problem));
        }
        let version = reader.u16()?;
        if version > FORMAT_VERSION {
            return Err(FormatError::new(object, 8, FormatProblem::NewerVersion { found: version }));
        }
        if version == 0 {
            return Err(FormatError::value(object, 8, "format version 0 does not exist"));
        }
        let kind = reader.u8()?;
        let kind = ObjectKind::from_u8(kind)
            .ok_or_else(|| FormatError::value(object, 10, format!("unknown kind of object: {kind}")))?;
        let (suite, compression) = (reader.u8()?, reader.u8()?);
        if reader.array::<3>()? != [0; 3] {
            return Err(FormatError::value(object, 13, "reserved bytes are not zero"));
        }
        Ok(Self {
            kind,
            suite,
            compression,
            repository: RepositoryId::from_bytes(reader.array()?),
            nonce: Nonce::from_bytes(reader.array()?),
            plain_len: reader.u32()?,
            stored_len: reader.u32()?,
        })
    }
}

/// Splits an object into its header and stored body.
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
        let problem = FormatProblem::Kind { expected: expect.as_str(), found: header.kind as u8 };
        return Err(FormatError::new(object, 10, problem));
    }
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
    let (expected, found) = (u64::from(header.stored_len), body.len() as u64);
    let problem = match found.cmp(&expected) {
        std::cmp::Ordering::Equal => return Ok((header, body)),
        std::cmp::Ordering::Less => FormatProblem::Truncated { expected, found },
        std::cmp::Ordering::Greater => FormatProblem::TooLong { expected, found },
    };
    Err(FormatError::new(object, HEADER_BYTES, problem))
}

/// What a sealed object is bound to: its header and its name.
#[must_use]
pub fn object_aad(header: &[u8; HEADER_BYTES], name: &str) -> Vec<u8> {
    [header.as_slice(), name.as_bytes()].concat()
}
