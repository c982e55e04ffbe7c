//! A throw-away PostgreSQL server, run as the user `postgres` when the tests run as root.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A running server; stopped when dropped.
pub(crate) struct Server {
    data: PathBuf,
    socket: PathBuf,
    /// Removed last.
    _home: Option<tempfile::TempDir>,
}

impl Server {
    /// A new cluster with page checksums.
    pub(crate) fn start() -> Self {
        let home = tempfile::Builder::new().prefix("capy-cli-pg").tempdir_in("/tmp").expect("a directory");
        open_to_all(home.path());
        give_to_postgres(home.path());
        let data = home.path().join("data");
        run("initdb", &["-A", "trust", "-U", "postgres", "--no-sync", "-k", "-D", text(&data)]);
        let server = Self { data, socket: home.path().to_owned(), _home: Some(home) };
        server.configure("fsync = off\nwal_level = replica\nmax_wal_senders = 10");
        server.launch();
        server
    }

    /// A server on a restored directory.
    pub(crate) fn boot(data: &Path, socket: &Path) -> Self {
        let server = Self { data: data.to_owned(), socket: socket.to_owned(), _home: None };
        server.configure("fsync = off\narchive_mode = off");
        server.launch();
        server
    }

    fn configure(&self, settings: &str) {
        let file = self.data.join("postgresql.auto.conf");
        let socket = text(&self.socket);
        let all = format!("{settings}\nlisten_addresses = ''\nunix_socket_directories = '{socket}'\n");
        std::fs::write(&file, all).expect("written");
        give_to_postgres(&file);
    }

    fn launch(&self) {
        let log = self.socket.join("log");
        run("pg_ctl", &["-w", "-D", text(&self.data), "-l", text(&log), "start"]);
    }

    /// Stops the server, lets `change` at its files, and starts it again.
    pub(crate) fn change_files(&self, change: impl FnOnce(&Path)) {
        run("pg_ctl", &["-w", "-D", text(&self.data), "-m", "fast", "stop"]);
        change(&self.data);
        self.launch();
    }

    pub(crate) fn conninfo(&self) -> String {
        format!("host={} user=postgres", text(&self.socket))
    }

    /// A directory that belongs to the server.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.socket.join(name);
        std::fs::create_dir(&path).expect("made");
        give_to_postgres(&path);
        path
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// What `psql -At` prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let output =
            run("psql", &["-h", text(&self.socket), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", sql]);
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Output {
        run(name, &[&["-h", text(&self.socket), "-U", "postgres"], arguments].concat())
    }

    /// Runs a client beside the test.
    pub(crate) fn spawn(&self, name: &str, arguments: &[&str]) -> Child {
        command(name)
            .args(["-h", text(&self.socket), "-U", "postgres"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = command("pg_ctl")
            .args(["-w", "-D", text(&self.data), "-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Lets every user pass through a temporary directory.
pub(crate) fn open_to_all(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("set");
}

/// Runs a program of the server's and requires success.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = command(name);
    command.args(arguments).stdin(Stdio::null()).current_dir("/");
    // The server that pg_ctl starts keeps what it was given: a pipe would never close.
    if name == "pg_ctl" {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn command(name: &str) -> Command {
    let directories = (13..=18).rev().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let found = directories.map(|directory| directory.join(name)).find(|program| program.exists());
    let mut command = Command::new(found.unwrap_or_else(|| name.into()));
    if let Some((uid, gid)) = postgres_user() {
        command.uid(uid).gid(gid);
    }
    command
}

pub(crate) fn give_to_postgres(path: &Path) {
    if let Some((uid, gid)) = postgres_user() {
        chown(path, Some(uid), Some(gid)).expect("root may");
    }
}

/// The user to become when the tests run as root: the server refuses root.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("readable");
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("PostgreSQL is installed");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().expect("a number"));
    Some((numbers.next().expect("a user id"), numbers.next().expect("a group id")))
}
