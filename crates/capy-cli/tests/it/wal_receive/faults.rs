//! What goes wrong, and what is said then.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capy_testkit::S3Server;

use super::*;

#[test]
fn what_cannot_work_is_said_and_ends_it() {
    let (mut cluster, other) = (server().start(), server().start());
    let cli = Cli::with_repository();
    let missing = Receiver::start(&cli, &conninfo(&cluster), &["--slot", "nobody"]).ends(3);
    assert!(missing["error"]["hint"].as_str().unwrap().contains("--create-slot"), "{missing}");
    let until = cluster.sql("select pg_current_wal_flush_lsn()");
    Receiver::start(&cli, &conninfo(&cluster), &["--until-lsn", &until]).ends(0);
    let foreign = Receiver::start(&cli, &conninfo(&other), &[]).ends(4);
    assert!(foreign["error"]["message"].as_str().unwrap().contains("system identifier"), "{foreign}");
    let gone = Receiver::start(&cli, "host=/no/such/socket user=postgres", &["--no-reconnect"]).ends(5);
    assert_eq!(gone["error"]["kind"], "unavailable");

    // Another one in its place while the receiver runs.
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &[]);
    receiver.says("streaming");
    cluster.stop_server();
    other.stop_server();
    put_in_place(&other.data(), &cluster.data());
    cluster.start_server();
    let foreign = receiver.ends(4);
    assert!(foreign["error"]["message"].as_str().unwrap().contains("system identifier"), "{foreign}");
}

/// A machine that comes back as it was, as from a snapshot, and goes another way from there.
#[test]
fn a_server_that_was_set_back_is_not_mixed_with_what_it_had_written_before() {
    let mut cluster = server().start();
    let cli = Cli::with_repository();
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    receiver.says("streaming");
    write(&cluster, 1);
    let last = switch(&cluster);
    is_archived(&cli, "00000001", &last);
    let segment = cluster.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    cluster.stop_server();
    let snapshot = cluster.path().join("snapshot");
    let copied = Command::new("cp").arg("-a").arg(cluster.data()).arg(&snapshot).status();
    assert!(copied.unwrap().success());

    cluster.start_server();
    let streams = || receiver.said().matches("streaming timeline").count();
    eventually(|| streams() == 2, || receiver.said());
    cluster.sql("insert into t values ('its first life')");
    assert_eq!(cluster.sql("select pg_walfile_name(pg_current_wal_insert_lsn())"), segment);
    // In good order: all of it is received.
    cluster.stop_server();
    put_in_place(&snapshot, &cluster.data());
    cluster.start_server();
    write(&cluster, 2);
    let refused = receiver.ends(4);
    assert!(refused["error"]["message"].as_str().unwrap().contains("differs at"), "{refused}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("set back"), "{refused}");
    assert_eq!(archived(&cli, "00000001").last(), Some(&last), "nothing was put together of both");
}

/// Exchanges one server's files for other ones.
fn put_in_place(files: &Path, data: &Path) {
    fs::rename(data, data.with_extension("before")).unwrap();
    fs::rename(files, data).unwrap();
}

#[test]
fn a_role_that_may_not_replicate_and_a_slot_that_is_taken_are_told() {
    let cluster = server().start();
    let cli = Cli::with_repository();
    cluster.sql("create role weak login");
    let weak = format!("{} user=weak", cluster.address());
    let refused = Receiver::start(&cli, &weak, &[]).ends(7);
    assert_eq!(refused["error"]["kind"], "denied", "{refused}");

    let first = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    first.says("streaming");
    let arguments = ["wal", "receive", "--cluster", "main", "--pg", &conninfo(&cluster), "--json"];
    let second = cli.command(&[&arguments[..], &["--slot", "capy", "--no-reconnect"]].concat());
    let refused = Receiver::run(second, cli.path("second")).ends(5);
    assert!(refused["error"]["hint"].as_str().unwrap().contains("give each its own"), "{refused}");
    first.stop();
}

#[test]
fn nothing_is_acknowledged_while_the_store_is_away_and_all_of_it_once_it_is_back() {
    let gate = Gate::before(S3Server::shared());
    let mut cli = Cli::on_s3(S3Server::shared());
    cli.set_variable("AWS_ENDPOINT_URL", format!("http://{}", gate.address));
    cli.run(&["init"]).ok();
    let cluster = server().setting("synchronous_standby_names = '\"capy-store\"'").start();
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &SLOT);
    receiver.says("commits wait for it");
    write(&cluster, 1);

    gate.close();
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| cluster.sql("insert into t values ('while it is away')"));
        eventually(|| a_commit_waits(&cluster), || "the commit waits".to_owned());
        let position = cluster.sql("select pg_current_wal_flush_lsn()");
        // Long enough for many parts, were there a store.
        std::thread::sleep(Duration::from_secs(3));
        assert!(!commit.is_finished(), "a commit returned that is nowhere but on the server");
        let acknowledged =
            format!("select count(*) from pg_stat_replication where flush_lsn >= '{position}'");
        assert_eq!(cluster.sql(&acknowledged), "0");
        gate.open();
        commit.join().unwrap();
    });
    assert_eq!(cluster.sql("select count(*) from t where x = 'while it is away'"), "1");
    let last = {
        let name = switch(&cluster);
        let fetch =
            || cli.run(&["wal", "fetch", "--cluster", "main", &name, text(&cli.path("f")), "--quiet"]);
        eventually(|| fetch().code == 0, || "it is archived".to_owned());
        name
    };
    receiver.stop();
    assert!(fetched(&cli, &last) == in_pg_wal(&cluster, &last));
}

#[test]
fn a_server_that_falls_silent_is_left_and_streamed_from_again_once_it_speaks() {
    // It says nothing by itself, and misses nobody.
    let cluster = server().setting("wal_sender_timeout = 0").start();
    let cli = Cli::with_repository();
    let options = [&SLOT[..], &["--silence-timeout", "2s"]].concat();
    let receiver = Receiver::start(&cli, &conninfo(&cluster), &options);
    receiver.says("streaming");
    // An idle server answers when it is asked.
    std::thread::sleep(Duration::from_secs(5));
    assert!(!receiver.said().contains("trying again"), "{}", receiver.said());

    let sender = cluster.sql("select pid from pg_stat_replication");
    let sender = Pid::from_raw(sender.parse().unwrap()).unwrap();
    kill_process(sender, Signal::STOP).unwrap();
    let last = switch(&cluster);
    receiver.says("the server has been silent for 2s");
    receiver.says("trying again in");
    kill_process(sender, Signal::CONT).unwrap();
    is_archived(&cli, "00000001", &last);
    let report = receiver.stop();
    assert!(report["reconnects"].as_u64() >= Some(1), "{report}");
}

/// A way to a store that can be closed.
struct Gate {
    address: std::net::SocketAddr,
    is_open: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn before(server: &S3Server) -> Self {
        let behind = server.endpoint().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            address: listener.local_addr().unwrap(),
            is_open: Arc::new(AtomicBool::new(true)),
            connections: Arc::default(),
        };
        let (is_open, connections) = (Arc::clone(&gate.is_open), Arc::clone(&gate.connections));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&behind).unwrap());
                let mut known = connections.lock().unwrap();
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                known.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
                for (mut from, mut to) in ways {
                    std::thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        gate
    }

    fn close(&self) {
        let mut known = self.connections.lock().unwrap();
        self.is_open.store(false, Ordering::SeqCst);
        for connection in known.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}
