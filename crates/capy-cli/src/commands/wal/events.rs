//! `capy-store wal events`: what one may want to return to just before.

use capy_store::{ArchivedEvent, ClusterName};
use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::output::table;
use crate::session::Session;

/// List what happened: drops, truncations, restore points, promotions, changed settings
///
/// To go back to just before one of them:
/// capy-store restore main/latest --to DIR --target-lsn LSN --exclusive
///
/// Relations are told by the numbers of their files (pg_class.relfilenode at the time): a TRUNCATE,
/// VACUUM FULL or REINDEX drops the old file, too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store wal events --cluster main\n  \
    capy-store wal events --cluster main --kind drop")]
pub(crate) struct EventsArgs {
    /// The archive
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// Only these: restore_point, drop, truncate, create_database, drop_database, promotion,
    /// settings, create_tablespace, drop_tablespace
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
}

pub(crate) async fn run(args: EventsArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let mut events = repository.wal_events(&session.ctx, &args.cluster).await?;
    events.retain(|event| args.kinds.is_empty() || args.kinds.iter().any(|kind| *kind == event.kind));
    session.finish_progress();
    session.output.answer(&json!({ "events": events }), |_| text(&events))?;
    Ok(Exit::Success)
}

fn text(events: &[ArchivedEvent]) -> String {
    if events.is_empty() {
        return "nothing of that kind is in the archive\n".to_owned();
    }
    let mut rows = vec![["TIMELINE", "LSN", "TIME", "KIND", "WHAT"].map(str::to_owned).to_vec()];
    rows.extend(events.iter().map(|event| {
        let time = event.time.map(|time| time.to_string()).unwrap_or_default();
        vec![
            event.timeline.to_string(),
            event.lsn.to_string(),
            time,
            event.kind.to_owned(),
            event.what.clone(),
        ]
    }));
    table(&rows)
}
