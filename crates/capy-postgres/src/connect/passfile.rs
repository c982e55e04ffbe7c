//! The password file (`.pgpass`): `host:port:database:user:password`, first match wins.
//!
//! Source: PostgreSQL documentation, "The Password File".

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use capy_types::Secret;

/// Longest password file read in bytes.
const PASSFILE_MAX_BYTES: u64 = 1 << 20;

/// The password for a connection, when `path` has one. A file that others may read is ignored, as
/// libpq does.
pub(super) fn look_up(path: &Path, host: &str, port: u16, database: &str, user: &str) -> Option<Secret> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file()
        || metadata.len() > PASSFILE_MAX_BYTES
        || metadata.permissions().mode() & 0o077 != 0
    {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    // libpq looks a socket directory up as "localhost".
    let host = if host.starts_with('/') || host.starts_with('@') { "localhost" } else { host };
    find(&text, &[host, &port.to_string(), database, user])
}

fn find(text: &str, wanted: &[&str; 4]) -> Option<Secret> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = split(line).into_iter();
        let matches =
            wanted.iter().all(|value| fields.next().is_some_and(|field| field == "*" || field == *value));
        fields.next().filter(|_| matches).map(Secret::from)
    })
}

/// Splits at colons; a backslash takes the next character as it is.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut().expect("never empty").extend(characters.next()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_wins_and_escapes_are_undone() {
        let text = "# note\nother:5432:*:*:no\n*:*:*:al\\:ice:se\\:cr\\\\et:x\n*:*:*:*:late\n";
        let found = |user: &str| find(text, &["db", "5432", "main", user]).unwrap();
        assert_eq!(found("al:ice").expose(), b"se:cr\\et:x");
        assert_eq!(found("bob").expose(), b"late");
        assert!(find("a:b:c", &["a", "b", "c", "d"]).is_none());
    }
}
