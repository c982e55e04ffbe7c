//! Where a repository is and what opens it.
//!
//! Contained by: every entry point that opens a repository. Invariant: a location's text form
//! never holds a secret; credentials travel in [`StoreOptions`], which redacts them.

use std::num::NonZeroU64;

use capy_codec::SlotSecret;
use capy_objects::{CacheOptions, StoreOptions};
use capy_types::Secret;

/// A place in an object store: a URL and how to reach it.
///
/// A path or `file:///path` is a directory of this machine; `s3://bucket/prefix` an S3 bucket or a
/// compatible store; `memory://` lasts as long as its handles, `memory://name` is shared in the
/// process, both for tests and examples; `gs://` and `az://` need the crate's features of the same
/// names.
#[derive(Debug, Clone)]
pub struct Location {
    pub(crate) url: String,
    pub(crate) store: StoreOptions,
    pub(crate) rates: StoreRates,
    pub(crate) cache: Option<CacheOptions>,
}

/// How fast bytes may go to a store and come from it, in bytes a second; as fast as they can when
/// `None`. All operations of one open repository share them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreRates {
    /// Bytes read from the store.
    pub read: Option<NonZeroU64>,
    /// Bytes written to the store. A pack goes as a whole: it waits for its turn before it is sent, and
    /// the rate holds over several of them.
    pub upload: Option<NonZeroU64>,
}

impl Location {
    /// A place that needs no options.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), store: StoreOptions::default(), rates: StoreRates::default(), cache: None }
    }

    /// Says how to reach it: endpoint, region, credentials, time limits.
    #[must_use]
    pub fn with_options(mut self, options: StoreOptions) -> Self {
        self.store = options;
        self
    }

    /// Says how fast bytes may go there and come from there.
    #[must_use]
    pub const fn with_rates(mut self, rates: StoreRates) -> Self {
        self.rates = rates;
        self
    }

    /// Gives backups a local directory to keep what they read of the repository in: packs and index
    /// objects that are asked for again every day, as sealed as the store has them. It may be removed at
    /// any moment, be shared by several repositories and processes, and be damaged: what it holds is
    /// checked when it is read, and fetched again where it is wrong. A directory that takes nothing makes
    /// a backup slower, not fail: the report says so ([`BackupReport::cache`](crate::BackupReport::cache)).
    ///
    /// Which objects there are is learnt from the store all the same, and whatever proves what the store
    /// has, verification and restores, asks the store alone.
    #[must_use]
    pub fn with_cache(mut self, cache: CacheOptions) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Options from variables by their usual names (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
    /// `AWS_ENDPOINT_URL`, …), as `var` answers for them: the library never reads the environment.
    ///
    /// # Errors
    /// `Invalid` when a variable holds something it cannot.
    pub fn options_from_vars(var: impl Fn(&str) -> Option<String>) -> crate::Result<StoreOptions> {
        Ok(StoreOptions::from_vars(var)?)
    }

    /// The URL as given.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// What opens a repository's master key.
#[derive(Debug, Clone)]
pub enum Key {
    /// A passphrase, stretched with Argon2id.
    Passphrase(Secret),
    /// The content of a key file: at least 32 bytes that nobody can guess.
    File(Secret),
}

/// Fewest bytes of a key file: it is not stretched, so it must be as strong as the key it wraps.
pub(crate) const KEY_FILE_MIN_BYTES: usize = 32;

impl Key {
    /// A passphrase.
    pub fn passphrase(text: impl Into<String>) -> Self {
        Self::Passphrase(Secret::from(text.into()))
    }

    pub(crate) const fn as_slot_secret(&self) -> SlotSecret<'_> {
        match self {
            Self::Passphrase(secret) => SlotSecret::Passphrase(secret),
            Self::File(secret) => SlotSecret::KeyFile(secret),
        }
    }

    /// Refuses keys that would protect nothing.
    pub(crate) fn check_strength(&self) -> crate::Result<()> {
        match self {
            Self::Passphrase(secret) if secret.is_empty() => {
                Err(crate::Error::invalid("the passphrase is empty"))
            }
            Self::File(secret) if secret.expose().len() < KEY_FILE_MIN_BYTES => {
                Err(crate::Error::invalid(format!("the key file is shorter than {KEY_FILE_MIN_BYTES} bytes"))
                    .with_hint("make one with: head -c 32 /dev/urandom > FILE"))
            }
            _ => Ok(()),
        }
    }
}
