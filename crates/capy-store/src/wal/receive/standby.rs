//! Whether the server waits for us when it commits.
//!
//! The stream does not tell: a server only ever counts the reports. So its setting is read when
//! connecting, and now and then over another connection, for it can be changed at any moment.

use std::time::Duration;

use capy_postgres::{ConnectSettings, PostgresError, ReplicationConnection};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Between two looks. Until the next one, commits that newly wait do so for up to the interval at
/// which parts are archived.
const INTERVAL: Duration = Duration::from_secs(30);

/// Looks at the setting from time to time.
#[derive(Debug)]
pub(super) struct Watch {
    settings: ConnectSettings,
    next: Instant,
    look: Option<JoinHandle<Result<bool, PostgresError>>>,
}

impl Watch {
    pub(super) fn new(settings: ConnectSettings) -> Self {
        Self { settings, next: Instant::now() + INTERVAL, look: None }
    }

    /// Whether the server waits for us, once it was asked again. A look that fails says nothing: if
    /// the server is gone, the stream will tell.
    ///
    /// # Cancellation
    /// Safe: the look goes on.
    pub(super) async fn next(&mut self) -> bool {
        loop {
            let look = match &mut self.look {
                Some(look) => look,
                None => {
                    sleep_until(self.next).await;
                    self.look.insert(tokio::spawn(ask(self.settings.clone())))
                }
            };
            let answer = look.await;
            (self.look, self.next) = (None, Instant::now() + INTERVAL);
            match answer {
                Ok(Ok(named)) => return named,
                Ok(Err(error)) => tracing::debug!("cannot look at synchronous_standby_names: {error}"),
                Err(_) => {}
            }
        }
    }
}

async fn ask(settings: ConnectSettings) -> Result<bool, PostgresError> {
    names_us(&mut ReplicationConnection::open(&settings).await?, &settings).await
}

/// Whether the server's `synchronous_standby_names` names the application of these settings.
pub(super) async fn names_us(
    connection: &mut ReplicationConnection,
    settings: &ConnectSettings,
) -> Result<bool, PostgresError> {
    let setting = connection.show("synchronous_standby_names").await?;
    Ok(is_named(&setting, &settings.application_name))
}

/// Whether the setting `synchronous_standby_names` names the application. Its grammar: names, or
/// `*`, alone or in the list of `FIRST n (…)` or `ANY n (…)`; letters of either case are the same.
/// Being one of several counts: whoever is not waited for now can be next.
fn is_named(setting: &str, application: &str) -> bool {
    names(setting).iter().any(|name| name == "*" || name.eq_ignore_ascii_case(application))
}

/// The words of the setting. `FIRST`, `ANY` and the number are among them: an application of
/// that name would be waited for in vain, or rather too often.
fn names(setting: &str) -> Vec<String> {
    let (mut names, mut name) = (Vec::new(), String::new());
    let (mut quoted, mut characters) = (false, setting.chars().peekable());
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' | '(' | ')' if !quoted => names.push(std::mem::take(&mut name)),
            space if !quoted && space.is_ascii_whitespace() => names.push(std::mem::take(&mut name)),
            other => name.push(other),
        }
    }
    names.push(name);
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_read_as_the_server_reads_it() {
        for setting in [
            "\"capy-store\"",
            "*",
            "a, \"capy-store\"",
            "FIRST 2 (a, \"capy-store\", b)",
            "any 1(\"CAPY-store\")",
            "2 (a,*)",
        ] {
            assert!(is_named(setting, "capy-store"), "{setting}");
        }
        for setting in ["", "a", "FIRST 1 (capy, store)", "\"capy-store2\"", "\"capy-\"\"store\""] {
            assert!(!is_named(setting, "capy-store"), "{setting}");
        }
        assert!(is_named("\"a\"\"b, c\"", "a\"b, c"));
    }
}
