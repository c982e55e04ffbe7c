//! Ctrl-C, SIGTERM, kill -9: what is left is a sound repository with nothing partial in it.

use std::io::{BufRead, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Cli;

/// A backup that has read some data and waits for more.
fn waiting_backup(cli: &Cli, data: &[u8]) -> Child {
    let mut child = cli
        .command(&["backup", "--cluster", "main", "--stdin-as", "a", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // The pipe holds less than this: once it is written, the backup is reading.
    child.stdin.as_mut().expect("piped").write_all(data).expect("read by the backup");
    child
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not zero");
    kill_process(pid, signal).expect("it runs");
}

#[test]
fn a_signal_cancels_the_backup_with_its_own_code_and_commits_nothing() {
    let cli = Cli::with_repository();
    for signal in [Signal::INT, Signal::TERM] {
        let child = waiting_backup(&cli, &vec![1; 8 << 20]);
        send(&child, signal);
        let output = child.wait_with_output().expect("it ends though its input stays open");
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one document");
        assert_eq!(document["error"]["kind"], "cancelled");
        assert_eq!(cli.keys(), Vec::<String>::new());
    }
    cli.back_up_stream("a", b"data");
}

/// The second signal ends at once what the first could not: here a read of the key that never ends. To
/// archive_command more than 125 would end the server's archiver.
#[test]
fn a_second_signal_ends_at_once_with_a_code_for_whoever_asked() {
    let cli = Cli::with_repository();
    let key = cli.path("pipe");
    assert!(Command::new("mkfifo").arg(&key).status().expect("it runs").success());
    let key = key.to_str().expect("text");
    for (words, code) in
        [(&["wal", "push", "--cluster", "main", "00000002.history"][..], 75), (&["list"], 130)]
    {
        let mut command = cli.command(&[&["--key-file", key], words].concat());
        command.env_remove("CAPY_PASSPHRASE");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
        // Its key is read once somebody can write it.
        let _writer = std::fs::OpenOptions::new().write(true).open(key).expect("read by it");
        let mut said = std::io::BufReader::new(child.stderr.take().expect("piped")).lines();
        send(&child, Signal::TERM);
        let first = said.next().expect("it says so").expect("text");
        assert!(first.contains("once more ends at once"), "{first}");
        send(&child, Signal::TERM);
        assert_eq!(child.wait().expect("it ends").code(), Some(code), "{words:?}");
    }
}

#[test]
fn killed_at_many_moments_the_repository_stays_sound_and_useful() {
    let cli = Cli::with_repository();
    cli.back_up_stream("first", b"data");
    let data: Vec<u8> =
        (0..6_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for moment in 0..12 {
        let mut child = waiting_backup(&cli, &data[..data.len() / 2]);
        let rest = data[data.len() / 2..].to_vec();
        let mut stdin = child.stdin.take().expect("piped");
        let feeder = std::thread::spawn(move || stdin.write_all(&rest).is_ok());
        std::thread::sleep(Duration::from_millis(moment * 40));
        let _ = child.kill();
        child.wait().expect("it ended");
        feeder.join().expect("no panic");
        // A kill that came late leaves a whole backup: whatever is listed must be whole.
        let report = cli.run(&["verify", "--level", "full", "--json"]).ok().json();
        assert_eq!(report["ok"], true, "{report}");
    }
    cli.back_up_stream("a", &data);
    cli.run(&["verify", "main/latest", "--level", "full"]).ok();
    let target = cli.path("target");
    cli.run(&["restore", "main/latest", "--to", target.to_str().expect("text")]).ok();
    assert!(std::fs::read(target.join("a")).expect("restored") == data);
}
