//! When WAL of a segment that is not full is made durable.
//!
//! Where commits wait, as soon as the link falls silent: what came together, as the commits of
//! several sessions do, goes together, and while one part is stored the next ones gather. Otherwise
//! at an interval, so that a busy server costs few requests to the store.

use std::time::Duration;

use tokio::time::Instant;

/// The link is silent when nothing came for so long: the server sends the commits that it flushed
/// together one right after the other, and storing takes as long or longer.
const SILENCE: Duration = Duration::from_millis(2);
/// On a link that is never silent, WAL waits no longer than this.
const BUSY: Duration = Duration::from_millis(20);

/// Why WAL is to be made durable before its segment is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// Now.
    Now,
    /// Commits wait for it.
    Commits,
    /// It must not be lost with this machine if it is older.
    Interval(Duration),
    /// There is none.
    None,
}

/// What has come and is not durable.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Option<Instant>,
    last: Option<Instant>,
    /// The server has asked how far we are: when it shuts down, it waits for an answer that has all.
    asked: bool,
}

impl Pace {
    /// WAL has come.
    pub(super) fn came(&mut self, now: Instant) {
        self.last = Some(now);
    }

    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    /// Whether anything is not durable.
    pub(super) fn waits(&mut self, something: bool, now: Instant) {
        if something {
            self.since.get_or_insert(now);
        } else {
            (self.since, self.asked) = (None, false);
        }
    }

    /// All that waits is being stored; what comes from now on waits anew.
    pub(super) fn begun(&mut self) {
        (self.since, self.asked) = (None, false);
    }

    /// When what waits is to be stored.
    pub(super) fn due(&self, haste: Haste) -> Option<Instant> {
        let since = self.since?;
        if self.asked {
            return Some(since);
        }
        match haste {
            Haste::Now => Some(since),
            Haste::Commits => {
                let silent = self.last.map_or(since, |last| last + SILENCE);
                Some(silent.min(since + BUSY))
            }
            Haste::Interval(interval) => Some(since + interval),
            Haste::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_together_goes_together_and_waits_no_longer_than_it_may() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut pace = Pace::default();
        pace.waits(false, at(0));
        assert_eq!(pace.due(Haste::Now), None);
        for millis in [10, 11] {
            pace.came(at(millis));
            pace.waits(true, at(millis));
        }
        assert_eq!(pace.due(Haste::Commits), Some(at(13)));
        assert_eq!(pace.due(Haste::Now), Some(at(10)));
        assert_eq!(pace.due(Haste::Interval(Duration::from_secs(1))), Some(at(1010)));
        assert_eq!(pace.due(Haste::None), None);
        pace.came(at(29));
        assert_eq!(pace.due(Haste::Commits), Some(at(30)), "a busy link");
        pace.asked();
        assert_eq!(pace.due(Haste::None), Some(at(10)), "the server asks");
        pace.begun();
        pace.waits(true, at(40));
        assert_eq!(pace.due(Haste::Interval(Duration::from_secs(1))), Some(at(1040)));
    }
}
