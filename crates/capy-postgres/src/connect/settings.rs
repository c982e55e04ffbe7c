//! Connection settings: what the connection string, the environment and the defaults add up to.

use std::path::PathBuf;
use std::time::Duration;

use capy_types::Secret;

use super::{conninfo, passfile};
use crate::PostgresError;

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS when the server insists (treated as `prefer` without a certificate check).
    Allow,
    /// TLS when the server offers it.
    Prefer,
    /// TLS, whoever the server is; with a root certificate as `verify-ca`.
    Require,
    /// TLS, and the certificate is signed by a known authority.
    VerifyCa,
    /// And it is for the host that was asked for.
    VerifyFull,
}

/// One place where a server may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A host name or address, a socket directory, or `@` and an abstract socket's name.
    pub name: String,
    /// The port.
    pub port: u16,
}

impl Host {
    /// Whether it is a Unix socket.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.name.starts_with('/') || self.name.starts_with('@')
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_socket() {
            write!(f, "{}/.s.PGSQL.{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// Where a server is and who we are to it.
#[derive(Debug, Clone)]
pub struct ConnectSettings {
    /// Places to try, in order.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// Its password, when one was given.
    pub password: Option<Secret>,
    /// Where to look for a password otherwise.
    pub passfile: Option<PathBuf>,
    /// The database for plain SQL.
    pub database: String,
    /// How the server sees us in its views.
    pub application_name: String,
    /// Protection of the connection.
    pub ssl_mode: SslMode,
    /// Certificates of the authorities to trust (PEM); the system's when absent.
    pub ssl_root_cert: Option<PathBuf>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl ConnectSettings {
    /// Reads a connection string; what it leaves open is looked up with `variable` under the
    /// names of libpq's environment variables, then takes libpq's defaults.
    ///
    /// # Errors
    /// `Conninfo` when the string, or a value it resolves to, makes no sense.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, PostgresError> {
        let mut pairs = conninfo::parse(text)?;
        let mut take =
            |key: &str, env: &str| pairs.remove(key).or_else(|| variable(env)).filter(|v| !v.is_empty());
        let fail = |problem: String| PostgresError::Conninfo { problem };
        let names = take("hostaddr", "PGHOSTADDR");
        let names = take("host", "PGHOST").or(names).unwrap_or_else(|| "/var/run/postgresql".to_owned());
        let ports = take("port", "PGPORT").unwrap_or_else(|| "5432".to_owned());
        let hosts = hosts(&names, &ports)?;
        let user = take("user", "PGUSER")
            .or_else(|| variable("USER"))
            .ok_or_else(|| fail("no user: give user=NAME".to_owned()))?;
        let ssl_mode = match take("sslmode", "PGSSLMODE").as_deref() {
            None | Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some("allow") => SslMode::Allow,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some(other) => return Err(fail(format!("sslmode {other:?} does not exist"))),
        };
        let timeout = take("connect_timeout", "PGCONNECT_TIMEOUT");
        let timeout = timeout.map_or(Ok(0), |text| {
            text.parse::<u64>()
                .map_err(|_| fail(format!("connect_timeout {text:?} is not a number of seconds")))
        })?;
        let settings = Self {
            hosts,
            password: take("password", "PGPASSWORD").map(Secret::from),
            passfile: take("passfile", "PGPASSFILE")
                .map(PathBuf::from)
                .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".pgpass"))),
            database: take("dbname", "PGDATABASE").unwrap_or_else(|| "postgres".to_owned()),
            application_name: take("application_name", "PGAPPNAME")
                .unwrap_or_else(|| "capy-store".to_owned()),
            ssl_mode,
            ssl_root_cert: take("sslrootcert", "PGSSLROOTCERT")
                .filter(|path| path != "system")
                .map(PathBuf::from),
            connect_timeout: if timeout == 0 { Self::CONNECT_TIMEOUT } else { Duration::from_secs(timeout) },
            user,
        };
        // Settings that do not change where we connect to or how are let pass, as libpq has many.
        const HARMLESS: [&str; 8] = [
            "options",
            "client_encoding",
            "keepalives",
            "keepalives_idle",
            "gssencmode",
            "channel_binding",
            "fallback_application_name",
            "replication",
        ];
        match pairs.keys().find(|key| !HARMLESS.contains(&key.as_str())) {
            Some(unknown) => Err(fail(format!("{unknown:?} is not a setting that is understood here"))),
            None => Ok(settings),
        }
    }

    /// How long connecting may take when nothing is said: libpq waits for ever, a backup should not.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

    /// The password for `host`: the one given, or the password file's.
    #[must_use]
    pub fn password_for(&self, host: &Host) -> Option<Secret> {
        self.password.clone().or_else(|| {
            let path = self.passfile.as_ref()?;
            // A replication connection is looked up under the database name "replication".
            ["replication", self.database.as_str()]
                .iter()
                .find_map(|database| passfile::look_up(path, &host.name, host.port, database, &self.user))
        })
    }
}

fn hosts(names: &str, ports: &str) -> Result<Vec<Host>, PostgresError> {
    let names: Vec<_> = names.split(',').collect();
    let ports: Vec<_> = ports.split(',').collect();
    if ports.len() != 1 && ports.len() != names.len() {
        let problem = format!("{} ports for {} hosts", ports.len(), names.len());
        return Err(PostgresError::Conninfo { problem });
    }
    names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let port = ports.get(n).or_else(|| ports.first()).copied().unwrap_or("5432");
            let port = if port.is_empty() { "5432" } else { port };
            let number = port.parse().ok().filter(|port: &u16| *port != 0);
            let number = number
                .ok_or_else(|| PostgresError::Conninfo { problem: format!("port {port:?} is not a port") })?;
            Ok(Host { name: (*name).to_owned(), port: number })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_string_goes_before_the_environment_and_that_before_the_defaults() {
        let variable = |name: &str| match name {
            "PGHOST" => Some("env.example".to_owned()),
            "PGUSER" => Some("env".to_owned()),
            "PGPASSWORD" => Some("s3cret".to_owned()),
            _ => None,
        };
        let settings = ConnectSettings::parse("host=/run/pg port=5433", variable).unwrap();
        assert_eq!(settings.hosts, [Host { name: "/run/pg".to_owned(), port: 5433 }]);
        assert_eq!(settings.hosts[0].to_string(), "/run/pg/.s.PGSQL.5433");
        assert_eq!(settings.user, "env");
        assert!(!format!("{settings:?}").contains("s3cret"));
        assert_eq!(settings.ssl_mode, SslMode::Prefer);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in ["user=a port=0", "user=a port=1,2", "user=a sslmode=maybe", "user=a hots=b", "port=5432"]
        {
            assert!(ConnectSettings::parse(bad, |_| None).is_err(), "{bad} must be refused");
        }
        assert!(ConnectSettings::parse("user=a host=x,y port=1,2", |_| None).is_ok());
    }
}
