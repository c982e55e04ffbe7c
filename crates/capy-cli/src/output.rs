//! Standard output: one JSON document, or text for people.
//!
//! Contained by: every command. Invariants: under `--json` standard output carries exactly one
//! document, also on failure; text for people that is the command's answer goes to standard
//! output, everything about its progress to standard error. A closed pipe ends the command
//! quietly.

use std::io::Write;

use serde::Serialize;

/// How answers are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    /// Standard output carries the command's data, so that the document goes to standard error.
    pub(crate) stdout_is_data: bool,
}

impl Output {
    /// Prints the answer: `document` under `--json`, else the text made by `text`.
    pub(crate) fn answer<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            return self.document(document);
        }
        Ok(self.print(&text(document))?)
    }

    /// Prints the answer of a command whose work is its result: its account is left out when quiet.
    pub(crate) fn account<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.quiet && !self.json { Ok(()) } else { self.answer(document, text) }
    }

    /// Prints one JSON document.
    pub(crate) fn document<T: Serialize>(&self, document: &T) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(document)?;
        text.push('\n');
        Ok(self.print(&text)?)
    }

    fn print(&self, text: &str) -> std::io::Result<()> {
        let text =
            if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        let written = if self.stdout_is_data {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
        };
        match written {
            // The reader has seen enough (`capy-store list | head -1`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

/// Lays out rows in columns two spaces apart; the first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Lays out `name: value` lines with the values in one column.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        text.push_str(&format!("{name:<width$}  {value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_leaves_no_trailing_spaces() {
        let rows =
            [vec!["key".to_owned(), "size".to_owned()], vec!["main/latest".to_owned(), "1 B".to_owned()]];
        assert_eq!(table(&rows), "key          size\nmain/latest  1 B\n");
    }
}
