//! The content of a WAL object: into its stored form, and out of it in blocks.
//!
//! Invariants: what was sealed was opened again and compared with the file before anybody stores it, so
//! that a fault of memory or codec does not become a hole in the archive; what was read is answered for
//! only when all of it matched the content id in its sealed facts. Neither way holds the file a second
//! time: blocks are compared, hashed and written while they are in the processor's cache.

use bytes::Bytes;
use capy_codec::ChunkNamer;
use capy_format::{ObjectKind, WAL_TRAILER_BYTES, WalFacts, WalTrailer, names, split_wal};
use capy_types::{ClusterName, Nonce, WalFile};

use super::WAL_OBJECT_MAX_BYTES;
use crate::sealed::Opened;
use crate::{RepoError, Repository, sealed};

/// A WAL file, read and matched against its content id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadWal {
    /// What is known about it.
    pub facts: WalFacts,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A WAL file whose object was read and is authentic, its bytes still compressed.
#[derive(Debug)]
pub struct StoredContent {
    /// The object.
    name: String,
    facts: WalFacts,
    opened: Opened,
    namer: ChunkNamer,
}

impl Repository {
    /// The object `name` that holds a file.
    pub(super) fn seal_wal(&self, name: &str, facts: &WalFacts, bytes: &[u8]) -> Result<Bytes, RepoError> {
        let json = serde_json::to_vec(facts).expect("facts are plain data");
        let nonce = Nonce::random(&*self.env().entropy);
        let facts = sealed::seal(self.keys(), self.id(), ObjectKind::WalFacts, name, nonce, &json)?;
        let facts_len = u32::try_from(facts.len()).expect("facts are bounded");
        let mut object = self.seal_content(name, bytes)?;
        object.reserve_exact(facts.len() + WAL_TRAILER_BYTES);
        object.extend_from_slice(&facts);
        object.extend_from_slice(&WalTrailer { facts_len }.encode());
        // It was given room for a file that does not compress.
        object.shrink_to_fit();
        Ok(object.into())
    }

    /// Seals `bytes`, a file or a part of one, as the object `name`, and compares what that opens to.
    pub(super) fn seal_content(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, RepoError> {
        let nonce = Nonce::random(&*self.env().entropy);
        let level = self.config().compression_level;
        let object = sealed::seal_wal(self.keys(), self.id(), name, nonce, bytes, level)?;
        let opened = sealed::open_stored(self.keys(), self.id(), ObjectKind::Wal, name, &object)?;
        let (mut unpacking, mut rest) = (opened.unpacking(name)?, bytes);
        while let Some(block) = unpacking.next_block().map_err(|error| sealed::damaged(name, error))? {
            rest = rest.strip_prefix(block).ok_or_else(|| differs(name))?;
        }
        if rest.is_empty() { Ok(object) } else { Err(differs(name)) }
    }

    /// Reads a file of the archive.
    ///
    /// # Errors
    /// As [`open_wal`](Self::open_wal) and [`StoredContent::read`].
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn get_wal(&self, cluster: &ClusterName, file: &WalFile) -> Result<ReadWal, RepoError> {
        self.open_wal(cluster, file).await?.read()
    }

    /// Reads the object of a file of the archive.
    ///
    /// # Errors
    /// A missing object ([`RepoError::is_missing_object`]) is the store's word that the archive
    /// lacks the file; Corrupt when it does not authenticate; other store errors say nothing about
    /// whether it exists.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn open_wal(&self, cluster: &ClusterName, file: &WalFile) -> Result<StoredContent, RepoError> {
        let name = names::wal(cluster, file);
        let object = self.store().get(&name, WAL_OBJECT_MAX_BYTES).await?;
        let (sealed_file, sealed_facts) = split_wal(&name, &object, 0)?;
        let facts = self.open_facts(&name, sealed_facts)?;
        if facts.file != *file {
            return Err(RepoError::Unauthentic { object: name });
        }
        let opened = sealed::open_stored(self.keys(), self.id(), ObjectKind::Wal, &name, sealed_file)?;
        Ok(StoredContent { name, facts, opened, namer: self.keys().chunk_namer() })
    }
}

impl StoredContent {
    /// The length of the file in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.opened.header.plain_len)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Corrupt when they do not decompress, or do not match their content id.
    pub fn read(self) -> Result<ReadWal, RepoError> {
        let bytes = self.opened.plain(&self.name)?;
        if self.namer.name(&bytes) != self.facts.content {
            return Err(RepoError::Unauthentic { object: self.name });
        }
        Ok(ReadWal { facts: self.facts, bytes: bytes.into() })
    }

    /// Gives its bytes to `sink`, block by block. Only when this returns may they be used: what they
    /// hash to is known at their end.
    ///
    /// # Errors
    /// As [`read`](Self::read); what `sink` answers, as [`RepoError::Sink`].
    pub fn unpack(&self, mut sink: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), RepoError> {
        let (mut unpacking, mut naming) = (self.opened.unpacking(&self.name)?, self.namer.begin());
        while let Some(block) = unpacking.next_block().map_err(|error| sealed::damaged(&self.name, error))? {
            naming.add(block);
            sink(block).map_err(|source| RepoError::Sink { what: self.facts.file.to_string(), source })?;
        }
        if naming.finish() == self.facts.content {
            Ok(())
        } else {
            Err(RepoError::Unauthentic { object: self.name.clone() })
        }
    }
}

fn differs(name: &str) -> RepoError {
    RepoError::Inconsistent {
        object: name.to_owned(),
        problem: "what was sealed does not open to the same bytes: a fault of this machine's memory?"
            .to_owned(),
    }
}
