//! The values that WAL records are made of.

use std::fmt;

use capy_types::Timestamp;

/// A major version of PostgreSQL whose WAL is read. Later ones compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PgMajor {
    /// PostgreSQL 13.
    V13,
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl PgMajor {
    /// Every version that is read, oldest first.
    pub const ALL: [Self; 6] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The number of the version: 13 to 18.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The version of that number, when it is read.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|major| major.number() == number)
    }

    /// `XLOG_PAGE_MAGIC`: what every page of this version's WAL begins with.
    #[must_use]
    pub const fn page_magic(self) -> u16 {
        match self {
            Self::V13 => 0xD106,
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    /// The version whose pages begin with `magic`.
    #[must_use]
    pub fn from_page_magic(magic: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|major| major.page_magic() == magic)
    }
}

impl fmt::Display for PgMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// A moment as PostgreSQL stores it (`TimestampTz`): microseconds since 2000-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(i64);

/// 2000-01-01 UTC in microseconds since the Unix epoch: 10957 days.
const PG_EPOCH_UNIX_MICROS: i64 = 10_957 * 86_400 * 1_000_000;

impl PgTimestamp {
    /// From microseconds since 2000-01-01 UTC.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 2000-01-01 UTC.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Microseconds since the Unix epoch; moments beyond what they can count become the last one.
    #[must_use]
    pub const fn to_unix_micros(self) -> i64 {
        self.0.saturating_add(PG_EPOCH_UNIX_MICROS)
    }

    /// The same moment in the engine's terms.
    #[must_use]
    pub const fn to_timestamp(self) -> Timestamp {
        Timestamp::from_micros(self.to_unix_micros())
    }
}

impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_timestamp())
    }
}

/// The 32-bit number of a transaction, which wraps around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(u32);

impl TransactionId {
    /// What a record has that belongs to no transaction.
    pub const INVALID: Self = Self(0);

    /// The first number that is given out: the ones below have a meaning of their own.
    const FIRST_NORMAL: u32 = 3;

    /// From the number PostgreSQL reports.
    #[must_use]
    pub const fn from_u32(id: u32) -> Self {
        Self(id)
    }

    /// The number PostgreSQL reports.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// Whether it is a number that transactions have.
    #[must_use]
    pub const fn is_normal(self) -> bool {
        self.0 >= Self::FIRST_NORMAL
    }

    /// Whether it was given out after `other`, both within half the circle of each other:
    /// `TransactionIdFollows` for normal ids.
    #[must_use]
    pub const fn follows(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where a relation's files are: `RelFileLocator`, before PostgreSQL 16 `RelFileNode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelFileLocator {
    /// Oid of the tablespace.
    pub tablespace: u32,
    /// Oid of the database; 0 for relations shared by all.
    pub database: u32,
    /// The relation's file number.
    pub filenode: u32,
}

impl fmt::Display for RelFileLocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.filenode)
    }
}

/// How much a server writes into its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalLevel {
    /// Too little to restore from an archive.
    Minimal,
    /// Enough for archives and standbys.
    Replica,
    /// Also enough for logical decoding.
    Logical,
    /// A number that no version up to 18 has.
    Unknown(u32),
}

impl WalLevel {
    pub(super) const fn from_u32(level: u32) -> Self {
        match level {
            0 => Self::Minimal,
            1 => Self::Replica,
            2 => Self::Logical,
            other => Self::Unknown(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_count_from_the_year_2000() {
        assert_eq!(PgTimestamp::from_micros(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(PgTimestamp::from_micros(-1).to_unix_micros(), 946_684_799_999_999);
        assert_eq!(PgTimestamp::from_micros(i64::MAX).to_unix_micros(), i64::MAX);
    }

    #[test]
    fn transactions_follow_each_other_around_the_circle() {
        let id = TransactionId::from_u32;
        assert!(id(4).follows(id(3)) && !id(3).follows(id(4)) && !id(3).follows(id(3)));
        assert!(id(5).follows(id(u32::MAX - 5)));
        assert!(!TransactionId::INVALID.is_normal() && id(3).is_normal());
    }

    #[test]
    fn a_magic_names_its_version() {
        for major in PgMajor::ALL {
            assert_eq!(PgMajor::from_page_magic(major.page_magic()), Some(major));
            assert_eq!(PgMajor::from_number(major.number()), Some(major));
        }
        assert_eq!(PgMajor::from_page_magic(0xD101), None);
    }
}
