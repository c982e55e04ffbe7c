//! `backup_label` and `tablespace_map`: the two small text files a base backup begins with.
//!
//! `backup_label` says where recovery must start; without it PostgreSQL would start from the
//! control file and end up corrupt. The `.backup` history files in the archive have the same lines
//! and a few more. Source: `build_backup_content` and `read_backup_label` in PostgreSQL's
//! `xlogbackup.c` and `xlogrecovery.c`.
//!
//! Invariant: inputs over a named limit are refused before they are read.

use std::collections::BTreeMap;

use capy_types::{ErrorKind, Lsn, TimelineId};

/// Largest `backup_label` in bytes: nine lines, of which the label has at most 1024 bytes.
pub const BACKUP_LABEL_MAX_BYTES: usize = 64 * 1024;

/// Largest `tablespace_map` in bytes: more than 200 tablespaces of the longest path, escaped.
pub const TABLESPACE_MAP_MAX_BYTES: usize = 1024 * 1024;

/// A `backup_label` or `tablespace_map` that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad {file}{}: {problem}", at_line(*line))]
pub struct LabelError {
    /// `backup_label` or `tablespace_map`.
    pub file: &'static str,
    /// Line number from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
}

fn at_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!(", line {line}") }
}

impl LabelError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// What a `backup_label` says. Lines this version does not know are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where recovery starts reading WAL.
    pub start_lsn: Lsn,
    /// The WAL segment that holds it, as named in the file.
    pub start_segment: String,
    /// Where the checkpoint record is.
    pub checkpoint_lsn: Option<Lsn>,
    /// `streamed`, or `pg_start_backup` from exclusive backups before 15.
    pub method: Option<String>,
    /// Whether the server was a standby.
    pub from_standby: bool,
    /// When the backup started, as the server wrote it, in its time zone.
    pub start_time: Option<String>,
    /// The label given to the backup.
    pub label: Option<String>,
    /// The timeline of the start; not written before PostgreSQL 11.
    pub start_timeline: Option<TimelineId>,
    /// Of an incremental backup: the start of the backup it builds on.
    pub incremental_from: Option<IncrementalFrom>,
    /// In `.backup` history files: where the backup is consistent.
    pub stop_lsn: Option<Lsn>,
}

/// What an incremental backup builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncrementalFrom {
    /// Start of the earlier backup.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: TimelineId,
}

impl BackupLabel {
    /// Reads the file's content.
    /// # Errors
    /// [`LabelError`] when it is too large, when it has no start position, or when a line that
    /// this version knows holds something else than it should.
    pub fn parse(content: &[u8]) -> Result<Self, LabelError> {
        let lines = LabelLines::read(content)?;
        let (start_line, start) =
            lines.get("START WAL LOCATION").ok_or(bad_label(0, "it has no START WAL LOCATION"))?;
        let (start_lsn, start_segment) =
            split_location(start).ok_or(bad_label(start_line, "not a position with its file"))?;
        let incremental_lsn = lines.lsn("INCREMENTAL FROM LSN")?;
        let incremental_timeline = lines.timeline("INCREMENTAL FROM TLI")?;
        Ok(Self {
            start_lsn,
            start_segment,
            checkpoint_lsn: lines.lsn("CHECKPOINT LOCATION")?,
            method: lines.text("BACKUP METHOD"),
            from_standby: lines.text("BACKUP FROM").as_deref() == Some("standby"),
            start_time: lines.text("START TIME"),
            label: lines.text("LABEL"),
            start_timeline: lines.timeline("START TIMELINE")?,
            incremental_from: match (incremental_lsn, incremental_timeline) {
                (Some(lsn), Some(timeline)) => Some(IncrementalFrom { lsn, timeline }),
                (None, None) => None,
                _ => {
                    return Err(bad_label(
                        0,
                        "INCREMENTAL FROM LSN and INCREMENTAL FROM TLI belong together",
                    ));
                }
            },
            stop_lsn: match lines.get("STOP WAL LOCATION") {
                Some((line, stop)) => {
                    Some(split_location(stop).ok_or(bad_label(line, "not a position with its file"))?.0)
                }
                None => None,
            },
        })
    }
}

/// The content of an incremental backup's `backup_label` once it is put together with the backup it
/// builds on: without the lines for which a server refuses to start on it. Everything else stays,
/// byte for byte.
#[must_use]
pub fn without_incremental_lines(backup_label: &[u8]) -> Vec<u8> {
    let lines = backup_label.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"INCREMENTAL FROM ")).flatten().copied().collect()
}

/// The lines of a `backup_label` by key; the first of a key counts, as for PostgreSQL.
struct LabelLines(BTreeMap<String, (usize, String)>);

impl LabelLines {
    fn read(content: &[u8]) -> Result<Self, LabelError> {
        if content.len() > BACKUP_LABEL_MAX_BYTES {
            return Err(bad_label(0, "it is larger than 64 KiB"));
        }
        let mut lines = BTreeMap::new();
        for (at, line) in String::from_utf8_lossy(content).lines().enumerate() {
            if let Some((key, value)) = line.split_once(": ") {
                lines.entry(key.to_owned()).or_insert((at + 1, value.to_owned()));
            }
        }
        Ok(Self(lines))
    }

    fn get(&self, key: &str) -> Option<(usize, &str)> {
        self.0.get(key).map(|(line, value)| (*line, value.as_str()))
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(|(_, value)| value.to_owned())
    }

    fn lsn(&self, key: &str) -> Result<Option<Lsn>, LabelError> {
        let parse =
            |(line, value): (usize, &str)| value.parse().map_err(|_| bad_label(line, "not a WAL position"));
        self.get(key).map(parse).transpose()
    }

    fn timeline(&self, key: &str) -> Result<Option<TimelineId>, LabelError> {
        let parse = |(line, value): (usize, &str)| match value.parse() {
            Ok(id) if id > 0 => Ok(TimelineId::from_u32(id)),
            _ => Err(bad_label(line, "not a timeline")),
        };
        self.get(key).map(parse).transpose()
    }
}

const fn bad_label(line: usize, problem: &'static str) -> LabelError {
    LabelError { file: "backup_label", line, problem }
}

/// `0/2000028 (file 000000010000000000000002)`.
fn split_location(value: &str) -> Option<(Lsn, String)> {
    let (lsn, file) = value.split_once(" (file ")?;
    Some((lsn.parse().ok()?, file.strip_suffix(')')?.to_owned()))
}

/// What a `tablespace_map` says: where each tablespace lay on the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablespaceMap {
    /// Locations by oid.
    pub locations: BTreeMap<u32, String>,
}

impl TablespaceMap {
    /// Reads the file's content: lines `<oid> <path>`, in which a backslash keeps a line break or
    /// a backslash that belongs to the path. (Before PostgreSQL 14 backslashes themselves were not
    /// escaped: a path that holds one loses it, as it does in that server's own recovery since.)
    /// # Errors
    /// [`LabelError`] when it is too large, or a line is not of that form, or names an oid twice.
    pub fn parse(content: &[u8]) -> Result<Self, LabelError> {
        let bad = |line, problem| LabelError { file: "tablespace_map", line, problem };
        if content.len() > TABLESPACE_MAP_MAX_BYTES {
            return Err(bad(0, "it is larger than 1 MiB"));
        }
        let mut locations = BTreeMap::new();
        for (at, line) in unescaped_lines(content).into_iter().enumerate() {
            let line = String::from_utf8(line).map_err(|_| bad(at + 1, "the path is not UTF-8"))?;
            let (oid, path) = line.split_once(' ').ok_or(bad(at + 1, "not `<oid> <path>`"))?;
            let oid = oid.parse().map_err(|_| bad(at + 1, "the oid is no number"))?;
            if path.is_empty() || path.contains('\0') {
                return Err(bad(at + 1, "the path is empty or holds a NUL byte"));
            }
            if locations.insert(oid, path.to_owned()).is_some() {
                return Err(bad(at + 1, "the oid is there twice"));
            }
        }
        Ok(Self { locations })
    }
}

/// The lines that are not empty, with escapes taken away.
fn unescaped_lines(content: &[u8]) -> Vec<Vec<u8>> {
    let (mut lines, mut line, mut escaped) = (Vec::new(), Vec::new(), false);
    for &byte in content {
        match byte {
            _ if escaped => {
                line.push(byte);
                escaped = false;
            }
            b'\\' => escaped = true,
            b'\n' | b'\r' => lines.push(std::mem::take(&mut line)),
            _ => line.push(byte),
        }
    }
    lines.push(line);
    lines.retain(|line| !line.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use capy_types::{Entropy, SeededEntropy};

    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-11-21 07:52:23 UTC
LABEL: nightly: the big one
START TIMELINE: 3
";

    #[test]
    fn a_label_says_where_recovery_starts() {
        let label = BackupLabel::parse(LABEL.as_bytes()).unwrap();
        assert_eq!(label.start_lsn, Lsn::from_u64(0x0200_0028));
        assert_eq!(label.start_segment, "000000010000000000000002");
        assert_eq!(label.checkpoint_lsn, Some(Lsn::from_u64(0x0200_0060)));
        assert_eq!(label.method.as_deref(), Some("streamed"));
        assert!(label.from_standby);
        assert_eq!(label.start_time.as_deref(), Some("2026-11-21 07:52:23 UTC"));
        assert_eq!(label.label.as_deref(), Some("nightly: the big one"));
        assert_eq!(label.start_timeline, Some(TimelineId::from_u32(3)));
        assert_eq!((label.incremental_from, label.stop_lsn), (None, None));
    }

    #[test]
    fn incremental_and_history_lines_are_read() {
        let text = format!("{LABEL}INCREMENTAL FROM LSN: 0/28\nINCREMENTAL FROM TLI: 1\n");
        let from = BackupLabel::parse(text.as_bytes()).unwrap().incremental_from.unwrap();
        assert_eq!((from.lsn, from.timeline), (Lsn::from_u64(0x28), TimelineId::from_u32(1)));
        let text = format!("{LABEL}STOP WAL LOCATION: 0/2000100 (file 000000010000000000000002)\n");
        assert_eq!(BackupLabel::parse(text.as_bytes()).unwrap().stop_lsn, Some(Lsn::from_u64(0x0200_0100)));
    }

    #[test]
    fn put_together_a_label_has_no_incremental_lines() {
        let text = format!("{LABEL}INCREMENTAL FROM LSN: 0/28\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(without_incremental_lines(text.as_bytes()), LABEL.as_bytes());
        assert_eq!(without_incremental_lines(LABEL.as_bytes()), LABEL.as_bytes());
    }

    #[test]
    fn a_label_that_could_mislead_recovery_is_refused() {
        let cases = [
            (LABEL.replace("START WAL", "BEGIN WAL"), 0),
            (LABEL.replace("0/2000028", "2000028"), 1),
            (LABEL.replace("0/2000060", "nowhere"), 2),
            (LABEL.replace("TIMELINE: 3", "TIMELINE: 0"), 7),
            (format!("{LABEL}INCREMENTAL FROM TLI: 1\n"), 0),
            (format!("{LABEL}{}", " ".repeat(BACKUP_LABEL_MAX_BYTES)), 0),
            (String::new(), 0),
        ];
        for (text, line) in cases {
            assert_eq!(BackupLabel::parse(text.as_bytes()).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn a_map_gives_locations_with_their_escapes_taken_away() {
        let map = TablespaceMap::parse(b"16384 /srv/a b\n16390 /srv/back\\\\slash\\\nline\n").unwrap();
        let expected = [(16384, "/srv/a b".to_owned()), (16390, "/srv/back\\slash\nline".to_owned())];
        assert_eq!(map.locations, expected.into());
        assert_eq!(TablespaceMap::parse(b"").unwrap(), TablespaceMap::default());
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused_with_its_line() {
        for (bad, line) in
            [("1 /a\nx /b\n", 2), ("1\n", 1), ("1 \n", 1), ("1 /a\n1 /b\n", 2), ("-1 /a", 1), ("1 /a\0b", 1)]
        {
            assert_eq!(TablespaceMap::parse(bad.as_bytes()).unwrap_err().line, line, "{bad:?}");
        }
    }

    #[test]
    fn noise_never_panics() {
        let seed = 11;
        println!("seed {seed}");
        let entropy = SeededEntropy::new(seed);
        for _ in 0..2000 {
            let mut noise = [0; 9];
            entropy.fill(&mut noise);
            let [a, b, c, d, value @ ..] = noise;
            let mut label = LABEL.as_bytes().to_vec();
            for (at, value) in [(a, value[0]), (b, value[1]), (c, value[2]), (d, value[3])] {
                let at = usize::from(at) % label.len();
                label[at] = value;
            }
            let _ = BackupLabel::parse(&label);
            let _ = TablespaceMap::parse(&label);
        }
    }
}
