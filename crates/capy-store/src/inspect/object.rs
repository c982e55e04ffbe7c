//! The layers of small objects: header, seal, compression, document.

use capy_codec::{Compression, Decompressor, RepositoryKeys};
use capy_format::{
    HEADER_BYTES, Header, IndexObject, ObjectKind, Root, WalFacts, names, object_aad, split_object,
};
use serde_json::{Value, json};

use super::Inspection;

/// What a repository's objects are called, by kind.
pub(super) const PREFIXES: &[(&str, &str)] = &[
    ("keys", names::KEYS_PREFIX),
    ("roots", names::ROOT_PREFIX),
    ("indexes", names::INDEX_PREFIX),
    ("packs", names::PACKS_PREFIX),
    ("backups", names::BACKUPS_PREFIX),
    ("wal", names::WAL_PREFIX),
];

/// Notes the header; returns the stored body when the object is what it should be.
pub(super) fn header_and_body<'a>(
    found: &mut Inspection,
    bytes: &'a [u8],
    expected: ObjectKind,
) -> Option<&'a [u8]> {
    let name = found.object.clone();
    match Header::decode(&name, bytes.get(..HEADER_BYTES).unwrap_or(bytes)) {
        Ok(header) => found.header = header_fields(&header),
        Err(error) => {
            found.problem(error);
            return None;
        }
    }
    match split_object(&name, bytes, expected) {
        Ok((_, body)) => Some(body),
        Err(error) => {
            found.problem(error);
            None
        }
    }
}

pub(super) fn header_fields(header: &Header) -> Value {
    json!({
        "kind": format!("{:?}", header.kind).to_lowercase(),
        "suite": header.suite,
        "compression": header.compression,
        "repository": header.repository,
        "nonce": header.nonce,
        "plain_len": header.plain_len,
        "stored_len": header.stored_len,
    })
}

/// A sealed document, opened layer by layer.
pub(super) fn sealed(keys: &RepositoryKeys, name: &str, bytes: &[u8], kind: ObjectKind) -> Inspection {
    let mut found = Inspection::of(name.to_owned(), bytes.len() as u64);
    let Some(body) = header_and_body(&mut found, bytes, kind) else { return found };
    let Ok(header) = Header::decode(name, bytes.get(..HEADER_BYTES).unwrap_or(bytes)) else { return found };
    match open(keys, name, &header, body) {
        Err(problem) => found.problem(problem),
        Ok(plain) => match document(name, kind, &plain) {
            Ok(content) => found.content = content,
            Err(problem) => found.problem(problem),
        },
    }
    found
}

/// Opens the body of a sealed object.
pub(super) fn open(
    keys: &RepositoryKeys,
    name: &str,
    header: &Header,
    body: &[u8],
) -> Result<Vec<u8>, String> {
    let mut body = body.to_vec();
    let aad = object_aad(&header.encode(), name);
    let length = keys
        .object_key(header.kind as u8, &header.nonce)
        .open(0, &aad, &mut body)
        .map_err(|_| "fails authentication: altered, moved, or not of this repository".to_owned())?;
    body.truncate(length);
    let compression = Compression::try_from(header.compression).map_err(|error| error.to_string())?;
    let mut plain = Vec::new();
    Decompressor::new()
        .decompress(compression, &body, header.plain_len as usize, &mut plain)
        .map_err(|error| format!("opens, but does not decompress: {error}"))?;
    Ok(plain)
}

fn document(name: &str, kind: ObjectKind, plain: &[u8]) -> Result<Value, String> {
    match kind {
        ObjectKind::Index => {
            let index = IndexObject::decode(name, plain).map_err(|error| error.to_string())?;
            let packs: Vec<Value> = index
                .packs
                .iter()
                .map(|pack| {
                    let frames: Vec<Value> = pack.frames.iter().map(super::pack::frame_fields).collect();
                    json!({ "id": pack.id, "size_bytes": pack.size, "frames": frames })
                })
                .collect();
            Ok(json!({ "packs": packs }))
        }
        ObjectKind::Root => {
            let root = Root::from_json(name, plain).map_err(|error| error.to_string())?;
            serde_json::to_value(&root).map_err(|error| error.to_string())
        }
        ObjectKind::WalFacts => {
            let facts = WalFacts::from_json_lines(name, plain).map_err(|error| error.to_string())?;
            serde_json::to_value(&facts).map_err(|error| error.to_string())
        }
        _ => serde_json::from_slice(plain).map_err(|error| error.to_string()),
    }
}
