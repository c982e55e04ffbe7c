//! File checksums as a manifest states them, and the hasher that computes the same.

use std::fmt;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

/// How a file's checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32C: PostgreSQL's default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    /// The name in a manifest; upper and lower case are the same.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Crc32c, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
    }

    /// The name in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Length of a checksum in bytes.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Starts hashing a file.
    #[must_use]
    pub fn hasher(self) -> FileHasher {
        match self {
            Self::Crc32c => FileHasher::Crc32c(0),
            Self::Sha224 => FileHasher::Sha224(Sha224::new()),
            Self::Sha256 => FileHasher::Sha256(Sha256::new()),
            Self::Sha384 => FileHasher::Sha384(Sha384::new()),
            Self::Sha512 => FileHasher::Sha512(Sha512::new()),
        }
    }
}

/// The checksum of a file. Written in hex; CRC-32C with its low byte first, as PostgreSQL has it
/// on little-endian machines.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileChecksum {
    algorithm: ChecksumAlgorithm,
    /// Zero beyond the algorithm's length.
    bytes: [u8; 64],
}

impl FileChecksum {
    /// Wraps a checksum; `None` when its length is not the algorithm's.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm, checksum: &[u8]) -> Option<Self> {
        let mut bytes = [0; 64];
        if checksum.len() != algorithm.len_bytes() {
            return None;
        }
        bytes.get_mut(..checksum.len())?.copy_from_slice(checksum);
        Some(Self { algorithm, bytes })
    }

    /// A file's CRC-32C, computed elsewhere.
    #[must_use]
    pub fn of_crc32c(crc: u32) -> Self {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        Self { algorithm: ChecksumAlgorithm::Crc32c, bytes }
    }

    /// The CRC-32C, when it is one.
    #[must_use]
    pub fn as_crc32c(&self) -> Option<u32> {
        let crc = self.bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        crc.filter(|_| self.algorithm == ChecksumAlgorithm::Crc32c)
    }

    /// How it is computed.
    #[must_use]
    pub const fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// The checksum's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.algorithm.len_bytes()).unwrap_or_default()
    }
}

impl fmt::Display for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.algorithm.as_str())
    }
}

/// Computes a file's checksum as its bytes come.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "there is one per open file, on the stack")]
pub enum FileHasher {
    /// CRC-32C so far.
    Crc32c(u32),
    /// SHA-224 so far.
    Sha224(Sha224),
    /// SHA-256 so far.
    Sha256(Sha256),
    /// SHA-384 so far.
    Sha384(Sha384),
    /// SHA-512 so far.
    Sha512(Sha512),
}

impl FileHasher {
    /// Takes the file's next bytes.
    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, data),
            Self::Sha224(hash) => hash.update(data),
            Self::Sha256(hash) => hash.update(data),
            Self::Sha384(hash) => hash.update(data),
            Self::Sha512(hash) => hash.update(data),
        }
    }

    /// The checksum of all bytes taken.
    #[must_use]
    pub fn finish(self) -> FileChecksum {
        match self {
            Self::Crc32c(crc) => FileChecksum::of_crc32c(crc),
            Self::Sha224(hash) => digest(ChecksumAlgorithm::Sha224, &hash.finalize()),
            Self::Sha256(hash) => digest(ChecksumAlgorithm::Sha256, &hash.finalize()),
            Self::Sha384(hash) => digest(ChecksumAlgorithm::Sha384, &hash.finalize()),
            Self::Sha512(hash) => digest(ChecksumAlgorithm::Sha512, &hash.finalize()),
        }
    }
}

fn digest(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> FileChecksum {
    FileChecksum::new(algorithm, bytes).expect("a digest has its algorithm's length")
}
