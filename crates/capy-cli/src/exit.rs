//! Exit codes: one table, the same in every output mode.
//!
//! Contained by: `main`, which ends the process with one of them, and the help text, which is
//! made from the same table so that the two cannot disagree.

use capy_store::ErrorKind;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Success,
    /// The archive lacks the file that was asked for, on the store's own word.
    Absent,
    /// It ran to the end and found something wrong: defects, or a backup kept as damaged.
    Problems,
    /// It failed, by kind.
    Failed(ErrorKind),
}

/// Who asked for this run: PostgreSQL reads exit codes in ways of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A person or a script of theirs.
    Person,
    /// `wal push`: 0 archived, 1 to 125 not.
    ArchiveCommand,
    /// `wal fetch`: 0 there, 1 absent, above 125 a fault.
    RestoreCommand,
}

/// Code, what it means. The order is the order of the help text.
pub(crate) const TABLE: &[(u8, &str)] = &[
    (0, "success"),
    (1, "finished, but found problems: defects in verify, a backup kept as damaged"),
    (2, "usage: the command line or its input makes no sense"),
    (3, "not found: no such backup, object, file or repository"),
    (4, "conflict: it exists already, or somebody else was first"),
    (5, "unavailable: store, server or network did not answer; the same command may work later"),
    (6, "corrupt: stored or received bytes are not what they must be"),
    (7, "denied: no permission, or no key that opens the repository"),
    (70, "internal: a fault in this program"),
    (126, "wal fetch only: any fault, so that recovery stops; 1 is an absent file there"),
    (130, "cancelled: Ctrl-C or SIGTERM"),
];

impl Exit {
    /// The process's exit code for whoever asked.
    pub(crate) const fn code_for(self, caller: Caller) -> u8 {
        let code = self.code();
        match caller {
            // Above 125 the archiver process itself ends, and the failure is not counted.
            Caller::ArchiveCommand if code > 125 => 75,
            // Anything from 1 to 125 says that WAL ends here, and the server is promoted.
            Caller::RestoreCommand if !matches!(self, Self::Success | Self::Absent) => Self::FAULT,
            _ => code,
        }
    }

    /// What restore_command ends with on any fault: recovery stops. Not 143, which reads as a
    /// shutdown.
    pub(crate) const FAULT: u8 = 126;

    /// The process's exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Problems | Self::Absent => 1,
            Self::Failed(kind) => match kind {
                ErrorKind::Invalid => 2,
                ErrorKind::NotFound => 3,
                ErrorKind::Conflict => 4,
                ErrorKind::Unavailable => 5,
                ErrorKind::Corrupt => 6,
                ErrorKind::Denied => 7,
                ErrorKind::Cancelled => 130,
                _ => 70,
            },
        }
    }
}

/// The table as the help shows it.
pub(crate) fn table_text() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in TABLE {
        text.push_str(&format!("  {code:>3}  {meaning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_answered_in_its_own_terms() {
        let kinds = [ErrorKind::NotFound, ErrorKind::Unavailable, ErrorKind::Invalid, ErrorKind::Cancelled];
        for exit in kinds.map(Exit::Failed).into_iter().chain([Exit::Problems]) {
            assert_eq!(exit.code_for(Caller::RestoreCommand), 126, "{exit:?}");
            assert!((1..=125).contains(&exit.code_for(Caller::ArchiveCommand)), "{exit:?}");
        }
        assert_eq!(Exit::Absent.code_for(Caller::RestoreCommand), 1);
        assert_eq!(Exit::Success.code_for(Caller::RestoreCommand), 0);
    }

    #[test]
    fn every_kind_has_a_code_of_the_table() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::Conflict,
            ErrorKind::Unavailable,
            ErrorKind::Corrupt,
            ErrorKind::Invalid,
            ErrorKind::Denied,
            ErrorKind::Cancelled,
            ErrorKind::Internal,
        ] {
            let code = Exit::Failed(kind).code();
            assert!(TABLE.iter().any(|(known, _)| *known == code), "{kind} ends in {code}");
            assert!(code > 1, "{kind} must differ from success and from found problems");
        }
    }
}
