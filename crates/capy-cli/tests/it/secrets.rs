//! Secrets: given in every allowed way, never shown, never stored.

use crate::harness::{Cli, Run, snapshot};

const PLANTED: &str = "planted-secret-4711";

fn shows(run: &Run) -> bool {
    run.text().contains(PLANTED) || run.stderr.contains(PLANTED)
}

#[test]
fn no_secret_is_printed_or_stored_however_much_is_logged() {
    let mut cli = Cli::new();
    cli.set_passphrase(Some(PLANTED));
    let mut runs = vec![cli.run(&["init", "-vvv"]).ok()];
    let pg = format!("host=/no/such/socket user=postgres password={PLANTED}");
    let backup = ["backup", "-vvv", "--cluster", "main", "--stdin-as", "a"];
    runs.push(cli.run_with_input(&backup, b"data").ok());
    runs.push(cli.run(&["backup", "-vvv", "--cluster", "main", "--pg", &pg]).with_code(5));
    for arguments in
        [&["list", "-vvv"][..], &["verify", "-vvv"], &["key", "list", "-vvv"], &["inspect", "key"]]
    {
        runs.push(cli.run(arguments).ok());
    }
    let added = cli
        .command(&["key", "add", "-vvv"])
        .env("CAPY_NEW_PASSPHRASE", format!("{PLANTED}-new"))
        .output()
        .expect("it runs");
    assert!(added.status.success());
    assert!(!String::from_utf8_lossy(&added.stderr).contains(PLANTED));
    assert!(!runs.iter().any(shows));
    for (path, bytes) in snapshot(&cli.repo()) {
        let found = bytes.windows(PLANTED.len()).any(|window| window == PLANTED.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

#[test]
fn a_passphrase_comes_from_a_file_or_the_environment_and_the_command_line_wins() {
    let mut cli = Cli::with_repository();
    let file = cli.path("passphrase");
    std::fs::write(&file, "correct horse battery staple\n").expect("written");
    let file = file.to_str().expect("text").to_owned();
    cli.set_passphrase(Some("wrong"));
    cli.run(&["list"]).with_code(7);
    cli.run(&["list", "--passphrase-file", &file]).ok();
    cli.set_passphrase(None);
    let by_variable = cli.command(&["list"]).env("CAPY_PASSPHRASE_FILE", &file).output().expect("it runs");
    assert!(by_variable.status.success());
    cli.run(&["list", "--passphrase-file", "/no/such/file"]).with_code(3);
}

#[test]
fn a_key_file_is_made_for_its_owner_only_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let mut cli = Cli::new();
    cli.set_passphrase(None);
    let key = cli.path("key");
    let text = key.to_str().expect("text").to_owned();
    cli.run(&["init", "--create-key-file", &text]).ok();
    assert_eq!(key.metadata().expect("made").permissions().mode() & 0o777, 0o600);
    cli.run(&["list", "--key-file", &text]).ok();
    let before = std::fs::read(&key).expect("read");
    let other = cli.path("other");
    let elsewhere = ["init", "--create-key-file", &text, "--repo", other.to_str().expect("text")];
    cli.run(&elsewhere).with_code(4);
    assert!(std::fs::read(&key).expect("read") == before);
}
