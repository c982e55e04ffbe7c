//! Connection strings: `key=value` pairs and `postgresql://` URIs, as libpq reads them.
//!
//! Source: PostgreSQL documentation, "Connection Strings".

use std::collections::BTreeMap;

use crate::PostgresError;

pub(super) type Pairs = BTreeMap<String, String>;

fn fail(problem: impl Into<String>) -> PostgresError {
    PostgresError::Conninfo { problem: problem.into() }
}

/// Reads either form.
pub(super) fn parse(text: &str) -> Result<Pairs, PostgresError> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => parse_uri(rest),
        None => parse_pairs(text),
    }
}

/// `key = 'value with \' and spaces'`, separated by white space.
fn parse_pairs(text: &str) -> Result<Pairs, PostgresError> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) =
            rest.split_once('=').ok_or_else(|| fail(format!("missing \"=\" after {:?}", rest.trim())))?;
        let (value, after) = parse_value(after.trim_start())?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(fail(format!("{key:?} is not the name of a setting")));
        }
        pairs.insert(key.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(pairs)
}

fn parse_value(text: &str) -> Result<(String, &str), PostgresError> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            c if c.is_whitespace() && !quoted => return Ok((value, text.get(at..).unwrap_or_default())),
            c => value.push(c),
        }
    }
    if quoted { Err(fail("unterminated quoted value")) } else { Ok((value, "")) }
}

/// `[user[:password]@][host[:port],…][/dbname][?key=value&…]`.
fn parse_uri(rest: &str) -> Result<Pairs, PostgresError> {
    let mut pairs = Pairs::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut put = |key: &str, value: &str| -> Result<(), PostgresError> {
        if !value.is_empty() {
            pairs.insert(key.to_owned(), decode(value)?);
        }
        Ok(())
    };
    put("user", user)?;
    put("password", password)?;
    put("dbname", dbname)?;
    let (names, ports): (Vec<_>, Vec<_>) = hosts.split(',').map(split_port).unzip();
    put("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        put("port", &ports.join(","))?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| fail(format!("missing \"=\" in {pair:?}")))?;
        put(key, value)?;
    }
    Ok(pairs)
}

/// Splits `host:port`, `[v6]:port` or `host`.
fn split_port(text: &str) -> (&str, &str) {
    if let Some((v6, after)) = text.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        return (v6, after.strip_prefix(':').unwrap_or(""));
    }
    text.rsplit_once(':').unwrap_or((text, ""))
}

fn decode(text: &str) -> Result<String, PostgresError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit(rest.next()), digit(rest.next()));
        let value = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(value.ok_or_else(|| fail("bad percent-encoding in the URI"))?);
    }
    String::from_utf8(bytes).map_err(|_| fail("the URI does not decode to UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(expected: &[(&str, &str)]) -> Pairs {
        expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn pairs_are_read_with_quotes_escapes_and_spaces() {
        let text = r"host = /run/pg  port=5432 user='a b\'c' password=x\ y application_name=''";
        let expected = [
            ("host", "/run/pg"),
            ("port", "5432"),
            ("user", "a b'c"),
            ("password", "x y"),
            ("application_name", ""),
        ];
        assert_eq!(parse(text).unwrap(), pairs(&expected));
        assert_eq!(parse("  ").unwrap(), Pairs::new());
    }

    #[test]
    fn uris_are_read_with_several_hosts_v6_and_percent_encoding() {
        let text = "postgresql://al%20ice:p%40ss@[::1]:5433,db.example/main?sslmode=verify-full";
        let expected = [
            ("user", "al ice"),
            ("password", "p@ss"),
            ("host", "::1,db.example"),
            ("port", "5433,"),
            ("dbname", "main"),
            ("sslmode", "verify-full"),
        ];
        assert_eq!(parse(text).unwrap(), pairs(&expected));
        let socket = parse("postgres:///db?host=/run/pg").unwrap();
        assert_eq!(socket, pairs(&[("dbname", "db"), ("host", "/run/pg")]));
    }

    #[test]
    fn nonsense_is_refused_without_showing_values() {
        for bad in ["host", "host='x", "postgresql://h/%zz", "postgresql://h/d?x"] {
            assert!(parse(bad).is_err(), "{bad} must be refused");
        }
    }
}
