//! Timeline histories: without those, nobody knows which WAL follows which.

use bytes::Bytes;
use capy_postgres::{ReplicationConnection, TimelineHistory};
use capy_types::{ErrorKind, TimelineId, WalFile};

use super::failure::{Failure, Outcome};
use super::{ReceiveEvent, Receiver};
use crate::{Error, PushOutcome, PushedWal, Result};

/// Histories before the server's own that are asked for, the newest first: each is a request to
/// the store, and more than a few promotions lie behind few servers.
const HISTORIES_MAX: u32 = 256;

impl Receiver<'_> {
    /// Archives the history of the server's timeline, and those of earlier ones that the archive
    /// lacks: a recovery to the latest timeline looks for one after the other, and stops at the
    /// first that is missing.
    pub(super) async fn archive_histories(
        &mut self,
        connection: &mut ReplicationConnection,
        timeline: TimelineId,
    ) -> Outcome<TimelineHistory> {
        if timeline.as_u32() == 1 {
            return Ok(TimelineHistory::of_first(timeline));
        }
        let history = self.archive_history(connection, timeline).await?;
        let oldest = timeline.as_u32().saturating_sub(HISTORIES_MAX).max(2);
        for earlier in (oldest..timeline.as_u32()).rev().map(TimelineId::from_u32) {
            if self.histories.contains(&earlier) || self.has(&WalFile::history(earlier)).await? {
                self.histories.insert(earlier);
                continue;
            }
            match self.archive_history(connection, earlier).await {
                Ok(_) => {}
                // A timeline of another server, or one whose file is gone here too: the server answers as
                // for WAL.
                Err(failure) if failure.is_removed_wal() => {
                    if history.ancestors().iter().any(|entry| entry.timeline == earlier) {
                        self.notice(format!(
                            "neither the archive nor the server has {}",
                            WalFile::history(earlier)
                        ));
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(history)
    }

    /// Archives one history. Another content under the name is another timeline of this number, whose
    /// WAL must not mix with this one's.
    pub(super) async fn archive_history(
        &mut self,
        connection: &mut ReplicationConnection,
        timeline: TimelineId,
    ) -> Outcome<TimelineHistory> {
        let file = connection.timeline_history(timeline).await?;
        let history = TimelineHistory::parse(timeline, &file.content).map_err(|error| {
            Failure::Here(Error::new(ErrorKind::Corrupt, format!("from the server: {error}")))
        })?;
        if self.histories.insert(timeline) {
            let name = WalFile::history(timeline);
            let pushed = self.push(name.clone(), file.content).await;
            let pushed = pushed.inspect_err(|_| {
                self.histories.remove(&timeline);
            })?;
            if pushed.outcome == PushOutcome::Archived {
                self.report.histories.push(name);
                (self.tell)(ReceiveEvent::Archived(pushed));
            }
        }
        Ok(history)
    }

    async fn push(&mut self, file: WalFile, bytes: Bytes) -> Result<PushedWal> {
        let pushed = self.repository.push_wal_bytes(&self.options.cluster, file, bytes).await?;
        self.report.stored_bytes += pushed.stored_bytes;
        Ok(pushed)
    }
}
