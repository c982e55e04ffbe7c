//! The worker that `wal fetch` starts to be ahead of recovery.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use capy_store::{AheadBudget, ClusterName, ErrorKind, FetchAhead};
use clap::Args;

use super::detach;
use crate::exit::Exit;
use crate::session::Session;

/// Fetched ahead unless the command line says otherwise, in bytes: 16 segments of the usual size,
/// about what a server replays in a second.
pub(super) const BUDGET_BYTES: u64 = 256 << 20;

/// The worker started on demand.
#[derive(Debug, Args)]
pub(crate) struct PrefetchArgs {
    /// The archive
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The directory in which the server wants its files
    #[arg(long, value_name = "DIR")]
    beside: PathBuf,

    /// How much to fetch ahead
    #[arg(long, value_name = "N|BYTES", value_parser = budget)]
    budget: AheadBudget,
}

pub(crate) async fn run(args: PrefetchArgs, session: &mut Session) -> anyhow::Result<Exit> {
    detach::become_detached();
    session.finish_progress();
    let work = async {
        let ahead = FetchAhead::beside(&args.beside, &args.cluster, &session.location()?)?;
        let repository = session.open().await?;
        anyhow::Ok(ahead.run(&session.ctx, &repository, args.budget).await?)
    };
    match work.await {
        Ok(report) => {
            tracing::info!(?report, "ends");
            Ok(Exit::Success)
        }
        // Only 0 and 1: see `become_detached`.
        Err(error) => {
            let shown = crate::failure::Shown::of(&error);
            if shown.kind != ErrorKind::Cancelled {
                tracing::error!("the worker ends: {}", shown.message);
            }
            Ok(Exit::Problems)
        }
    }
}

/// The words that start a worker for files in `directory`.
pub(super) fn worker_words(cluster: &ClusterName, directory: &Path, budget: AheadBudget) -> Vec<OsString> {
    let budget = match budget {
        AheadBudget::Segments(count) => count.to_string(),
        AheadBudget::Bytes(bytes) => format!("{bytes}B"),
        _ => format!("{BUDGET_BYTES}B"),
    };
    let words = ["prefetch-worker", "--cluster", cluster.as_str(), "--budget", budget.as_str(), "--beside"];
    let mut words: Vec<OsString> = words.map(OsString::from).to_vec();
    words.push(directory.into());
    words
}

/// `8` segments, or `512MiB`, `2GiB`, `300MB`.
pub(super) fn budget(text: &str) -> Result<AheadBudget, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let expected = "expected a number of segments, or bytes with a unit like 256MiB or 1GB";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse().map_err(|_| expected.to_owned())?,
        false => return Err(expected.to_owned()),
    };
    let budget = match text.strip_prefix(digits) {
        Some("") => AheadBudget::Segments(u32::try_from(count).map_err(|_| expected.to_owned())?),
        unit => {
            let unit = UNITS.iter().find(|(name, _)| Some(*name) == unit).ok_or(expected)?;
            AheadBudget::Bytes(count.checked_mul(unit.1).ok_or("more than can be counted")?)
        }
    };
    if count == 0 { Err("nothing would be fetched ahead: say --no-prefetch".to_owned()) } else { Ok(budget) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_segments_or_bytes_with_a_unit() {
        assert_eq!(budget("8"), Ok(AheadBudget::Segments(8)));
        assert_eq!(budget("256MiB"), Ok(AheadBudget::Bytes(256 << 20)));
        assert_eq!(budget("1GB"), Ok(AheadBudget::Bytes(1_000_000_000)));
        assert_eq!(budget("268435456B"), Ok(AheadBudget::Bytes(BUDGET_BYTES)));
        for bad in ["", "0", "0MiB", "-1", "1.5GiB", "MiB", "12 MiB", "3 segments", "99999999999GiB"] {
            assert!(budget(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_worker_is_told_the_same_budget() {
        for given in [AheadBudget::Segments(3), AheadBudget::Bytes(5 << 20)] {
            let words = worker_words(&"main".parse().unwrap(), Path::new("/d"), given);
            assert_eq!(budget(words[4].to_str().unwrap()), Ok(given));
        }
    }
}
