//! Which resource a run waited for, and so which would have to be faster.
//!
//! Contained by: the report of a backup. The feeder's wall time is shared out: it waits for the source,
//! or for the store, or the processor is at work for it. Invariant: the shares add up to the time.

use std::time::Duration;

use serde::Serialize;

use crate::report::seconds;

/// What a run can be limited by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limit {
    /// Reading: the server, the network to it, the disk it reads from, or `--read-rate`.
    Source,
    /// Cutting, hashing, compressing and sealing.
    Processor,
    /// The repository's store, the network to it, or `--upload-rate`.
    Store,
}

/// How the time of reading and storing was shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// The largest of the shares.
    pub limited_by: Limit,
    /// Waiting for the source.
    #[serde(rename = "source_seconds", serialize_with = "seconds")]
    pub source: Duration,
    /// At work, or waiting for a worker that was.
    #[serde(rename = "processor_seconds", serialize_with = "seconds")]
    pub processor: Duration,
    /// Waiting for the store.
    #[serde(rename = "store_seconds", serialize_with = "seconds")]
    pub store: Duration,
}

impl Limits {
    /// Of `elapsed`, so much was waited for the source and for the store.
    pub(crate) fn of(elapsed: Duration, source: Duration, store: Duration) -> Self {
        let source = source.min(elapsed);
        let store = store.min(elapsed - source);
        let processor = elapsed - source - store;
        let shares = [(Limit::Processor, processor), (Limit::Store, store), (Limit::Source, source)];
        let (mut limited_by, mut most) = (Limit::Processor, processor);
        for (limit, share) in shares {
            if share > most {
                (limited_by, most) = (limit, share);
            }
        }
        Self { limited_by, source, processor, store }
    }

    /// What all shares add up to.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.source + self.processor + self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_share_limits_and_shares_add_up() {
        let of = |elapsed, source, store| {
            let [elapsed, source, store] = [elapsed, source, store].map(Duration::from_millis);
            let limits = Limits::of(elapsed, source, store);
            assert_eq!(limits.total(), elapsed);
            limits.limited_by
        };
        assert_eq!(of(1000, 100, 200), Limit::Processor);
        assert_eq!(of(1000, 600, 200), Limit::Source);
        assert_eq!(of(1000, 100, 800), Limit::Store);
        assert_eq!(of(1000, 900, 900), Limit::Source, "waits on two threads may overlap");
        assert_eq!(of(0, 0, 0), Limit::Processor);
    }
}
