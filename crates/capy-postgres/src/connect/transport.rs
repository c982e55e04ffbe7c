//! The byte stream to a server: TCP or Unix socket, plain or TLS.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::settings::{ConnectSettings, Host, SslMode};
use super::tls;
use crate::PostgresError;

/// A peer that has not acknowledged anything for this long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(120);
/// Idle time before the first keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Any byte stream to a server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open byte stream and the place it leads to.
pub(crate) struct Transport {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) host: Host,
}

/// Connects to the first host that answers.
pub(crate) async fn open(settings: &ConnectSettings) -> Result<Transport, PostgresError> {
    let mut last = None;
    for host in &settings.hosts {
        let attempt = tokio::time::timeout(settings.connect_timeout, open_host(settings, host)).await;
        match attempt {
            Ok(Ok(stream)) => return Ok(Transport { stream, host: host.clone() }),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {
                let source = io::Error::new(io::ErrorKind::TimedOut, "no answer within the connect timeout");
                last = Some(PostgresError::Connect { host: host.to_string(), source });
            }
        }
    }
    Err(last.unwrap_or_else(|| PostgresError::Conninfo { problem: "no host to connect to".to_owned() }))
}

async fn open_host(settings: &ConnectSettings, host: &Host) -> Result<Box<dyn Stream>, PostgresError> {
    let failed = |source| PostgresError::Connect { host: host.to_string(), source };
    if host.is_socket() {
        let path = match host.name.strip_prefix('@') {
            Some(name) => format!("\0{name}/.s.PGSQL.{}", host.port),
            None => host.to_string(),
        };
        return Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?));
    }
    let mut stream = TcpStream::connect((host.name.as_str(), host.port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    notice_a_dead_peer(&stream).map_err(failed)?;
    if settings.ssl_mode == SslMode::Disable {
        return Ok(Box::new(stream));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    // Exactly one byte may come before the handshake: anything more was slipped in.
    match stream.read_u8().await.map_err(failed)? {
        b'S' => {
            let config = tls::client_config(settings)?;
            let problem = |problem: String| PostgresError::Tls { problem: format!("{host}: {problem}") };
            let name = ServerName::try_from(host.name.clone()).map_err(|error| problem(error.to_string()))?;
            match TlsConnector::from(config).connect(name, stream).await {
                Ok(stream) => Ok(Box::new(stream)),
                // One side did not like what the other said; all else is trouble on the way.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(problem(error.to_string())),
                Err(error) => Err(failed(error)),
            }
        }
        _ if matches!(settings.ssl_mode, SslMode::Prefer | SslMode::Allow) => Ok(Box::new(stream)),
        _ => Err(PostgresError::Tls { problem: format!("{host}: the server does not offer TLS") }),
    }
}

/// So that a vanished server ends a backup instead of hanging it for ever.
fn notice_a_dead_peer(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    let socket = stream.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    let milliseconds = u32::try_from(USER_TIMEOUT.as_millis()).expect("two minutes fit");
    sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    Ok(())
}
