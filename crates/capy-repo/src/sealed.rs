//! Small sealed objects (root, index, backup record): compressed, sealed under a key of their own,
//! bound to their name.
//!
//! Contained by: everything that stores a document. Invariant: what [`open`] returns was written
//! by a holder of this repository's keys under exactly this name; an object moved to another
//! name, or from another repository, does not open.

use bytes::Bytes;
use capy_codec::{
    Compression, Compressor, DecompressError, Decompressor, RepositoryKeys, Suite, TAG_BYTES, Unpacking,
};
use capy_format::{HEADER_BYTES, Header, ObjectKind, VERSION_1, object_aad, split_object};
use capy_types::{Nonce, RepositoryId};

use crate::RepoError;

/// Documents compress well and are written once: a level above the chunks' pays.
const DOCUMENT_LEVEL: i32 = 6;

/// Seals `plain` as the object `name`.
pub(crate) fn seal(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    nonce: Nonce,
    plain: &[u8],
) -> Result<Bytes, RepoError> {
    seal_as(keys, repository, kind, name, nonce, plain, VERSION_1)
}

/// Seals `plain`, a file of an archive or a part of one, as the object `name`.
pub(crate) fn seal_wal(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    name: &str,
    nonce: Nonce,
    plain: &[u8],
    level: i32,
) -> Result<Vec<u8>, RepoError> {
    let mut object = vec![0; HEADER_BYTES];
    let compression = Compressor::for_wal(level)?.compress_long(plain, &mut object)?;
    let header = header(VERSION_1, ObjectKind::Wal, repository, nonce, compression);
    close(keys, name, header, plain.len(), object)
}

/// As [`seal`], for a document that needs a reader of `version`.
pub(crate) fn seal_as(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    nonce: Nonce,
    plain: &[u8],
    version: u16,
) -> Result<Bytes, RepoError> {
    let mut object = vec![0; HEADER_BYTES];
    let compression = Compressor::new(DOCUMENT_LEVEL)?.compress(plain, &mut object)?;
    let header = header(version, kind, repository, nonce, compression);
    Ok(close(keys, name, header, plain.len(), object)?.into())
}

/// A header without lengths.
fn header(
    version: u16,
    kind: ObjectKind,
    repository: RepositoryId,
    nonce: Nonce,
    compression: Compression,
) -> Header {
    let (suite, compression) = (Suite::ChaCha20Poly1305 as u8, compression as u8);
    Header { version, kind, suite, compression, repository, nonce, plain_len: 0, stored_len: 0 }
}

/// Puts the header before the stored bytes, which lie behind the room for it, and seals them.
fn close(
    keys: &RepositoryKeys,
    name: &str,
    mut header: Header,
    plain_len: usize,
    mut object: Vec<u8>,
) -> Result<Vec<u8>, RepoError> {
    let too_long = |_| RepoError::Internal { what: format!("{name}: larger than 4 GiB") };
    header.plain_len = u32::try_from(plain_len).map_err(too_long)?;
    header.stored_len = u32::try_from(object.len() - HEADER_BYTES + TAG_BYTES).map_err(too_long)?;
    let encoded = header.encode();
    let aad = object_aad(&encoded, name);
    keys.object_key(header.kind as u8, &header.nonce).seal(0, &aad, &mut object, HEADER_BYTES);
    object[..HEADER_BYTES].copy_from_slice(&encoded);
    Ok(object)
}

/// An object that is authentic, its content still compressed.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) header: Header,
    compression: Compression,
    stored: Vec<u8>,
}

impl Opened {
    /// The content of the object `name`, in blocks.
    pub(crate) fn unpacking(&self, name: &str) -> Result<Unpacking<'_>, RepoError> {
        let plain_len = self.header.plain_len as usize;
        Unpacking::new(self.compression, &self.stored, plain_len).map_err(|error| damaged(name, error))
    }

    /// The content of the object `name`.
    pub(crate) fn plain(&self, name: &str) -> Result<Vec<u8>, RepoError> {
        let mut plain = Vec::new();
        let plain_len = self.header.plain_len as usize;
        Decompressor::new()
            .decompress(self.compression, &self.stored, plain_len, &mut plain)
            .map_err(|error| damaged(name, error))?;
        Ok(plain)
    }
}

/// That what the object `name` holds does not decompress.
pub(crate) fn damaged(name: &str, source: DecompressError) -> RepoError {
    RepoError::Decompress { object: name.to_owned(), source }
}

/// Opens the object `name`: returns its header and plaintext.
pub(crate) fn open(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    object: &[u8],
) -> Result<(Header, Vec<u8>), RepoError> {
    let opened = open_stored(keys, repository, kind, name, object)?;
    let plain = opened.plain(name)?;
    Ok((opened.header, plain))
}

/// Opens the object `name`, and leaves its content compressed.
pub(crate) fn open_stored(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    object: &[u8],
) -> Result<Opened, RepoError> {
    let (header, body) = split_object(name, object, kind)?;
    let unauthentic = || RepoError::Unauthentic { object: name.to_owned() };
    if header.repository != repository {
        return Err(unauthentic());
    }
    let aad = object_aad(&header.encode(), name);
    let mut stored = body.to_vec();
    let length =
        keys.object_key(kind as u8, &header.nonce).open(0, &aad, &mut stored).map_err(|_| unauthentic())?;
    stored.truncate(length);
    let compression = Compression::try_from(header.compression).map_err(|_| unauthentic())?;
    Ok(Opened { header, compression, stored })
}
