//! Key slots: the ways to open a repository.
//!
//! Every slot wraps the same master key, so that adding or removing one rewrites no data.
//! Invariant: no secret is ever returned; the last slot cannot be removed.

use capy_codec::KdfParams;
use capy_format::{KeySlot, KeySlotKind};
use capy_types::{Ctx, Problem, SlotId, Timestamp};
use serde::Serialize;
use tracing::instrument;

use crate::repository::cancellable;
use crate::{Key, Repository, Result};

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeyKind {
    /// A passphrase.
    Passphrase,
    /// A key file.
    KeyFile,
}

impl KeyKind {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key_file",
        }
    }
}

/// One key slot, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeySlotInfo {
    /// Its name.
    pub id: SlotId,
    /// What opens it.
    pub kind: KeyKind,
    /// What its maker called it.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl From<&KeySlot> for KeySlotInfo {
    fn from(slot: &KeySlot) -> Self {
        Self {
            id: slot.id,
            kind: match slot.kind {
                KeySlotKind::Passphrase => KeyKind::Passphrase,
                KeySlotKind::KeyFile => KeyKind::KeyFile,
            },
            label: slot.label.clone(),
            created_at: slot.created_at,
        }
    }
}

/// The cost of opening a passphrase slot.
pub(crate) fn kdf(memory_kib: Option<u32>) -> KdfParams {
    let default = KdfParams::default();
    match memory_kib {
        None => default,
        Some(memory_kib) => KdfParams { memory_kib, passes: 1, ..default },
    }
}

impl Repository {
    /// Adds another way to open the repository.
    ///
    /// # Errors
    /// `Invalid` for an empty passphrase or a short key file; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop: the slot is there or not.
    ///
    /// # Example
    /// ```
    /// # use capy_store::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
    /// # let ctx = Ctx::default();
    /// # let repository = Repository::init(&ctx, &Location::new("memory://"), &[Key::passphrase("x")], InitOptions::default()).await?;
    /// let slot = repository.add_key(&ctx, &Key::passphrase("another one"), "ops").await?;
    /// assert_eq!(repository.list_keys(&ctx).await?.len(), 2);
    /// repository.remove_key(&ctx, slot.id).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all)]
    pub async fn add_key(&self, ctx: &Ctx, key: &Key, label: &str) -> Result<KeySlotInfo> {
        key.check_strength()?;
        let work = async { Ok(self.repo.add_key_slot(key.as_slot_secret(), kdf(None), label).await?) };
        Ok(KeySlotInfo::from(&cancellable(ctx, work).await?))
    }

    /// The key slots, oldest first. A slot that cannot be read is told to `ctx.progress`.
    ///
    /// # Errors
    /// `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    #[instrument(skip_all)]
    pub async fn list_keys(&self, ctx: &Ctx) -> Result<Vec<KeySlotInfo>> {
        let (slots, problems) = cancellable(ctx, async { Ok(self.repo.key_slots().await?) }).await?;
        for problem in problems {
            let message = problem.to_string();
            ctx.progress.problem(Problem { subject: "key slot".to_owned(), message });
        }
        let mut slots: Vec<_> = slots.iter().map(KeySlotInfo::from).collect();
        slots.sort_by_key(|slot| (slot.created_at, slot.id));
        Ok(slots)
    }

    /// Removes a way to open the repository.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for the last slot; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop: the slot is there or not.
    #[instrument(skip_all, fields(%slot))]
    pub async fn remove_key(&self, ctx: &Ctx, slot: SlotId) -> Result<()> {
        cancellable(ctx, async { Ok(self.repo.remove_key_slot(slot).await?) }).await
    }
}
