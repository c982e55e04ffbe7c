//! Passphrases and key files: from a file, the environment or a prompt, never from an argument.
//!
//! Contained by: every command that opens a repository. What is named on the command line wins
//! over the environment, the environment over the prompt.
//! Invariant: a secret lives in [`Secret`] from the moment it is read, and no message holds one.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use anyhow::Context;
use capy_store::{Entropy, Key, OsEntropy, Secret};

use crate::args::Global;
use crate::environment::{path_var, var};
use crate::failure::Failure;

/// Largest passphrase or key file in bytes: more is a mistaken path.
const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;
/// Bytes of a key file made here: as strong as the master key it wraps, twice over.
const KEY_FILE_BYTES: usize = 64;

/// The secret that opens a repository.
pub(crate) fn opening_key(global: &Global) -> anyhow::Result<Key> {
    if let Some(file) = &global.passphrase_file {
        return read_passphrase(file).map(Key::Passphrase);
    }
    if let Some(file) = &global.key_file {
        return read_key_file(file).map(Key::File);
    }
    if let Some(text) = var("CAPY_PASSPHRASE") {
        return Ok(Key::passphrase(text));
    }
    if let Some(file) = path_var("CAPY_PASSPHRASE_FILE") {
        return read_passphrase(&file).map(Key::Passphrase);
    }
    if let Some(file) = path_var("CAPY_KEY_FILE") {
        return read_key_file(&file).map(Key::File);
    }
    prompt("Passphrase: ").map(Key::Passphrase)
}

/// Whether no file is known that opens the repository, so that another process needs to be told the secret.
pub(crate) fn is_in_no_file(global: &Global) -> bool {
    let named = global.passphrase_file.is_some() || global.key_file.is_some();
    !named && path_var("CAPY_PASSPHRASE_FILE").is_none() && path_var("CAPY_KEY_FILE").is_none()
}

/// Every secret given for a new repository: one slot is made for each. A prompt asks twice.
pub(crate) fn new_repository_keys(global: &Global) -> anyhow::Result<Vec<Key>> {
    let mut keys = Vec::new();
    match (&global.passphrase_file, var("CAPY_PASSPHRASE"), path_var("CAPY_PASSPHRASE_FILE")) {
        (Some(file), _, _) => keys.push(Key::Passphrase(read_passphrase(file)?)),
        (None, Some(text), _) => keys.push(Key::passphrase(text)),
        (None, None, Some(file)) => keys.push(Key::Passphrase(read_passphrase(&file)?)),
        (None, None, None) => {}
    }
    if let Some(file) = global.key_file.clone().or_else(|| path_var("CAPY_KEY_FILE")) {
        keys.push(Key::File(read_key_file(&file)?));
    }
    if keys.is_empty() {
        keys.push(Key::Passphrase(prompt_twice("New passphrase: ")?));
    }
    Ok(keys)
}

/// The secret of a slot to be added.
pub(crate) fn added_key(passphrase_file: Option<&Path>, key_file: Option<&Path>) -> anyhow::Result<Key> {
    if let Some(file) = passphrase_file {
        return read_passphrase(file).map(Key::Passphrase);
    }
    if let Some(file) = key_file {
        return read_key_file(file).map(Key::File);
    }
    if let Some(text) = var("CAPY_NEW_PASSPHRASE") {
        return Ok(Key::passphrase(text));
    }
    prompt_twice("New passphrase: ").map(Key::Passphrase)
}

/// Writes a new random key file, readable by its owner only, and returns its key.
pub(crate) fn create_key_file(file: &Path) -> anyhow::Result<Key> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut bytes = vec![0; KEY_FILE_BYTES];
    OsEntropy.fill(&mut bytes);
    let secret = Secret::new(bytes);
    let creating = || format!("create {}", file.display());
    let mut opened = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(creating)?;
    opened.write_all(secret.expose()).and_then(|()| opened.sync_all()).with_context(creating)?;
    Ok(Key::File(secret))
}

/// The first line of a file.
fn read_passphrase(file: &Path) -> anyhow::Result<Secret> {
    let content = read_bounded(file)?;
    let line = content.expose().split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::invalid(format!("the passphrase file is empty: {}", file.display())).into());
    }
    Ok(Secret::new(line.to_vec()))
}

/// All bytes of a file.
fn read_key_file(file: &Path) -> anyhow::Result<Secret> {
    read_bounded(file)
}

fn read_bounded(file: &Path) -> anyhow::Result<Secret> {
    let reading = || format!("read {}", file.display());
    let opened = std::fs::File::open(file).with_context(reading)?;
    let mut content = Vec::new();
    opened.take(SECRET_FILE_MAX_BYTES + 1).read_to_end(&mut content).with_context(reading)?;
    let secret = Secret::new(content);
    if secret.expose().len() as u64 > SECRET_FILE_MAX_BYTES {
        let what = format!("{} is larger than {SECRET_FILE_MAX_BYTES} bytes", file.display());
        return Err(Failure::invalid(what).into());
    }
    Ok(secret)
}

fn prompt(question: &str) -> anyhow::Result<Secret> {
    // Standard input may be the tar: the prompt reads from the controlling terminal.
    if !std::io::stderr().is_terminal() || std::fs::File::open("/dev/tty").is_err() {
        return Err(Failure::denied("no passphrase was given")
            .with_hint("set CAPY_PASSPHRASE, or name a file with --passphrase-file or --key-file")
            .into());
    }
    let text = rpassword::prompt_password(question).context("read the passphrase from the terminal")?;
    Ok(Secret::from(text))
}

fn prompt_twice(question: &str) -> anyhow::Result<Secret> {
    let first = prompt(question)?;
    let second = prompt("Again, to be sure: ")?;
    if first.expose() != second.expose() {
        return Err(Failure::invalid("the two passphrases differ").into());
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase_of(content: &str) -> anyhow::Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("written");
        read_passphrase(file.path()).map(|secret| secret.expose().to_vec())
    }

    #[test]
    fn a_passphrase_file_counts_to_the_end_of_its_first_line() {
        for content in ["horse", "horse\n", "horse\r\n", "horse\nbattery\n"] {
            assert_eq!(passphrase_of(content).expect("a passphrase"), b"horse", "{content:?}");
        }
        assert_eq!(passphrase_of(" spaced ").expect("a passphrase"), b" spaced ");
        assert!(passphrase_of("").is_err());
        assert!(passphrase_of("\nhorse").is_err());
    }
}
