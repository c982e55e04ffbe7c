//! What a long operation carries: the means to stop it, and a place to report to.
//!
//! `Ctx` is small and cheap to clone; it is the first argument of every long operation.

use std::fmt;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// Cancellation and progress of one long operation.
#[derive(Clone)]
pub struct Ctx {
    /// Cancelled by the caller; the operation stops at its next safe point.
    pub cancel: CancellationToken,
    /// Told what is happening.
    pub progress: Arc<dyn Progress>,
}

impl fmt::Debug for Ctx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctx").field("cancelled", &self.cancel.is_cancelled()).finish_non_exhaustive()
    }
}

impl Default for Ctx {
    fn default() -> Self {
        Self { cancel: CancellationToken::new(), progress: Arc::new(NoProgress) }
    }
}

/// The operation was cancelled through its [`Ctx`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

impl Ctx {
    /// A context that reports to `progress`.
    #[must_use]
    pub fn with_progress(progress: Arc<dyn Progress>) -> Self {
        Self { cancel: CancellationToken::new(), progress }
    }

    /// `Err(Cancelled)` once the caller has cancelled.
    ///
    /// # Errors
    /// [`Cancelled`], and nothing else.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.cancel.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

/// What a long operation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Connecting, reading configuration, opening the repository.
    Prepare,
    /// Waiting for the server's checkpoint before a base backup.
    Checkpoint,
    /// Reading the source and storing new chunks.
    Backup,
    /// Uploading what is left, writing index and manifest, committing.
    Commit,
    /// Writing files of a restore.
    Restore,
    /// Flushing restored files to disk.
    Sync,
    /// Reading and checking stored objects.
    Verify,
}

impl Phase {
    /// The word shown to people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "preparing",
            Self::Checkpoint => "waiting for checkpoint",
            Self::Backup => "backing up",
            Self::Commit => "committing",
            Self::Restore => "restoring",
            Self::Sync => "flushing to disk",
            Self::Verify => "verifying",
        }
    }
}

/// A problem that does not stop the operation but that somebody should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: a file, an object, a setting.
    pub subject: String,
    /// One fact, lower case.
    pub message: String,
}

/// Receives progress. Called from hot paths and from worker threads: implementations must be
/// cheap and must not block.
pub trait Progress: Send + Sync {
    /// A new phase began; `total_bytes` is the expected work, where it is known.
    fn phase(&self, phase: Phase, total_bytes: Option<u64>) {
        let _ = (phase, total_bytes);
    }

    /// `bytes` more of the present phase are done.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Something to tell, which does not stop the operation.
    fn problem(&self, problem: Problem) {
        let _ = problem;
    }
}

/// Reports to nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}
