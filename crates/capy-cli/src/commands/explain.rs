//! `capy-store explain`: what a backup cost, and which relations cost it.

use capy_store::{BackupSelector, Cost, Explanation};
use clap::Args;

use crate::exit::Exit;
use crate::human;
use crate::session::Session;

/// Show which relations and files cost the room that a backup takes
///
/// Compares a backup with the one before it in its cluster, and adds up what its new chunks take in
/// the repository. Segments and forks count for their relation; `pg_relation_filepath` tells its name.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store explain main/latest\n  \
    capy-store explain main/latest --top 50 --json")]
pub(crate) struct ExplainArgs {
    /// The backup, as CLUSTER/ID or CLUSTER/latest
    backup: BackupSelector,

    /// How many relations and files to name
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
}

pub(crate) async fn run(args: ExplainArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let explanation = repository.explain(&session.ctx, &args.backup, args.top).await?;
    session.output.answer(&explanation, text)?;
    Ok(Exit::Success)
}

fn text(explanation: &Explanation) -> String {
    let mut text = match &explanation.previous {
        Some(previous) => format!("{} beside {previous}:\n", explanation.backup_key),
        None => format!("{}, the first of its cluster:\n", explanation.backup_key),
    };
    text.push_str(&format!("{:>10} {:>10} {:>8} {:>8}\n", "stored", "changed", "chunks", "deltas"));
    let mut line = |cost: &Cost, name: &str| {
        let (stored, new) = (human::bytes(cost.stored_bytes), human::bytes(cost.new_bytes));
        text.push_str(&format!("{stored:>10} {new:>10} {:>8} {:>8}  {name}\n", cost.new_chunks, cost.deltas));
    };
    explanation.top.iter().for_each(|cost| line(cost, &cost.path));
    if explanation.rest.new_chunks > 0 {
        line(&explanation.rest, "everything else");
    }
    line(&explanation.total, "in all");
    text
}
