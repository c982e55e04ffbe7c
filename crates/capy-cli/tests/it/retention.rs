//! Pins and `expire`: what is shown, what is asked for, what goes and what never does.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::documents::is_documented;
use crate::harness::{Cli, Run};

/// A repository with the backups `main/s0`, `main/s1`, … of one stream.
fn with_backups(count: usize) -> Cli {
    let cli = Cli::with_repository();
    for n in 0..count {
        let id = format!("s{n}");
        let arguments =
            ["backup", "--cluster", "main", "--stdin-as", "dump.sql", "--database", "shop", "--id", &id];
        cli.run_with_input(&arguments, id.as_bytes()).ok();
    }
    cli
}

fn expire(cli: &Cli, arguments: &[&str]) -> Run {
    cli.run(&[&["expire"], arguments].concat())
}

/// The keys in a list of the report.
fn keys(report: &Value, list: &str) -> Vec<String> {
    let list = report[list].as_array().expect("a list");
    list.iter().map(|entry| entry["backup"]["backup_key"].as_str().expect("a key").to_owned()).collect()
}

/// The rows of the table: key, plan, why.
fn rows(text: &str) -> Vec<String> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        [cells.first(), cells.get(5), cells.get(6)].map(|cell| *cell.unwrap_or(&"")).join("|")
    };
    text.lines().skip(1).filter(|line| line.starts_with("main/")).map(row).collect()
}

#[test]
fn a_dry_run_shows_each_backup_with_its_fate_and_removes_nothing() {
    let cli = with_backups(3);
    cli.run(&["pin", "main/s0", "--reason", "before the move"]).ok();
    let text = expire(&cli, &["--keep-full", "1", "--dry-run"]).ok().text();
    assert_eq!(
        rows(&text),
        [
            "main/s0|keep|pinned: before the move",
            "main/s1|remove|no rule keeps it",
            "main/s2|keep|newest, full"
        ]
    );
    assert!(text.contains("\n2 backups to keep, 1 to remove: 2 B, "), "{text}");
    assert_eq!(cli.keys().len(), 3);
}

#[test]
fn with_yes_it_shows_and_removes() {
    let cli = with_backups(3);
    let text = expire(&cli, &["--keep-full", "2", "--yes"]).ok().text();
    assert_eq!(rows(&text).first().map(String::as_str), Some("main/s0|remove|no rule keeps it"));
    assert!(text.ends_with("\n1 backup removed\n"), "{text}");
    assert_eq!(cli.keys(), ["main/s1", "main/s2"]);
    let quiet = expire(&cli, &["--keep-full", "1", "--yes", "--quiet"]).ok();
    assert_eq!((quiet.text().as_str(), quiet.stderr.as_str()), ("", ""));
    assert_eq!(cli.keys(), ["main/s2"]);
}

#[test]
fn where_nobody_can_be_asked_it_wants_yes() {
    let cli = with_backups(2);
    let run = expire(&cli, &["--keep-full", "1"]).with_code(2);
    assert!(
        run.stderr.contains("nobody can be asked without a terminal: nothing was removed"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("--yes"), "{}", run.stderr);
    let json = expire(&cli, &["--keep-full", "1", "--json"]).with_code(2).json();
    assert_eq!(json["error"]["kind"], "invalid");
    assert_eq!(cli.keys().len(), 2);
}

#[test]
fn the_document_tells_reasons_sums_and_where_wal_begins() {
    let cli = with_backups(3);
    let rules = ["--keep-daily", "1", "--keep-within", "30d", "--cluster", "main"];
    let all = expire(&cli, &[&rules[..], &["--dry-run", "--json"]].concat()).ok().json();
    is_documented(&all);
    assert_eq!((all["dry_run"].as_bool(), keys(&all, "kept").len()), (Some(true), 3));
    assert_eq!(all["kept"][0]["reasons"], serde_json::json!(["within"]));
    assert_eq!(all["kept"][2]["reasons"], serde_json::json!(["newest", "within", "daily"]));
    assert_eq!(all["oldest_kept"], serde_json::json!([]), "a stream needs no WAL");

    let done = expire(&cli, &["--keep-full", "1", "--yes", "--json"]).ok().json();
    is_documented(&done);
    assert_eq!(done["dry_run"], false);
    assert_eq!(keys(&done, "expired"), ["main/s0", "main/s1"]);
    assert_eq!(done["expired"][0]["reason"], "no_rule");
    assert_eq!(done["expired_bytes"], 4);
    assert_eq!(cli.keys(), keys(&done, "kept"));
}

#[test]
fn rules_that_make_no_sense_are_usage_errors() {
    let cli = with_backups(1);
    for arguments in [
        &["--yes"][..],
        &["--keep-full", "0", "--yes"],
        &["--keep-full", "-1", "--yes"],
        &["--keep-full", "many", "--yes"],
        &["--keep-daily", "4294967296", "--yes"],
        &["--keep-within", "30", "--yes"],
        &["--keep-within", "0d", "--yes"],
        &["--keep-within", "infd", "--yes"],
        &["--keep-full", "1", "--yes", "--dry-run"],
        &["--keep-fulls", "1", "--yes"],
    ] {
        expire(&cli, arguments).with_code(2);
        let json = expire(&cli, &[arguments, &["--json"]].concat()).with_code(2).json();
        assert_eq!(json["error"]["kind"], "invalid", "{arguments:?}");
    }
    let unknown = expire(&cli, &["--keep-full", "1", "--yes", "--cluster", "mian"]).with_code(3);
    assert!(unknown.stderr.contains("no backups of cluster mian"), "{}", unknown.stderr);
    assert_eq!(cli.keys().len(), 1);
}

#[test]
fn a_pin_is_shown_and_holds_until_it_is_taken_off() {
    let cli = with_backups(1);
    let pinned = cli.run(&["pin", "main/latest", "--reason", "audit", "--by", "ops", "--json"]).ok().json();
    is_documented(&pinned);
    assert_eq!(pinned["backup"]["backup_key"], "main/s0");
    let listed = cli.run(&["list", "--json"]).ok().json();
    assert_eq!(listed["backups"][0]["pinned"]["reason"], "audit");
    assert_eq!(listed["backups"][0]["pinned"]["by"], "ops");
    let text = cli.run(&["list"]).ok().text();
    assert!(text.contains("PINNED") && text.contains("  yes"), "{text}");
    let text = cli.run(&["show", "main/s0"]).ok().text();
    assert!(text.contains("audit (by ops, 20"), "{text}");

    let refused = cli.run(&["delete", "main/s0"]).with_code(4);
    assert!(refused.stderr.contains("backup main/s0 is pinned: audit"), "{}", refused.stderr);
    assert!(refused.stderr.contains("\nhint: take the pin off first, with `unpin`"), "{}", refused.stderr);
    assert_eq!(cli.keys().len(), 1);

    cli.run(&["unpin", "main/latest"]).with_code(2);
    assert_eq!(cli.run(&["unpin", "main/s0"]).ok().text(), "unpinned main/s0\n");
    cli.run(&["delete", "main/s0"]).ok();
}

#[test]
fn pins_without_a_reason_or_a_backup_are_refused() {
    let cli = with_backups(1);
    cli.run(&["pin", "main/s0"]).with_code(2);
    cli.run(&["pin", "main/s0", "--reason", ""]).with_code(2);
    cli.run(&["pin", "main/s0", "--reason", "two\nlines"]).with_code(2);
    let long = "x".repeat(201);
    let run = cli.run(&["pin", "main/s0", "--reason", &long]).with_code(2);
    assert!(run.stderr.contains("201 characters, 200 at most"), "{}", run.stderr);
    cli.run(&["pin", "main/s9", "--reason", "audit"]).with_code(3);
    cli.run(&["unpin", "main/s9"]).with_code(3);
}

/// Runs the command on a terminal of its own and types `answer`.
fn on_terminal(cli: &Cli, arguments: &str, answer: &str) -> Run {
    let binary = env!("CARGO_BIN_EXE_capy-store");
    let own = cli.command(&[]);
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{binary} {arguments}"), "/dev/null"]);
    script.env_clear().env("PATH", "/usr/bin:/bin");
    script.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("script runs");
    // Kept open until the end: its end would be typed too.
    let mut keyboard = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut keyboard, answer.as_bytes()).expect("typed");
    let output = child.wait_with_output().expect("it ends");
    drop(keyboard);
    Run {
        code: output.status.code().expect("an exit code"),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn on_a_terminal_the_answer_decides() {
    let cli = with_backups(2);
    let no = on_terminal(&cli, "expire --keep-full 1", "n\n").with_code(130).text();
    assert!(no.contains("Remove 1 backup? [y/N]"), "{no}");
    assert!(no.contains("not confirmed: nothing was removed"), "{no}");
    assert!(no.find("no rule keeps it") < no.find("Remove 1 backup?"), "shown before asked: {no}");
    assert_eq!(cli.keys().len(), 2);
    let yes = on_terminal(&cli, "expire --keep-full 1", "y\n").ok().text();
    assert!(yes.contains("1 backup removed"), "{yes}");
    assert_eq!(cli.keys(), ["main/s1"]);
    let nothing = on_terminal(&cli, "expire --keep-full 1", "").ok().text();
    assert!(!nothing.contains("[y/N]"), "nothing to ask for: {nothing}");
}
