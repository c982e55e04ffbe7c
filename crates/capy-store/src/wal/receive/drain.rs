//! Starting uploads, and making durable what was received, with or without a server.

use capy_repo::StoredPart;
use capy_types::WalFile;
use tokio::time::Instant;

use super::Receiver;
use super::assembly::{Assembly, Diverged};
use super::failure::Outcome;
use super::pace::Haste;
use super::uploads::{PartDone, Tidying, Uploaded};
use crate::PushedWal;

impl Receiver<'_> {
    /// Why WAL is to be made durable while the server is connected.
    pub(super) fn haste(&self) -> Haste {
        match self.options.partial_interval {
            _ if self.synchronous => Haste::Commits,
            Some(interval) if interval.is_zero() => Haste::Commits,
            Some(interval) => Haste::Interval(interval),
            None => Haste::None,
        }
    }

    /// Starts the uploads that are due, and says when the next one is.
    pub(super) fn start_uploads(&mut self, haste: Haste) -> Option<Instant> {
        let assembly = self.assembly.as_ref()?;
        if let Some(swept) = self.to_sweep {
            if !self.uploads.is_tidying() && !self.uploads.has_part_of(swept) {
                self.uploads.start_sweep(swept);
            }
        } else if !self.uploads.has_segment()
            && let Some((name, bytes)) = assembly.closing()
        {
            self.uploads.start_segment(name, bytes);
        }
        // The rest of a whole segment becomes durable with it, unless commits wait.
        let at_once = haste == Haste::Commits;
        let now = Instant::now();
        self.pace.waits(assembly.has_volatile(at_once), now);
        if self.uploads.has_part() {
            return None;
        }
        let due = self.pace.due(haste)?;
        if due > now {
            return Some(due);
        }
        if let Some(piece) = assembly.volatile(at_once) {
            self.uploads.start_part(piece);
            self.pace.begun();
        }
        None
    }

    /// What became of an upload.
    pub(super) fn settle(&mut self, uploaded: Uploaded) -> Outcome<()> {
        match uploaded {
            Uploaded::Segment(pushed) => self.segment_done(pushed?),
            Uploaded::Part(part) => self.part_done(part?),
            // What is left, the next receiver tidies.
            Uploaded::Tidied(Tidying::Sweep, outcome) => {
                self.to_sweep = None;
                outcome.unwrap_or_else(|error| tracing::warn!("parts are left: {}", error.chain()));
                Ok(())
            }
            Uploaded::Tidied(Tidying::Compaction, outcome) => {
                outcome.unwrap_or_else(|error| tracing::debug!("parts stay many: {}", error.chain()));
                Ok(())
            }
        }
    }

    fn segment_done(&mut self, pushed: PushedWal) -> Outcome<()> {
        self.archived(pushed);
        let Some(assembly) = &mut self.assembly else { return Ok(()) };
        if let Some(name) = assembly.closing_name()
            && (self.left.remove(&name) || assembly.closing_has_parts() || self.uploads.has_part_of(name))
        {
            self.to_sweep = Some(name);
        }
        Ok(assembly.archived()?)
    }

    fn part_done(&mut self, part: PartDone) -> Outcome<()> {
        match part.stored {
            StoredPart::New { stored_bytes } => {
                self.report.parts += 1;
                self.report.stored_bytes += stored_bytes;
            }
            StoredPart::Same => {}
            StoredPart::Differs => {
                let at = part.segment.start().as_u64() + part.start as u64;
                return Err(Diverged { at: capy_types::Lsn::from_u64(at) }.into());
            }
        }
        if let Some(assembly) = &mut self.assembly {
            assembly.made_durable(part.segment, part.end);
            let is_open = assembly.open_name() == part.segment;
            if is_open && self.crowd.grew(part.segment, part.end) && !self.uploads.is_tidying() {
                self.uploads.start_compaction(part.segment);
                self.crowd.compacted(part.end);
            }
        }
        Ok(())
    }

    /// Waits until everything that was received is durable.
    pub(super) async fn drain(&mut self) -> Outcome<()> {
        loop {
            self.start_uploads(Haste::Now);
            let Some(assembly) = &self.assembly else { return Ok(()) };
            self.report.durable_lsn = Some(assembly.stored());
            let busy = self.uploads.has_part() || self.uploads.is_tidying() || self.to_sweep.is_some();
            if assembly.is_settled() && !assembly.has_volatile(true) && !busy {
                return Ok(());
            }
            let uploaded = self.uploads.next().await;
            self.settle(uploaded)?;
        }
    }

    /// Leaves the segment that is filled as it is: its timeline ends, or cannot be followed. It stays
    /// in parts.
    pub(super) async fn leave(&mut self) -> Outcome<()> {
        self.drain().await?;
        if let Some(name) = self.assembly.as_ref().and_then(Assembly::unfinished) {
            let file = WalFile::from(name);
            if let Err(error) = self.repository.repo.compact_wal_parts(&self.options.cluster, &file).await {
                tracing::debug!(%error, "the parts of {file} stay many");
            }
            self.report
                .partials
                .push(format!("{name}.partial").parse().expect("a segment's name and the suffix"));
        }
        self.assembly = None;
        Ok(())
    }
}
