//! A real server whose archive_command is the built binary, and a repository that both use.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use capy_testkit::postgres::{Cluster, ClusterBuilder, text};

use crate::harness::Run;

/// No single step takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server, and a repository with the archive `main`. Commands run as the server's user, so that
/// neither makes files that the other cannot read.
pub(crate) struct Archiving {
    pub(crate) server: Cluster,
    home: PathBuf,
}

impl Archiving {
    /// A server about whose settings there is nothing to say.
    pub(crate) fn start() -> Self {
        let archiving = Self::start_without_command(Cluster::builder());
        archiving.set("archive_command", &archiving.archive_command());
        archiving
    }

    /// As `start`, on a server of one's own, before it archives anything.
    pub(crate) fn start_without_command(server: ClusterBuilder) -> Self {
        let settings = ["archive_mode = on", "archive_timeout = 60", "max_slot_wal_keep_size = 1GB"];
        Self::with_repository(settings.iter().fold(server, |server, line| server.setting(line)).start())
    }

    /// A server as it is, and a new repository.
    pub(crate) fn with_repository(server: Cluster) -> Self {
        let home = server.make_directory("home");
        let archiving = Self { server, home };
        let (repo, key) = (archiving.path("repo"), archiving.path("key"));
        let init = ["--repo", text(&repo), "init", "--create-key-file", text(&key)];
        archiving.run_plain(&init).ok();
        archiving
    }

    pub(crate) fn archive_command(&self) -> String {
        let binary = env!("CARGO_BIN_EXE_capy-store");
        let (repo, key) = (self.path("repo"), self.path("key"));
        format!("{binary} --repo {} --key-file {} wal push --cluster main %p", text(&repo), text(&key))
    }

    /// Changes a setting of the server.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.server.sql(&format!("alter system set {name} = '{value}'"));
        self.server.sql("select pg_reload_conf()");
        let value = value.to_owned();
        until(name, || self.server.sql(&format!("show {name}")) == value);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    pub(crate) fn conninfo(&self) -> String {
        format!("{} user=postgres", self.server.address())
    }

    /// Runs a command on the repository.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let (repo, key) = (self.path("repo"), self.path("key"));
        self.run_plain(&[&["--repo", text(&repo), "--key-file", text(&key)], arguments].concat())
    }

    /// Runs a command as it is.
    pub(crate) fn run_plain(&self, arguments: &[&str]) -> Run {
        Self::finish(&mut self.capy(arguments))
    }

    /// The command, to be run as the server's user.
    pub(crate) fn capy(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_capy-store"));
        command.args(arguments);
        command
    }

    /// A program that will run as the server's user, with nothing in its environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).current_dir(&self.home);
        let owner = std::fs::metadata(&self.home).expect("it is there");
        if rustix::process::geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        command
    }

    /// Runs it to its end.
    pub(crate) fn finish(command: &mut Command) -> Run {
        let output = command.output().expect("the binary runs");
        Run {
            code: output.status.code().expect("an exit code, not a signal"),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Takes a base backup and gives its key.
    pub(crate) fn back_up(&self) -> String {
        let report = self.run(&["backup", "--cluster", "main", "--pg", &self.conninfo(), "--json"]);
        report.ok().json()["backup"]["backup_key"].as_str().expect("a key").to_owned()
    }

    /// Ends the segment that is being written, and waits until the archive has it.
    pub(crate) fn archive_all(&self) {
        // On an idle server a switch does nothing.
        self.server.sql("select pg_logical_emit_message(false, 'test', 'x')");
        let segment = self.server.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
        self.server.sql("select pg_switch_wal()");
        let object = self.path("repo/wal/main").join(&segment[..8]).join(&segment);
        until(&segment, || object.exists());
    }

    /// Restores with these options, starts a server on the result, and waits until it has recovered.
    pub(crate) fn recover(&self, options: &[&str]) -> (Run, Cluster) {
        self.recover_on(Cluster::builder().major(self.server.major()), options)
    }

    /// As `recover`, on a server of one's own.
    pub(crate) fn recover_on(&self, server: ClusterBuilder, options: &[&str]) -> (Run, Cluster) {
        let target = self.path("restored");
        let _ = std::fs::remove_dir_all(&target);
        let run = self.run(&[&["restore", "main/latest", "--to", text(&target)], options].concat()).ok();
        let copy = server.start_from(|data| {
            std::fs::remove_dir(data).expect("it is empty");
            std::fs::rename(&target, data).expect("one file system");
        });
        until("the recovery's end", || copy.sql("select pg_is_in_recovery()") == "f");
        (run, copy)
    }
}

/// Waits until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
