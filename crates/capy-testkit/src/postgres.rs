//! A throw-away PostgreSQL cluster for tests, of any major that is installed.
//!
//! Contained by: tests that need a real server. Servers of other majors than the distribution's
//! are in `.cache/postgres`, put there by `tools/setup/postgres-majors`; they have no clients, so
//! `psql` and the rest are always the distribution's, but for those in [`clients_of_17`].
//!
//! Invariants: no server listens beyond its own socket directory and 127.0.0.1; it runs as the user
//! `postgres` when the tests run as root; dropping a [`Cluster`] stops it and removes its files.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The majors the product supports.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// The programs that belong to a server; all others are clients.
const SERVER_PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// Starts tried: between finding a port free and listening on it another process may take it.
const STARTS_MAX: u32 = 3;

/// The port when there is no TCP, where it only names the socket.
const SOCKET_PORT: u16 = 5432;

/// Bytes of log shown when something fails.
const LOG_TAIL_BYTES: usize = 4000;

/// What every server has: quick rather than safe, and ready for base backups.
const SETTINGS: [&str; 4] =
    ["fsync = off", "autovacuum = off", "max_wal_senders = 10", "wal_level = replica"];

/// The majors to test against: with `CAPY_TEST_MATRIX` set every supported one that is installed,
/// otherwise the distribution's.
#[must_use]
pub fn majors() -> Vec<u32> {
    if std::env::var_os("CAPY_TEST_MATRIX").is_none_or(|value| value.is_empty()) {
        return vec![distribution().major];
    }
    MAJORS.filter(|major| programs_of(*major).is_some()).collect()
}

/// The clients of 17, where they are installed: they take incremental backups and put them together.
/// (Those of 18 are not to be had, and 17's refuse what is of 18.)
#[must_use]
pub fn clients_of_17() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let programs = workspace.join(".cache/postgres/clients-17/bin");
    programs.join("pg_combinebackup").exists().then(|| programs.canonicalize().ok()).flatten()
}

/// A running server and its files.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    programs: PathBuf,
    major: u32,
    owner: Option<(u32, u32)>,
    tcp: bool,
    port: u16,
}

/// What a new cluster shall be like.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    major: u32,
    initdb: Vec<String>,
    settings: Vec<String>,
    hba: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    tcp: bool,
}

impl ClusterBuilder {
    /// The server's major version; the distribution's when not said.
    #[must_use]
    pub fn major(mut self, major: u32) -> Self {
        self.major = major;
        self
    }

    /// Further options of `initdb`.
    #[must_use]
    pub fn initdb(mut self, options: &[&str]) -> Self {
        self.initdb.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// A line of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    /// Lines of `pg_hba.conf` instead of trust for everybody. Plain SQL of the role `postgres` over
    /// the socket stays possible, so that [`Cluster::sql`] works.
    #[must_use]
    pub fn hba(mut self, lines: &[&str]) -> Self {
        self.hba.extend(lines.iter().map(|line| (*line).to_owned()));
        self
    }

    /// A file of the data directory that only the server may read.
    #[must_use]
    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Listen on a free port of 127.0.0.1 too.
    #[must_use]
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Makes the cluster and starts it.
    ///
    /// # Panics
    /// When the server is not installed or does not start; the message says why.
    #[must_use]
    pub fn start(self) -> Cluster {
        let mut cluster = self.place();
        let data = cluster.data();
        let options = ["-A", "trust", "-U", "postgres", "--no-sync", "-D", text(&data)];
        cluster.run("initdb", options.into_iter().chain(self.initdb.iter().map(String::as_str)));
        append(&data.join("postgresql.conf"), SETTINGS.into_iter());
        append(&data.join("postgresql.conf"), self.settings.iter().map(String::as_str));
        if !self.hba.is_empty() {
            let first = "local all postgres trust";
            let lines = [first].into_iter().chain(self.hba.iter().map(String::as_str));
            fs::write(data.join("pg_hba.conf"), "").expect("the directory is ours");
            append(&data.join("pg_hba.conf"), lines);
        }
        for (name, content) in &self.files {
            let path = data.join(name);
            fs::write(&path, content).expect("the directory is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
            cluster.give(&path);
        }
        cluster.start_server();
        cluster
    }

    /// Starts a server on files that exist: `fill` puts them into the data directory it is given,
    /// which is there and empty, and what it likes beside it.
    ///
    /// # Panics
    /// When the server is not installed or does not start; the message says why.
    #[must_use]
    pub fn start_from(self, fill: impl FnOnce(&Path)) -> Cluster {
        let mut cluster = self.prepare_from(fill);
        cluster.start_server();
        cluster
    }

    /// As [`start_from`](Self::start_from), but leaves the start to the test.
    ///
    /// # Panics
    /// When the server is not installed.
    #[must_use]
    pub fn prepare_from(self, fill: impl FnOnce(&Path)) -> Cluster {
        let cluster = self.place();
        let data = cluster.data();
        fs::create_dir(&data).expect("the directory is ours");
        fill(&data);
        append(&data.join("postgresql.conf"), self.settings.iter().map(String::as_str));
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("the directory is ours");
        cluster.give_all(cluster.path());
        cluster
    }

    /// A cluster of which only the directory is there.
    fn place(&self) -> Cluster {
        let programs = programs_of(self.major).unwrap_or_else(|| {
            panic!("no PostgreSQL {}: run tools/setup/postgres-majors, which installs it", self.major)
        });
        // Not in TMPDIR: the path of a socket has at most 107 bytes.
        let directory =
            tempfile::Builder::new().prefix("capy-pg-").tempdir_in("/tmp").expect("/tmp is there");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let owner = postgres_user();
        let cluster =
            Cluster { directory, programs, major: self.major, owner, tcp: self.tcp, port: SOCKET_PORT };
        cluster.give(cluster.path());
        cluster
    }
}

impl Cluster {
    /// A cluster of the distribution's major, with further options of `initdb`.
    ///
    /// # Panics
    /// When the server is not installed or does not start; the message says why.
    #[must_use]
    pub fn start(initdb_options: &[&str]) -> Self {
        Self::builder().initdb(initdb_options).start()
    }

    /// A cluster of the given major.
    ///
    /// # Panics
    /// When that server is not installed or does not start; the message says why.
    #[must_use]
    pub fn start_major(major: u32, initdb_options: &[&str]) -> Self {
        Self::builder().major(major).initdb(initdb_options).start()
    }

    /// For a cluster with more particular wishes.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            major: distribution().major,
            initdb: Vec::new(),
            settings: Vec::new(),
            hba: Vec::new(),
            files: Vec::new(),
            tcp: false,
        }
    }

    /// The directory of the socket, the log and the data.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The server's major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The port of TCP and in the socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to reach it over its socket, without a role.
    #[must_use]
    pub fn address(&self) -> String {
        format!("host={} port={}", text(self.path()), self.port)
    }

    /// Starts the server after [`Cluster::stop_server`]; with TCP on another port.
    ///
    /// # Panics
    /// When it does not start; the message says why.
    pub fn start_server(&mut self) {
        assert!(self.try_start_server(), "the server does not start: {}", self.log_tail());
    }

    /// Starts the server, unless it refuses: the log then says why.
    #[must_use]
    pub fn try_start_server(&mut self) -> bool {
        let (data, log) = (self.data(), self.path().join("log"));
        for _ in 0..STARTS_MAX {
            if self.tcp {
                self.port = free_port().expect("127.0.0.1 has free ports");
            }
            let addresses = if self.tcp { "127.0.0.1" } else { "" };
            let listen = format!(
                "-c listen_addresses='{addresses}' -c port={} -c unix_socket_directories='{}'",
                self.port,
                text(self.path())
            );
            let options = ["-w", "-D", text(&data), "-l", text(&log), "-o", &listen, "start"];
            if self.try_run("pg_ctl", options).status.success() {
                return true;
            }
            if !self.tcp {
                break;
            }
        }
        false
    }

    /// Whether the server has its files in use.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.data().join("postmaster.pid").exists()
    }

    /// Stops the server in good order.
    pub fn stop_server(&self) {
        self.run("pg_ctl", ["-w", "-D", text(&self.data()), "-m", "fast", "stop"]);
    }

    /// Stops the server as a crash would.
    pub fn kill_server(&self) {
        self.run("pg_ctl", ["-w", "-D", text(&self.data()), "-m", "immediate", "stop"]);
    }

    /// Runs SQL as `postgres` and gives what `psql -At` prints.
    pub fn sql(&self, sql: &str) -> String {
        let port = self.port.to_string();
        let options =
            ["-h", text(self.path()), "-p", &port, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-XAtqc", sql];
        let output = self.run("psql", options);
        String::from_utf8(output.stdout).expect("psql prints UTF-8").trim_end().to_owned()
    }

    /// Makes a directory that the server owns.
    #[must_use]
    pub fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).expect("the name is new");
        self.give(&path);
        path
    }

    /// Runs the distribution's `pg_basebackup` against the server.
    pub fn base_backup(&self, options: &[&str]) -> Output {
        let port = self.port.to_string();
        let connect = ["-h", text(self.path()), "-p", &port, "-U", "postgres", "-c", "fast"];
        self.run("pg_basebackup", [&connect, options].concat())
    }

    /// Runs a program of the server's, or a client, and requires success.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, options: impl IntoIterator<Item = S>) -> Output {
        let output = self.try_run(program, options);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} failed: {errors}\n{}", self.log_tail());
        output
    }

    /// Runs a program of the server's, or a client.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn try_run<S: AsRef<OsStr>>(&self, program: &str, options: impl IntoIterator<Item = S>) -> Output {
        let is_server = SERVER_PROGRAMS.contains(&program);
        let programs = if is_server { &self.programs } else { &distribution().programs };
        self.execute(&programs.join(program), options)
    }

    /// Runs a program as the server's user, in the cluster's directory.
    ///
    /// # Panics
    /// When there is no such program.
    pub fn execute<S: AsRef<OsStr>>(&self, program: &Path, options: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::new(program);
        command.args(options).current_dir(self.path()).stdin(Stdio::null());
        for variable in ["PGPORT", "PGDATABASE", "PGOPTIONS", "PGSSLMODE", "PGDATA"] {
            command.env_remove(variable);
        }
        // pg_ctl hands its output on to the server it starts: a pipe would never close.
        if program.ends_with("pg_ctl") {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        command.output().unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()))
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.path().join("log")).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(LOG_TAIL_BYTES)..).unwrap_or_default();
        String::from_utf8_lossy(tail).into_owned()
    }

    fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.owner {
            lchown(path, Some(uid), Some(gid)).expect("root may");
        }
    }

    fn give_all(&self, path: &Path) {
        self.give(path);
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path).expect("the directory is ours") {
                self.give_all(&entry.expect("the directory is ours").path());
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PostgreSQL {} said last:\n{}", self.major, self.log_tail());
        }
        if self.is_running() {
            self.try_run("pg_ctl", ["-w", "-D", text(&self.data()), "-m", "immediate", "stop"]);
        }
    }
}

/// A temporary path as text.
///
/// # Panics
/// When it is not UTF-8, which no path of these tests is.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// The server and the clients that the system brings.
struct Distribution {
    programs: PathBuf,
    major: u32,
}

/// The one in `CAPY_TEST_PG_BIN`, or the newest below `/usr/lib/postgresql`.
fn distribution() -> &'static Distribution {
    static FOUND: OnceLock<Distribution> = OnceLock::new();
    FOUND.get_or_init(|| {
        let named = std::env::var_os("CAPY_TEST_PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from);
        let usual = MAJORS.rev().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
        let programs = named.into_iter().chain(usual).find(|place| place.join("psql").exists());
        let programs = programs
            .expect("no PostgreSQL: run tools/test, which installs it, or name one in CAPY_TEST_PG_BIN");
        let version = Command::new(programs.join("postgres")).arg("--version").output();
        let version = version.expect("the server's programs are beside psql").stdout;
        let version = String::from_utf8(version).expect("a version is text");
        // `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`
        let number = version.split_once(") ").and_then(|(_, rest)| rest.split(['.', ' ', '\n']).next());
        let major = number.and_then(|number| number.parse().ok()).expect("a version begins with its major");
        Distribution { programs, major }
    })
}

/// Where the programs of a major's server are.
fn programs_of(major: u32) -> Option<PathBuf> {
    if distribution().major == major {
        return Some(distribution().programs.clone());
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cached = workspace.join(format!(".cache/postgres/{major}/bin"));
    // Programs of the server look for each other beside themselves: no `..` for them to resolve.
    cached.join("postgres").exists().then(|| cached.canonicalize().ok()).flatten()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn append<'a>(path: &Path, lines: impl Iterator<Item = &'a str>) {
    let mut content = fs::read_to_string(path).expect("the server's file is there");
    lines.for_each(|line| content.extend([line, "\n"]));
    fs::write(path, content).expect("the server's file is there");
}

/// The user to become, when the tests run as root: the server refuses root.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("every system has it");
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("there is a user postgres");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().expect("ids are numbers"));
    Some((numbers.next().expect("a user id"), numbers.next().expect("a group id")))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn every_major_that_is_tested_answers_and_is_gone_when_dropped() {
        for major in majors() {
            let cluster = Cluster::builder().major(major).tcp().start();
            assert_eq!(cluster.sql("show server_version_num")[..2], major.to_string());
            let (port, path) = (cluster.port(), cluster.path().to_owned());
            assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
            drop(cluster);
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
            assert!(!path.exists());
        }
    }
}
