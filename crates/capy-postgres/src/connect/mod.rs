//! Connecting to a server: settings as libpq understands them, and the transport they lead to.
//!
//! Contained by: the replication client and the plain SQL connection. Invariant: the environment
//! is never read here; the caller hands in a look-up. Passwords never appear in messages.

mod conninfo;
mod passfile;
mod settings;
mod tls;
mod transport;

pub use settings::{ConnectSettings, Host, SslMode};
pub(crate) use transport::{Transport, open};
