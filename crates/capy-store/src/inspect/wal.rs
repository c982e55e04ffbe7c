//! An object of a WAL archive: the file in it, the facts about it, and the trailer between.
//!
//! Each part is found in two ways, so that damage to one does not hide the others: the file's length
//! stands in its own header, and the facts' length in the trailer. Facts that cannot be read are
//! read from the file again.

use std::str::FromStr;

use capy_codec::RepositoryKeys;
use capy_format::{HEADER_BYTES, Header, ObjectKind, WAL_TRAILER_BYTES, WalFacts, WalTrailer, names};
use capy_repo::WAL_OBJECT_MAX_BYTES;
use capy_types::{ClusterName, Timestamp, WalFile, WalFileKind};
use serde_json::{Value, json};

use super::{Inspection, object};
use crate::wal::facts::facts_of;
use crate::{Error, Repository, Result};

/// An object of a WAL archive.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalObject {
    /// A file as it is archived.
    File {
        /// The archive.
        cluster: ClusterName,
        /// The file.
        file: WalFile,
    },
    /// Any object of an archive by its name in the store: a file, another content of a file, gathered
    /// facts, or whose WAL an archive takes.
    Named(String),
}

/// What the names of an archive's objects begin with, and what they are.
const PREFIXES: [(&str, ObjectKind); 4] = [
    (names::WAL_PREFIX, ObjectKind::Wal),
    (names::WAL_CONFLICTS_PREFIX, ObjectKind::Wal),
    (names::WAL_FACTS_PREFIX, ObjectKind::WalFacts),
    (names::ARCHIVES_PREFIX, ObjectKind::Archive),
];

impl FromStr for WalObject {
    type Err = Error;

    /// Reads `CLUSTER/FILE`, or the name of an object.
    fn from_str(text: &str) -> Result<Self> {
        if kind_of(text).is_some() {
            return Ok(Self::Named(text.to_owned()));
        }
        let parsed = || {
            let (cluster, file) = text.split_once('/')?;
            Some(Self::File { cluster: cluster.parse().ok()?, file: file.parse().ok()? })
        };
        parsed().ok_or_else(|| {
            Error::invalid(format!("neither CLUSTER/FILE nor the name of an archive's object: {text:?}"))
                .with_hint("main/000000010000000000000003, or wal/main/00000001/000000010000000000000003")
        })
    }
}

impl WalObject {
    fn name(&self) -> String {
        match self {
            Self::File { cluster, file } => names::wal(cluster, file),
            Self::Named(name) => name.clone(),
        }
    }
}

fn kind_of(name: &str) -> Option<ObjectKind> {
    PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, kind)| *kind)
}

/// The file an object's name stands for.
fn file_of(name: &str) -> Option<WalFile> {
    if let Some((_, file)) = names::parse_wal(name) {
        return Some(file);
    }
    let (_, file) = name.strip_prefix(names::WAL_CONFLICTS_PREFIX)?.split_once('/')?;
    file.rsplit_once('.')?.0.parse().ok()
}

pub(super) async fn inspect(repository: &Repository, what: &WalObject) -> Result<Inspection> {
    let name = what.name();
    let bytes = repository.repo.store().get(&name, WAL_OBJECT_MAX_BYTES).await?;
    let keys = repository.repo.keys();
    Ok(match kind_of(&name) {
        Some(ObjectKind::Wal) | None => take_apart(keys, name, &bytes, repository.clock().now()),
        Some(kind) => object::sealed(keys, &name, &bytes, kind),
    })
}

/// Takes a WAL object apart.
fn take_apart(keys: &RepositoryKeys, name: String, bytes: &[u8], now: Timestamp) -> Inspection {
    let mut found = Inspection::of(name, bytes.len() as u64);
    let header = header_of(&mut found, bytes, ObjectKind::Wal);
    let file_end = header.as_ref().map(|header| HEADER_BYTES as u64 + u64::from(header.stored_len));
    let trailer = trailer(&mut found, bytes);
    let facts_end = bytes.len().saturating_sub(WAL_TRAILER_BYTES);
    let announced = trailer.map(|trailer| (facts_end as u64).saturating_sub(trailer.facts_len.into()));
    if let (Some(end), Some(begin)) = (file_end, announced)
        && end != begin
    {
        found.problem(format!("the file ends at byte {end}, and the facts begin at byte {begin}"));
    }
    found.content = json!({
        "trailer": trailer.map(|trailer| json!({ "facts_len": trailer.facts_len, "facts_at": announced })),
    });

    let part = |from: u64, to: u64| {
        let range = usize::try_from(from).ok()?..usize::try_from(to.min(bytes.len() as u64)).ok()?;
        bytes.get(range)
    };
    let stored_facts = announced.or(file_end).and_then(|begin| part(begin, facts_end as u64));
    let facts = stored_facts.and_then(|stored| facts(keys, &mut found, stored));
    let stored_file = header.as_ref().zip(file_end.and_then(|end| part(HEADER_BYTES as u64, end)));
    let file = stored_file.and_then(|(header, body)| {
        if body.len() < header.stored_len as usize {
            found.problem(format!("the file is cut off: {} bytes of {}", body.len(), header.stored_len));
            return None;
        }
        object::open(keys, &found.object, header, body)
            .map_err(|problem| found.problem(format!("the file {problem}")))
            .ok()
    });
    if let Some(file) = file {
        describe(keys, &mut found, &file, facts.as_ref(), now);
    } else if let Some(facts) = facts {
        found.content["facts"] = json!(facts);
    }
    found
}

/// The header of the file, noted; of another kind is a problem, and none to go by.
fn header_of(found: &mut Inspection, bytes: &[u8], kind: ObjectKind) -> Option<Header> {
    match Header::decode(&found.object, bytes.get(..HEADER_BYTES).unwrap_or(bytes)) {
        Ok(header) => {
            found.header = object::header_fields(&header);
            if header.kind != kind {
                found.problem(format!("an object of kind {:?} where {kind:?} was expected", header.kind));
                return None;
            }
            Some(header)
        }
        Err(error) => {
            found.problem(error);
            None
        }
    }
}

fn trailer(found: &mut Inspection, bytes: &[u8]) -> Option<WalTrailer> {
    let Some((front, trailer)) = bytes.split_last_chunk::<WAL_TRAILER_BYTES>() else {
        found.problem(format!("truncated: {} bytes are no WAL object", bytes.len()));
        return None;
    };
    WalTrailer::decode(&found.object, trailer, front.len() as u64).map_err(|error| found.problem(error)).ok()
}

/// The stored facts, opened.
fn facts(keys: &RepositoryKeys, found: &mut Inspection, stored: &[u8]) -> Option<WalFacts> {
    let name = found.object.clone();
    let header = match Header::decode(&name, stored.get(..HEADER_BYTES).unwrap_or(stored)) {
        Ok(header) => header,
        Err(error) => {
            found.problem(format!("the facts: {error}"));
            return None;
        }
    };
    // Without a trailer more may follow than belongs to it.
    let body = stored.get(HEADER_BYTES..).unwrap_or_default();
    let body = body.get(..header.stored_len as usize).unwrap_or(body);
    let opened = object::open(keys, &name, &header, body);
    let read = opened.and_then(|json| WalFacts::from_json(&name, &json).map_err(|error| error.to_string()));
    read.map_err(|problem| found.problem(format!("the facts: {problem}"))).ok()
}

/// What is in the file; facts are read from it where the stored ones are lost.
fn describe(
    keys: &RepositoryKeys,
    found: &mut Inspection,
    file: &[u8],
    facts: Option<&WalFacts>,
    now: Timestamp,
) {
    let content = keys.chunk_namer().name(file);
    let named = file_of(&found.object);
    found.content["file"] = json!({
        "file": named,
        "kind": named.as_ref().map(|file| file.kind().as_str()),
        "size_bytes": file.len(),
        "content": content,
        "text": text(named.as_ref(), file),
    });
    if let Some(facts) = facts {
        found.content["facts"] = json!(facts);
        if facts.content != content || named.as_ref().is_some_and(|named| facts.file != *named) {
            found.problem("the facts are of another file");
        }
        return;
    }
    match named.map(|named| facts_of(&named, file, now)) {
        Some(Ok(read)) => {
            found.content["facts_from_file"] = json!(read.segment);
        }
        Some(Err(error)) => found.problem(error),
        None => {}
    }
}

/// Histories and backup labels are text.
fn text(named: Option<&WalFile>, file: &[u8]) -> Value {
    match named.map(WalFile::kind) {
        Some(WalFileKind::History | WalFileKind::BackupLabel) => json!(String::from_utf8_lossy(file)),
        _ => Value::Null,
    }
}
