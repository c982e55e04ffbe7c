//! What the network and a failing service do to a store: lost answers, cut bodies, dead and silent
//! endpoints. The service is a few lines of HTTP that misbehave on demand.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use capy_types::Secret;
use futures::TryStreamExt;

use crate::{Store, StoreErrorKind, StoreOptions, open_store};

/// How the service treats one request; without trouble it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Does it and closes the connection without a word.
    LoseAnswer,
    /// Does it and answers 500.
    FailAfter,
    /// Answers with this status and does nothing.
    Answer(u16, &'static str),
    /// Stores something else and answers that the name is taken.
    OtherWins,
    /// Announces the whole body and sends half of it.
    CutBody,
}

#[derive(Debug, Default)]
struct Service {
    objects: Mutex<HashMap<String, Vec<u8>>>,
    /// Troubles of coming requests, by method.
    troubles: Mutex<VecDeque<(&'static str, Trouble)>>,
}

impl Service {
    /// A service and a store that speaks to it.
    async fn start(troubles: &[(&'static str, Trouble)]) -> (Arc<Self>, Arc<dyn Store>) {
        let service = Arc::new(Self::default());
        service.troubles.lock().unwrap().extend(troubles);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = service.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let service = serving.clone();
                std::thread::spawn(move || service.serve(stream));
            }
        });
        (service, store(port).await)
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let mut words = first.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        self.answer(stream, &method, &path, body)
    }

    fn trouble(&self, method: &str) -> Option<Trouble> {
        let mut troubles = self.troubles.lock().unwrap();
        let at = troubles.iter().position(|(wanted, _)| *wanted == method)?;
        troubles.remove(at).map(|(_, trouble)| trouble)
    }

    fn answer(&self, mut stream: TcpStream, method: &str, path: &str, body: Vec<u8>) -> Option<()> {
        let trouble = self.trouble(method);
        if let Some(Trouble::Answer(status, code)) = trouble {
            return send(&mut stream, status, code.as_bytes(), code.len());
        }
        let mut objects = self.objects.lock().unwrap();
        if trouble == Some(Trouble::OtherWins) {
            objects.insert(path.to_owned(), b"of another".to_vec());
        }
        let (status, answer) = match (method, objects.get(path)) {
            ("PUT", Some(_)) => (412, Vec::new()),
            ("PUT", None) => {
                objects.insert(path.to_owned(), body);
                (200, Vec::new())
            }
            (_, Some(found)) => (200, found.clone()),
            (_, None) => (404, b"<Code>NoSuchKey</Code>".to_vec()),
        };
        drop(objects);
        let announced = answer.len();
        match trouble {
            Some(Trouble::LoseAnswer) => Some(()),
            Some(Trouble::FailAfter) => send(&mut stream, 500, b"", 0),
            Some(Trouble::CutBody) => send(&mut stream, status, &answer[..announced / 2], announced),
            _ => send(&mut stream, status, &answer, announced),
        }
    }
}

fn send(stream: &mut TcpStream, status: u16, body: &[u8], announced: usize) -> Option<()> {
    let reason = if status == 507 { "Insufficient Storage" } else { "Said" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Length: {announced}\r\nETag: \"1\"\r\nConnection: close\r\n\
         Last-Modified: Sat, 21 Nov 2026 06:54:52 GMT\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()
}

async fn store(port: u16) -> Arc<dyn Store> {
    let options = StoreOptions {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        access_key_id: Some("id".to_owned()),
        secret_access_key: Some(Secret::from("secret".to_owned())),
        request_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        operation_timeout: Duration::from_secs(2),
        retry_limit: 1,
        ..StoreOptions::default()
    };
    open_store("s3://bucket/base", &options, true).await.unwrap()
}

const BODY: Bytes = Bytes::from_static(b"the body");

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_read_back_and_succeeds() {
    for trouble in [Trouble::LoseAnswer, Trouble::FailAfter] {
        let (service, store) = Service::start(&[("PUT", trouble)]).await;
        store.put_new("x", BODY).await.unwrap();
        assert_eq!(service.objects.lock().unwrap()["/bucket/base/x"], BODY, "{trouble:?}");
    }
}

#[tokio::test]
async fn a_write_refused_by_a_competitor_that_withdrew_is_tried_again() {
    let conflict = Trouble::Answer(409, "<Code>ConditionalRequestConflict</Code>");
    let (service, store) = Service::start(&[("PUT", conflict), ("PUT", conflict)]).await;
    store.put_new("x", BODY).await.unwrap();
    assert_eq!(service.objects.lock().unwrap()["/bucket/base/x"], BODY);
}

#[tokio::test]
async fn a_write_that_lost_against_other_content_says_so() {
    let (_, store) = Service::start(&[("PUT", Trouble::OtherWins)]).await;
    assert_eq!(store.put_new("x", BODY).await.unwrap_err().kind, StoreErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_body_cut_short_is_never_taken_for_the_object() {
    let (service, store) = Service::start(&[("GET", Trouble::CutBody); 8]).await;
    store.put_new("x", BODY).await.unwrap();
    let error = store.get("x", 100).await.unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Unavailable | StoreErrorKind::Truncated { .. }), "{error}");
    service.troubles.lock().unwrap().clear();
    assert_eq!(store.get("x", 100).await.unwrap(), BODY);
}

#[tokio::test]
async fn answers_of_the_service_become_kinds() {
    for (status, code, kind) in [
        (403, "<Code>AccessDenied</Code>", StoreErrorKind::Denied),
        (401, "", StoreErrorKind::Denied),
        (403, "<Code>QuotaExceeded</Code>", StoreErrorKind::NoSpace),
        (404, "<Code>NoSuchBucket</Code>", StoreErrorKind::invalid("there is no such bucket")),
        (507, "", StoreErrorKind::NoSpace),
        (503, "<Code>SlowDown</Code>", StoreErrorKind::Unavailable),
    ] {
        let (_, store) = Service::start(&[("PUT", Trouble::Answer(status, code)); 8]).await;
        let error = store.put_new("x", BODY).await.unwrap_err();
        assert_eq!(error.kind, kind, "{status} {code}: {:?}", error.source);
    }
}

async fn every_operation_fails(store: &dyn Store) {
    let unavailable = |kind: StoreErrorKind| assert_eq!(kind, StoreErrorKind::Unavailable);
    unavailable(store.put_new("x", BODY).await.unwrap_err().kind);
    unavailable(store.get("x", 10).await.unwrap_err().kind);
    unavailable(store.get_range("x", 0..1).await.unwrap_err().kind);
    unavailable(store.head("x").await.unwrap_err().kind);
    unavailable(store.delete("x").await.unwrap_err().kind);
    unavailable(store.first("x/").await.unwrap_err().kind);
    unavailable(store.list("x/").try_collect::<Vec<_>>().await.unwrap_err().kind);
}

#[tokio::test]
async fn a_dead_endpoint_fails_every_operation() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    every_operation_fails(&*store(port).await).await;
}

#[tokio::test]
async fn a_silent_endpoint_fails_every_operation() {
    // Connections wait in the backlog for ever.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    every_operation_fails(&*store(listener.local_addr().unwrap().port()).await).await;
}
