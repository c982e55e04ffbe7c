//! What every command starts with: options, output, progress and the means to be cancelled.
//!
//! Contained by: `main`, which makes one and hands it to the command.

use std::sync::Arc;

use anyhow::Context;
use capy_store::{Ctx, ErrorKind, Location, Repository};

use crate::args::Global;
use crate::environment;
use crate::exit::{Caller, Exit};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Meter;
use crate::secrets;

/// One run of the command.
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) output: Output,
    pub(crate) ctx: Ctx,
    meter: Arc<Meter>,
}

impl Session {
    /// A session as the global options say.
    pub(crate) fn new(global: Global) -> Self {
        let output = Output { json: global.json, quiet: global.quiet, stdout_is_data: false };
        let meter = Arc::new(Meter::new(global.quiet || global.json));
        let ctx = Ctx::with_progress(Arc::clone(&meter) as Arc<_>);
        Self { global, output, ctx, meter }
    }

    /// Where the repository is.
    pub(crate) fn location(&self) -> anyhow::Result<Location> {
        let url = self.global.repo.as_deref().ok_or_else(|| {
            Failure::invalid("no repository was given").with_hint("set CAPY_REPO, or pass --repo URL")
        })?;
        Ok(Location::new(url).with_options(environment::store_options(&self.global)?))
    }

    /// Opens the repository.
    pub(crate) async fn open(&self) -> anyhow::Result<Repository> {
        self.open_at(self.location()?).await
    }

    /// Opens the repository at a [location](Self::location) that the command has said more about.
    pub(crate) async fn open_at(&self, location: Location) -> anyhow::Result<Repository> {
        let key = secrets::opening_key(&self.global)?;
        Ok(Repository::open(&self.ctx, &location, &key).await?)
    }

    /// Ends progress, so that an answer can be printed.
    pub(crate) fn finish_progress(&self) {
        self.meter.finish();
    }

    /// Cancels the operation on the first Ctrl-C or SIGTERM, and ends the process on the second, as
    /// cancelled to whoever asked for it.
    pub(crate) fn watch_signals(&self, caller: Caller) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let (ctx, meter) = (self.ctx.clone(), Arc::clone(&self.meter));
        let quiet = self.global.quiet;
        tokio::spawn(async move {
            for again in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if again {
                    let code = Exit::Failed(ErrorKind::Cancelled).code_for(caller);
                    std::process::exit(i32::from(code));
                }
                ctx.cancel.cancel();
                meter.finish();
                if !quiet {
                    eprintln!("cancelling; once more ends at once");
                }
            }
        });
        Ok(())
    }
}
