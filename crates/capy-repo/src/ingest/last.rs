//! The last packs of an ingest: what its threads leave half filled is joined into few packs.
//!
//! A day of changes is a few MiB; in a pack for each thread and one for the manifest it would cost
//! every later restore as many requests. Memory: what is joined is at most half of the budget's open
//! packs, and one pack is in the making.

use std::sync::{Arc, Mutex, PoisonError};

use capy_types::limits::MIB;

use super::worker::Shared;
use crate::RepoError;
use crate::pack::{PackBuilder, group, join};

/// Packs from this size on in bytes are left as they are: to seal them anew costs more than the
/// request that is saved.
const SMALL_BYTES: usize = 8 * MIB;

/// Packs that their threads have left, each shorter than [`small_bytes`](Self::small_bytes).
#[derive(Default)]
pub(super) struct LastPacks(Mutex<Vec<PackBuilder>>);

impl LastPacks {
    /// What is joined, where packs of `full_bytes` are made.
    pub(super) fn small_bytes(full_bytes: usize) -> usize {
        SMALL_BYTES.min(full_bytes / 2)
    }

    pub(super) fn leave(&self, pack: PackBuilder) {
        if !pack.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(pack);
        }
    }

    fn take(&self) -> Vec<PackBuilder> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Joins and stores them, once no thread works any more.
pub(super) async fn store(shared: &Arc<Shared>) -> Result<(), RepoError> {
    for packs in group(shared.last_packs.take(), shared.pack_bytes()) {
        let joining = shared.clone();
        let sealed =
            tokio::task::spawn_blocking(move || join(&packs, joining.new_pack())?.finish(&joining.keys))
                .await
                .map_err(|_| RepoError::Internal { what: "the thread that joins packs died".to_owned() })??;
        shared.uploads.submit(shared, sealed).await?;
    }
    Ok(())
}
