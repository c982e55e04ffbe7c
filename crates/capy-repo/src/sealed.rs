//! Small sealed objects (root, index, backup record): compressed, sealed under a key of their own,
//! bound to their name.
//!
//! Contained by: everything that stores a document. Invariant: what [`open`] returns was written
//! by a holder of this repository's keys under exactly this name; an object moved to another
//! name, or from another repository, does not open.

use bytes::Bytes;
use capy_codec::{Compression, Compressor, Decompressor, RepositoryKeys, Suite, TAG_BYTES};
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
    seal_as(keys, repository, kind, name, nonce, plain, Form::of_version(VERSION_1))
}

/// Seals `plain` as the object `name`, compressed at `level`.
pub(crate) fn seal_at_level(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    nonce: Nonce,
    plain: &[u8],
    level: i32,
) -> Result<Bytes, RepoError> {
    seal_as(keys, repository, kind, name, nonce, plain, Form { level, version: VERSION_1 })
}

/// How a document is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// Level of zstd.
    pub(crate) level: i32,
    /// The version its header says.
    pub(crate) version: u16,
}

impl Form {
    /// That of documents which need a reader of `version`.
    pub(crate) const fn of_version(version: u16) -> Self {
        Self { level: DOCUMENT_LEVEL, version }
    }
}

/// Seals `plain` as the object `name`, in the given form.
pub(crate) fn seal_as(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    nonce: Nonce,
    plain: &[u8],
    form: Form,
) -> Result<Bytes, RepoError> {
    let mut object = vec![0; HEADER_BYTES];
    let compression = Compressor::new(form.level)?.compress(plain, &mut object)?;
    let too_long = |_| RepoError::Internal { what: format!("{name}: larger than 4 GiB") };
    let header = Header {
        version: form.version,
        kind,
        suite: Suite::ChaCha20Poly1305 as u8,
        compression: compression as u8,
        repository,
        nonce,
        plain_len: u32::try_from(plain.len()).map_err(too_long)?,
        stored_len: u32::try_from(object.len() - HEADER_BYTES + TAG_BYTES).map_err(too_long)?,
    }
    .encode();
    let aad = object_aad(&header, name);
    keys.object_key(kind as u8, &nonce).seal(0, &aad, &mut object, HEADER_BYTES);
    object[..HEADER_BYTES].copy_from_slice(&header);
    Ok(object.into())
}

/// Opens the object `name`: returns its header and plaintext.
pub(crate) fn open(
    keys: &RepositoryKeys,
    repository: RepositoryId,
    kind: ObjectKind,
    name: &str,
    object: &[u8],
) -> Result<(Header, Vec<u8>), RepoError> {
    let (header, body) = split_object(name, object, kind)?;
    let unauthentic = || RepoError::Unauthentic { object: name.to_owned() };
    if header.repository != repository {
        return Err(unauthentic());
    }
    let aad = object_aad(&header.encode(), name);
    let mut body = body.to_vec();
    let length =
        keys.object_key(kind as u8, &header.nonce).open(0, &aad, &mut body).map_err(|_| unauthentic())?;
    body.truncate(length);
    let damaged = |source| RepoError::Decompress { object: name.to_owned(), source };
    let compression = Compression::try_from(header.compression).map_err(|_| unauthentic())?;
    let mut plain = Vec::new();
    let plain_len = header.plain_len as usize;
    Decompressor::new().decompress(compression, &body, plain_len, &mut plain).map_err(damaged)?;
    Ok((header, plain))
}
