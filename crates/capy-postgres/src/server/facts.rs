//! Facts of a server that a restore elsewhere depends on.
//!
//! Invariant: what the role may not ask is left out, never guessed.

use std::collections::BTreeMap;

use capy_types::{SegmentSize, SystemId};
use tokio_postgres::Client;

use super::SqlConnection;
use super::preflight::{self, Advice};
use crate::PostgresError;
use crate::connect::ConnectSettings;
use crate::replication::ReplicationConnection;
use crate::source::{CollationFacts, SourceFacts};
use capy_types::limits::PAGE_SIZE_BYTES;

/// Settings a standby or restored copy must not go below, and those that decide what a backup is
/// worth.
const SETTINGS: [&str; 16] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
    "full_page_writes",
    "archive_mode",
    "shared_preload_libraries",
    "block_size",
    "wal_block_size",
    "segment_size",
    "server_encoding",
    "TimeZone",
    "summarize_wal",
    "track_commit_timestamp",
];

/// What even a role with nothing but `REPLICATION` can learn.
pub(crate) async fn facts_over_replication(
    connection: &mut ReplicationConnection,
) -> Result<SourceFacts, PostgresError> {
    let version_num = connection.show("server_version_num").await?.parse().ok();
    let block_size = connection.show("block_size").await?;
    if block_size != PAGE_SIZE_BYTES.to_string() {
        return Err(PostgresError::Unsupported {
            what: format!("a server with pages of {block_size} bytes"),
            advice: "only the standard 8192 are supported",
        });
    }
    let segment = connection.show("wal_segment_size").await?;
    Ok(SourceFacts {
        version_num,
        version: Some(connection.show("server_version").await?),
        segment_size: bytes_of(&segment).and_then(|bytes| SegmentSize::try_from(bytes).ok()),
        data_checksums: Some(connection.show("data_checksums").await? == "on"),
        ..SourceFacts::default()
    })
}

/// Reads `16MB` or `1GB` as PostgreSQL shows sizes.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match text.get(digits.len()..)? {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Adds what plain SQL tells, and returns what is worth telling the operator.
pub(crate) async fn facts_over_sql(
    settings: &ConnectSettings,
    facts: &mut SourceFacts,
) -> Result<Vec<Advice>, PostgresError> {
    let ask = async {
        let connection = SqlConnection::open(settings).await?;
        let sql = |source| connection.failed(source);
        read(connection.client(), facts).await.map_err(sql)?;
        preflight::advice(connection.client(), settings, facts).await.map_err(sql)
    };
    match tokio::time::timeout(settings.connect_timeout, ask).await {
        Ok(done) => done,
        Err(_) => Err(PostgresError::Connect {
            host: settings.hosts.first().map(ToString::to_string).unwrap_or_default(),
            source: std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer within the connect timeout"),
        }),
    }
}

/// What a session of plain SQL can learn by itself, and what is worth telling the operator of a
/// backup that needs no replication.
pub(super) async fn facts_of_session(
    connection: &SqlConnection,
) -> Result<(SourceFacts, Vec<Advice>), PostgresError> {
    let row = connection
        .row(
            "select current_setting('server_version_num'), current_setting('server_version'),
                    current_setting('block_size'), current_setting('wal_segment_size'),
                    current_setting('data_checksums'), system_identifier::text
             from pg_control_system()",
            &[],
        )
        .await?;
    let text = |column: usize| row.get::<_, String>(column);
    if text(2) != PAGE_SIZE_BYTES.to_string() {
        return Err(PostgresError::Unsupported {
            what: format!("a server with pages of {} bytes", text(2)),
            advice: "only the standard 8192 are supported",
        });
    }
    let system_id: u64 = text(5).parse().map_err(|_| connection.nonsense(&text(5), "pg_control_system()"))?;
    let mut facts = SourceFacts {
        system_id: Some(SystemId::from_u64(system_id)),
        version_num: text(0).parse().ok(),
        version: Some(text(1)),
        segment_size: bytes_of(&text(3)).and_then(|bytes| SegmentSize::try_from(bytes).ok()),
        data_checksums: Some(text(4) == "on"),
        ..SourceFacts::default()
    };
    let client = connection.client();
    read(client, &mut facts).await.map_err(|source| connection.failed(source))?;
    let advice =
        preflight::common_advice(client, &facts).await.map_err(|source| connection.failed(source))?;
    Ok((facts, advice))
}

async fn read(client: &Client, facts: &mut SourceFacts) -> Result<(), tokio_postgres::Error> {
    let names: Vec<String> = SETTINGS.iter().map(|name| (*name).to_owned()).collect();
    let rows = client
        .query(
            "select name, setting from pg_settings where name = any($1) and setting is not null",
            &[&names],
        )
        .await?;
    facts.settings = rows.iter().map(|row| (row.get(0), row.get(1))).collect::<BTreeMap<_, _>>();
    let standby = client.query_one("select pg_is_in_recovery()", &[]).await?;
    facts.from_standby = Some(standby.get(0));
    facts.collations = collations(client, facts.version_num.unwrap_or_default()).await?;
    Ok(())
}

/// Collation versions: of the databases (15 and later), and of each library that collations of
/// the connected database use.
async fn collations(client: &Client, version: u32) -> Result<Vec<CollationFacts>, tokio_postgres::Error> {
    let provider =
        "case collprovider when 'c' then 'libc' when 'i' then 'icu' when 'b' then 'builtin' else 'other' end";
    let mut queries = vec![format!(
        "select distinct on (2, 3) collname::text, {provider}, collversion from pg_collation
         where collversion is not null order by 2, 3, 1"
    )];
    if version >= 150_000 {
        let provider = provider.replace("collprovider", "datlocprovider");
        queries.push(format!(
            "select 'database ' || datname, {provider}, datcollversion from pg_database
             where datcollversion is not null order by 1"
        ));
    }
    let mut found = Vec::new();
    for query in queries {
        for row in client.query(query.as_str(), &[]).await? {
            found.push(CollationFacts { name: row.get(0), provider: row.get(1), version: row.get(2) });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_postgresql_shows_them() {
        assert_eq!(bytes_of("16MB"), Some(16 << 20));
        assert_eq!(bytes_of("1GB"), Some(1 << 30));
        assert_eq!(bytes_of("512kB"), Some(512 << 10));
        assert_eq!(bytes_of("8192"), Some(8192));
        assert_eq!(bytes_of("many"), None);
    }
}
