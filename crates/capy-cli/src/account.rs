//! The account at the end of a run: bytes, ratios, speed, memory, and where the time went.
//!
//! Contained by: `backup`, `restore` and `verify`. The same figures are in the JSON documents,
//! where `peak_memory_bytes` is added to the library's report.

use std::time::Duration;

use capy_store::{BackupReport, CacheReport, Limit, Limits, Stage, WalRange};
use serde::Serialize;

use crate::human::{bytes, duration, factor, rate};

/// A report with what only the process knows.
#[derive(Debug, Serialize)]
pub(crate) struct WithMemory<'a, T: Serialize> {
    #[serde(flatten)]
    pub(crate) report: &'a T,
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl<'a, T: Serialize> WithMemory<'a, T> {
    pub(crate) fn of(report: &'a T) -> Self {
        Self { report, peak_memory_bytes: peak_memory_bytes() }
    }

    /// The peak for people.
    pub(crate) fn memory_text(&self) -> String {
        self.peak_memory_bytes.map_or_else(|| "unknown".to_owned(), bytes)
    }
}

/// The most memory this process has had resident, where the system tells.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The account of a backup.
pub(crate) fn backup(report: &BackupReport, memory: &str) -> String {
    let stats = &report.stats;
    let mut rows = vec![
        ("backup", report.backup.backup_key.to_string()),
        (
            "read",
            format!(
                "{} in {}, {}",
                bytes(report.read_bytes),
                duration(report.elapsed),
                rate(report.read_bytes, report.elapsed)
            ),
        ),
        ("incremental", incremental(report)),
        ("files", format!("{} files, {}", stats.files, bytes(stats.size_bytes))),
        (
            "deduplicated",
            format!(
                "{} ({})",
                bytes(stats.deduplicated_bytes),
                crate::human::percent(stats.deduplicated_bytes, stats.size_bytes)
            ),
        ),
        ("new", format!("{} in {} chunks", bytes(stats.new_bytes), stats.new_chunks)),
        (
            "stored",
            format!(
                "{} ({} smaller than new, {} than the backup)",
                bytes(stats.stored_bytes),
                factor(stats.new_bytes, stats.stored_bytes),
                factor(stats.size_bytes, stats.stored_bytes)
            ),
        ),
        ("peak memory", memory.to_owned()),
        ("time", stages(&report.stages)),
        ("limited by", limits(&report.limits)),
    ];
    rows.extend(report.cache.as_ref().map(|used| ("cache", cache(used, report.store_read_bytes))));
    let mut text = crate::output::fields(&rows);
    for notice in &report.notices {
        text.push_str(&format!("note: {notice}\n"));
    }
    if let Some(wal) = &report.wal_needed {
        text.push_str(&format!("note: {}\n", wal_needed(wal)));
    }
    if report.problems_total > 0 {
        text.push_str(&format!(
            "the backup is kept and marked damaged: {} problems\n",
            report.problems_total
        ));
        for problem in &report.problems {
            text.push_str(&format!("  {problem}\n"));
        }
        if report.problems_total > report.problems.len() as u64 {
            text.push_str(&format!("  and {} more\n", report.problems_total - report.problems.len() as u64));
        }
    }
    text
}

/// `9 of 12 reads, 3.10 MB, and 412 kB from the store; 1 damaged file removed`.
fn cache(report: &CacheReport, store_read_bytes: u64) -> String {
    let CacheReport { hits, misses, hit_bytes, damaged, fault, .. } = report;
    let (reads, cached, store) = (hits + misses, bytes(*hit_bytes), bytes(store_read_bytes));
    let mut text = format!("{hits} of {reads} reads, {cached}, and {store} from the store");
    if *damaged > 0 {
        let files = if *damaged == 1 { "file" } else { "files" };
        text.push_str(&format!("; {damaged} damaged {files} removed"));
    }
    if let Some(fault) = fault {
        text.push_str(&format!("; nothing more is kept: {fault}"));
    }
    text
}

/// `on main/x: 12 of 300 files changed, by 96.0 KiB`.
fn incremental(report: &BackupReport) -> String {
    let Some(incremental) = &report.incremental else { return "-".to_owned() };
    match &incremental.from {
        Some(from) => format!(
            "on {from}: {} of {} files changed, by {}",
            incremental.changed_files,
            incremental.files,
            bytes(incremental.changed_bytes)
        ),
        None => "no: everything was sent".to_owned(),
    }
}

/// Which WAL a restore needs besides the backup.
pub(crate) fn wal_needed(wal: &WalRange) -> String {
    let to = match (&wal.stop_lsn, &wal.last_segment) {
        (Some(lsn), Some(segment)) => format!("{lsn} (segments {} to {segment})", wal.first_segment),
        _ => format!("its end (segments from {})", wal.first_segment),
    };
    format!(
        "recovery needs WAL of timeline {} from {} to {to}, which is not in the backup",
        wal.timeline, wal.start_lsn
    )
}

/// `the processor: 71 % of the time (source 12 %, store 17 %)`.
fn limits(limits: &Limits) -> String {
    let share = |part: Duration| {
        let percent = part.as_secs_f64() * 100.0 / limits.total().as_secs_f64().max(1e-9);
        format!("{percent:.0} %")
    };
    let shares = [
        (Limit::Source, "source", limits.source),
        (Limit::Processor, "processor", limits.processor),
        (Limit::Store, "store", limits.store),
    ];
    let (first, others): (Vec<_>, Vec<_>) =
        shares.into_iter().partition(|(limit, ..)| *limit == limits.limited_by);
    let first = first.iter().map(|(_, name, part)| format!("the {name}: {} of the time", share(*part)));
    let others: Vec<_> = others.iter().map(|(_, name, part)| format!("{name} {}", share(*part))).collect();
    format!("{} ({})", first.collect::<String>(), others.join(", "))
}

/// `reading 1.2 s, committing 0.1 s`.
pub(crate) fn stages(stages: &[Stage]) -> String {
    let parts: Vec<String> = stages
        .iter()
        .filter(|s| s.elapsed >= Duration::from_millis(50))
        .map(|s| format!("{} {}", s.name, duration(s.elapsed)))
        .collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_peak_of_memory_is_known_and_plausible() {
        let peak = super::peak_memory_bytes().expect("Linux tells it");
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
    }
}
