//! Physical streaming from real servers: what arrives, what is reported, and what goes wrong.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capy_postgres::{
    ConnectSettings, HistoryFile, PostgresError, ReplicationConnection, SlotCreation, SlotName, StreamEvent,
    StreamRefusal, TimelineHistory, WalStream, WalStreamSettings,
};
use capy_testkit::postgres::{Cluster, majors, text};
use capy_types::{ErrorKind, Lsn, SegmentName, SegmentSize, SystemClock, TimelineId};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// No single step of these tests takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nothing comes for this long: everything has come.
const QUIET: Duration = Duration::from_millis(300);

const FIRST: TimelineId = TimelineId::from_u32(1);

async fn open(cluster: &Cluster, application: &str) -> Result<ReplicationConnection, PostgresError> {
    let text = format!("{} user=postgres application_name={application}", cluster.address());
    ReplicationConnection::open(&ConnectSettings::parse(&text, |_| None).unwrap()).await
}

fn from(start: Lsn) -> WalStreamSettings {
    WalStreamSettings { slot: None, start, timeline: FIRST, silence_timeout: PATIENCE }
}

fn from_slot(start: Lsn, slot: &SlotName) -> WalStreamSettings {
    WalStreamSettings { slot: Some(slot.clone()), ..from(start) }
}

async fn try_stream(cluster: &Cluster, settings: &WalStreamSettings) -> Result<WalStream, PostgresError> {
    open(cluster, "capy_test").await?.start_physical(settings, Arc::new(SystemClock)).await
}

async fn stream(cluster: &Cluster, settings: &WalStreamSettings) -> WalStream {
    try_stream(cluster, settings).await.unwrap()
}

async fn next(stream: &mut WalStream) -> Result<StreamEvent, PostgresError> {
    timeout(PATIENCE, stream.next()).await.expect("an event in time")
}

/// Receives up to `end`, or beyond where a message does not end there.
async fn receive_to(stream: &mut WalStream, end: Lsn) -> Vec<u8> {
    let mut all = Vec::new();
    while stream.received() < end {
        if let StreamEvent::Data { start, bytes, server_end, .. } = next(stream).await.unwrap() {
            assert_eq!(start.as_u64() + bytes.len() as u64, stream.received().as_u64());
            assert!(server_end >= stream.received());
            all.extend_from_slice(&bytes);
        }
    }
    all
}

/// Receives all there is.
async fn receive_all(stream: &mut WalStream) {
    while let Ok(event) = timeout(QUIET, stream.next()).await {
        event.unwrap();
    }
}

async fn failure_of(cluster: &Cluster, settings: &WalStreamSettings) -> PostgresError {
    match try_stream(cluster, settings).await {
        Err(error) => error,
        Ok(mut stream) => loop {
            if let Err(error) = next(&mut stream).await {
                break error;
            }
        },
    }
}

async fn failure_in_time(stream: &mut WalStream) -> (PostgresError, Duration) {
    let began = Instant::now();
    loop {
        if let Err(error) = next(stream).await {
            return (error, began.elapsed());
        }
    }
}

fn lsn(cluster: &Cluster, expression: &str) -> Lsn {
    cluster.sql(&format!("select {expression}")).parse().unwrap()
}

fn becomes(cluster: &Cluster, query: &str, expected: &str) {
    let began = Instant::now();
    while cluster.sql(query) != expected {
        assert!(began.elapsed() < PATIENCE, "{query}: {} and not {expected}", cluster.sql(query));
    }
}

fn segment(lsn: Lsn, size: SegmentSize) -> SegmentName {
    SegmentName::containing(FIRST, lsn, size)
}

fn segment_file(cluster: &Cluster, name: SegmentName) -> Vec<u8> {
    fs::read(cluster.data().join("pg_wal").join(name.to_string())).unwrap()
}

fn small_segments() -> SegmentSize {
    SegmentSize::try_from(1 << 20).unwrap()
}

/// Writes `megabytes` of WAL.
fn write(cluster: &Cluster, megabytes: u32) {
    cluster.sql(&format!(
        "create table if not exists t (x text); alter table t alter x set storage plain; \
         insert into t select repeat('x', 1000) from generate_series(1, {megabytes} * 900)"
    ));
}

fn slot() -> SlotName {
    "capy_store_1".parse().unwrap()
}

#[tokio::test]
async fn a_streamed_segment_is_the_servers_file_byte_for_byte() {
    for major in majors() {
        let cluster = Cluster::start_major(major, &[]);
        write(&cluster, 2);
        let first = segment(lsn(&cluster, "pg_current_wal_lsn()"), SegmentSize::DEFAULT);
        let mut stream = stream(&cluster, &from(first.start())).await;
        assert_eq!((stream.timeline(), stream.received()), (FIRST, first.start()));
        // Many small messages, then large ones, over the end of a segment and beyond a switch.
        (0..20).for_each(|n| drop(cluster.sql(&format!("create table t{n} (n int)"))));
        write(&cluster, 17);
        cluster.sql("select pg_switch_wal()");
        write(&cluster, 1);
        let received = receive_to(&mut stream, first.next().next().start()).await;
        let size = usize::try_from(SegmentSize::DEFAULT.bytes()).unwrap();
        for (name, bytes) in [first, first.next()].into_iter().zip(received.chunks(size)) {
            assert!(segment_file(&cluster, name) == bytes, "{name} of PostgreSQL {major}");
        }
        stream.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_whose_reader_is_cancelled_all_the_time_is_whole() {
    let cluster = Arc::new(Cluster::start(&["--wal-segsize=1"]));
    let first = segment(lsn(&cluster, "pg_current_wal_lsn()"), small_segments());
    let mut stream = stream(&cluster, &from(first.start())).await;
    let server = cluster.clone();
    let writer = spawn_blocking(move || write(&server, 8));
    let (mut received, mut cancelled) = (Vec::new(), 0);
    while stream.received() < first.next().next().next().start() {
        tokio::select! {
            biased;
            event = stream.next() => if let StreamEvent::Data { bytes, .. } = event.unwrap() {
                received.extend_from_slice(&bytes);
            },
            () = tokio::task::yield_now() => cancelled += 1,
        }
    }
    assert!(cancelled > 0);
    writer.await.unwrap();
    for (name, bytes) in [first, first.next(), first.next().next()].into_iter().zip(received.chunks(1 << 20))
    {
        assert!(segment_file(&cluster, name) == bytes, "{name}");
    }
}

#[tokio::test]
async fn a_stopped_stream_gives_back_a_connection_that_goes_on_where_it_ended() {
    let cluster = Cluster::start(&["--wal-segsize=1"]);
    let first = segment(lsn(&cluster, "pg_current_wal_lsn()"), small_segments());
    let mut stream = stream(&cluster, &from(first.start())).await;
    write(&cluster, 5);
    let mut received = receive_to(&mut stream, Lsn::from_u64(first.start().as_u64() + 1)).await;
    for _ in 0..3 {
        let end = stream.received();
        let mut connection = stream.stop().await.unwrap();
        assert_eq!(connection.identify_system().await.unwrap().timeline, FIRST);
        stream = connection.start_physical(&from(end), Arc::new(SystemClock)).await.unwrap();
        received.extend(receive_to(&mut stream, Lsn::from_u64(end.as_u64() + (400 << 10))).await);
    }
    assert!(segment_file(&cluster, first) == received[..1 << 20]);
}

#[tokio::test]
async fn reports_move_the_slot_and_the_servers_statistics() {
    for major in majors() {
        let cluster = Cluster::start_major(major, &["--wal-segsize=1"]);
        let mut connection = open(&cluster, "capy_slot").await.unwrap();
        assert_eq!(connection.create_slot(&slot(), true).await.unwrap(), SlotCreation::Created);
        let restart = "restart_lsn from pg_replication_slots where slot_name = 'capy_store_1'";
        let reserved = lsn(&cluster, restart);
        if major >= 15 {
            let state = connection.read_slot(&slot()).await.unwrap().expect("the slot");
            assert_eq!((state.restart_lsn, state.timeline), (Some(reserved), Some(FIRST)));
        }
        let start = segment(reserved, small_segments()).start();
        let settings = from_slot(start, &slot());
        let mut stream = connection.start_physical(&settings, Arc::new(SystemClock)).await.unwrap();
        write(&cluster, 3);
        receive_all(&mut stream).await;
        assert_eq!(lsn(&cluster, restart), reserved, "nothing was reported");

        let written = stream.received();
        let flushed = Lsn::from_u64(written.as_u64() - (1 << 20));
        stream.report(written, flushed, Lsn::INVALID).await.unwrap();
        becomes(&cluster, &format!("select {restart}"), &flushed.to_string());
        let told = cluster.sql(
            "select write_lsn, flush_lsn, replay_lsn is null, state, reply_time > now() - interval '1 minute' \
             and reply_time <= clock_timestamp() from pg_stat_replication where application_name = 'capy_slot'",
        );
        assert_eq!(told, format!("{written}|{flushed}|t|streaming|t"));
    }
}

#[tokio::test]
async fn a_synchronous_commit_returns_only_when_it_is_reported_flushed() {
    let cluster = Arc::new(Cluster::builder().setting("synchronous_standby_names = 'capy_test'").start());
    let start = lsn(&cluster, "pg_current_wal_lsn()");
    let mut stream = stream(&cluster, &from(segment(start, SegmentSize::DEFAULT).start())).await;
    receive_all(&mut stream).await;
    stream.report(stream.received(), stream.received(), Lsn::INVALID).await.unwrap();
    becomes(&cluster, "select sync_state from pg_stat_replication", "sync");

    let before = stream.received();
    let server = cluster.clone();
    let commit = spawn_blocking(move || server.sql("create table t as select 1 as n"));
    receive_to(&mut stream, Lsn::from_u64(before.as_u64() + 1)).await;
    receive_all(&mut stream).await;
    stream.report(stream.received(), before, Lsn::INVALID).await.unwrap();
    receive_all(&mut stream).await;
    assert!(!commit.is_finished(), "written is not flushed");
    stream.report(stream.received(), stream.received(), Lsn::INVALID).await.unwrap();
    timeout(PATIENCE, commit).await.expect("the commit returns").unwrap();
}

#[tokio::test]
async fn slots_are_made_once_and_dropped_and_those_of_another_kind_are_refused() {
    for major in majors() {
        let cluster = Cluster::builder().major(major).setting("wal_level = logical").start();
        let mut connection = open(&cluster, "capy_test").await.unwrap();
        assert_eq!(connection.create_slot(&slot(), false).await.unwrap(), SlotCreation::Created);
        assert_eq!(connection.create_slot(&slot(), true).await.unwrap(), SlotCreation::Existed);
        cluster.sql("select pg_create_logical_replication_slot('another', 'pgoutput')");
        let another: SlotName = "another".parse().unwrap();
        if major >= 15 {
            let state = connection.read_slot(&slot()).await.unwrap().expect("the slot");
            assert_eq!((state.restart_lsn, state.timeline), (None, None), "nothing is reserved");
            assert_eq!(connection.create_slot(&another, true).await.unwrap_err().kind(), ErrorKind::Invalid);
        } else {
            let error = connection.read_slot(&slot()).await.unwrap_err();
            assert!(matches!(error, PostgresError::Unsupported { .. }), "{error}");
        }
        let at = lsn(&cluster, "pg_current_wal_lsn()");
        let error = failure_of(&cluster, &from_slot(at, &another)).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(connection.drop_slot(&slot()).await.unwrap());
        assert!(!connection.drop_slot(&slot()).await.unwrap());
        if major >= 15 {
            assert_eq!(connection.read_slot(&slot()).await.unwrap(), None);
        }
        assert_eq!(cluster.sql("select slot_name from pg_replication_slots"), "another");
    }
}

#[tokio::test]
async fn what_a_server_cannot_stream_is_told_apart() {
    for major in majors() {
        let cluster = Cluster::builder()
            .major(major)
            .initdb(&["--wal-segsize=1"])
            .setting("min_wal_size = 2MB")
            .setting("max_slot_wal_keep_size = 2MB")
            .start();
        let old = segment(lsn(&cluster, "pg_current_wal_lsn()"), small_segments()).start();
        let lost: SlotName = "lost".parse().unwrap();
        open(&cluster, "capy_test").await.unwrap().create_slot(&lost, true).await.unwrap();
        write(&cluster, 6);
        cluster.sql("checkpoint");
        cluster.sql("select pg_switch_wal()");
        cluster.sql("checkpoint");
        let now = lsn(&cluster, "pg_current_wal_lsn()");
        let refusal = |error: &PostgresError| error.stream_refusal();

        let error = failure_of(&cluster, &from(old)).await;
        assert_eq!(refusal(&error), Some(StreamRefusal::WalRemoved), "{error}");
        assert!(error.to_string().contains("already been removed"), "{error}");

        let error = failure_of(&cluster, &from_slot(old, &lost)).await;
        let given_up = [Some(StreamRefusal::WalRemoved), Some(StreamRefusal::SlotInvalidated)];
        assert!(given_up.contains(&refusal(&error)), "{error}");
        if major >= 15 {
            let state = open(&cluster, "capy_test").await.unwrap().read_slot(&lost).await.unwrap();
            assert_eq!(state.expect("the slot").restart_lsn, None);
        }

        let error = failure_of(&cluster, &from(Lsn::from_u64(now.as_u64() + (1 << 30)))).await;
        assert_eq!(refusal(&error), Some(StreamRefusal::AheadOfServer), "{error}");
        let elsewhere = WalStreamSettings { timeline: TimelineId::from_u32(7), ..from(now) };
        let error = failure_of(&cluster, &elsewhere).await;
        assert_eq!(refusal(&error), Some(StreamRefusal::NotInHistory), "{error}");
        let error = failure_of(&cluster, &from_slot(now, &slot())).await;
        assert_eq!(refusal(&error), Some(StreamRefusal::SlotMissing), "{error}");

        let mut connection = open(&cluster, "capy_test").await.unwrap();
        connection.create_slot(&slot(), true).await.unwrap();
        let settings = from_slot(segment(now, small_segments()).start(), &slot());
        let first = connection.start_physical(&settings, Arc::new(SystemClock)).await.unwrap();
        let error = failure_of(&cluster, &settings).await;
        assert_eq!(refusal(&error), Some(StreamRefusal::SlotInUse), "{error}");
        // The server has ten places, of which those above may not have been left yet.
        let mut others = Vec::new();
        let error = loop {
            match open(&cluster, "capy_test").await {
                Ok(connection) => others.push(connection),
                Err(error) => break error,
            }
        };
        assert!(others.len() < 10);
        assert_eq!(refusal(&error), Some(StreamRefusal::TooManyReceivers), "{error}");
        drop(first);
    }
}

#[tokio::test]
async fn a_promotion_ends_the_timeline_and_the_next_one_goes_on() {
    let primary = Cluster::start(&["--wal-segsize=1"]);
    let copy = primary.path().join("copy");
    primary.base_backup(&["-D", text(&copy), "-R", "-X", "stream"]);
    let standby = Cluster::builder().start_from(|data| {
        let status = Command::new("cp").args(["-a", &format!("{}/.", text(&copy)), text(data)]).status();
        assert!(status.unwrap().success());
    });
    let size = small_segments();
    let start = segment(lsn(&standby, "pg_last_wal_replay_lsn()"), size).start();
    let mut stream = stream(&standby, &from(start)).await;
    write(&primary, 3);
    let end = lsn(&primary, "pg_current_wal_flush_lsn()");
    let mut received = receive_to(&mut stream, end).await;
    assert_eq!(standby.sql("select pg_promote()"), "t");
    let (next_timeline, switch_lsn) = loop {
        match next(&mut stream).await.unwrap() {
            StreamEvent::Data { bytes, .. } => received.extend_from_slice(&bytes),
            StreamEvent::Keepalive { .. } => {}
            StreamEvent::TimelineEnd { next_timeline, switch_lsn } => break (next_timeline, switch_lsn),
        }
    };
    assert_eq!(next_timeline, TimelineId::from_u32(2));
    assert!(end <= switch_lsn && switch_lsn <= stream.received());

    let mut connection = stream.stop().await.unwrap();
    let error = connection.timeline_history(FIRST).await.unwrap_err();
    assert_eq!(error.stream_refusal(), Some(StreamRefusal::WalRemoved), "there is no such file: {error}");
    let file = connection.timeline_history(next_timeline).await.unwrap();
    assert_eq!(file.name, HistoryFile::name_of(next_timeline));
    assert!(fs::read(standby.data().join("pg_wal").join(&file.name)).unwrap() == file.content);
    let history = TimelineHistory::parse(next_timeline, &file.content).unwrap();
    let [ancestor] = history.ancestors() else { panic!("{history:?}") };
    assert_eq!((ancestor.timeline, ancestor.switch_lsn), (FIRST, switch_lsn));
    assert!(history.contains(FIRST, start) && history.contains(next_timeline, switch_lsn));

    // The segment of the switch comes again on the next timeline, from its start.
    let first = SegmentName::containing(next_timeline, switch_lsn, size);
    let settings = WalStreamSettings { timeline: next_timeline, ..from(first.start()) };
    let mut stream = connection.start_physical(&settings, Arc::new(SystemClock)).await.unwrap();
    write(&standby, 2);
    let continued = receive_to(&mut stream, first.next().start()).await;
    assert!(segment_file(&standby, first) == continued[..1 << 20]);
    let old = received.get((first.start().as_u64() - start.as_u64()) as usize..).unwrap();
    let shared = (switch_lsn.as_u64() - first.start().as_u64()) as usize;
    assert!(old[..shared] == continued[..shared], "up to the switch both are the same");

    // From now on the old timeline has its end from the beginning.
    for start in [start, switch_lsn] {
        let mut stream = try_stream(&standby, &from(start)).await.unwrap();
        let again = receive_to(&mut stream, switch_lsn).await;
        assert!(received.ends_with(&again) || again == received[..again.len()]);
        assert_eq!(next(&mut stream).await.unwrap(), StreamEvent::TimelineEnd { next_timeline, switch_lsn });
        assert_eq!(stream.received(), switch_lsn);
    }
}

#[tokio::test]
async fn a_server_that_dies_ends_the_stream_in_bounded_time() {
    let cluster = Cluster::start(&[]);
    let start = segment(lsn(&cluster, "pg_current_wal_lsn()"), SegmentSize::DEFAULT).start();
    let mut stream = stream(&cluster, &from(start)).await;
    receive_all(&mut stream).await;
    cluster.kill_server();
    let (error, after) = failure_in_time(&mut stream).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(after < Duration::from_secs(5), "after {after:?}");
    assert!(stream.next().await.is_err() && stream.report(start, start, start).await.is_err());
}

#[tokio::test]
async fn a_server_that_shuts_down_waits_for_the_report_and_then_says_so() {
    let cluster = Arc::new(Cluster::start(&[]));
    let start = segment(lsn(&cluster, "pg_current_wal_lsn()"), SegmentSize::DEFAULT).start();
    let mut stream = stream(&cluster, &from(start)).await;
    receive_all(&mut stream).await;
    let server = cluster.clone();
    let stopped = spawn_blocking(move || server.stop_server());
    // Answers that report nothing new keep it waiting.
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(1) {
        let _ = timeout(QUIET, stream.next()).await.map(Result::unwrap);
    }
    assert!(!stopped.is_finished());
    let error = loop {
        stream.report(stream.received(), stream.received(), Lsn::INVALID).await.unwrap();
        if let Err(error) = next(&mut stream).await {
            break error;
        }
    };
    assert!(matches!(&error, PostgresError::Server(error) if error.code == "57P01"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    timeout(PATIENCE, stopped).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn an_idle_server_is_alive_and_a_frozen_one_is_lost() {
    const SILENCE: Duration = Duration::from_secs(2);
    // It says nothing by itself.
    let cluster = Cluster::builder().setting("wal_sender_timeout = 0").start();
    let start = segment(lsn(&cluster, "pg_current_wal_lsn()"), SegmentSize::DEFAULT).start();
    let mut stream = stream(&cluster, &WalStreamSettings { silence_timeout: SILENCE, ..from(start) }).await;
    let idle = Instant::now();
    let mut signs = 0;
    while idle.elapsed() < SILENCE * 2 {
        let event = next(&mut stream).await.unwrap();
        signs += u32::from(matches!(event, StreamEvent::Keepalive { reply_requested: false, .. }));
    }
    assert!(signs >= 2, "{signs} signs of life");

    let sender = cluster.sql("select pid from pg_stat_replication");
    let signal =
        |signal: &str| assert!(Command::new("kill").args([signal, &sender]).status().unwrap().success());
    signal("-STOP");
    let (error, after) = failure_in_time(&mut stream).await;
    signal("-CONT");
    assert!(matches!(error, PostgresError::ConnectionLost { .. }), "{error}");
    assert!(after < SILENCE * 3, "after {after:?}");
}
