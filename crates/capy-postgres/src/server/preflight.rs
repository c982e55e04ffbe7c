//! What an operator should know before a backup starts: advice, never a refusal. The server
//! itself refuses what cannot be.

use tokio_postgres::Client;

use crate::connect::ConnectSettings;
use crate::source::SourceFacts;

/// How much a piece of advice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Likely to surprise when it is too late.
    Warning,
}

/// One thing to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What it is about: a setting, a role, a table.
    pub subject: String,
    /// How much it matters.
    pub severity: Severity,
    /// The fact, and what to do.
    pub message: String,
}

pub(crate) fn advice_of(severity: Severity, subject: &str, message: impl Into<String>) -> Advice {
    Advice { subject: subject.to_owned(), severity, message: message.into() }
}

/// Looks at settings, roles and relations, for a backup over the replication protocol.
pub(super) async fn advice(
    client: &Client,
    settings: &ConnectSettings,
    facts: &SourceFacts,
) -> Result<Vec<Advice>, tokio_postgres::Error> {
    let mut all = Vec::new();
    if facts.settings.get("max_wal_senders").map(String::as_str) == Some("0") {
        all.push(advice_of(Severity::Warning, "max_wal_senders", "0: no replication connection is possible"));
    }
    let role =
        client.query_one("select rolreplication or rolsuper from pg_roles where rolname = current_user", &[]);
    if !role.await?.get::<_, bool>(0) {
        all.push(advice_of(
            Severity::Warning,
            &format!("role {}", settings.user),
            "may not replicate: alter role … replication",
        ));
    }
    all.extend(common_advice(client, facts).await?);
    Ok(all)
}

/// What matters however the files are read.
pub(super) async fn common_advice(
    client: &Client,
    facts: &SourceFacts,
) -> Result<Vec<Advice>, tokio_postgres::Error> {
    let mut all = Vec::new();
    let setting = |name: &str| facts.settings.get(name).map(String::as_str);
    if setting("wal_level") == Some("minimal") {
        all.push(advice_of(
            Severity::Warning,
            "wal_level",
            "minimal: base backups are refused; set it to replica",
        ));
    }
    if facts.from_standby == Some(true) && setting("full_page_writes") == Some("off") {
        all.push(advice_of(
            Severity::Warning,
            "full_page_writes",
            "off: a backup from a standby needs it on at the primary",
        ));
    }
    if let Some(unlogged) = unlogged_tables(client).await? {
        all.push(advice_of(
            Severity::Note,
            "unlogged tables",
            format!("{unlogged} in this database: they are empty after a restore"),
        ));
    }
    Ok(all)
}

async fn unlogged_tables(client: &Client) -> Result<Option<i64>, tokio_postgres::Error> {
    let row = client
        .query_one("select count(*) from pg_class where relpersistence = 'u' and relkind in ('r', 'm')", &[])
        .await?;
    Ok(Some(row.get(0)).filter(|count| *count > 0))
}
