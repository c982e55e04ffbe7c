//! TLS to a real server: what each `sslmode` accepts and what it refuses.
//!
//! Certificates are made by the `openssl` command; the client never sees another implementation
//! than the server's.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use capy_postgres::{
    BaseBackupOptions, ConnectSettings, PostgresError, ReplicationConnection, ReplicationSource, ServerError,
    Source,
};
use capy_testkit::postgres::{Cluster, text};
use capy_types::{Ctx, ErrorKind};
use tempfile::TempDir;

use crate::archive::receive;

/// An authority of our own.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout ca.key -out ca.crt -subj /CN=capy-test-authority \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign",
        );
        authority
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn certificate(&self) -> PathBuf {
        self.path().join("ca.crt")
    }

    /// Certificate and key of a server with these names, in OpenSSL's words.
    fn issue(&self, names: &str) -> (Vec<u8>, Vec<u8>) {
        self.openssl(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -keyout server.key -out server.csr -subj /CN=capy-test-server",
        );
        fs::write(self.path().join("names"), format!("subjectAltName={names}\n")).unwrap();
        self.openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
             -out server.crt -extfile names",
        );
        let read = |name: &str| fs::read(self.path().join(name)).unwrap();
        (read("server.crt"), read("server.key"))
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(self.path()).stdin(Stdio::null());
        let output = command.output().expect("there is an openssl command");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A server that offers TLS and whose certificate bears `names`; `hba` is what it requires.
fn server(authority: &Authority, names: &str, hba: &[&str]) -> Cluster {
    let (certificate, key) = authority.issue(names);
    Cluster::builder()
        .tcp()
        .hba(hba)
        .setting("ssl = on")
        .file("server.crt", &certificate)
        .file("server.key", &key)
        .start()
}

const ONLY_TLS: &[&str] = &["hostssl all,replication all all trust"];

fn settings(cluster: &Cluster, host: &str, rest: &str) -> ConnectSettings {
    let text = format!("host={host} port={} user=postgres {rest}", cluster.port());
    ConnectSettings::parse(&text, |_| None).unwrap()
}

/// Connects; whether the server sees TLS.
async fn connect(cluster: &Cluster, host: &str, rest: &str) -> Result<bool, PostgresError> {
    let mut connection = ReplicationConnection::open(&settings(cluster, host, rest)).await?;
    connection.identify_system().await?;
    let senders = "pg_stat_ssl natural join pg_stat_activity where backend_type = 'walsender'";
    // One that was just left may still be there.
    let seen = cluster.sql(&format!("select bool_and(ssl) from {senders}"));
    Ok(seen == "t")
}

/// The refusal, which must be Denied and come from us, before a password could have been sent.
async fn refusal(cluster: &Cluster, host: &str, rest: &str) -> String {
    let error = connect(cluster, host, rest).await.expect_err("it connects");
    assert!(matches!(error, PostgresError::Tls { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Denied);
    error.to_string()
}

const BOTH_NAMES: &str = "IP:127.0.0.1,DNS:localhost";

#[tokio::test]
async fn require_and_prefer_use_tls_whoever_the_server_is() {
    let cluster = server(&Authority::new(), "DNS:elsewhere.example", ONLY_TLS);
    for mode in ["sslmode=require", "sslmode=prefer", "sslmode=allow", ""] {
        assert!(connect(&cluster, "127.0.0.1", mode).await.unwrap(), "{mode}");
    }
}

#[tokio::test]
async fn verify_full_accepts_the_right_authority_with_the_name_that_was_asked_for() {
    let authority = Authority::new();
    let cluster = server(&authority, BOTH_NAMES, ONLY_TLS);
    let verify = format!("sslmode=verify-full sslrootcert={}", text(&authority.certificate()));
    for host in ["127.0.0.1", "localhost"] {
        assert!(connect(&cluster, host, &verify).await.unwrap(), "{host}");
    }
}

#[tokio::test]
async fn another_authority_is_refused_by_every_mode_that_has_one_to_compare_with() {
    let (ours, other) = (Authority::new(), Authority::new());
    let cluster = server(&ours, BOTH_NAMES, ONLY_TLS);
    for mode in ["require", "verify-ca", "verify-full"] {
        let other = format!("sslmode={mode} sslrootcert={}", text(&other.certificate()));
        let said = refusal(&cluster, "127.0.0.1", &other).await;
        assert!(said.contains("certificate"), "{mode}: {said}");
        let ours = format!("sslmode={mode} sslrootcert={}", text(&ours.certificate()));
        assert!(connect(&cluster, "127.0.0.1", &ours).await.unwrap(), "{mode}");
    }
    // Nor is it one of those that the system trusts, if it trusts any.
    refusal(&cluster, "127.0.0.1", "sslmode=verify-full").await;
}

#[tokio::test]
async fn another_name_is_refused_by_verify_full_only() {
    let authority = Authority::new();
    let cluster = server(&authority, "DNS:localhost,DNS:db.example", ONLY_TLS);
    let with = |mode: &str| format!("sslmode={mode} sslrootcert={}", text(&authority.certificate()));
    let said = refusal(&cluster, "127.0.0.1", &with("verify-full")).await;
    assert!(said.contains("127.0.0.1") && said.contains("not valid for name"), "{said}");
    assert!(connect(&cluster, "localhost", &with("verify-full")).await.unwrap());
    assert!(connect(&cluster, "127.0.0.1", &with("verify-ca")).await.unwrap());
}

#[tokio::test]
async fn a_root_certificate_that_cannot_be_read_is_refused_by_name() {
    let authority = Authority::new();
    let cluster = server(&authority, BOTH_NAMES, ONLY_TLS);
    let empty = authority.path().join("empty.crt");
    fs::write(&empty, "").unwrap();
    let said =
        refusal(&cluster, "127.0.0.1", &format!("sslmode=verify-ca sslrootcert={}", text(&empty))).await;
    assert!(said.contains("no root certificate"), "{said}");
    let said = refusal(&cluster, "127.0.0.1", "sslmode=verify-ca sslrootcert=/no/such.crt").await;
    assert!(said.contains("/no/such.crt"), "{said}");
}

#[tokio::test]
async fn without_tls_at_the_server_prefer_goes_on_in_clear_and_require_does_not() {
    let cluster = Cluster::builder().tcp().start();
    for mode in ["", "sslmode=prefer", "sslmode=allow", "sslmode=disable"] {
        assert!(!connect(&cluster, "127.0.0.1", mode).await.unwrap(), "{mode}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        let said = refusal(&cluster, "127.0.0.1", &format!("sslmode={mode}")).await;
        assert!(said.contains("does not offer TLS"), "{mode}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_insists_on_tls_denies_who_disables_it() {
    let cluster = server(&Authority::new(), BOTH_NAMES, ONLY_TLS);
    let error = connect(&cluster, "127.0.0.1", "sslmode=disable").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let PostgresError::Server(refused) = error else { panic!("{error}") };
    let ServerError { code, message, .. } = *refused;
    assert!(code == "28000" && message.contains("no encryption"), "{code} {message}");
}

#[tokio::test]
async fn a_server_that_goes_away_during_the_handshake_is_unavailable() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        client.write_all(b"S").unwrap();
    });
    let text = format!("host=127.0.0.1 port={port} user=postgres sslmode=require");
    let settings = ConnectSettings::parse(&text, |_| None).unwrap();
    let error = ReplicationConnection::open(&settings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.join().unwrap();
}

/// SCRAM over TLS: the server offers channel binding, which we do not do and must not pretend to.
#[tokio::test]
async fn a_whole_backup_goes_through_tls_with_a_scram_password() {
    let authority = Authority::new();
    let cluster = server(&authority, BOTH_NAMES, &["hostssl all,replication all all scram-sha-256"]);
    cluster.sql("create role backup login superuser password 'secret'");
    let rest = format!("sslmode=verify-full sslrootcert={} password=secret", text(&authority.certificate()));
    let settings = ConnectSettings { user: "backup".to_owned(), ..settings(&cluster, "localhost", &rest) };
    let options = BaseBackupOptions {
        label: "tls".to_owned(),
        fast_checkpoint: true,
        include_wal: true,
        incremental_from: None,
    };
    let source = ReplicationSource::start(&Ctx::default(), &settings, &options).await.unwrap();
    let mut source = Source::Replication(Box::new(source));
    assert!(!source.facts().settings.is_empty(), "plain SQL went through TLS too");
    let archives = receive(&mut source).await.unwrap();
    assert!(archives.len() == 2 && archives[0].bytes.len() > 20 << 20);
}
