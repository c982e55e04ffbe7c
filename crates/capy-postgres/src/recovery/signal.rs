//! The empty file by which a server notices that it shall recover.
//!
//! Source: PostgreSQL documentation, "Archive Recovery". `standby.signal` wins when both exist.

/// What no server since 12 starts with, and no restored directory may contain.
pub const RECOVERY_CONF: &str = "recovery.conf";

/// The file to create, empty, in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalFile {
    /// Recover up to the target, then act.
    Recovery,
    /// Recover for as long as nobody promotes the server.
    Standby,
}

impl SignalFile {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recovery => "recovery.signal",
            Self::Standby => "standby.signal",
        }
    }

    /// The files to remove from the data directory before the server starts.
    #[must_use]
    pub const fn must_be_absent(self) -> [&'static str; 2] {
        match self {
            Self::Recovery => [Self::Standby.name(), RECOVERY_CONF],
            Self::Standby => [Self::Recovery.name(), RECOVERY_CONF],
        }
    }
}
