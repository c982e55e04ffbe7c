//! Pins: backups that stay until somebody says otherwise.

use capy_format::Pin;
use capy_types::{BackupKey, Ctx};
use tracing::instrument;

use crate::repository::cancellable;
use crate::{BackupInfo, Repository, Result, convert};

impl Repository {
    /// Pins a backup: neither `expire` nor `delete_backup` removes it until it is unpinned. A pin
    /// it has already is replaced. `reason` and `by` (who pins it) are one line of at most 200
    /// characters each.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the reason is empty, too long or more than a line; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop: the pin is set or not.
    ///
    /// # Example
    /// ```no_run
    /// # use capy_store::*;
    /// # async fn example(ctx: &Ctx, repository: &Repository, backup: &BackupInfo) -> Result<()> {
    /// repository.pin_backup(ctx, &backup.backup_key, "before the migration", Some("ops")).await?;
    /// repository.unpin_backup(ctx, &backup.backup_key).await?;
    /// # Ok(()) }
    /// ```
    #[instrument(skip_all, fields(backup = %key))]
    pub async fn pin_backup(
        &self,
        ctx: &Ctx,
        key: &BackupKey,
        reason: &str,
        by: Option<&str>,
    ) -> Result<BackupInfo> {
        let pin = Pin { reason: reason.to_owned(), by: by.map(str::to_owned), at: self.clock().now() };
        let entry = cancellable(ctx, async { Ok(self.repo.set_pin(key, Some(pin)).await?) }).await?;
        Ok(convert::info(&entry))
    }

    /// Takes the pin off a backup. One that is not pinned stays as it is.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    ///
    /// # Cancellation
    /// Safe to drop: the pin is off or not.
    #[instrument(skip_all, fields(backup = %key))]
    pub async fn unpin_backup(&self, ctx: &Ctx, key: &BackupKey) -> Result<BackupInfo> {
        let entry = cancellable(ctx, async { Ok(self.repo.set_pin(key, None).await?) }).await?;
        Ok(convert::info(&entry))
    }
}
