//! Timeline history: which timeline a cluster's WAL is on at which position.
//!
//! A `.history` file lists the timelines before its own, oldest first, each with the position where
//! it was left. Source: `readTimeLineHistory` and `tliOfPointInHistory` in PostgreSQL's
//! `timeline.c`, and "Timelines" in the documentation.
//!
//! Invariants: the identifiers of a history increase and end below its own; a file over the
//! named limit is refused before it is read.

use bytes::Bytes;
use capy_types::{ErrorKind, Lsn, TimelineId};

use super::ReplicationConnection;
use crate::PostgresError;

/// Largest history file in bytes. A promotion adds a line of about 50: room for 20 000 of them.
pub const HISTORY_MAX_BYTES: usize = 1 << 20;

/// A history file that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad history of timeline {timeline}{}: {problem}", at_line(*line))]
pub struct HistoryError {
    /// Whose history.
    pub timeline: TimelineId,
    /// Line number from 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// What is wrong.
    pub problem: &'static str,
}

fn at_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!(", line {line}") }
}

impl HistoryError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// One timeline that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it was left: the first position that is no longer its.
    pub switch_lsn: Lsn,
    /// Why, in the server's words.
    pub reason: String,
}

/// The way a timeline came from the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    ancestors: Vec<HistoryEntry>,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors: the first has no file.
    #[must_use]
    pub const fn of_first(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the content of `timeline`'s history file. Empty lines and comments are passed over.
    ///
    /// # Errors
    /// [`HistoryError`] (Corrupt) with the line that is not an identifier, a position and a reason,
    /// or whose identifier does not increase; or when the file is over [`HISTORY_MAX_BYTES`].
    pub fn parse(timeline: TimelineId, content: &[u8]) -> Result<Self, HistoryError> {
        let bad = |line, problem| HistoryError { timeline, line, problem };
        if content.len() > HISTORY_MAX_BYTES {
            return Err(bad(0, "it is larger than 1 MiB"));
        }
        let mut history = Self::of_first(timeline);
        for (at, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = parse_entry(line).map_err(|problem| bad(at + 1, problem))?;
            if history.ancestors.last().is_some_and(|before| before.timeline >= entry.timeline) {
                return Err(bad(at + 1, "timelines must increase"));
            }
            if entry.timeline >= timeline {
                return Err(bad(at + 1, "an ancestor must come before the timeline itself"));
            }
            history.ancestors.push(entry);
        }
        Ok(history)
    }

    /// Whose history this is.
    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The timelines before it, oldest first.
    #[must_use]
    pub fn ancestors(&self) -> &[HistoryEntry] {
        &self.ancestors
    }

    /// The timeline that the byte at `lsn` is on.
    ///
    /// A cluster recovered to a point before its parent was born has positions that do not
    /// increase; the newest timeline that had begun by then holds it, as for PostgreSQL.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let mut holder = self.timeline;
        for entry in self.ancestors.iter().rev() {
            // Its successor, `holder`, began where it was left.
            if lsn >= entry.switch_lsn {
                break;
            }
            holder = entry.timeline;
        }
        holder
    }

    /// Whether the byte at `lsn` of `timeline` is part of this history.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.timeline_at(lsn) == timeline
    }
}

/// `timeline position reason`, separated by white space.
fn parse_entry(line: &str) -> Result<HistoryEntry, &'static str> {
    let (timeline, rest) = line.split_once(char::is_whitespace).ok_or("no position after the timeline")?;
    let rest = rest.trim_start();
    let (switch_lsn, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let timeline = timeline.parse().ok().filter(|timeline: &TimelineId| timeline.as_u32() != 0);
    Ok(HistoryEntry {
        timeline: timeline.ok_or("not a timeline")?,
        switch_lsn: switch_lsn.parse().map_err(|_| "not a position")?,
        reason: reason.trim_start().to_owned(),
    })
}

/// A history file as the server has it: to be archived as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFile {
    /// Its name, like `00000002.history`.
    pub name: String,
    /// Its content.
    pub content: Bytes,
}

impl HistoryFile {
    /// The name of `timeline`'s file.
    #[must_use]
    pub fn name_of(timeline: TimelineId) -> String {
        format!("{:08X}.history", timeline.as_u32())
    }
}

impl ReplicationConnection {
    /// The history file of `timeline`. The first timeline has none.
    ///
    /// # Errors
    /// The server's (SQLSTATE 58P01 when it has no such file), Corrupt when it answers another file
    /// or one over [`HISTORY_MAX_BYTES`], or a broken connection (Unavailable).
    ///
    /// # Cancellation
    /// The connection cannot be used afterwards.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<HistoryFile, PostgresError> {
        // Declared as text or bytea, depending on the version; sent as it is by all of them.
        let results = self.raw_command(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let row = results.into_iter().flatten().next().unwrap_or_default();
        let Ok([Some(name), Some(content)]) = <[Option<Bytes>; 2]>::try_from(row) else {
            return Err(PostgresError::protocol("TIMELINE_HISTORY answered nonsense".to_owned()));
        };
        let expected = HistoryFile::name_of(timeline);
        if name != expected.as_bytes() {
            let name = String::from_utf8_lossy(&name);
            return Err(PostgresError::protocol(format!("TIMELINE_HISTORY {timeline} answered {name:?}")));
        }
        if content.len() > HISTORY_MAX_BYTES {
            return Err(PostgresError::protocol(format!("{expected} has {} bytes", content.len())));
        }
        Ok(HistoryFile { name: expected, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn timeline(id: u32) -> TimelineId {
        TimelineId::from_u32(id)
    }

    fn parse(content: &[u8]) -> Result<TimelineHistory, HistoryError> {
        TimelineHistory::parse(timeline(5), content)
    }

    #[test]
    fn a_history_is_read_with_comments_blank_lines_and_reasons() {
        let content = b"# note\n1\t0/3000000\tno recovery target specified\n\n \
                        2 1/A0\tat restore point \"\xe4\"\r\n4\t2/0";
        let history = parse(content).unwrap();
        let entry = |id, at, reason: &str| HistoryEntry {
            timeline: timeline(id),
            switch_lsn: lsn(at),
            reason: reason.to_owned(),
        };
        let expected = [
            entry(1, "0/3000000", "no recovery target specified"),
            entry(2, "1/A0", "at restore point \"\u{fffd}\""),
            entry(4, "2/0", ""),
        ];
        assert_eq!(history.ancestors(), expected);
        assert_eq!(history.timeline(), timeline(5));
        assert_eq!(parse(b"").unwrap(), TimelineHistory::of_first(timeline(5)));
    }

    #[test]
    fn a_position_belongs_to_one_timeline_and_a_switch_to_the_next() {
        let history = parse(b"1\t0/3000000\n2\t1/A0\n").unwrap();
        for (id, at) in [(1, "0/0"), (1, "0/2FFFFFF"), (2, "0/3000000"), (2, "1/9F"), (5, "1/A0"), (5, "9/0")]
        {
            assert_eq!(history.timeline_at(lsn(at)), timeline(id), "{at}");
            assert!(history.contains(timeline(id), lsn(at)), "{at}");
        }
        assert!(!history.contains(timeline(1), lsn("0/3000000")));
        assert!(!history.contains(timeline(3), lsn("0/3000000")));
        assert!(TimelineHistory::of_first(timeline(1)).contains(timeline(1), lsn("0/0")));
    }

    #[test]
    fn a_recovery_to_before_the_parents_birth_takes_nothing_from_the_parent() {
        let history = parse(b"1\t0/9000000\n2\t0/5000000\n").unwrap();
        for (id, at) in [(1, "0/4000000"), (5, "0/5000000"), (5, "0/A000000")] {
            assert_eq!(history.timeline_at(lsn(at)), timeline(id), "{at}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let cases: [(&[u8], usize); 10] = [
            (b"x\t0/1", 1),
            (b"0\t0/1", 1),
            (b"1", 1),
            (b"\n1\tnowhere", 2),
            (b"1\t0/1\n1\t0/2", 2),
            (b"2\t0/1\n1\t0/2", 2),
            (b"5\t0/1", 1),
            (b"1\t0/1\n6\t0/1", 2),
            (b"99999999999\t0/1", 1),
            (b"1\t0/123456789", 1),
        ];
        for (content, line) in cases {
            let error = parse(content).unwrap_err();
            assert_eq!((error.line, error.kind()), (line, ErrorKind::Corrupt), "{error}");
        }
        assert_eq!(parse(&vec![b'\n'; HISTORY_MAX_BYTES + 1]).unwrap_err().line, 0);
        assert_eq!(
            parse(b"5\t0/1").unwrap_err().to_string(),
            "bad history of timeline 5, line 1: an ancestor must come before the timeline itself"
        );
    }

    #[test]
    fn whatever_the_bytes_the_parser_comes_to_an_end() {
        proptest::proptest!(|(content in proptest::collection::vec(proptest::num::u8::ANY, 0..200))| {
            let _ = parse(&content);
        });
        proptest::proptest!(|(text in "([0-9]{1,3}[\t ][0-9A-F/]{1,8}[\t #\n]{0,2}){0,5}")| {
            if let Ok(history) = parse(text.as_bytes()) {
                for entry in history.ancestors() {
                    proptest::prop_assert!(!history.contains(entry.timeline, entry.switch_lsn));
                }
            }
        });
    }
}
