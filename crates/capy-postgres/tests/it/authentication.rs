//! Logging in for a base backup: every password method, every place a password comes from, and
//! what a server says to those it does not let in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use capy_postgres::{
    BaseBackupOptions, ConnectSettings, PostgresError, ReplicationConnection, ReplicationSource, Source,
};
use capy_testkit::postgres::Cluster;
use capy_types::{Ctx, ErrorKind, Problem, Progress};

use crate::archive::receive;
use crate::majors::until_nothing_is_sent;

/// A server whose roles replicate by the method they are named after, password `p w:d\`.
fn server() -> Cluster {
    let cluster = Cluster::builder()
        .hba(&[
            "local replication scram scram-sha-256",
            "local replication md5 md5",
            "local replication cleartext password",
            "local replication trusted,plain trust",
        ])
        .start();
    cluster.sql(
        r"set standard_conforming_strings = on;
        create role scram login replication password 'p w:d\';
        create role cleartext login replication password 'p w:d\';
        create role trusted login replication;
        create role plain login;
        set password_encryption = 'md5';
        create role md5 login replication password 'p w:d\'",
    );
    cluster
}

/// Settings of a role; `rest` in the words of a connection string.
fn settings(cluster: &Cluster, role: &str, rest: &str) -> ConnectSettings {
    let text = format!("{} user={role} {rest}", cluster.address());
    ConnectSettings::parse(&text, |_| None).unwrap()
}

/// Logs in, and asks something to prove it.
async fn log_in(settings: &ConnectSettings) -> Result<(), PostgresError> {
    let mut connection = ReplicationConnection::open(settings).await?;
    connection.identify_system().await.map(|_| ())
}

/// The refusal, which must be of the kind expected.
async fn refusal(settings: &ConnectSettings, expected: ErrorKind) -> String {
    let error = log_in(settings).await.expect_err("the server lets it in");
    assert_eq!(error.kind(), expected, "{error}");
    error.to_string()
}

const RIGHT: &str = r"password='p w:d\\'";

#[tokio::test]
async fn the_right_password_lets_in_by_scram_md5_and_in_clear() {
    let cluster = server();
    for role in ["scram", "md5", "cleartext"] {
        log_in(&settings(&cluster, role, RIGHT)).await.unwrap_or_else(|error| panic!("{role}: {error}"));
    }
}

#[tokio::test]
async fn a_wrong_password_is_denied_by_name_and_never_repeated() {
    let cluster = server();
    for role in ["scram", "md5", "cleartext"] {
        let said = refusal(&settings(&cluster, role, "password=swordfish"), ErrorKind::Denied).await;
        assert!(said.contains(&format!("password authentication failed for user \"{role}\"")), "{said}");
        assert!(!said.contains("swordfish"), "{said}");
    }
}

#[tokio::test]
async fn a_missing_password_is_denied_with_what_to_do() {
    let cluster = server();
    for role in ["scram", "md5", "cleartext"] {
        let said = refusal(&settings(&cluster, role, ""), ErrorKind::Denied).await;
        assert!(said.contains("asks for a password and none was given"), "{said}");
        assert!(said.contains("PGPASSWORD") && said.contains("password file (mode 0600)"), "{said}");
    }
}

#[tokio::test]
async fn a_password_file_counts_only_while_nobody_else_can_read_it() {
    let cluster = server();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".pgpass");
    let line = format!("localhost:{}:replication:scram:p w\\:d\\\\\n", cluster.port());
    fs::write(&file, format!("# ours\nelsewhere:*:*:*:no\n{line}")).unwrap();
    let named = settings(&cluster, "scram", &format!("passfile={}", file.display()));
    let at_home = |name: &str| (name == "HOME").then(|| home.path().display().to_string());
    let found = ConnectSettings::parse(&format!("{} user=scram", cluster.address()), at_home).unwrap();

    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    log_in(&named).await.unwrap();
    log_in(&found).await.unwrap();
    // A password that was given goes before the file's.
    refusal(&ConnectSettings { password: Some("no".to_owned().into()), ..named.clone() }, ErrorKind::Denied)
        .await;

    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let said = refusal(&named, ErrorKind::Denied).await;
        assert!(said.contains("none was given"), "mode {mode:o}: {said}");
    }
}

#[tokio::test]
async fn a_role_that_may_not_replicate_is_denied() {
    let cluster = server();
    let said = refusal(&settings(&cluster, "plain", ""), ErrorKind::Denied).await;
    assert!(said.contains("(SQLSTATE 42501)") && said.contains("replication role"), "{said}");
}

#[tokio::test]
async fn a_role_without_a_line_in_pg_hba_conf_or_that_does_not_exist_is_denied() {
    let cluster = server();
    let said = refusal(&settings(&cluster, "postgres", ""), ErrorKind::Denied).await;
    assert!(said.contains("no pg_hba.conf entry for replication connection"), "{said}");
    cluster.sql("drop role trusted");
    let said = refusal(&settings(&cluster, "trusted", ""), ErrorKind::Denied).await;
    assert!(said.contains("\"trusted\" does not exist"), "{said}");
}

#[derive(Default)]
struct Problems(Mutex<Vec<Problem>>);

impl Progress for Problems {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem);
    }
}

#[tokio::test]
async fn a_role_with_nothing_but_replication_makes_a_whole_backup_and_says_what_it_could_not_ask() {
    let cluster = server();
    let problems = Arc::new(Problems::default());
    let ctx = Ctx::with_progress(problems.clone());
    let options = BaseBackupOptions {
        label: "only".to_owned(),
        fast_checkpoint: true,
        include_wal: true,
        incremental_from: None,
    };
    let source = ReplicationSource::start(&ctx, &settings(&cluster, "trusted", ""), &options).await.unwrap();
    let mut source = Source::Replication(Box::new(source));
    let archives = receive(&mut source).await.unwrap();
    let facts = source.facts();
    assert_eq!(archives.len(), 2, "base archive and manifest");
    assert!(facts.system_id.is_some() && facts.stop_lsn > facts.start_lsn);
    assert!(facts.settings.is_empty(), "no SQL, no settings");
    let problems = problems.0.lock().unwrap();
    let [Problem { subject, message }] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(subject, "server facts");
    assert!(message.contains("no pg_hba.conf entry"), "{message}");
}

#[tokio::test]
async fn a_server_without_a_free_wal_sender_is_unavailable_until_one_is_free() {
    let cluster = Cluster::builder().setting("max_wal_senders = 1").start();
    let settings = settings(&cluster, "postgres", "");
    let first = ReplicationConnection::open(&settings).await.unwrap();
    let said = refusal(&settings, ErrorKind::Unavailable).await;
    assert!(said.contains("max_wal_senders") && said.contains("53300"), "{said}");
    drop(first);
    until_nothing_is_sent(&cluster).await;
    log_in(&settings).await.unwrap();
}
