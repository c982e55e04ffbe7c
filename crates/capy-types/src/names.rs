//! Names people choose or read: clusters, backups, and ways to point at one.

use std::fmt;
use std::str::FromStr;

use crate::limits::CLUSTER_NAME_MAX_BYTES;
use crate::{Entropy, Timestamp};

/// A name that is not allowed, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: {reason}: {text:?}")]
pub struct NameError {
    /// Which name.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
    /// What was given.
    pub text: String,
}

/// The only characters that every object store, file system and shell takes as they are.
fn check_component(what: &'static str, text: &str) -> Result<(), NameError> {
    let fail = |reason| Err(NameError { what, reason, text: text.to_owned() });
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > CLUSTER_NAME_MAX_BYTES {
        return fail("it is longer than 63 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return fail("only letters, digits, '.', '_' and '-' are allowed");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return fail("it must start with a letter or a digit");
    }
    Ok(())
}

macro_rules! string_serde {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use string_serde;

/// The name of one PostgreSQL cluster's backups and WAL inside a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_component("cluster name", text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_serde!(ClusterName);

/// The name of one backup inside its cluster: its start in UTC and 24 random bits, so that names
/// sort by time and two hosts do not collide (`20261121T065452Z-3fa2c1`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

impl BackupId {
    /// A new id for a backup that starts at `now`.
    #[must_use]
    pub fn generate(now: Timestamp, entropy: &dyn Entropy) -> Self {
        let mut tail = [0; 3];
        entropy.fill(&mut tail);
        Self(format!("{}-{}", now.compact(), hex::encode(tail)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_component("backup id", text)?;
        if text == BackupSelector::LATEST {
            return Err(NameError {
                what: "backup id",
                reason: "the word is reserved for the newest backup",
                text: text.to_owned(),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

string_serde!(BackupId);

/// What the API calls `backup_key`: `<cluster>/<backup id>`, unique in a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupKey {
    /// The cluster.
    pub cluster: ClusterName,
    /// The backup inside the cluster.
    pub id: BackupId,
}

impl FromStr for BackupKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (cluster, id) = text.split_once('/').ok_or_else(|| NameError {
            what: "backup key",
            reason: "expected <cluster>/<backup id>",
            text: text.to_owned(),
        })?;
        Ok(Self { cluster: cluster.parse()?, id: id.parse()? })
    }
}

impl fmt::Display for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.id)
    }
}

string_serde!(BackupKey);

/// A way to point at one backup: its key, or the newest of a cluster (`main/latest`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupSelector {
    /// Exactly this one.
    Key(BackupKey),
    /// The newest complete backup of the cluster.
    Latest(ClusterName),
}

impl BackupSelector {
    /// The word that stands for the newest backup.
    pub const LATEST: &'static str = "latest";

    /// The cluster it points into.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        match self {
            Self::Key(key) => &key.cluster,
            Self::Latest(cluster) => cluster,
        }
    }
}

impl From<BackupKey> for BackupSelector {
    fn from(key: BackupKey) -> Self {
        Self::Key(key)
    }
}

impl FromStr for BackupSelector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((cluster, Self::LATEST)) => Ok(Self::Latest(cluster.parse()?)),
            _ => text.parse().map(Self::Key),
        }
    }
}

impl fmt::Display for BackupSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Latest(cluster) => write!(f, "{cluster}/{}", Self::LATEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededEntropy;

    #[test]
    fn hostile_cluster_names_are_refused_and_odd_legal_ones_pass() {
        for bad in ["", ".", "..", "a/b", "-x", "_x", "a b", "é", "x\0", &"x".repeat(64)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?} must be refused");
        }
        for good in ["main", "a.tmp", "x.json", "0", "A-b_c.d", "pack"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good:?} must pass");
        }
    }

    #[test]
    fn a_selector_is_a_key_or_the_latest() {
        assert_eq!("main/latest".parse(), Ok(BackupSelector::Latest("main".parse().expect("a name"))));
        let key: BackupKey = "main/20261121T065452Z-3fa2c1".parse().expect("a key");
        assert_eq!(key.to_string().parse(), Ok(BackupSelector::Key(key)));
        assert!("main".parse::<BackupSelector>().is_err());
        assert!("main/a/b".parse::<BackupSelector>().is_err());
    }

    #[test]
    fn generated_ids_sort_by_time_and_parse() {
        let entropy = SeededEntropy::new(7);
        let early = BackupId::generate(Timestamp::from_micros(0), &entropy);
        let late = BackupId::generate(Timestamp::from_micros(1_000_000), &entropy);
        assert!(early < late);
        assert_eq!(early.as_str().parse(), Ok(early));
    }
}
