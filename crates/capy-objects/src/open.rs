//! From a URL to a store.

mod cloud;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use crate::{LocalStore, MemoryStore, Store, StoreError, StoreErrorKind, StoreOp, StoreOptions, name};

/// Opens the store at `url`; with `create`, a directory that does not exist is made.
///
/// | form | what |
/// |---|---|
/// | a path, `file:///path` | a directory of this machine |
/// | `s3://bucket/prefix` | S3 or a compatible store (feature `s3`) |
/// | `gs://bucket/prefix` | Google Cloud Storage (feature `gs`) |
/// | `az://container/prefix` | Azure Blob Storage (feature `az`) |
/// | `memory://` | a new store in memory, gone with its last user |
/// | `memory://name` | the store of that name in this process |
///
/// Nothing is asked of a remote store yet: what is wrong with bucket or credentials shows at the
/// first request.
///
/// # Errors
/// `Invalid` for a URL or options that make no sense, or a form this build does not serve;
/// `NotFound` for an absent directory without `create`; `Denied`, `NoSpace`, `Unavailable`.
///
/// # Cancellation
/// Safe to drop; an empty directory may be left.
pub async fn open_store(
    url: &str,
    options: &StoreOptions,
    create: bool,
) -> Result<Arc<dyn Store>, StoreError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return open_directory(url, PathBuf::from(url), create).await;
    };
    match scheme {
        "file" => open_directory(url, file_path(url, rest)?, create).await,
        "memory" => Ok(memory(url, rest)?),
        "s3" => cloud::open_s3(&Place::parse(url, rest)?, options),
        "gs" => cloud::open_gs(&Place::parse(url, rest)?, options),
        "az" => cloud::open_az(&Place::parse(url, rest)?, options),
        _ => {
            Err(invalid(url, "no such kind of store: use a path, file://, s3://, gs://, az:// or memory://"))
        }
    }
}

async fn open_directory(url: &str, path: PathBuf, create: bool) -> Result<Arc<dyn Store>, StoreError> {
    if path.as_os_str().is_empty() {
        return Err(invalid(url, "the path is empty"));
    }
    Ok(Arc::new(LocalStore::open(path, create).await?))
}

/// The path of a file URL: no host, percent-encoding undone.
fn file_path(url: &str, rest: &str) -> Result<PathBuf, StoreError> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(invalid(url, "a file URL has three slashes and an absolute path: file:///path"));
    }
    let bytes = percent_decoded(path).ok_or_else(|| invalid(url, "a '%' without two hexadecimal digits"))?;
    String::from_utf8(bytes).map(PathBuf::from).map_err(|error| invalid(url, "not UTF-8").because(error))
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            out.push(byte);
            rest = after;
        }
    }
    Some(out)
}

/// The named stores in memory of this process. They live as long as it does.
static NAMED: LazyLock<Mutex<HashMap<String, Arc<MemoryStore>>>> = LazyLock::new(Mutex::default);

fn memory(url: &str, name: &str) -> Result<Arc<dyn Store>, StoreError> {
    if name.is_empty() {
        return Ok(Arc::new(MemoryStore::default()));
    }
    if !name::is_valid(name) {
        return Err(invalid(url, "not a name for a store in memory"));
    }
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(named.entry(name.to_owned()).or_insert_with(|| Arc::new(MemoryStore::new(url))).clone())
}

/// A bucket and what comes before every name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    url: String,
    bucket: String,
    /// Empty, or ends in `/`.
    base: String,
}

impl Place {
    fn parse(url: &str, rest: &str) -> Result<Self, StoreError> {
        if rest.contains(['?', '#', '@']) {
            return Err(invalid(url, "only bucket and prefix belong in the URL: settings are options"));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let bucket_fits = bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if bucket.is_empty() || !bucket_fits {
            return Err(invalid(url, "the bucket's name is missing or has a character no bucket may have"));
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return Ok(Self { url: url.to_owned(), bucket: bucket.to_owned(), base: String::new() });
        }
        name::check_name(StoreOp::Open, prefix, url)?;
        Ok(Self { url: url.to_owned(), bucket: bucket.to_owned(), base: format!("{prefix}/") })
    }
}

fn invalid(url: &str, what: &str) -> StoreError {
    StoreError::new(StoreOp::Open, "", url, StoreErrorKind::invalid(what))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn bucket_and_prefix_are_taken_apart_and_nothing_else_is_taken() {
        let parse = |rest: &str| Place::parse("u", rest).map(|place| (place.bucket, place.base));
        assert_eq!(parse("b").unwrap(), ("b".to_owned(), String::new()));
        assert_eq!(parse("b/").unwrap(), ("b".to_owned(), String::new()));
        assert_eq!(parse("b/p/q/").unwrap(), ("b".to_owned(), "p/q/".to_owned()));
        for bad in ["", "/p", "b/../c", "b//c", "key:secret@b/p", "b/p?region=x", "b/p q"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn named_memory_is_shared_and_unnamed_is_not() {
        let options = StoreOptions::default();
        for (url, shared) in [("memory://open-test", true), ("memory://", false)] {
            let one = open_store(url, &options, true).await.unwrap();
            one.put_new("x", Bytes::from_static(b"x")).await.unwrap();
            let two = open_store(url, &options, true).await.unwrap();
            assert_eq!(two.head("x").await.is_ok(), shared, "{url}");
        }
    }

    #[tokio::test]
    async fn a_file_url_names_a_directory_and_may_be_percent_encoded() {
        let scratch = tempfile::tempdir().unwrap();
        let url = format!("file://{}/a%20b", scratch.path().display());
        let store = open_store(&url, &StoreOptions::default(), true).await.unwrap();
        assert!(scratch.path().join("a b").is_dir());
        assert_eq!(store.url(), scratch.path().join("a b").display().to_string());
        for bad in ["file://relative", "file:///%zz", "file:///%4", "ftp://x", ""] {
            let error = open_store(bad, &StoreOptions::default(), true).await.unwrap_err();
            assert!(matches!(error.kind, StoreErrorKind::Invalid { .. }), "{bad}");
        }
    }
}
