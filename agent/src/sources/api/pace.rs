//! How often a watch is listened to while it does not stop telling.
//!
//! Each look at the connection wakes the agent, and what follows from it, down to the writes to
//! the tables, costs nearly as much for one change as for ten. So what is told now and then is heard
//! at once, and so is a burst; where changes go on to come faster than that, what came within
//! [`GAP`] is heard together. Nobody waits longer than that: kube-proxy waits for a second.
//!
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

/// From one look to the next, while changes go on to come.
const GAP: Duration = Duration::from_millis(33);
/// Looks that need not wait for that, if there were none for as long as they had taken with it.
const BURST: u32 = 16;

/// When to look again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When all looks so far would be over, had each waited for the one before.
    over: Option<Instant>,
}

impl Pace {
    /// There was a look. How long to rest before the next; `None`: it may come at once.
    pub fn looked(&mut self, now: Instant) -> Option<Duration> {
        let over = self.over.unwrap_or(now).max(now) + GAP;
        self.over = Some(over);
        let ahead = over.duration_since(now);
        let rest = ahead.saturating_sub(GAP * BURST);
        (!rest.is_zero()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes that come so far apart: how many looks they took, and the longest that one waited.
    fn looks(gap: Duration, changes: u32) -> (u32, Duration) {
        let start = Instant::now();
        let mut pace = Pace::default();
        let (mut looks, mut longest) = (0, Duration::ZERO);
        let mut free = start;
        let mut change = 0;
        while change < changes {
            let first = start + gap * change;
            let look = first.max(free);
            longest = longest.max(look - first);
            while change < changes && start + gap * change <= look {
                change += 1;
            }
            looks += 1;
            free = look + pace.looked(look).unwrap_or_default();
        }
        (looks, longest)
    }

    #[test]
    fn changes_that_come_now_and_then_never_wait() {
        for gap in [GAP, Duration::from_millis(40), Duration::from_secs(1)] {
            assert_eq!(looks(gap, 1_000), (1_000, Duration::ZERO), "{gap:?}");
        }
    }

    #[test]
    fn a_burst_does_not_wait() {
        let (looks, longest) = looks(Duration::from_millis(1), BURST);
        assert_eq!((looks, longest), (BURST, Duration::ZERO));
    }

    #[test]
    fn changes_that_never_cease_are_heard_together_and_none_waits_longer_than_the_gap() {
        for milliseconds in [1, 2, 10, 20, 32] {
            let gap = Duration::from_millis(milliseconds);
            let time = gap * 10_000;
            let (looks, longest) = looks(gap, 10_000);
            assert!(longest <= GAP, "{gap:?}: {longest:?}");
            let most = time.as_micros() / GAP.as_micros() + u128::from(BURST) + 1;
            assert!(u128::from(looks) <= most, "{gap:?}: {looks} looks");
        }
    }
}
