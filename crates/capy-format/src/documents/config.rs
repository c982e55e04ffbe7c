//! The repository's identity and the parameters fixed at `init`.

use capy_types::{RepositoryId, Timestamp};
use serde::{Deserialize, Serialize};

use super::from_json;
use crate::FormatError;

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
            grid_bytes: 128 * 1024,
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
        if self.grid_bytes == 0 || !self.grid_bytes.is_multiple_of(8192) {
            return Err(format!("grid of {} bytes is not a multiple of 8192", self.grid_bytes));
        }
        if self.data_min > self.data_avg || self.data_avg > self.data_max {
            return Err(format!(
                "sizes {}, {}, {} do not ascend",
                self.data_min, self.data_avg, self.data_max
            ));
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
    /// Not this document.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        from_json(object, json)
    }
}
