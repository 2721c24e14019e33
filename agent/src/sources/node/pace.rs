//! How often the node is looked at: pure.
//!
//! The first change after a quiet time is looked into at once. Those that follow wait, so that
//! looking never takes more than a quarter of a processor, however much changes.

use std::time::Duration;

use tokio::time::Instant;

/// Between two looks, at least.
const GAP: Duration = Duration::from_millis(3);
/// And as a multiple of what the last one took.
const SHARE: u32 = 3;

/// When the next look is due.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace(Option<Instant>);

impl Pace {
    /// Not before this.
    pub(super) fn next(&self) -> Instant {
        self.0.unwrap_or_else(Instant::now)
    }

    /// A look took so long.
    pub(super) fn done(&mut self, start: Instant, end: Instant) {
        let gap = end.saturating_duration_since(start).saturating_mul(SHARE);
        self.0 = Some(end + gap.max(GAP));
    }

    /// A look failed: no other before this.
    pub(super) const fn failed(&mut self, retry: Instant) {
        self.0 = Some(retry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_takes_a_quarter_of_the_time_at_most() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for (took, gap) in [(0, 3), (1, 3), (2, 6), (50, 150)] {
            let end = start + Duration::from_millis(took);
            pace.done(start, end);
            assert_eq!(pace.next(), end + Duration::from_millis(gap));
        }
    }
}
