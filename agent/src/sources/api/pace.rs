//! How often a connection is listened to while it does not stop telling.
//!
//! Each look at the connection wakes the agent, and what follows from it, down to the writes to
//! the tables, costs nearly as much for one change as for ten. So what is told now and then is heard
//! at once, and so is a burst; where changes go on to come faster than one each [`GAP`], what came
//! within [`REST`] is heard together, until they cease. Nobody waits longer than that: kube-proxy
//! waits for a second.
//!
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

/// Changes that are at least so far apart never wait.
const GAP: Duration = Duration::from_millis(33);
/// Looks that need not be so far apart, if there were none for as long as they had taken with it.
const BURST: u32 = 16;
/// From one look to the next, while changes do not cease.
const REST: Duration = Duration::from_millis(100);

/// When to look again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When all looks so far would be over, had each waited for the one before.
    over: Option<Instant>,
    is_unceasing: bool,
}

impl Pace {
    /// Changes that have not ceased for long.
    #[cfg(test)]
    pub const UNCEASING: Self = Self {
        over: None,
        is_unceasing: true,
    };

    /// There was a look. How long to rest before the next; `None`: it may come at once.
    pub fn looked(&mut self, now: Instant) -> Option<Duration> {
        if !self.is_unceasing {
            let over = self.over.unwrap_or(now).max(now) + GAP;
            self.over = Some(over);
            self.is_unceasing = over.duration_since(now) > GAP * (BURST + 1);
        }
        self.is_unceasing.then_some(REST)
    }

    /// Nothing came during a rest.
    pub const fn ceased(&mut self) {
        self.is_unceasing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes that come so far apart: how many looks they took, and the longest that one waited.
    fn looks(pace: &mut Pace, start: Instant, gap: Duration, changes: u32) -> (u32, Duration) {
        let (mut looks, mut longest) = (0, Duration::ZERO);
        let mut free = None;
        let mut change = 0;
        while change < changes {
            let first = start + gap * change;
            if free.is_some_and(|free| free < first) {
                pace.ceased();
                free = None;
            }
            let look = free.map_or(first, |free| first.max(free));
            longest = longest.max(look - first);
            while change < changes && start + gap * change <= look {
                change += 1;
            }
            looks += 1;
            free = pace.looked(look).map(|rest| look + rest);
        }
        (looks, longest)
    }

    fn looks_afresh(gap: Duration, changes: u32) -> (u32, Duration) {
        looks(&mut Pace::default(), Instant::now(), gap, changes)
    }

    #[test]
    fn changes_that_come_now_and_then_never_wait() {
        for gap in [GAP, Duration::from_millis(40), Duration::from_secs(1)] {
            assert_eq!(looks_afresh(gap, 1_000), (1_000, Duration::ZERO), "{gap:?}");
        }
    }

    #[test]
    fn a_burst_does_not_wait() {
        let (looks, longest) = looks_afresh(Duration::from_millis(1), BURST);
        assert_eq!((looks, longest), (BURST, Duration::ZERO));
    }

    #[test]
    fn changes_that_never_cease_are_heard_together_and_none_waits_longer_than_the_rest() {
        for milliseconds in [1, 2, 10, 20, 32] {
            let gap = Duration::from_millis(milliseconds);
            let time = gap * 10_000;
            let (looks, longest) = looks_afresh(gap, 10_000);
            assert!(longest <= REST, "{gap:?}: {longest:?}");
            // Each of the first brings the time to rest a little nearer.
            let first = GAP * (BURST + 1);
            let first = first.as_micros().div_ceil((GAP - gap).as_micros());
            let most = time.as_micros() / REST.as_micros() + first + 1;
            assert!(u128::from(looks) <= most, "{gap:?}: {looks} looks");
        }
    }

    #[test]
    fn what_comes_after_they_have_ceased_does_not_wait() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let (_, longest) = looks(&mut pace, start, Duration::from_millis(10), 1_000);
        assert!(longest > Duration::ZERO);
        let later = start + Duration::from_secs(11);
        pace.ceased();
        let seldom = looks(&mut pace, later, GAP, 100);
        assert_eq!(seldom, (100, Duration::ZERO));
    }
}
