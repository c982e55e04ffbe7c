//! The root: what the repository holds, at one generation.
//!
//! Root objects form a chain of hashes; creating the next generation is the only act that makes
//! anything visible. What must hold of each, [`Root::check`] tells; what must hold of two that
//! follow each other, [`Root::check_follows`].

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use capy_types::{
    BackupId, BackupKey, IndexId, Lsn, Nonce, PackId, RootHash, SessionId, SystemId, TimelineId, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::backup::check_positions;
use super::{BackupKind, BackupState, check_label, checked, from_json};
use crate::FormatError;

/// A writer's registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEntry {
    /// The session.
    pub id: SessionId,
    /// The generation it registered upon.
    pub base_generation: u64,
    /// When it began.
    pub started_at: Timestamp,
}

/// A pack that may be gone at any moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The pack.
    pub pack: PackId,
    /// The generation that buried it.
    pub generation: u64,
}

/// How far a backup has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// Never.
    #[default]
    Pending,
    /// At this moment, or a verification was interrupted.
    Running,
    /// It was found whole.
    Verified,
    /// Something was found wrong.
    Failed,
}

/// The last verification of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verification {
    /// Its outcome.
    pub state: VerificationState,
    /// How thorough it was.
    #[serde(default)]
    pub level: Option<String>,
    /// When it ended.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// What was wrong, in one line.
    #[serde(default)]
    pub error: Option<String>,
}

/// Longest reason of a pin, and longest name in it, in characters.
const PIN_TEXT_MAX_CHARS: usize = 200;

/// Why a backup must not go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The reason, one line for people.
    pub reason: String,
    /// Who set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl Pin {
    /// What must hold of every pin, checked before it is committed and after it is read.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        check_pin_text("reason of the pin", &self.reason)?;
        self.by.as_deref().map_or(Ok(()), |by| check_pin_text("name of who pins", by))
    }
}

/// Pins are shown in tables: one short line without control characters.
fn check_pin_text(what: &str, text: &str) -> Result<(), String> {
    let chars = text.chars().count();
    if text.trim().is_empty() {
        return Err(format!("the {what} is empty"));
    }
    if chars > PIN_TEXT_MAX_CHARS {
        return Err(format!("the {what} has {chars} characters, {PIN_TEXT_MAX_CHARS} at most"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("the {what} has a line break or another control character"));
    }
    Ok(())
}

/// One backup, as the root lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupEntry {
    /// Its key.
    pub key: BackupKey,
    /// A name for people.
    #[serde(default)]
    pub label: Option<String>,
    /// What it is of.
    pub kind: BackupKind,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Bytes it added to the repository.
    pub stored_bytes: u64,
    /// Whether it passed its own checks.
    pub state: BackupState,
    /// Its last verification.
    #[serde(default)]
    pub verification: Verification,
    /// The database or stream it is of.
    #[serde(default)]
    pub database: Option<String>,
    /// PostgreSQL's system identifier.
    #[serde(default)]
    pub system_id: Option<SystemId>,
    /// The timeline it was taken on.
    #[serde(default)]
    pub timeline: Option<TimelineId>,
    /// Where its WAL begins.
    #[serde(default)]
    pub start_lsn: Option<Lsn>,
    /// Where it is consistent.
    #[serde(default)]
    pub stop_lsn: Option<Lsn>,
    /// The nonce of its record: pins exactly that object.
    pub record_nonce: Nonce,
    /// Set while the backup must not be removed. Written only when set: a root without pins has
    /// the bytes it always had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Pin>,
}

/// The root document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Counts commits.
    pub generation: u64,
    /// Hash of the root before this one.
    pub previous: Option<RootHash>,
    /// When it was committed.
    pub created_at: Timestamp,
    /// Who committed it.
    pub nonce: Nonce,
    /// Writers at work.
    pub sessions: Vec<SessionEntry>,
    /// Index objects that backups rely on.
    pub indexes: Vec<IndexId>,
    /// The backups.
    pub backups: Vec<BackupEntry>,
    /// Packs nobody referred to when the collector looked.
    #[serde(default)]
    pub condemned: Vec<PackId>,
    /// Packs found damaged: not to be built upon.
    #[serde(default)]
    pub damaged: Vec<PackId>,
    /// Packs being deleted.
    #[serde(default)]
    pub tombstones: Vec<Tombstone>,
}

impl Root {
    /// Reads the document and checks its invariants.
    ///
    /// # Errors
    /// Not this document, or one that contradicts itself.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, FormatError> {
        checked(object, from_json(object, json)?, Self::check)
    }

    /// What must hold of every root, checked before it is committed and after it is read.
    ///
    /// # Errors
    /// One fact about what does not.
    pub fn check(&self) -> Result<(), String> {
        if (self.generation == 0) != self.previous.is_none() {
            return Err("only generation 0 has no predecessor".to_owned());
        }
        check_unique("backup", self.backups.iter().map(|entry| &entry.key))?;
        check_unique("index", &self.indexes)?;
        check_unique("session", self.sessions.iter().map(|session| session.id))?;
        check_unique("condemned pack", &self.condemned)?;
        check_unique("damaged pack", &self.damaged)?;
        check_unique("buried pack", self.tombstones.iter().map(|tombstone| tombstone.pack))?;
        self.backups.iter().try_for_each(BackupEntry::check)?;
        self.check_generations()?;
        let condemned: HashSet<_> = self.condemned.iter().collect();
        match self.tombstones.iter().find(|tombstone| condemned.contains(&tombstone.pack)) {
            Some(both) => Err(format!("pack {} is both condemned and buried", both.pack)),
            None => Ok(()),
        }
    }

    /// Nothing in a root comes from a later generation.
    fn check_generations(&self) -> Result<(), String> {
        if let Some(early) = self.tombstones.iter().find(|tombstone| tombstone.generation > self.generation) {
            return Err(format!("pack {} was buried in the future", early.pack));
        }
        match self.sessions.iter().find(|session| session.base_generation > self.generation) {
            Some(early) => Err(format!("session {} began in the future", early.id)),
            None => Ok(()),
        }
    }

    /// Whether this root can be committed after `previous`, whose stored bytes hash to `hash`.
    ///
    /// # Errors
    /// One fact about what breaks the chain.
    pub fn check_follows(&self, previous: &Self, hash: &RootHash) -> Result<(), String> {
        if Some(self.generation) != previous.generation.checked_add(1) {
            return Err(format!("generation {} after {}", self.generation, previous.generation));
        }
        if self.previous.as_ref() != Some(hash) {
            return Err(format!("generation {} does not name its predecessor's hash", self.generation));
        }
        if self.nonce == previous.nonce {
            return Err(format!("generation {} repeats its predecessor's nonce", self.generation));
        }
        Ok(())
    }
}

impl BackupEntry {
    /// What backups are ordered by: the later of two has the greater.
    #[must_use]
    pub const fn order(&self) -> (Timestamp, &BackupId) {
        (self.created_at, &self.key.id)
    }

    fn check(&self) -> Result<(), String> {
        let of_this = |problem| format!("backup {}: {problem}", self.key);
        self.label.as_deref().map_or(Ok(()), check_label).map_err(of_this)?;
        self.pinned.as_ref().map_or(Ok(()), Pin::check).map_err(of_this)?;
        check_positions(self.start_lsn, self.stop_lsn).map_err(of_this)
    }
}

fn check_unique<T: Hash + Eq + Display>(
    what: &str,
    items: impl IntoIterator<Item = T>,
) -> Result<(), String> {
    let mut seen = HashSet::new();
    for item in items {
        if seen.contains(&item) {
            return Err(format!("{what} {item} is listed twice"));
        }
        seen.insert(item);
    }
    Ok(())
}
