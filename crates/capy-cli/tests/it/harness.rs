//! Runs the built binary against a repository of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// A repository in a temporary directory, and the command that drives it.
pub(crate) struct Cli {
    pub(crate) dir: tempfile::TempDir,
    passphrase: Option<String>,
    /// Where the repository is, when not in the directory.
    url: Option<String>,
    /// More of the environment.
    variables: Vec<(&'static str, String)>,
}

/// What one run answered.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Cli {
    /// A place where nothing is yet.
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            passphrase: Some("correct horse battery staple".to_owned()),
            url: None,
            variables: Vec::new(),
        }
    }

    /// A fresh place in a real S3 server.
    pub(crate) fn on_s3(server: &capy_testkit::S3Server) -> Self {
        Self { url: Some(server.fresh_url()), variables: server.env().to_vec(), ..Self::new() }
    }

    /// A place with a repository.
    pub(crate) fn with_repository() -> Self {
        let cli = Self::new();
        cli.run(&["init"]).ok();
        cli
    }

    /// From now on with another passphrase, or none.
    pub(crate) fn set_passphrase(&mut self, passphrase: Option<&str>) {
        self.passphrase = passphrase.map(str::to_owned);
    }

    /// From now on with another value in the environment.
    pub(crate) fn set_variable(&mut self, name: &'static str, value: String) {
        self.variables.retain(|(other, _)| *other != name);
        self.variables.push((name, value));
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.run_with_input(arguments, &[])
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Run {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        // The child may end without reading all of it: that is its right.
        let feeder = std::thread::spawn(move || stdin.write_all(&input).is_ok());
        let output = child.wait_with_output().expect("it ends");
        feeder.join().expect("no panic");
        Run {
            code: output.status.code().expect("an exit code, not a signal"),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The command with an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capy-store"));
        command.args(arguments).env_clear().envs(self.variables.iter().cloned());
        match &self.url {
            Some(url) => command.env("CAPY_REPO", url),
            None => command.env("CAPY_REPO", self.repo()),
        };
        if let Some(passphrase) = &self.passphrase {
            command.env("CAPY_PASSPHRASE", passphrase);
        }
        command
    }

    /// Stores `data` as a stream and returns its key.
    pub(crate) fn back_up_stream(&self, name: &str, data: &[u8]) -> String {
        let arguments = ["backup", "--cluster", "main", "--stdin-as", name, "--json"];
        let document = self.run_with_input(&arguments, data).ok().json();
        document["backup"]["backup_key"].as_str().expect("a key").to_owned()
    }

    /// The keys of all backups.
    pub(crate) fn keys(&self) -> Vec<String> {
        let document = self.run(&["list", "--json"]).ok().json();
        let backups = document["backups"].as_array().expect("a list").clone();
        backups.iter().map(|b| b["backup_key"].as_str().expect("a key").to_owned()).collect()
    }
}

impl Run {
    /// The run, which must have succeeded.
    pub(crate) fn ok(self) -> Self {
        self.with_code(0)
    }

    /// The run, which must have ended with `code`.
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as the one JSON document it must be.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: stdout: {}\nstderr: {}", self.text(), self.stderr))
    }
}

/// A generator's own bytes (xorshift64), always the same: nothing to compress. `length` is a multiple of 8.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

/// All files below `directory` with their bytes, to see whether anything changed.
pub(crate) fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(&next).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("readable");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}
