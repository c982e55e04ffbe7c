//! Rates that an operation keeps to, in bytes a second.
//!
//! Contained by: the feeder of a backup (what is read from the source), and the store of an open
//! repository (what goes there and comes from there).
//! Invariant: whatever the sizes of the pieces, what has passed after a time is at most the rate
//! times that time, one piece, and what [`CATCH_UP`] brings; nothing more is saved up while nothing
//! passes.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lateness that is made up for: timers wake to the millisecond, and a busy machine later.
const CATCH_UP: Duration = Duration::from_millis(100);

/// Lets bytes pass at a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    begun: Instant,
    account: Mutex<Account>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { begun: Instant::now(), account: Mutex::new(Account::new(bytes_per_second)) }
    }

    /// Waits as long as `bytes` more take at the rate, after those that others let pass before.
    ///
    /// # Cancellation
    /// Safe; the bytes count all the same.
    pub(crate) async fn pass(&self, bytes: u64) {
        let until = {
            let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
            account.book(self.begun.elapsed(), bytes)
        };
        sleep_until(self.begun + until).await;
    }

    /// The time that everything takes that was let pass.
    #[cfg(test)]
    pub(crate) fn booked(&self) -> Duration {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).booked
    }
}

/// What has passed, in terms of time.
#[derive(Debug)]
struct Account {
    bytes_per_second: NonZeroU64,
    /// When all that was booked has passed at the rate.
    paid_until: Duration,
    #[cfg(test)]
    booked: Duration,
}

impl Account {
    const fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            paid_until: Duration::ZERO,
            #[cfg(test)]
            booked: Duration::ZERO,
        }
    }

    /// Books `bytes` at the moment `now`, and says when they have passed.
    fn book(&mut self, now: Duration, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        #[cfg(test)]
        {
            self.booked += takes;
        }
        self.paid_until = self.paid_until.max(now.saturating_sub(CATCH_UP)).saturating_add(takes);
        self.paid_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn account(bytes_per_second: u64) -> Account {
        Account::new(NonZeroU64::new(bytes_per_second).unwrap())
    }

    /// A timer's next tick.
    fn wake(until: Duration, tick: Duration) -> Duration {
        Duration::from_nanos(until.as_nanos().div_ceil(tick.as_nanos()) as u64 * tick.as_nanos() as u64)
    }

    #[test]
    fn pieces_of_any_size_take_the_time_of_their_sum_whatever_the_timers_are_like() {
        for (piece, tick) in [(1000, 1), (8192, 1), (8192, 40), (MIB, 1), (MIB, 70), (32 * MIB, 1)] {
            let (mut account, mut now) = (account(10 * MIB), Duration::ZERO);
            let pieces = 640 * MIB / piece;
            for _ in 0..pieces {
                let until = account.book(now, piece);
                // Who is behind time does not wait.
                now = if until > now { wake(until, Duration::from_millis(tick)) } else { now };
            }
            let expected = (pieces * piece) as f64 / (10 * MIB) as f64;
            let taken = now.as_secs_f64();
            assert!((taken - expected).abs() < 0.01 * expected, "{taken} s for {expected}, by {piece}");
        }
    }

    #[test]
    fn several_at_once_share_the_rate() {
        let mut account = account(MIB);
        let ends: Vec<u64> = (0..8).map(|_| account.book(Duration::ZERO, MIB).as_secs()).collect();
        assert_eq!(ends, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn an_idle_time_is_not_saved_up() {
        let mut account = account(MIB);
        assert_eq!(account.book(Duration::ZERO, MIB), Duration::from_secs(1));
        let later = Duration::from_secs(60);
        assert_eq!(account.book(later, MIB), later + Duration::from_secs(1) - CATCH_UP);
        assert_eq!(account.book(later, MIB), later + Duration::from_secs(2) - CATCH_UP);
    }
}
