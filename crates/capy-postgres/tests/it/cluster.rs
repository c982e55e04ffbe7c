//! A throw-away PostgreSQL cluster, run as the user `postgres` when the tests run as root.
//!
//! The server is stopped and its files are removed when the value is dropped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Where distributions put the server's programs.
const PROGRAM_DIRECTORIES: [&str; 6] = [
    "/usr/lib/postgresql/18/bin",
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/14/bin",
    "/usr/lib/postgresql/13/bin",
];

pub(crate) struct Cluster {
    directory: TempDir,
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// Makes a cluster and starts it on a socket of its own.
    pub(crate) fn start(initdb_options: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("capy-pg-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = postgres_user();
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let cluster = Self { directory, user };
        let data = cluster.data();
        let options = [&["-A", "trust", "-U", "postgres", "--no-sync", "-D", text(&data)], initdb_options];
        cluster.run("initdb", options.concat());
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nautovacuum = off\n\
             max_wal_senders = 10\nwal_level = replica\n",
            text(cluster.path())
        );
        let file = data.join("postgresql.conf");
        let defaults = fs::read_to_string(&file).unwrap();
        fs::write(&file, defaults + &settings).unwrap();
        cluster.start_server();
        cluster
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn start_server(&self) {
        let log = self.path().join("log");
        self.run("pg_ctl", ["-w", "-D", text(&self.data()), "-l", text(&log), "start"]);
    }

    pub(crate) fn stop_server(&self) {
        self.run("pg_ctl", ["-w", "-D", text(&self.data()), "-m", "fast", "stop"]);
    }

    /// Runs SQL and gives what `psql -At` prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let options = ["-h", text(self.path()), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", sql];
        let output = self.run("psql", options);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Makes a directory that the server owns.
    pub(crate) fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        if let Some((uid, gid)) = self.user {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }

    /// Runs `pg_basebackup` against the server.
    pub(crate) fn base_backup(&self, options: &[&str]) -> Output {
        let connect = ["-h", text(self.path()), "-U", "postgres", "-c", "fast"];
        self.run("pg_basebackup", [&connect, options].concat())
    }

    /// Runs a program of the server's and requires success.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: &str, options: impl IntoIterator<Item = S>) -> Output {
        let output = self.try_run(program, options);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} failed: {errors}");
        output
    }

    pub(crate) fn try_run<S: AsRef<OsStr>>(
        &self,
        program: &str,
        options: impl IntoIterator<Item = S>,
    ) -> Output {
        let mut command = Command::new(program_path(program));
        command.args(options).current_dir(self.path()).stdin(Stdio::null()).env_remove("PGPORT");
        // pg_ctl hands its output on to the server it starts: a pipe would never close.
        if program == "pg_ctl" {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command.output().unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            self.try_run("pg_ctl", ["-w", "-D", text(&self.data()), "-m", "immediate", "stop"]);
        }
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

fn program_path(program: &str) -> PathBuf {
    let found = PROGRAM_DIRECTORIES.iter().map(|d| Path::new(d).join(program)).find(|path| path.exists());
    // Elsewhere the programs are in the search path.
    found.unwrap_or_else(|| PathBuf::from(program))
}

/// The user to become, when the tests run as root: the server refuses root.
fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("there is a user postgres");
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().unwrap());
    Some((numbers.next().unwrap(), numbers.next().unwrap()))
}
