//! The server's side: its version, its settings, its archiver, and what the role may do.

use capy_postgres::{
    Advice, ArchiveMode, ArchiverState, ArchivingSettings, Severity, SqlConnection, WalLevel,
    archiver_advice, archiving_advice, slots_advice,
};

use super::{CheckState, Steps};
use crate::{PostgresServer, Result};

/// The majors whose WAL is understood.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// Everything that the server says of itself.
pub(super) async fn settings(
    connection: &SqlConnection,
    settings: &ArchivingSettings,
    steps: &mut Steps,
) -> Result<()> {
    let role = &settings.privileges.role;
    let kind = if settings.in_recovery { "a standby" } else { "a primary" };
    steps.ok("connection", format!("{}, as {role}; it is {kind}", connection.host()));
    let (major, minor) = (settings.version_num / 10_000, settings.version_num % 10_000);
    if MAJORS.contains(&major) {
        steps.ok("version", format!("PostgreSQL {major}.{minor}"));
    } else {
        let message = format!("PostgreSQL {major}.{minor} is not known here");
        steps.problem("version", message, format!("{} to {} are", MAJORS.start(), MAJORS.end()));
    }
    let mut advice = archiving_advice(settings);
    for (subject, value) in values(settings) {
        let own: Vec<Advice> = advice.extract_if(.., |one| one.subject == subject).collect();
        if own.is_empty() {
            steps.ok(subject, value);
        }
        own.iter().for_each(|one| advise(one, steps));
    }
    let subject = format!("role {role}");
    if !advice.iter().any(|one| one.subject == subject) {
        steps.ok(&subject, "may back up, stream the log, switch segments and create restore points");
    }
    advice.iter().for_each(|one| advise(one, steps));
    slots(connection, steps).await
}

/// Whether a backup, or a receiver, would be let in.
pub(super) async fn replication(server: &PostgresServer, settings: &ArchivingSettings, steps: &mut Steps) {
    let step = "replication";
    if !settings.privileges.replication {
        return steps.skipped(step, "the role may not replicate");
    }
    match server.try_replication().await {
        Ok(()) => steps.ok(step, "replication connections are let in"),
        Err(error) => {
            let line = format!(
                "add a line for {} to pg_hba.conf, with the database `replication`, and reload",
                settings.privileges.role
            );
            steps.problem(step, format!("no replication connection: {error}"), line);
        }
    }
}

/// What the settings are, with those that go by the name of another.
fn values(settings: &ArchivingSettings) -> Vec<(&'static str, String)> {
    let mut values = vec![
        ("wal_level", level(settings.wal_level).to_owned()),
        ("archive_mode", mode(settings.archive_mode).to_owned()),
    ];
    let command = settings.archive_command.clone();
    // While archive_mode is off the server does not tell.
    match (&settings.archive_library, command) {
        (Some(library), _) => values.push(("archive_library", library.clone())),
        (None, Some(command)) => values.push(("archive_command", command)),
        (None, None) if settings.archive_mode != ArchiveMode::Off => {
            values.push(("archive_command", String::new()));
        }
        (None, None) => {}
    }
    if settings.archive_mode != ArchiveMode::Off {
        values.push(("archive_timeout", format!("{} s", settings.archive_timeout.as_secs())));
    }
    let keep = settings.max_slot_wal_keep_bytes;
    values.extend([
        ("max_wal_senders", settings.max_wal_senders.to_string()),
        ("max_slot_wal_keep_size", keep.map_or_else(String::new, |bytes| format!("{} MiB", bytes >> 20))),
    ]);
    values
}

const fn level(level: WalLevel) -> &'static str {
    match level {
        WalLevel::Minimal => "minimal",
        WalLevel::Replica => "replica",
        WalLevel::Logical => "logical",
    }
}

const fn mode(mode: ArchiveMode) -> &'static str {
    match mode {
        ArchiveMode::Off => "off",
        ArchiveMode::On => "on",
        ArchiveMode::Always => "always",
    }
}

async fn slots(connection: &SqlConnection, steps: &mut Steps) -> Result<()> {
    let slots = connection.slots().await?;
    let advice = slots_advice(&slots);
    if advice.is_empty() {
        let active = slots.iter().filter(|slot| slot.is_active).count();
        steps.ok("slots", format!("{}, {active} active", slots.len()));
    }
    advice.iter().for_each(|one| advise(one, steps));
    Ok(())
}

/// How the archiver does.
pub(super) fn archiver(state: &ArchiverState, steps: &mut Steps) {
    let advice = archiver_advice(state);
    if advice.is_empty() {
        let waiting = state.waiting_count.map_or_else(String::new, |count| format!(", {count} files wait"));
        steps.ok("archiver", format!("{} files archived{waiting}", state.archived_count));
    }
    advice.iter().for_each(|one| advise(one, steps));
}

/// Advice as a step: what is, and behind the last semicolon or colon what to change.
fn advise(advice: &Advice, steps: &mut Steps) {
    let state = match advice.severity {
        Severity::Note => CheckState::Note,
        Severity::Warning => CheckState::Problem,
    };
    let split = advice.message.rsplit_once("; ").or_else(|| advice.message.rsplit_once(": "));
    let (message, change) = match split {
        Some((message, change)) => (message, Some(change.to_owned())),
        None => (advice.message.as_str(), None),
    };
    steps.add(state, &advice.subject, message, change);
}
