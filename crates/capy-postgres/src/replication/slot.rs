//! Physical replication slots: the server's promise to keep WAL until it was reported durable.
//!
//! Contained by: [`ReplicationConnection`]. Invariant: a name is a [`SlotName`], which has no
//! character that could end the quotes it is sent in.

use std::fmt;
use std::str::FromStr;

use capy_types::{Lsn, TimelineId};

use super::ReplicationConnection;
use crate::PostgresError;

/// Longest name in bytes: PostgreSQL's `NAMEDATALEN` less the zero at the end.
const NAME_MAX_BYTES: usize = 63;

/// The name of a replication slot: 1 to 63 of `a-z`, `0-9` and `_`, as PostgreSQL requires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = PostgresError;

    /// # Errors
    /// `Unsupported` (Invalid) when it is not such a name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=NAME_MAX_BYTES).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(PostgresError::Unsupported {
            what: format!("the replication slot name {text:?}"),
            advice: "use 1 to 63 of a-z, 0-9 and _",
        })
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the server keeps for a physical slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotState {
    /// The oldest WAL it keeps. `None` when the slot has reserved nothing yet, or when the server
    /// has given it up (`max_slot_wal_keep_size`, `idle_replication_slot_timeout`).
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position in the server's history.
    pub timeline: Option<TimelineId>,
}

/// Whether a slot had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotCreation {
    /// It is new.
    Created,
    /// There was one of this name. What it has reserved was left as it is.
    Existed,
}

impl ReplicationConnection {
    /// The state of a physical slot; `None` when there is none of this name.
    ///
    /// # Errors
    /// `Unsupported` (Invalid) from a server before 15, which does not know the command: read
    /// `pg_replication_slots` over SQL there. Invalid when the slot is a logical one. Otherwise the
    /// server's, or a broken connection (Unavailable).
    ///
    /// # Cancellation
    /// The connection cannot be used afterwards.
    pub async fn read_slot(&mut self, name: &SlotName) -> Result<Option<SlotState>, PostgresError> {
        if !self.knows_read_slot().await? {
            return Err(PostgresError::Unsupported {
                what: "READ_REPLICATION_SLOT before PostgreSQL 15".to_owned(),
                advice: "read pg_replication_slots over SQL",
            });
        }
        let results = self.command(&format!("READ_REPLICATION_SLOT \"{name}\"")).await?;
        let row = results.first().and_then(|rows| rows.first());
        let nonsense = || PostgresError::protocol("READ_REPLICATION_SLOT answered nonsense".to_owned());
        let column = |n: usize| row.and_then(|row| row.get(n)).ok_or_else(nonsense).map(Option::as_deref);
        if column(0)?.is_none() {
            return Ok(None);
        }
        let restart_lsn = column(1)?.map(str::parse).transpose().map_err(|_| nonsense())?;
        let timeline = column(2)?.map(str::parse).transpose().map_err(|_| nonsense())?;
        Ok(Some(SlotState { restart_lsn, timeline }))
    }

    /// Makes a physical slot, unless there is one. With `reserve_wal` the server keeps WAL from its
    /// last checkpoint on at once; without, from the first position reported to it.
    ///
    /// # Errors
    /// Invalid when there is a logical slot of this name (seen from 15 on; an older server refuses
    /// to stream from it). Otherwise the server's (all slots in use, no permission: Denied), or a
    /// broken connection (Unavailable).
    ///
    /// # Cancellation
    /// The connection cannot be used afterwards, and the slot may be there or not: call again.
    pub async fn create_slot(
        &mut self,
        name: &SlotName,
        reserve_wal: bool,
    ) -> Result<SlotCreation, PostgresError> {
        // 15 and later understand this form too, besides a newer one.
        let reserve = if reserve_wal { " RESERVE_WAL" } else { "" };
        match self.command(&format!("CREATE_REPLICATION_SLOT \"{name}\" PHYSICAL{reserve}")).await {
            Ok(_) => return Ok(SlotCreation::Created),
            Err(error) if is_server(&error, "42710") => {}
            Err(error) => return Err(error),
        }
        if self.knows_read_slot().await? {
            self.read_slot(name).await?;
        }
        Ok(SlotCreation::Existed)
    }

    /// Removes a slot, and with it the promise to keep WAL; `false` when there is none.
    ///
    /// # Errors
    /// The server's (a slot in use is Invalid), or a broken connection (Unavailable).
    ///
    /// # Cancellation
    /// The connection cannot be used afterwards, and the slot may be there or not: call again.
    pub async fn drop_slot(&mut self, name: &SlotName) -> Result<bool, PostgresError> {
        match self.command(&format!("DROP_REPLICATION_SLOT \"{name}\"")).await {
            Ok(_) => Ok(true),
            Err(error) if is_server(&error, "42704") => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn knows_read_slot(&mut self) -> Result<bool, PostgresError> {
        let version: u32 = self.show("server_version_num").await?.parse().unwrap_or_default();
        Ok(version >= 150_000)
    }
}

fn is_server(error: &PostgresError, code: &str) -> bool {
    matches!(error, PostgresError::Server(error) if error.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_postgresql_would_take_are_names() {
        for good in ["a", "capy_store_1", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<SlotName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "a-b", "a b", "a\"; DROP", "ä", &"x".repeat(64)] {
            let error = bad.parse::<SlotName>().unwrap_err();
            assert_eq!(error.kind(), capy_types::ErrorKind::Invalid, "{bad:?}");
        }
    }
}
