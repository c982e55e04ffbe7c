//! `capy-store verify`: proof that what is stored is what was stored.

use std::num::NonZeroU64;

use capy_store::{
    BackupSelector, ClusterName, Defect, StoreRates, VerifyLevel, VerifyOptions, VerifyReport, VerifyScope,
};
use clap::{Args, ValueEnum};

use crate::account::WithMemory;
use crate::exit::Exit;
use crate::human::{bytes, duration, rate};
use crate::session::Session;

/// Check stored backups and record the outcome on them
///
/// `structure` reads everything that says where bytes are: root, records, manifests, indexes, and
/// compares the packs' sizes and footers with it. `full` also opens, decompresses and hashes
/// every stored byte again, and computes the checksums of backup_manifest anew.
///
/// Every defect is reported with its object, its offset and the backups and files it touches.
/// Ends with exit code 1 when there is any.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store verify main/latest --level full\n  \
    capy-store verify                             # every backup in the repository, structure only\n  \
    capy-store verify --cluster main --json | jq .verdict")]
pub(crate) struct VerifyArgs {
    /// The backups, each as CLUSTER/ID or CLUSTER/latest; without any, all of them
    #[arg(value_name = "BACKUP")]
    backups: Vec<BackupSelector>,

    /// All backups of this cluster
    #[arg(long, value_name = "NAME", conflicts_with = "backups")]
    cluster: Option<ClusterName>,

    /// How thorough
    #[arg(long, value_enum, default_value_t = Level::Structure)]
    level: Level,

    /// Read at most so many bytes a second from the repository: 50M, 1.5GiB, plain bytes
    #[arg(long, value_name = "RATE", value_parser = crate::amounts::rate)]
    read_rate: Option<NonZeroU64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    /// Everything that says where bytes are
    Structure,
    /// And every stored byte
    Full,
}

pub(crate) async fn run(args: VerifyArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let rates = StoreRates { read: args.read_rate, ..StoreRates::default() };
    let repository = session.open_at(session.location()?.with_rates(rates)).await?;
    let scope = match args.cluster {
        Some(cluster) => VerifyScope::Cluster(cluster),
        None if args.backups.is_empty() => VerifyScope::All,
        None => VerifyScope::Backups(args.backups),
    };
    let mut options = VerifyOptions::default();
    options.level = match args.level {
        Level::Structure => VerifyLevel::Structure,
        Level::Full => VerifyLevel::Full,
    };
    let report = repository.verify(&session.ctx, &scope, options).await?;
    session.finish_progress();
    let with_memory = WithMemory::of(&report);
    session.output.answer(&with_memory, |with| text(&report, &with.memory_text(), session.output.quiet))?;
    Ok(if report.ok { Exit::Success } else { Exit::Problems })
}

fn text(report: &VerifyReport, memory: &str, quiet: bool) -> String {
    let mut text = String::new();
    for defect in &report.defects {
        text.push_str(&defect_text(defect));
    }
    if report.defects_total > report.defects.len() as u64 {
        text.push_str(&format!("and {} more defects\n", report.defects_total - report.defects.len() as u64));
    }
    if !quiet {
        text.push_str(&format!(
            "{} packs, {} chunks, {} files; read {} in {}, {}; peak memory {memory}\n",
            report.packs,
            report.chunks,
            report.files,
            bytes(report.read_bytes),
            duration(report.elapsed),
            rate(report.read_bytes, report.elapsed),
        ));
    }
    text.push_str(&report.verdict);
    text.push('\n');
    text
}

fn defect_text(defect: &Defect) -> String {
    let at = defect.offset.map_or_else(String::new, |offset| format!(" at byte {offset}"));
    let mut text = format!("defect: {}{at}: {}\n", defect.object, defect.what);
    for backup in &defect.backups {
        text.push_str(&format!("  affects {backup}\n"));
    }
    for file in &defect.files {
        text.push_str(&format!("  affects {file}\n"));
    }
    if defect.files_total > defect.files.len() as u64 {
        text.push_str(&format!("  and {} more files\n", defect.files_total - defect.files.len() as u64));
    }
    text
}
