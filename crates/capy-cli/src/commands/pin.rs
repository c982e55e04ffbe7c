//! `capy-store pin` and `unpin`: backups that nothing removes.

use capy_store::{BackupKey, BackupSelector};
use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// Pin a backup, so that neither expire nor delete removes it
///
/// A pin it has already is replaced.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capy-store pin main/20261121T065452Z-3fa2c1 --reason \"before the migration\" --by ops")]
pub(crate) struct PinArgs {
    /// The backup: CLUSTER/ID, or CLUSTER/latest for the one that is the newest now
    #[arg(value_name = "BACKUP")]
    backup: BackupSelector,

    /// Why it must stay: one line of at most 200 characters
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Who says so
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Take the pin off a backup
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capy-store unpin main/20261121T065452Z-3fa2c1")]
pub(crate) struct UnpinArgs {
    /// The backup: CLUSTER/ID; `latest` is refused, because it moves
    #[arg(value_name = "BACKUP")]
    backup: BackupSelector,
}

pub(crate) async fn run_pin(args: PinArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let key = match args.backup {
        BackupSelector::Key(key) => key,
        latest @ BackupSelector::Latest(_) => {
            repository.get_backup(&session.ctx, &latest).await?.info.backup_key
        }
    };
    let backup = repository.pin_backup(&session.ctx, &key, &args.reason, args.by.as_deref()).await?;
    session.output.account(&json!({ "backup": backup }), |_| format!("pinned {key}\n"))?;
    Ok(Exit::Success)
}

pub(crate) async fn run_unpin(args: UnpinArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let key = named(args.backup)?;
    let repository = session.open().await?;
    let backup = repository.unpin_backup(&session.ctx, &key).await?;
    session.output.account(&json!({ "backup": backup }), |_| format!("unpinned {key}\n"))?;
    Ok(Exit::Success)
}

/// The key, not a word that means another backup tomorrow.
fn named(selector: BackupSelector) -> anyhow::Result<BackupKey> {
    match selector {
        BackupSelector::Key(key) => Ok(key),
        latest @ BackupSelector::Latest(_) => Err(Failure::invalid(format!("{latest} is not a backup key"))
            .with_hint("name the backup itself, as `capy-store list` shows it")
            .into()),
    }
}
