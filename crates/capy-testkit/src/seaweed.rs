//! A real S3-compatible server for tests: one SeaweedFS node on free ports of 127.0.0.1, its data
//! in a temporary directory.
//!
//! Contained by: tests of the stores and of what is above them. [`S3Server::shared`] gives a whole
//! test process one server: one that `CAPY_TEST_S3_ENDPOINT` names, or one of its own.
//!
//! Invariant: the server ends with the process that started it, however that ends. A watching
//! shell holds a pipe from us; when the pipe closes it stops the server and removes its data.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use capy_types::{Entropy, OsEntropy};

/// The bucket that every server has.
const BUCKET: &str = "capy-test";

/// Where the server is looked for below the workspace, when `CAPY_TEST_WEED` does not say.
const DEFAULT_BINARY: &str = ".cache/weed/bin/weed";

/// Longest time for a server to come up. Usual are 2 s; a loaded machine takes longer.
const START_TIME: Duration = Duration::from_secs(60);

/// Starts tried: between finding a port free and listening on it another process may take it.
const STARTS_MAX: u32 = 3;

/// Longest wait for the watching shell, which itself gives the server 10 s to stop.
const STOP_TIME: Duration = Duration::from_secs(20);

/// Bytes of log shown when the server does not start.
const LOG_TAIL_BYTES: usize = 4000;

/// Starts `"$@"` and stops it when standard input ends: first with SIGTERM, after 10 s for good.
/// `$1` is the directory that is removed at last.
const WATCH: &str = r#"
directory=$1; shift
exec 3<&0
"$@" >"$directory/log" 2>&1 </dev/null 3<&- & server=$!
( read -r _ <&3
  [ -e "$directory/ended" ] && exit
  kill -TERM $server
  for _ in $(seq 100); do kill -0 $server 2>/dev/null || exit 0; sleep 0.1; done
  kill -KILL $server ) & watcher=$!
wait $server
touch "$directory/ended"
wait $watcher
rm -rf "$directory"
"#;

/// A running S3-compatible server, and how to reach it.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    bucket: String,
    access_key_id: String,
    secret_access_key: String,
    /// `None` for a server that somebody else runs.
    process: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    shell: Child,
    /// Closing it stops the server.
    alive: Option<ChildStdin>,
    directory: PathBuf,
    filer_port: u16,
}

impl S3Server {
    /// The server of this test process, started at first use. With `CAPY_TEST_S3_ENDPOINT` set it
    /// is that one, with `CAPY_TEST_S3_BUCKET`, `CAPY_TEST_S3_ACCESS_KEY_ID` and
    /// `CAPY_TEST_S3_SECRET_ACCESS_KEY` beside it (defaults: `capy-test`, `capy`, `capy-secret`).
    ///
    /// # Panics
    /// When no server can be started; the message says what to do.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<S3Server> = OnceLock::new();
        SERVER.get_or_init(|| Self::given().unwrap_or_else(Self::start))
    }

    /// Starts a server of one's own, for a test that stops or breaks it.
    ///
    /// # Panics
    /// When no server can be started; the message says what to do.
    #[must_use]
    pub fn start() -> Self {
        let binary = binary();
        for attempt in 1..=STARTS_MAX {
            match Self::try_start(&binary) {
                Ok(server) => return server,
                Err(problem) => eprintln!("SeaweedFS did not start (attempt {attempt}): {problem}"),
            }
        }
        panic!("SeaweedFS did not start in {STARTS_MAX} attempts: {}", binary.display());
    }

    fn given() -> Option<Self> {
        let var = |name: &str, default: &str| set_var(name).unwrap_or_else(|| default.to_owned());
        Some(Self {
            endpoint: set_var("CAPY_TEST_S3_ENDPOINT")?,
            bucket: var("CAPY_TEST_S3_BUCKET", BUCKET),
            access_key_id: var("CAPY_TEST_S3_ACCESS_KEY_ID", "capy"),
            secret_access_key: var("CAPY_TEST_S3_SECRET_ACCESS_KEY", "capy-secret"),
            process: None,
        })
    }

    fn try_start(binary: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("capy-seaweed-").tempdir()?.keep();
        fs::create_dir(directory.join("data"))?;
        let (id, secret) = ("capy", "capy-secret");
        let identities = serde_json::json!({ "identities": [{
            "name": "capy",
            "credentials": [{ "accessKey": id, "secretKey": secret }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }]});
        fs::write(directory.join("s3.json"), identities.to_string())?;
        let ([s3, filer], ports) = free_ports()?;
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "sh"])
            .arg(&directory)
            .arg(binary)
            .args(arguments(&directory, s3, filer, ports))
            // A test server needs little; without these it takes more than 1 GiB.
            .envs([("GOMEMLIMIT", "400MiB"), ("GOGC", "50")])
            // Ctrl-C is for us: the shell must live to stop the server.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let alive = shell.stdin.take();
        let process = Watched { shell, alive, directory, filer_port: filer };
        process.wait_until_ready()?;
        Ok(Self {
            endpoint: format!("http://127.0.0.1:{s3}"),
            bucket: BUCKET.to_owned(),
            access_key_id: id.to_owned(),
            secret_access_key: secret.to_owned(),
            process: Some(process),
        })
    }

    /// Where it listens: `http://127.0.0.1:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A bucket that exists.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The id of a key that may do everything.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The secret of that key.
    #[must_use]
    pub fn secret_access_key(&self) -> &str {
        &self.secret_access_key
    }

    /// A place in the bucket that nobody used before: `s3://bucket/prefix`.
    #[must_use]
    pub fn fresh_url(&self) -> String {
        let mut bytes = [0; 8];
        OsEntropy.fill(&mut bytes);
        format!("s3://{}/t{:016x}", self.bucket, u64::from_le_bytes(bytes))
    }

    /// Where its log and data are; `None` for a server that somebody else runs.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.process.as_ref().map(|process| process.directory.as_path())
    }

    /// What a program needs in its environment to reach it.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", self.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_access_key.clone()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }
}

/// Port flags of the services that tests do not speak to: master, volume and admin, each with its
/// gRPC port, and the gRPC ports of filer and S3.
const PORT_FLAGS: [&str; 8] = [
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "admin.port",
    "admin.port.grpc",
    "filer.port.grpc",
    "s3.port.grpc",
];

fn arguments(directory: &Path, s3: u16, filer: u16, ports: [u16; PORT_FLAGS.len()]) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut arguments = vec!["mini".to_owned()];
    arguments.extend(
        [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
        ]
        .map(str::to_owned),
    );
    // Without the last one a write to a bucket that does not exist would create it.
    arguments
        .extend(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"].map(str::to_owned));
    arguments.push(format!("-dir={}", path("data")));
    arguments.push(format!("-s3.config={}", path("s3.json")));
    arguments.push(format!("-filer.localSocket={}", path("filer.sock")));
    arguments.push(format!("-s3.localSocket={}", path("s3.sock")));
    arguments.push(format!("-bucket={BUCKET}"));
    arguments.push(format!("-s3.port={s3}"));
    arguments.push(format!("-filer.port={filer}"));
    arguments.extend(PORT_FLAGS.iter().zip(ports).map(|(flag, port)| format!("-{flag}={port}")));
    arguments
}

/// Ports free at this moment, all different: each is held until the last is found.
fn free_ports<const N: usize, const M: usize>() -> io::Result<([u16; N], [u16; M])> {
    let mut held = Vec::with_capacity(N + M);
    let mut port = || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        io::Result::Ok(port)
    };
    let (mut first, mut second) = ([0; N], [0; M]);
    for slot in first.iter_mut().chain(&mut second) {
        *slot = port()?;
    }
    Ok((first, second))
}

impl Watched {
    /// Waits until the bucket exists. The filer says so without a signature.
    fn wait_until_ready(&self) -> io::Result<()> {
        let give_up = Instant::now() + START_TIME;
        while Instant::now() < give_up {
            if self.directory.join("ended").exists() {
                return Err(io::Error::other(format!("it ended: {}", self.log_tail())));
            }
            if self.bucket_exists().unwrap_or(false) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(io::Error::other(format!("not ready after {START_TIME:?}: {}", self.log_tail())))
    }

    fn bucket_exists(&self) -> io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.filer_port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /buckets/{BUCKET}/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.1 200"))
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(LOG_TAIL_BYTES)..).unwrap_or_default();
        String::from_utf8_lossy(tail).into_owned()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SeaweedFS said last:\n{}", self.log_tail());
        }
        drop(self.alive.take());
        let give_up = Instant::now() + STOP_TIME;
        while matches!(self.shell.try_wait(), Ok(None)) && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn binary() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let binary = set_var("CAPY_TEST_WEED").map_or_else(|| workspace.join(DEFAULT_BINARY), PathBuf::from);
    assert!(
        binary.is_file(),
        "no SeaweedFS at {}: run tools/test, which installs it, or name one in CAPY_TEST_WEED",
        binary.display()
    );
    binary
}

fn set_var(name: &str) -> Option<String> {
    std::env::var_os(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_serves_until_it_is_dropped_and_leaves_nothing() {
        let server = S3Server::start();
        let address = server.endpoint().trim_start_matches("http://").to_owned();
        assert!(TcpStream::connect(&address).is_ok());
        let directory = server.directory().unwrap().to_owned();
        drop(server);
        assert!(TcpStream::connect(&address).is_err());
        assert!(!directory.exists());
    }
}
