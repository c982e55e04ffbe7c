//! `capy-store key`: the ways to open a repository.

use std::path::PathBuf;

use capy_store::{KeySlotInfo, SlotId};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::exit::Exit;
use crate::output::table;
use crate::secrets;
use crate::session::Session;

/// Add, list and remove passphrases and key files
///
/// Every slot opens the same master key: adding or removing one rewrites no data. To replace a
/// passphrase, add the new one, then remove the old one's slot.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store key list\n  \
    capy-store key add --label ops --new-passphrase-file /run/secrets/new\n  \
    capy-store key remove 0102030405060708")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Add a way to open the repository (CAPY_NEW_PASSPHRASE, a file, or a prompt)
    Add {
        /// Read the new passphrase from the first line of this file
        #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
        new_passphrase_file: Option<PathBuf>,
        /// Add this key file, of at least 32 random bytes
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
        /// A name for the slot
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
    /// List the slots; no secret is shown
    List,
    /// Remove a slot; the last one is refused
    Remove {
        /// The slot's id, as `key list` shows it
        slot: SlotId,
    },
}

pub(crate) async fn run(args: KeyArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    match args.command {
        KeyCommand::Add { new_passphrase_file, new_key_file, label } => {
            let key = secrets::added_key(new_passphrase_file.as_deref(), new_key_file.as_deref())?;
            let slot = repository.add_key(&session.ctx, &key, &label).await?;
            session.output.account(&json!({ "key": slot }), |_| format!("added key slot {}\n", slot.id))?;
        }
        KeyCommand::List => {
            let slots = repository.list_keys(&session.ctx).await?;
            session.output.answer(&json!({ "keys": slots }), |_| text(&slots))?;
        }
        KeyCommand::Remove { slot } => {
            repository.remove_key(&session.ctx, slot).await?;
            session.output.account(&json!({ "removed": slot }), |_| format!("removed key slot {slot}\n"))?;
        }
    }
    Ok(Exit::Success)
}

fn text(slots: &[KeySlotInfo]) -> String {
    let mut rows = vec![["SLOT", "KIND", "CREATED", "LABEL"].map(str::to_owned).to_vec()];
    rows.extend(slots.iter().map(|slot| {
        vec![
            slot.id.to_string(),
            slot.kind.as_str().to_owned(),
            slot.created_at.to_string(),
            slot.label.clone(),
        ]
    }));
    table(&rows)
}
