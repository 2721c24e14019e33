//! How often the node is looked at: pure.
//!
//! The first change after a quiet time is looked into at once. Those that follow wait, so that
//! looking takes no more than a quarter of a processor, however much changes; but never so long
//! that a new pod's first process would be quicker than the programs at its interface.

use std::time::Duration;

use tokio::time::Instant;

/// Between two looks, at least.
const GAP: Duration = Duration::from_millis(3);
/// And as a multiple of what the last one took.
const SHARE: u32 = 3;
/// At most. A look takes long where others hold the kernel's lock on links, too, as they do while
/// pods come and go, and a first process starts a tenth of a second after its interface.
const MOST: Duration = Duration::from_millis(20);

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
        self.0 = Some(end + gap.clamp(GAP, MOST));
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
    fn looking_takes_a_quarter_of_the_time_unless_somebody_waits() {
        let start = Instant::now();
        let mut pace = Pace::default();
        for (took, gap) in [(0, 3), (1, 3), (2, 6), (50, 20)] {
            let end = start + Duration::from_millis(took);
            pace.done(start, end);
            assert_eq!(pace.next(), end + Duration::from_millis(gap));
        }
    }
}
