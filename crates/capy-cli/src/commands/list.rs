//! `capy-store list`: the backups of a repository.

use capy_store::{BackupInfo, ClusterName};
use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::human;
use crate::output::table;
use crate::session::Session;

/// List backups, oldest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store list\n  \
    capy-store list --cluster main --json | jq -r '.backups[].backup_key'")]
pub(crate) struct ListArgs {
    /// Only this cluster's backups
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
}

#[derive(Serialize)]
struct Listing {
    backups: Vec<BackupInfo>,
}

pub(crate) async fn run(args: ListArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let backups = repository.list_backups(&session.ctx, args.cluster.as_ref()).await?;
    session.output.answer(&Listing { backups }, text)?;
    Ok(Exit::Success)
}

fn text(listing: &Listing) -> String {
    if listing.backups.is_empty() {
        return "no backups\n".to_owned();
    }
    let heading = ["BACKUP KEY", "CREATED", "SIZE", "STORED", "STATE", "VERIFIED", "PINNED", "LABEL"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(listing.backups.iter().map(row));
    table(&rows)
}

/// When it was begun, to the second.
pub(super) fn created(backup: &BackupInfo) -> String {
    backup.created_at.to_string().chars().take(19).collect::<String>() + "Z"
}

fn row(backup: &BackupInfo) -> Vec<String> {
    vec![
        backup.backup_key.to_string(),
        created(backup),
        human::bytes(backup.size_bytes),
        human::bytes(backup.stored_bytes),
        backup.state.as_str().to_owned(),
        backup.verification_state.as_str().to_owned(),
        if backup.pinned.is_some() { "yes" } else { "" }.to_owned(),
        backup.label.clone().unwrap_or_default(),
    ]
}
