//! The stream against a server whose every byte is given.

use std::io;

use capy_types::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::connect::{Host, Transport};

const PATIENCE: Duration = Duration::from_millis(200);

struct At(i64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0)
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn wal(start: u64, bytes: &[u8]) -> Vec<u8> {
    let numbers = [start, start + 1000, 7].map(u64::to_be_bytes).concat();
    message(b'd', &[b"w", numbers.as_slice(), bytes].concat())
}

fn keepalive(reply_requested: bool) -> Vec<u8> {
    let numbers = [5000, 7].map(u64::to_be_bytes).concat();
    message(b'd', &[b"k", numbers.as_slice(), &[u8::from(reply_requested)]].concat())
}

fn data_row(columns: &[&str]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        body.extend(u32::try_from(column.len()).unwrap().to_be_bytes());
        body.extend(column.as_bytes());
    }
    message(b'D', &body)
}

fn status(positions: [u64; 3], micros: i64, reply_requested: bool) -> Vec<u8> {
    let positions = positions.map(u64::to_be_bytes).concat();
    let reply = [u8::from(reply_requested)];
    message(b'd', &[b"r", positions.as_slice(), &micros.to_be_bytes(), &reply].concat())
}

/// A server that has said `first` before it is asked anything.
async fn start(first: Vec<Vec<u8>>) -> (Result<WalStream, PostgresError>, DuplexStream) {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let welcome = [message(b'R', &[0; 4]), message(b'Z', b"I")];
    theirs.write_all(&[welcome.concat(), first.concat()].concat()).await.unwrap();
    let host = Host { name: "scripted".to_owned(), port: 0 };
    let connection = ReplicationConnection::over(Transport { stream: Box::new(ours), host }).await.unwrap();
    let settings = WalStreamSettings {
        slot: Some("a_slot".parse().unwrap()),
        start: Lsn::from_u64(100),
        timeline: TimelineId::from_u32(1),
        silence_timeout: PATIENCE,
    };
    let stream = connection.start_physical(&settings, Arc::new(At(EPOCH_MICROS + 42))).await;
    (stream, theirs)
}

async fn streaming(then: Vec<Vec<u8>>) -> (WalStream, DuplexStream) {
    let (stream, mut server) = start([vec![message(b'W', &[0; 3])], then].concat()).await;
    let query = message(b'Q', b"START_REPLICATION SLOT \"a_slot\" PHYSICAL 0/64 TIMELINE 1\0");
    told(&mut server, &query).await;
    (stream.unwrap(), server)
}

async fn told(server: &mut DuplexStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected);
}

async fn failure(then: Vec<Vec<u8>>) -> PostgresError {
    let (mut stream, _server) = streaming(then).await;
    loop {
        if let Err(error) = stream.next().await {
            let again = stream.next().await.unwrap_err();
            assert!(again.to_string().contains("failed before"), "{again}");
            return error;
        }
    }
}

#[tokio::test]
async fn data_and_keepalives_are_told_and_asked_answers_are_given() {
    let (mut stream, mut server) =
        streaming(vec![wal(100, b"abc"), wal(103, b""), wal(103, b"d"), keepalive(false), keepalive(true)])
            .await;
    let data = |start, bytes: &'static [u8]| StreamEvent::Data {
        start: Lsn::from_u64(start),
        server_end: Lsn::from_u64(start + 1000),
        server_time: Timestamp::from_micros(EPOCH_MICROS + 7),
        bytes: Bytes::from_static(bytes),
    };
    let alive = |reply_requested| StreamEvent::Keepalive {
        server_end: Lsn::from_u64(5000),
        server_time: Timestamp::from_micros(EPOCH_MICROS + 7),
        reply_requested,
    };
    assert_eq!(stream.next().await.unwrap(), data(100, b"abc"));
    assert_eq!(stream.next().await.unwrap(), data(103, b""));
    assert_eq!(stream.next().await.unwrap(), data(103, b"d"));
    assert_eq!(stream.received(), Lsn::from_u64(104));
    stream.report(Lsn::from_u64(104), Lsn::from_u64(103), Lsn::INVALID).await.unwrap();
    told(&mut server, &status([104, 103, 0], 42, false)).await;
    assert_eq!(stream.next().await.unwrap(), alive(false));
    assert_eq!(stream.next().await.unwrap(), alive(true));
    told(&mut server, &status([104, 103, 0], 42, false)).await;
}

#[tokio::test]
async fn wal_that_does_not_follow_is_refused() {
    for bad in [wal(99, b"x"), wal(101, b"x"), wal(u64::MAX - 1000, b"x")] {
        let error = failure(vec![bad]).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("where 0/64 is due"), "{error}");
    }
    let whole = wal(100, b"");
    for length in 0..25 {
        let error = failure(vec![message(b'd', &whole[5..5 + length])]).await;
        assert!(error.to_string().contains("cut short"), "{error}");
    }
    assert!(failure(vec![message(b'd', b"x")]).await.to_string().contains("type 'x'"));
}

#[tokio::test]
async fn the_end_of_a_timeline_is_told_with_what_follows_and_the_connection_goes_on() {
    let end = [
        message(b'c', b""),
        message(b'T', b"\0\0"),
        data_row(&["3", "0/66"]),
        message(b'C', b"SELECT\0"),
        message(b'C', b"START_STREAMING\0"),
        message(b'Z', b"I"),
    ];
    let then = [[wal(100, b"abc")].as_slice(), &end].concat();
    let (mut stream, mut server) = streaming(then).await;
    assert!(matches!(stream.next().await.unwrap(), StreamEvent::Data { .. }));
    let expected =
        StreamEvent::TimelineEnd { next_timeline: TimelineId::from_u32(3), switch_lsn: Lsn::from_u64(102) };
    assert_eq!(stream.next().await.unwrap(), expected);
    assert_eq!(stream.next().await.unwrap(), expected);
    stream.report(Lsn::from_u64(103), Lsn::from_u64(103), Lsn::INVALID).await.unwrap();
    let mut connection = stream.stop().await.unwrap();
    server
        .write_all(&[data_row(&["150000"]), message(b'C', b"SHOW\0"), message(b'Z', b"I")].concat())
        .await
        .unwrap();
    assert_eq!(connection.show("server_version_num").await.unwrap(), "150000");
    told(&mut server, &[message(b'c', b""), message(b'Q', b"SHOW server_version_num\0")].concat()).await;
}

#[tokio::test]
async fn an_end_that_leaves_a_gap_or_goes_back_is_refused() {
    for (timeline, at) in [("2", "0/65"), ("1", "0/64"), ("x", "0/64"), ("2", "nowhere")] {
        let row = data_row(&[timeline, at]);
        let error = failure(vec![message(b'c', b""), row, message(b'C', b"x\0"), message(b'Z', b"I")]).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    let error = failure(vec![message(b'c', b""), message(b'C', b"x\0"), message(b'Z', b"I")]).await;
    assert!(error.to_string().contains("without a next timeline"), "{error}");
}

#[tokio::test]
async fn a_start_at_the_switch_is_a_stream_that_has_ended() {
    let (stream, _server) =
        start(vec![data_row(&["2", "0/64"]), message(b'C', b"x\0"), message(b'Z', b"I")]).await;
    let mut stream = stream.unwrap();
    assert!(matches!(stream.next().await.unwrap(), StreamEvent::TimelineEnd { .. }));
    stream.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_drops_what_is_under_way_and_gives_the_connection_back() {
    let (stream, mut server) = streaming(vec![
        wal(100, b"abc"),
        message(b'c', b""),
        message(b'C', b"START_STREAMING\0"),
        message(b'Z', b"I"),
    ])
    .await;
    stream.stop().await.unwrap();
    told(&mut server, &message(b'c', b"")).await;
}

#[tokio::test]
async fn a_silent_server_is_asked_once_and_then_lost() {
    let (mut stream, mut server) = streaming(Vec::new()).await;
    let began = Instant::now();
    let error = stream.next().await.unwrap_err();
    assert!(
        matches!(&error, PostgresError::ConnectionLost { source, .. } if source.kind() == io::ErrorKind::TimedOut),
        "{error}"
    );
    assert!((PATIENCE..PATIENCE * 10).contains(&began.elapsed()), "after {:?}", began.elapsed());
    told(&mut server, &status([0, 0, 0], 42, true)).await;
    drop(stream);
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0, "asked once");

    let (stream, _server) = start(Vec::new()).await;
    assert!(matches!(stream.unwrap_err(), PostgresError::ConnectionLost { .. }));
    let (stream, _server) = streaming(vec![wal(100, b"abc")]).await;
    assert!(matches!(stream.stop().await.unwrap_err(), PostgresError::ConnectionLost { .. }));
}

#[tokio::test]
async fn cancelled_waits_neither_put_the_timeout_off_nor_lose_an_event() {
    let (mut stream, mut server) = streaming(Vec::new()).await;
    let began = Instant::now();
    let tick = Duration::from_millis(5);
    let whole = wal(100, b"abc");
    let (head, tail) = whole.split_at(20);
    server.write_all(head).await.unwrap();
    assert!(timeout(tick, stream.next()).await.is_err());
    server.write_all(tail).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), StreamEvent::Data { .. }));
    loop {
        match timeout(tick, stream.next()).await {
            Err(_) => assert!(began.elapsed() < PATIENCE * 10, "never lost"),
            Ok(Err(PostgresError::ConnectionLost { .. })) => break,
            Ok(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_is_unavailable() {
    let error = failure(vec![message(b'C', b"COPY 0\0")]).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("shuts down"), "{error}");
}

#[tokio::test]
async fn the_last_words_of_a_server_that_is_gone_are_heard() {
    let last = message(b'E', b"SFATAL\0C57P01\0Mterminating connection\0\0");
    let (mut stream, server) = streaming(vec![keepalive(true), wal(100, b"abc"), last]).await;
    drop(server);
    assert!(matches!(stream.next().await.unwrap(), StreamEvent::Keepalive { .. }));
    stream.report(Lsn::INVALID, Lsn::INVALID, Lsn::INVALID).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), StreamEvent::Data { .. }));
    let error = stream.next().await.unwrap_err();
    assert!(error.to_string().contains("terminating connection"), "{error}");

    let (mut stream, server) = streaming(Vec::new()).await;
    drop(server);
    assert!(matches!(stream.next().await.unwrap_err(), PostgresError::ConnectionLost { .. }));
    let (stream, server) = streaming(Vec::new()).await;
    drop(server);
    assert!(matches!(stream.stop().await.unwrap_err(), PostgresError::ConnectionLost { .. }));
}
