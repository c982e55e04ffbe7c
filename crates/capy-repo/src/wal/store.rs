//! Storing one WAL file, and reading its facts.
//!
//! Invariant: [`Repository::put_wal`] answers only when the file is durable; what it stores was opened
//! again and compared.

use bytes::Bytes;
use capy_format::{HEADER_BYTES, ObjectKind, WAL_TRAILER_BYTES, WalFacts, WalTrailer, names, split_wal};
use capy_objects::StoreErrorKind;
use capy_types::{ClusterName, WalFile};

use super::ReadWal;
use crate::{RepoError, Repository, sealed};

/// Largest WAL object in bytes: a segment of 1 GiB that does not compress, and its facts.
pub const WAL_OBJECT_MAX_BYTES: u64 = (1 << 30) + (1 << 20);

/// Bytes read from the end of an object for its facts: those of nearly every segment fit.
const FACTS_READ_BYTES: u64 = 8 * 1024;

/// What became of a file that was to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredWal {
    /// It is stored now.
    New {
        /// Size of its object in bytes.
        stored_bytes: u64,
    },
    /// It was there already, with the same bytes, read back whole.
    Same,
    /// The name holds other bytes. Both are kept.
    Conflict {
        /// What was there first, and is served; `None` when it cannot be read.
        first: Option<Box<ReadWal>>,
        /// The name of the object that holds the new bytes.
        kept_as: String,
    },
}

impl Repository {
    /// Stores a file of the cluster's archive. `facts.content` and `facts.size` are filled in.
    ///
    /// # Errors
    /// Corrupt when what was sealed does not open again; store errors. After `Unavailable` the file
    /// may or may not be stored: storing it again is safe.
    ///
    /// # Cancellation
    /// Safe to drop; the file is either stored or not.
    pub async fn put_wal(
        &self,
        cluster: &ClusterName,
        mut facts: WalFacts,
        bytes: Bytes,
    ) -> Result<StoredWal, RepoError> {
        facts.content = self.keys().chunk_namer().name(&bytes);
        facts.size = bytes.len() as u64;
        facts.check().map_err(|problem| RepoError::Invalid { what: format!("WAL facts: {problem}") })?;
        let name = names::wal(cluster, &facts.file);
        let object = self.seal_wal(&name, &facts, &bytes)?;
        let stored_bytes = object.len() as u64;
        match self.store().put_new(&name, object).await {
            Ok(()) => Ok(StoredWal::New { stored_bytes }),
            Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {
                self.compare_wal(cluster, facts, bytes).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The name is taken: by the same bytes, or by others.
    async fn compare_wal(
        &self,
        cluster: &ClusterName,
        facts: WalFacts,
        bytes: Bytes,
    ) -> Result<StoredWal, RepoError> {
        let first = match self.get_wal(cluster, &facts.file).await {
            Ok(first) if first.facts.content == facts.content => return Ok(StoredWal::Same),
            Ok(first) => Some(Box::new(first)),
            Err(error) if error.kind() == capy_types::ErrorKind::Corrupt => None,
            Err(error) => return Err(error),
        };
        let kept_as = names::wal_conflict(cluster, &facts.file, &facts.content);
        let object = self.seal_wal(&kept_as, &facts, &bytes)?;
        match self.store().put_new(&kept_as, object).await {
            Err(error) if !matches!(error.kind, StoreErrorKind::AlreadyExists) => Err(error.into()),
            _ => Ok(StoredWal::Conflict { first, kept_as }),
        }
    }

    /// Reads the facts of a file whose object is `object_bytes` long.
    ///
    /// # Errors
    /// As [`get_wal`](Self::get_wal).
    pub async fn wal_facts(
        &self,
        cluster: &ClusterName,
        file: &WalFile,
        object_bytes: u64,
    ) -> Result<WalFacts, RepoError> {
        let name = names::wal(cluster, file);
        let mut from = object_bytes.saturating_sub(FACTS_READ_BYTES);
        let mut end = self.store().get_range(&name, from..object_bytes).await?;
        let announced = facts_begin(&name, &end, from)?;
        if announced < from {
            from = announced;
            end = self.store().get_range(&name, from..object_bytes).await?;
        }
        let (_, sealed_facts) = split_wal(&name, &end, from)?;
        let facts = self.open_facts(&name, sealed_facts)?;
        if facts.file != *file {
            return Err(RepoError::Unauthentic { object: name });
        }
        Ok(facts)
    }

    /// Removes files of the archive, the oldest first, so that what is left has no new gap however
    /// far it comes. Whether they may go is the caller's to know.
    ///
    /// # Errors
    /// Store errors.
    ///
    /// # Cancellation
    /// Safe to drop; the oldest are gone then.
    pub async fn remove_wal(&self, cluster: &ClusterName, files: &[WalFile]) -> Result<(), RepoError> {
        let mut files = files.to_vec();
        files.sort();
        self.forget_gathered(cluster, &files).await?;
        for file in &files {
            self.store().delete(&names::wal(cluster, file)).await?;
        }
        Ok(())
    }

    pub(super) fn open_facts(&self, name: &str, object: &[u8]) -> Result<WalFacts, RepoError> {
        let (_, json) = sealed::open(self.keys(), self.id(), ObjectKind::WalFacts, name, object)?;
        Ok(WalFacts::from_json(name, &json)?)
    }
}

/// Where the facts begin of an object whose last bytes, from `from` on, are `end`.
fn facts_begin(name: &str, end: &[u8], from: u64) -> Result<u64, RepoError> {
    let truncated = || RepoError::Inconsistent {
        object: name.to_owned(),
        problem: format!("truncated: {} bytes are no WAL object", from + end.len() as u64),
    };
    let (front, trailer) = end.split_last_chunk::<WAL_TRAILER_BYTES>().ok_or_else(truncated)?;
    let at = from + front.len() as u64;
    let trailer = WalTrailer::decode(name, trailer, at)?;
    at.checked_sub(u64::from(trailer.facts_len))
        .filter(|begin| *begin >= HEADER_BYTES as u64)
        .ok_or_else(truncated)
}
