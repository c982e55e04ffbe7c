//! Bad input: the words, the exit code, the same in every mode, and nothing committed.

use crate::harness::{Cli, Run};

/// Runs in text and in JSON form: same code, message in both, exactly one document in the second.
fn fails(cli: &Cli, arguments: &[&str], input: &[u8], code: i32, words: &str) -> (Run, Run) {
    let text = cli.run_with_input(arguments, input).with_code(code);
    assert!(text.stderr.contains(words), "{words:?} not in: {}", text.stderr);
    let json_arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let json = cli.run_with_input(&json_arguments, input).with_code(code);
    let message = json.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains(words), "{words:?} not in: {message}");
    (text, json)
}

#[test]
fn a_wrong_passphrase_is_denied() {
    let mut cli = Cli::with_repository();
    cli.set_passphrase(Some("wrong"));
    let (text, json) = fails(&cli, &["list"], b"", 7, "no key slot opens with this passphrase");
    assert_eq!(json.json()["error"]["kind"], "denied");
    assert!(text.stderr.contains("\nhint: "), "{}", text.stderr);
    assert!(!text.stderr.contains("wrong\n"), "the passphrase is not repeated");
}

#[test]
fn no_passphrase_at_all_is_denied_with_the_ways_to_give_one() {
    let mut cli = Cli::with_repository();
    cli.set_passphrase(None);
    let (text, _) = fails(&cli, &["list"], b"", 7, "no passphrase was given");
    assert!(text.stderr.contains("--passphrase-file"), "{}", text.stderr);
}

#[test]
fn a_foreign_directory_is_not_a_repository() {
    let cli = Cli::new();
    std::fs::create_dir(cli.repo()).expect("made");
    std::fs::write(cli.repo().join("notes.txt"), "hello").expect("written");
    fails(&cli, &["list"], b"", 3, "not a capy-store repository");
    fails(&cli, &["init"], b"", 4, "notes.txt");
    assert_eq!(std::fs::read(cli.repo().join("notes.txt")).expect("kept"), b"hello");
    assert_eq!(std::fs::read_dir(cli.repo()).expect("read").count(), 1, "nothing was added");
}

#[test]
fn a_second_init_is_a_conflict() {
    fails(&Cli::with_repository(), &["init"], b"", 4, "exists already");
}

#[test]
fn unknown_verbs_and_bad_arguments_are_usage_errors() {
    let cli = Cli::new();
    for arguments in [
        &["lst"][..],
        &["backup", "--cluster", "main"],
        &["backup", "--cluster", "a/b", "--stdin-as", "x"],
        &["backup", "--cluster", "", "--stdin-as", "x"],
        &["verify", "main/latest", "--level", "quick"],
        &["restore", "main", "--to", "/x"],
        &["restore", "main/latest", "--to", "/x", "-T", "a=b"],
        &[
            "restore",
            "main/latest",
            "--to",
            "/x",
            "--target-lsn",
            "0/1",
            "--target-time",
            "2026-11-21T06:54:52Z",
        ],
        &["restore", "main/latest", "--to", "/x", "--target-timeline", "2"],
        &["init", "--compression-level", "0"],
    ] {
        let text = cli.run(arguments).with_code(2);
        assert!(!text.stderr.is_empty(), "{arguments:?}");
        let json: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        assert_eq!(cli.run(&json).with_code(2).json()["error"]["kind"], "invalid", "{arguments:?}");
    }
    cli.run(&[]).with_code(2);
}

#[test]
fn what_does_not_exist_is_not_found() {
    let cli = Cli::with_repository();
    fails(&cli, &["show", "main/latest"], b"", 3, "no such backup");
    fails(&cli, &["verify", "main/latest"], b"", 3, "no such backup");
    fails(&cli, &["verify", "--cluster", "other"], b"", 3, "no backups of cluster other");
}

#[test]
fn the_same_backup_key_twice_is_a_conflict() {
    let cli = Cli::with_repository();
    let arguments = ["backup", "--cluster", "main", "--stdin-as", "a", "--id", "one"];
    cli.run_with_input(&arguments, b"data").ok();
    fails(&cli, &arguments, b"other", 4, "exists already");
    assert_eq!(cli.keys(), ["main/one"]);
}

/// A tar of one directory with two files, as GNU tar makes it.
fn tar_of_files(cli: &Cli) -> Vec<u8> {
    let dir = cli.path("files");
    std::fs::create_dir(&dir).expect("made");
    std::fs::write(dir.join("first"), vec![1; 5_000]).expect("written");
    std::fs::write(dir.join("second"), vec![2; 50_000]).expect("written");
    let output = std::process::Command::new("tar")
        .args(["-cf", "-", "--format=ustar", "-C"])
        .arg(&dir)
        .args(["first", "second"])
        .output()
        .expect("tar runs");
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_truncated_tar_names_entry_and_offset_and_commits_nothing() {
    let cli = Cli::with_repository();
    let tar = tar_of_files(&cli);
    let arguments = ["backup", "--cluster", "main", "--tar", "-"];
    let cut = 20_000;
    let (text, _) = fails(&cli, &arguments, &tar[..cut], 6, "second");
    assert!(text.stderr.contains(&format!("byte {cut}")), "{}", text.stderr);
    assert_eq!(cli.keys(), Vec::<String>::new());
}

#[test]
fn input_that_is_no_base_backup_commits_nothing() {
    let cli = Cli::with_repository();
    let tar = tar_of_files(&cli);
    let arguments = ["backup", "--cluster", "main", "--tar", "-"];
    fails(&cli, &arguments, &tar, 2, "backup_label");
    fails(&cli, &arguments, b"", 2, "no data");
    fails(&cli, &arguments, &[0x55; 4096], 6, "tar");
    assert_eq!(cli.keys(), Vec::<String>::new());
}

#[test]
fn a_target_that_is_not_empty_is_refused_before_anything_is_written() {
    let cli = Cli::with_repository();
    cli.back_up_stream("a", b"data");
    let target = cli.path("target");
    std::fs::create_dir(&target).expect("made");
    std::fs::write(target.join("precious"), "x").expect("written");
    let to = target.to_str().expect("text");
    fails(&cli, &["restore", "main/latest", "--to", to], b"", 4, "not empty");
    assert_eq!(std::fs::read_dir(&target).expect("read").count(), 1);
}

#[test]
fn a_damaged_pack_fails_verify_and_restore_and_both_name_it() {
    let cli = Cli::with_repository();
    cli.back_up_stream("a", &[3; 300_000]);
    let packs: Vec<_> = crate::harness::snapshot(&cli.repo().join("packs"));
    for (path, bytes) in &packs {
        let mut bytes = bytes.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("written");
    }
    let report = cli.run(&["verify", "main/latest", "--level", "full", "--json"]).with_code(1).json();
    assert_eq!(report["ok"], false);
    let defect = &report["defects"][0];
    assert!(defect.to_string().contains("packs/"), "{defect}");
    assert!(defect["backups"].as_array().is_some_and(|backups| !backups.is_empty()), "{defect}");
    let listed = cli.run(&["list", "--json"]).ok().json();
    assert_eq!(listed["backups"][0]["verification_state"], "failed");
    let target = cli.path("target");
    fails(&cli, &["restore", "main/latest", "--to", target.to_str().expect("text")], b"", 6, "");
}
