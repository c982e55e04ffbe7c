//! The repository's identity and the parameters fixed at `init`.
//!
//! Stored in the clear, since it is needed to find the keys, with a tag under those keys.

use capy_types::limits::{CHUNK_MAX_BYTES, PACK_SIZE_BYTES, PAGE_SIZE_BYTES};
use capy_types::{RepositoryId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{checked, from_json};
use crate::limits::{CHUNK_MIN_BYTES, PACK_SIZE_MIN_BYTES};
use crate::{FORMAT_VERSION, FormatError, FormatProblem};

/// How data is cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkingPolicy {
    /// Shortest content-defined chunk in bytes.
    pub data_min: u32,
    /// Size aimed at in bytes.
    pub data_avg: u32,
    /// Longest content-defined chunk in bytes.
    pub data_max: u32,
    /// Size of grid chunks in bytes: a multiple of 8 KiB.
    pub grid_bytes: u32,
    /// Whether relation files are cut by content too.
    pub force_cdc: bool,
}

impl Default for ChunkingPolicy {
    fn default() -> Self {
        Self {
            data_min: 32 * 1024,
            data_avg: 64 * 1024,
            data_max: 512 * 1024,
            grid_bytes: 256 * 1024,
            force_cdc: false,
        }
    }
}

impl ChunkingPolicy {
    /// Whether the sizes make sense.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        let within = |size: u32| (CHUNK_MIN_BYTES..=CHUNK_MAX_BYTES).contains(&(size as usize));
        if !within(self.grid_bytes) || !(self.grid_bytes as usize).is_multiple_of(PAGE_SIZE_BYTES) {
            return Err(format!("grid of {} bytes is not a multiple of 8192 up to 8 MiB", self.grid_bytes));
        }
        let sizes = [self.data_min, self.data_avg, self.data_max];
        if !sizes.into_iter().all(within) {
            return Err(format!("chunk sizes {sizes:?} are not all from 64 bytes to 8 MiB"));
        }
        if !sizes.is_sorted() {
            return Err(format!("chunk sizes {sizes:?} do not ascend"));
        }
        Ok(())
    }
}

/// The config document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The repository's identity.
    pub repository: RepositoryId,
    /// When it was made.
    pub created_at: Timestamp,
    /// The format version it was made with.
    pub format_version: u16,
    /// How data is cut.
    pub chunking: ChunkingPolicy,
    /// zstd level of new chunks.
    pub compression_level: i32,
    /// Size aimed at for packs in bytes.
    pub pack_size_bytes: u32,
}

impl Config {
    /// Reads the document.
    ///
    /// # Errors
    /// Not this document, made by a newer version, or parameters beyond the limits.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        let config: Self = from_json(object, json)?;
        if config.format_version > FORMAT_VERSION {
            let problem =
                FormatProblem::NewerVersion { found: config.format_version, supported: FORMAT_VERSION };
            return Err(FormatError::new(object, 0, problem));
        }
        checked(object, config, Self::check)
    }

    /// Whether the parameters make sense; called before a config is written and after it is read.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        if self.format_version == 0 {
            return Err("format version 0 does not exist".to_owned());
        }
        if !(1..=19).contains(&self.compression_level) {
            return Err(format!("compression level {} is not between 1 and 19", self.compression_level));
        }
        if !(PACK_SIZE_MIN_BYTES..=PACK_SIZE_BYTES).contains(&(self.pack_size_bytes as usize)) {
            return Err(format!("packs of {} bytes are not from 1 MiB to 32 MiB", self.pack_size_bytes));
        }
        self.chunking.check()
    }
}
