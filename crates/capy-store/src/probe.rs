//! Whether a store can hold a repository.

use capy_objects::{ProbeReport, Store, open_store};
use capy_types::{Ctx, Entropy, ErrorKind, OsEntropy, Phase};
use tracing::instrument;

use crate::repository::cancellable;
use crate::{Error, Location, Result};

/// Tests what the store at `location` can do: create-if-absent one after another and several at
/// once, range reads, listing, read after write; on S3 also versioning, object lock and whether
/// abandoned uploads are cleaned up. Needs no key and leaves nothing behind.
///
/// # Errors
/// `Invalid` for a URL that makes no sense; `Denied`, `Unavailable` from the store. What the
/// store does wrong is in the report.
///
/// # Cancellation
/// Safe to drop; a few small objects under `probe/` may be left.
///
/// # Example
/// ```
/// # use capy_store::*;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<()> {
/// let report = probe(&Ctx::default(), &Location::new("memory://")).await?;
/// assert!(report.multi_writer_safe);
/// # Ok(()) }
/// ```
#[instrument(skip_all, fields(url = location.url()))]
pub async fn probe(ctx: &Ctx, location: &Location) -> Result<ProbeReport> {
    ctx.progress.phase(Phase::Prepare, None);
    let work = async {
        let store = open_store(&location.url, &location.store, true).await?;
        Ok(capy_objects::probe(&*store, &OsEntropy).await?)
    };
    cancellable(ctx, work).await
}

/// Refuses a store on which two writers could both believe they had committed.
pub(crate) async fn require_safe(store: &dyn Store, entropy: &dyn Entropy) -> Result<()> {
    let report = capy_objects::probe(store, entropy).await?;
    if report.multi_writer_safe {
        return Ok(());
    }
    let faults = report.faults.join("; ");
    let what = format!("this store cannot hold a repository: {faults}: {}", store.url());
    Err(Error::new(ErrorKind::Invalid, what)
        .with_hint("`probe` shows all that was tested; use a store that honours if-none-match"))
}
