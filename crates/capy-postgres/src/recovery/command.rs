//! The `restore_command`: a line of shell in which PostgreSQL replaces `%f`, `%p`, `%r` and `%%`.
//!
//! Source: `BuildRestoreCommand` of 13 to 18. Before 16 the result is cut at 1023 bytes without a
//! word, and from 16 on an unknown placeholder is an error.

/// The longest command after replacement: `MAXPGPATH` less its zero.
pub(super) const COMMAND_MAX_BYTES: usize = 1023;

/// The longest file name: `MAXFNAMELEN` less its zero.
pub(super) const FILE_NAME_MAX_BYTES: usize = 63;

/// The longest `%p`, which is `pg_wal/` and a name.
const PATH_MAX_BYTES: usize = 7 + FILE_NAME_MAX_BYTES;

/// A word that a shell takes as it is.
///
/// Words of harmless characters stay bare, everything else goes into single quotes.
#[must_use]
pub fn shell_quote(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A text in which PostgreSQL replaces nothing.
#[must_use]
pub fn percent_escape(text: &str) -> String {
    text.replace('%', "%%")
}

/// The command made of these words, followed by the file's name and the path to write it to:
/// `capy-store wal fetch` gives `capy-store wal fetch %f %p`.
#[must_use]
pub fn restore_command(words: &[&str]) -> String {
    let words = words.iter().map(|word| percent_escape(&shell_quote(word)));
    words.chain(["%f".to_owned(), "%p".to_owned()]).collect::<Vec<_>>().join(" ")
}

/// What is wrong with a command, if something is.
pub(super) fn fault_of(command: &str) -> Option<String> {
    let (mut expanded_bytes, mut names_file, mut names_path) = (0, false, false);
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            expanded_bytes += character.len_utf8();
            continue;
        }
        expanded_bytes += match characters.next() {
            Some('%') => 1,
            Some('r') => FILE_NAME_MAX_BYTES,
            Some('f') => {
                names_file = true;
                FILE_NAME_MAX_BYTES
            }
            Some('p') => {
                names_path = true;
                PATH_MAX_BYTES
            }
            Some(other) => {
                return Some(format!("%{other} is no placeholder: a percent sign itself is %%"));
            }
            None => return Some("it ends in a lone percent sign".to_owned()),
        };
    }
    if !(names_file && names_path) {
        return Some("it lacks %f or %p".to_owned());
    }
    (expanded_bytes > COMMAND_MAX_BYTES).then(|| {
        format!("it can become {expanded_bytes} bytes long, and PostgreSQL cuts it at {COMMAND_MAX_BYTES}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_itself_to_a_shell() {
        for word in
            ["plain", "", "two words", "it's", "$HOME `id` \"x\" \\", "new\nline", "*", "~", "é", "a%b"]
        {
            let command = format!("printf %s {}", shell_quote(word));
            let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(shell_quote("/usr/bin/capy-store"), "/usr/bin/capy-store");
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
    }

    #[test]
    fn percent_signs_of_words_are_not_placeholders() {
        let command = restore_command(&["capy-store", "--repo", "s3://bucket/a%20b c", "wal", "fetch"]);
        assert_eq!(command, "capy-store --repo 's3://bucket/a%%20b c' wal fetch %f %p");
        assert_eq!(fault_of(&command), None);
    }

    #[test]
    fn what_postgresql_would_not_run_as_meant_is_named() {
        let fault = |command: &str| fault_of(command).unwrap_or_default();
        assert_eq!(fault("cp /archive/%f pg_wal/x"), "it lacks %f or %p");
        assert_eq!(fault("cp /archive/%%f %p"), "it lacks %f or %p");
        assert_eq!(fault("cp /a%20b/%f %p"), "%2 is no placeholder: a percent sign itself is %%");
        assert_eq!(fault("cp %f %p %"), "it ends in a lone percent sign");
        let room = COMMAND_MAX_BYTES - FILE_NAME_MAX_BYTES - PATH_MAX_BYTES;
        assert_eq!(fault(&format!("{}%f%p", "x".repeat(room))), "");
        assert!(fault(&format!("{}%f%p", "x".repeat(room + 1))).contains("cuts it at 1023"));
    }
}
