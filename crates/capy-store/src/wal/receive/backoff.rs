//! How long to wait before the next attempt.

use std::time::Duration;

use capy_types::Entropy;

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that double, each shortened by chance by up to a half, so that many receivers that lost
/// one server do not come back at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// What was wrong is over.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    pub(super) fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.attempts.min(5)).min(LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        let mut chance = [0; 2];
        entropy.fill(&mut chance);
        let share = f64::from(u16::from_le_bytes(chance)) / f64::from(u16::MAX);
        longest.mul_f64(1.0 - share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use capy_types::SeededEntropy;

    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_start_over() {
        let entropy = SeededEntropy::new(7);
        let mut backoff = Backoff::default();
        for longest in [1, 2, 4, 8, 16, 30, 30, 30] {
            let (wait, longest) = (backoff.next(&entropy), Duration::from_secs(longest));
            assert!(wait <= longest && wait * 2 >= longest, "{wait:?} of {longest:?}");
        }
        backoff.reset();
        assert!(backoff.next(&entropy) <= FIRST);
    }
}
