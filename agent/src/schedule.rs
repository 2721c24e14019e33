//! When to bring the kernel up to date.
//!
//! A change is written at once; changes that follow closely are written together. What failed is
//! tried again, ever more seldom, and from time to time everything is compared, whether anything
//! changed or not: that is the repair.
//!
//! `now` is an argument: nothing here reads a clock.

use std::time::{Duration, Instant};

/// Between the end of one synchronisation and the begin of the next, so that a burst is not
/// written object by object.
const MINIMUM_GAP: Duration = Duration::from_millis(5);
/// After the first failure; doubled with each that follows.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The longest wait after a failure.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// When the next synchronisation is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    maximum_gap: Duration,
    last_done: Option<Instant>,
    /// When everything was last known to be compared; the first synchronisation does.
    last_repair: Option<Instant>,
    is_pending: bool,
    is_repairing: bool,
    failures: u32,
}

impl Schedule {
    /// Nothing is due before something was noted.
    #[must_use]
    pub const fn new(maximum_gap: Duration) -> Self {
        Self {
            maximum_gap,
            last_done: None,
            last_repair: None,
            is_pending: false,
            is_repairing: false,
            failures: 0,
        }
    }

    /// Something has changed.
    pub const fn note(&mut self) {
        self.is_pending = true;
    }

    /// A synchronisation begins.
    pub fn begin(&mut self, now: Instant) {
        let is_due = self.repair_due().is_some_and(|due| due <= now);
        self.is_repairing = self.failures > 0 || !self.is_pending || is_due;
    }

    /// A synchronisation has ended.
    pub const fn done(&mut self, is_ok: bool, now: Instant) {
        self.last_done = Some(now);
        if is_ok {
            if self.is_repairing || self.last_repair.is_none() {
                self.last_repair = Some(now);
            }
            self.is_pending = false;
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// When the next one is due. `None`: not before something changes.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let Some(last) = self.last_done else {
            return self.is_pending.then_some(now);
        };
        if self.failures > 0 {
            let doublings = (self.failures - 1).min(16);
            let gap = FIRST_RETRY.saturating_mul(1 << doublings);
            return Some(last + gap.min(LAST_RETRY));
        }
        let soonest = last + MINIMUM_GAP;
        match self.repair_due() {
            Some(due) if !self.is_pending => Some(due.max(soonest)),
            Some(_) | None => Some(soonest),
        }
    }

    /// When everything is compared again, however much changes meanwhile.
    fn repair_due(&self) -> Option<Instant> {
        self.last_repair.map(|last| last + self.maximum_gap)
    }

    /// Does the synchronisation that has begun ask the kernel instead of trusting what was last
    /// written? After a failure, and when it is time.
    #[must_use]
    pub const fn is_repair(&self) -> bool {
        self.is_repairing
    }

    /// Has the one before failed, so that nobody knows what was written?
    #[must_use]
    pub const fn is_retry(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAXIMUM: Duration = Duration::from_secs(60);

    #[test]
    fn nothing_is_due_before_something_was_noted() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MAXIMUM);
        assert_eq!(schedule.due(now), None);
        schedule.note();
        assert_eq!(schedule.due(now), Some(now));
    }

    #[test]
    fn changes_that_follow_closely_wait_for_the_gap() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MAXIMUM);
        schedule.note();
        schedule.done(true, now);
        assert_eq!(schedule.due(now), Some(now + MAXIMUM));
        schedule.note();
        assert_eq!(schedule.due(now), Some(now + MINIMUM_GAP));
        schedule.begin(now + MINIMUM_GAP);
        assert!(!schedule.is_repair());
    }

    #[test]
    fn without_changes_everything_is_compared_from_time_to_time() {
        let mut now = Instant::now();
        let mut schedule = Schedule::new(MAXIMUM);
        schedule.note();
        schedule.begin(now);
        schedule.done(true, now);
        for _ in 0..3 {
            let due = schedule.due(now).expect("the next time is known");
            assert_eq!(due, now + MAXIMUM);
            now = due;
            schedule.begin(now);
            assert!(schedule.is_repair());
            schedule.done(true, now);
        }
    }

    #[test]
    fn changes_without_end_put_off_no_repair() {
        let start = Instant::now();
        let mut schedule = Schedule::new(MAXIMUM);
        let mut repairs = Vec::new();
        for second in 0..200 {
            let now = start + Duration::from_secs(second);
            schedule.note();
            schedule.begin(now);
            if schedule.is_repair() {
                repairs.push(second);
            }
            schedule.done(true, now);
        }
        assert_eq!(repairs, [60, 120, 180]);
    }

    #[test]
    fn failures_are_retried_ever_more_seldom_and_reread_the_kernel() {
        let now = Instant::now();
        let mut schedule = Schedule::new(MAXIMUM);
        schedule.note();
        let mut before = Duration::ZERO;
        for _ in 0..40 {
            schedule.begin(now);
            schedule.done(false, now);
            schedule.begin(now);
            assert!(schedule.is_repair() && schedule.is_retry());
            let wait = schedule.due(now).expect("a failure is retried") - now;
            assert!(wait >= before && wait <= LAST_RETRY);
            before = wait;
        }
        assert_eq!(before, LAST_RETRY);
        schedule.done(true, now);
        assert_eq!(schedule.due(now), Some(now + MAXIMUM));
    }
}
