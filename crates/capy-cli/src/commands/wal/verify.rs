//! `capy-store wal verify`: proof that what is archived is what the server wrote.

use std::num::NonZeroU64;

use capy_store::{ClusterName, StoreRates, WalVerifyReport};
use clap::Args;

use crate::exit::Exit;
use crate::human::{bytes, duration, rate};
use crate::session::Session;

/// Read every file of an archive and hash it again
///
/// Each is opened, decompressed and compared with the content id it was archived under, as `wal fetch`
/// does it when a recovery asks. Ends with exit code 1 when any is damaged. Which segments are missing
/// says `wal windows`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store wal verify --cluster main\n  \
    capy-store wal verify --cluster main --read-rate 100M --json | jq .verdict")]
pub(crate) struct VerifyArgs {
    /// The archive
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// Read at most so many bytes a second from the repository: 50M, 1.5GiB, plain bytes
    #[arg(long, value_name = "RATE", value_parser = crate::amounts::rate)]
    read_rate: Option<NonZeroU64>,
}

pub(crate) async fn run(args: VerifyArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let rates = StoreRates { read: args.read_rate, ..StoreRates::default() };
    let repository = session.open_at(session.location()?.with_rates(rates)).await?;
    let report = repository.verify_wal(&session.ctx, &args.cluster).await?;
    session.finish_progress();
    session.output.answer(&report, text)?;
    Ok(if report.ok { Exit::Success } else { Exit::Problems })
}

fn text(report: &WalVerifyReport) -> String {
    let mut text = String::new();
    for damaged in &report.damaged {
        text.push_str(&format!("damaged: {}: {}\n", damaged.file, damaged.what));
    }
    if report.damaged_total > report.damaged.len() as u64 {
        text.push_str(&format!("and {} more\n", report.damaged_total - report.damaged.len() as u64));
    }
    text.push_str(&format!(
        "{} files, {} of WAL; read {} in {}, {}\n{}\n",
        report.files,
        bytes(report.hashed_bytes),
        bytes(report.read_bytes),
        duration(report.elapsed),
        rate(report.hashed_bytes, report.elapsed),
        report.verdict
    ));
    text
}
