//! How long to wait before the next attempt.
//!
//! Doubles with each failure in a row up to a bound, and is spread at random, so that the nodes of
//! a cluster whose API server comes back do not ask all at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It has worked.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// It has failed again: how long to wait, with `chance` from 0 to 1.
    pub fn next(&mut self, chance: f64) -> Duration {
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(LONGEST).mul_f64(0.5 + chance / 2.0)
    }

    /// How often it has failed in a row.
    #[must_use]
    pub const fn failures(self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_bound_and_begins_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..100).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert!(waits.is_sorted() && waits.ends_with(&[LONGEST]));
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
    }

    #[test]
    fn chance_takes_up_to_half_of_it() {
        for failures in [0, 3, 50] {
            let least = Backoff { failures }.next(0.0);
            let most = Backoff { failures }.next(1.0);
            assert_eq!(least * 2, most);
        }
    }
}
