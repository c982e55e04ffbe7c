//! What is known of the cluster, put together from all that tells of it.
//!
//! Contained by: the backup. The sources, in the order in which they are believed: the server's
//! own answers, `backup_label` (where recovery must start), `pg_control`, `PG_VERSION`,
//! `backup_manifest` (where the WAL needed ends), `tablespace_map`.
//! Invariant: what two of them say differently about the cluster's identity is an error, not a
//! choice.

use capy_format::{Collation, PostgresFacts, Tablespace};
use capy_postgres::SourceFacts;
use capy_postgres::control::ControlFile;
use capy_postgres::label::{BackupLabel, TablespaceMap};
use capy_types::{ErrorKind, Lsn, SegmentName, SegmentSize, TimelineId};

use super::feed::Fed;
use crate::manifest::Compared;
use crate::{Error, Result};

/// Puts the facts together.
pub(super) fn gather(fed: &Fed, source: &SourceFacts, compared: &Compared) -> Result<PostgresFacts> {
    let kept = &fed.kept;
    let label = BackupLabel::parse(kept.backup_label.as_deref().unwrap_or_default())
        .map_err(|error| Error::wrap(error.kind(), error))?;
    if let Some(from) = &label.incremental_from {
        return Err(Error::invalid(format!(
            "this is an incremental backup, built on the one from {}",
            from.lsn
        ))
        .with_hint("send a full backup: only what has changed is stored anyway"));
    }
    let control = ControlFile::parse(kept.control.as_deref().unwrap_or_default())
        .map_err(|error| Error::wrap(error.kind(), error))?;
    let manifest = compared.manifest.as_ref().and_then(|manifest| manifest.whole.as_ref());
    let said = [source.system_id, manifest.and_then(|manifest| manifest.system_id)];
    if let Some(other) = said.into_iter().flatten().find(|id| *id != control.system_id) {
        let what =
            format!("the parts are of different clusters: system ids {} and {other}", control.system_id);
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    let timeline = source.timeline.or(label.start_timeline).unwrap_or(control.timeline);
    let stop_lsn =
        source.stop_lsn.or_else(|| manifest.and_then(|m| m.wal_ranges.iter().map(|r| r.end_lsn).max()));
    let segment_size = source.segment_size.unwrap_or(control.segment_size);
    let (version_num, version) = version(kept.version.as_deref(), source)?;
    Ok(PostgresFacts {
        system_id: control.system_id,
        version_num,
        version,
        timeline,
        start_lsn: label.start_lsn,
        stop_lsn,
        segment_size,
        data_checksums: Some(source.data_checksums.unwrap_or(control.data_checksums)),
        wal_included: wal_is_whole(fed, timeline, label.start_lsn, stop_lsn, segment_size),
        tablespaces: tablespaces(fed, source)?,
        settings: source.settings.clone(),
        collations: source
            .collations
            .iter()
            .map(|c| Collation {
                name: c.name.clone(),
                provider: c.provider.clone(),
                version: Some(c.version.clone()),
            })
            .collect(),
        from_standby: source.from_standby.unwrap_or(label.from_standby),
        backup_manifest: compared.as_check(),
    })
}

/// The version, as number and as text.
fn version(file: Option<&[u8]>, source: &SourceFacts) -> Result<(u32, String)> {
    if let (Some(number), Some(text)) = (source.version_num, &source.version) {
        return Ok((number, text.clone()));
    }
    let text = String::from_utf8_lossy(file.unwrap_or_default()).trim().to_owned();
    let major: u32 = text.parse().map_err(|_| {
        Error::new(ErrorKind::Corrupt, format!("PG_VERSION holds {text:?}, not a major version"))
    })?;
    Ok((major.saturating_mul(10_000), text))
}

/// Whether every segment from start to stop is inside.
fn wal_is_whole(fed: &Fed, timeline: TimelineId, start: Lsn, stop: Option<Lsn>, size: SegmentSize) -> bool {
    let inside = &fed.kept.wal_segments;
    let Some(stop) = stop else { return !inside.is_empty() };
    let last = SegmentName::containing(timeline, Lsn::from_u64(stop.as_u64().saturating_sub(1)), size);
    let mut segment = SegmentName::containing(timeline, start, size);
    while segment <= last {
        if !inside.contains(&segment.to_string()) {
            return false;
        }
        segment = segment.next();
    }
    true
}

/// The tablespaces, each with the place it had; one that the backup should hold and does not is
/// an error.
fn tablespaces(fed: &Fed, source: &SourceFacts) -> Result<Vec<Tablespace>> {
    let map = TablespaceMap::parse(fed.kept.tablespace_map.as_deref().unwrap_or_default())
        .map_err(|error| Error::wrap(error.kind(), error))?;
    for (oid, location) in &map.locations {
        if !fed.tablespaces.contains_key(oid) {
            let what = format!("tablespace {oid} at {location} is not in the input");
            return Err(Error::invalid(what).with_hint(
                "a tar on standard input holds no tablespaces: use --pg, or a directory of tars",
            ));
        }
    }
    let mut found = Vec::new();
    for (oid, location) in &fed.tablespaces {
        let known = source.tablespaces.iter().find(|t| t.oid == *oid);
        let place = map.locations.get(oid).or_else(|| known.map(|t| &t.location)).unwrap_or(location);
        if place.is_empty() {
            let what = format!("where tablespace {oid} lay is unknown: tablespace_map does not list it");
            return Err(Error::invalid(what));
        }
        let size = known.and_then(|t| t.size_bytes);
        found.push(Tablespace { oid: *oid, location: place.clone(), size });
    }
    Ok(found)
}

/// What the operator should know of a backup with which nothing is wrong.
pub(super) fn notices(facts: &PostgresFacts, fed: &Fed, compared: &Compared) -> Vec<String> {
    let mut notices = Vec::new();
    if compared.manifest.is_none() {
        notices.push("the input has no backup_manifest to compare with".to_owned());
    } else if facts.backup_manifest.as_ref().is_some_and(|manifest| manifest.algorithm == "NONE") {
        notices.push("backup_manifest has no checksums: only sizes were compared".to_owned());
    }
    if facts.data_checksums == Some(false) {
        notices.push("the cluster has no page checksums: damage on its disks goes unnoticed".to_owned());
    }
    if !facts.wal_included && !fed.kept.wal_segments.is_empty() {
        notices.push("some WAL is inside, but not all that recovery needs".to_owned());
    }
    notices
}
