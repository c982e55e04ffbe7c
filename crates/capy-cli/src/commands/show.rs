//! `capy-store show`: everything a backup's record holds.

use capy_store::{BackupDetails, BackupSelector, PinInfo, PostgresInfo};
use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::human;
use crate::output::fields;
use crate::session::Session;

/// Show one backup in full
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store show main/latest\n  \
    capy-store show main/20261121T065452Z-3fa2c1 --json")]
pub(crate) struct ShowArgs {
    /// The backup: CLUSTER/ID, or CLUSTER/latest
    #[arg(value_name = "BACKUP")]
    backup: BackupSelector,
}

pub(crate) async fn run(args: ShowArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let details = repository.get_backup(&session.ctx, &args.backup).await?;
    session.output.answer(&json!({ "backup": details }), |_| text(&details))?;
    Ok(Exit::Success)
}

fn text(details: &BackupDetails) -> String {
    let (info, stats) = (&details.info, &details.stats);
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut text = fields(&[
        ("backup key", info.backup_key.to_string()),
        ("label", or_dash(info.label.clone())),
        ("database", or_dash(info.database.clone())),
        ("kind", info.kind.as_str().to_owned()),
        ("built on", details.incremental_from.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
        ("created", info.created_at.to_string()),
        ("finished", info.finished_at.to_string()),
        ("state", info.state.as_str().to_owned()),
        ("verification", verification(details)),
        ("pinned", or_dash(info.pinned.as_ref().map(pin))),
        ("files", format!("{} of {} entries", stats.files, stats.entries)),
        ("size", human::bytes(stats.size_bytes)),
        (
            "new",
            format!("{} in {} of {} chunks", human::bytes(stats.new_bytes), stats.new_chunks, stats.chunks),
        ),
        ("stored", human::bytes(stats.stored_bytes)),
        ("taken by", details.tool_version.clone()),
    ]);
    if let Some(postgres) = &details.postgres {
        text.push('\n');
        text.push_str(&postgres_text(postgres));
    }
    if details.problems_total > 0 {
        text.push_str(&format!("\n{} problems:\n", details.problems_total));
        for problem in &details.problems {
            text.push_str(&format!("  {problem}\n"));
        }
    }
    text
}

fn verification(details: &BackupDetails) -> String {
    let info = &details.info;
    let mut text = info.verification_state.as_str().to_owned();
    if let (Some(level), Some(at)) = (&info.verification_level, info.verified_at) {
        text.push_str(&format!(" ({level}, {at})"));
    }
    if let Some(error) = &info.verification_error {
        text.push_str(&format!(": {error}"));
    }
    text
}

/// The reason, who gave it and when.
fn pin(pin: &PinInfo) -> String {
    let by = pin.by.as_ref().map(|by| format!("by {by}, ")).unwrap_or_default();
    format!("{} ({by}{})", pin.reason, pin.at)
}

fn postgres_text(postgres: &PostgresInfo) -> String {
    let stop = postgres.stop_lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut text = fields(&[
        ("PostgreSQL", postgres.version.clone()),
        ("system id", postgres.system_id.to_string()),
        ("timeline", postgres.timeline.to_string()),
        ("start", postgres.start_lsn.to_string()),
        ("stop", stop),
        ("WAL inside", yes_no(postgres.wal_included)),
        ("from standby", yes_no(postgres.from_standby)),
        ("checksums", postgres.data_checksums.map_or_else(|| "unknown".to_owned(), yes_no)),
        ("WAL segment", human::bytes(postgres.segment_size.bytes())),
    ]);
    if let Some(manifest) = &postgres.backup_manifest {
        text.push_str(&format!(
            "manifest      {}: {} of {} files checked, {} do not agree\n",
            manifest.algorithm, manifest.checked, manifest.files, manifest.mismatches
        ));
    }
    for tablespace in &postgres.tablespaces {
        text.push_str(&format!(
            "tablespace    {} at {} ({})\n",
            tablespace.oid,
            tablespace.location,
            tablespace.size_bytes.map_or_else(|| "size unknown".to_owned(), human::bytes)
        ));
    }
    text
}
