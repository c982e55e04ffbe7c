//! Time by argument, in UTC, to the microsecond.

use std::fmt;
use std::str::FromStr;

/// A moment in UTC, in microseconds since the Unix epoch.
///
/// Text form: RFC 3339 with a zone (`2026-11-21T06:54:52.123456Z`). A text without a zone is
/// refused: a restore target must not depend on where the reader sits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A text that is not an RFC 3339 time with a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time with a zone (like 2026-11-21T06:54:52Z): {text:?}")]
pub struct ParseTimestampError {
    /// What was given.
    pub text: String,
}

impl Timestamp {
    /// From microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From PostgreSQL's count: microseconds since 2000-01-01 UTC.
    #[must_use]
    pub const fn from_postgres_micros(micros: i64) -> Self {
        // 10 957 days lie between the two epochs.
        Self(micros.saturating_add(10_957 * 86_400 * 1_000_000))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The form used inside backup ids: `20261121T065452Z`.
    #[must_use]
    pub fn compact(self) -> String {
        self.zoned().strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    fn zoned(self) -> jiff::Timestamp {
        // jiff covers the years -9999..=9999; anything a 64-bit count holds beyond is clamped.
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.zoned())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(|t| Self(t.as_microsecond()))
            .map_err(|_| ParseTimestampError { text: text.to_owned() })
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_a_zone_is_required() {
        let t: Timestamp = "2026-11-21T07:54:52.5+01:00".parse().expect("a zone is given");
        assert_eq!(t.to_string(), "2026-11-21T06:54:52.5Z");
        assert_eq!(t.compact(), "20261121T065452Z");
        assert!("2026-11-21T06:54:52".parse::<Timestamp>().is_err());
        assert!("13am".parse::<Timestamp>().is_err());
    }
}
