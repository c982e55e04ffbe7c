//! `capy-store delete`: backups taken out of the list.

use capy_store::BackupSelector;
use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// Delete backups
///
/// A deleted backup is gone from the list at once and cannot be restored. Its space is reclaimed
/// by the collector, which is a command of its own.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capy-store delete main/20261121T065452Z-3fa2c1")]
pub(crate) struct DeleteArgs {
    /// The backups, each as CLUSTER/ID; `latest` is refused, because it moves
    #[arg(value_name = "BACKUP", required = true)]
    backups: Vec<BackupSelector>,
}

pub(crate) async fn run(args: DeleteArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let mut keys = Vec::new();
    for selector in args.backups {
        let BackupSelector::Key(key) = selector else {
            return Err(Failure::invalid(format!("{selector} is not a backup key"))
                .with_hint("name the backup itself, as `capy-store list` shows it")
                .into());
        };
        keys.push(key);
    }
    let repository = session.open().await?;
    let mut deleted = Vec::new();
    for key in &keys {
        deleted.push(repository.delete_backup(&session.ctx, key).await?);
    }
    session.output.account(&json!({ "deleted": deleted }), |_| {
        keys.iter().map(|key| format!("deleted {key}\n")).collect()
    })?;
    Ok(Exit::Success)
}
