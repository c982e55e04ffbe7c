//! A way to an S3 server on which requests are answered with 503 SlowDown, as busy services do.
//!
//! Contained by: tests of what is above the stores. Each request comes over a connection of its own, so
//! that each is decided on; those that pass are the server's to answer, byte for byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::S3Server;

const ANSWER_BODY: &str = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your \
                           request rate.</Message></Error>";

/// A proxy before a server, until the process ends.
#[derive(Debug)]
pub struct Throttle {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    behind: String,
    /// Of so many requests one is refused; 0 for none.
    one_in: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
}

impl Throttle {
    /// A way to `server` that refuses nothing yet.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn before(server: &S3Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("it has one");
        let state = Arc::new(State {
            behind: server.endpoint().trim_start_matches("http://").to_owned(),
            one_in: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                // A client that goes away is no fault of the test.
                std::thread::spawn(move || state.serve(near).unwrap_or_default());
            }
        });
        Self { address, state }
    }

    /// Where it listens: `http://127.0.0.1:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on one in `requests` is refused: 1 for all of them, 0 for none.
    pub fn refuse_one_in(&self, requests: u64) {
        self.state.one_in.store(requests, Ordering::SeqCst);
    }

    /// How many were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::SeqCst)
    }
}

impl State {
    fn serve(&self, mut near: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(near.try_clone()?);
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line.trim().is_empty() {
                break;
            }
            if !lower.starts_with("connection:") {
                head.push_str(&line);
            }
        }
        let mut body = reader.take(length);
        if self.refuses() {
            io::copy(&mut body, &mut io::sink())?;
            let length = ANSWER_BODY.len();
            return write!(
                near,
                "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{ANSWER_BODY}"
            );
        }
        let mut far = TcpStream::connect(&self.behind)?;
        write!(far, "{head}Connection: close\r\n\r\n")?;
        io::copy(&mut body, &mut far)?;
        io::copy(&mut far, &mut near)?;
        near.shutdown(Shutdown::Both)
    }

    fn refuses(&self) -> bool {
        let request = self.requests.fetch_add(1, Ordering::SeqCst);
        let one_in = self.one_in.load(Ordering::SeqCst);
        let refuses = one_in > 0 && request.is_multiple_of(one_in);
        self.refused.fetch_add(u64::from(refuses), Ordering::SeqCst);
        refuses
    }
}
