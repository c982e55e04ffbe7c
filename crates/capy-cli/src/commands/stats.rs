//! `capy-store stats`: what the repository holds, in numbers.

use capy_store::{ChunkSum, RepositoryStats};
use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::human;
use crate::session::Session;

/// Count what the repository holds
///
/// Reads the root and the indexes. Chunks are counted as they are stored: whole, or as differences to
/// chunks of earlier backups.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capy-store stats")]
pub(crate) struct StatsArgs {}

pub(crate) async fn run(_args: StatsArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let stats = repository.stats(&session.ctx).await?;
    session.output.answer(&json!({ "stats": stats }), |_| text(&stats))?;
    Ok(Exit::Success)
}

fn text(stats: &RepositoryStats) -> String {
    let line = |name: &str, sum: &ChunkSum| {
        let (size, stored) = (human::bytes(sum.size_bytes), human::bytes(sum.stored_bytes));
        format!("{name:<18} {:>10}  {size:>10} in {stored}\n", sum.chunks)
    };
    format!(
        "{:<18} {:>10}  {:>10} as they were\n{:<18} {:>10}  {:>10} ({} indexes)\n{}{}{}",
        "backups",
        stats.backups,
        human::bytes(stats.backup_bytes),
        "packs",
        stats.packs,
        human::bytes(stats.pack_bytes),
        stats.indexes,
        line("chunks, whole", &stats.whole),
        line("chunks, deltas", &stats.deltas),
        line("of manifests", &stats.manifests),
    )
}
