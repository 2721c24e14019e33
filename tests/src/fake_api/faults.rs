//! What the server is told to do badly.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::resource::Resource;

/// How the server misbehaves. The default is: not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Kinds that are refused.
    pub refused: BTreeMap<Resource, Refusal>,
    /// So many of the next watches find that their version is too old.
    pub expired_watches: u32,
    /// How watches are told that.
    pub expiry: Expiry,
    /// So many of the next further pages find that their list is too old.
    pub expired_pages: u32,
    /// So many of the next requests are too many, and should come again after so many seconds.
    pub too_many: u32,
    /// Those seconds.
    pub retry_after: u32,
    /// This share of requests is answered with an internal error.
    pub errors: f64,
    /// How long an answer takes to begin.
    pub slowness: Option<Range<Duration>>,
    /// How long each event waits; those that wait together arrive together.
    pub delay: Option<Range<Duration>>,
    /// Events wait until this is taken back. Bookmarks go on, with the version of the last event.
    pub holds_events: bool,
    /// So many of the next events end in the middle of their line, and the answer with them.
    pub truncated: u32,
    /// This share of events is told twice.
    pub duplicates: f64,
    /// Each event comes in two pieces.
    pub splits_lines: bool,
    /// Lists do not come as streams: the server is an older one.
    pub has_no_streams: bool,
}

/// How a kind is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The role lacks it: 403.
    Forbidden,
    /// The server does not know it: 404.
    Unknown,
}

/// How a watch is told that its version is too old. Real servers do both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// With an `ERROR` event in an answer that began well.
    #[default]
    Event,
    /// With the answer's status.
    Status,
}

/// How connections are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The answer ends as when its time is over.
    End,
    /// The connection is closed in the middle of the answer.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing comes any more, and the connection stays.
    Silence,
}

impl Faults {
    /// Takes one of a number of events that are to happen, if any is left.
    pub(super) fn take(count: &mut u32) -> bool {
        let is_left = *count > 0;
        *count = count.saturating_sub(1);
        is_left
    }
}

/// Repeatable chance (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The same seed, the same chances.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below this one, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.draw() % limit).unwrap_or(0)
    }

    /// True in this share of cases.
    pub fn is(&mut self, share: f64) -> bool {
        // 53 bits are exact.
        #[allow(clippy::cast_precision_loss, reason = "of 53 bits nothing is lost")]
        let drawn = (self.draw() >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < share
    }

    /// A time in this range.
    pub fn within(&mut self, range: &Range<Duration>) -> Duration {
        let width = range.end.saturating_sub(range.start).as_micros();
        let width = u64::try_from(width).unwrap_or(u64::MAX).max(1);
        range.start + Duration::from_micros(self.draw() % width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_has_the_same_chances() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            [(); 8].map(|()| chance.below(1_000))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn never_and_always_are_meant() {
        let mut chance = Chance::new(1);
        for _ in 0..1_000 {
            assert!(!chance.is(0.0));
            assert!(chance.is(1.0));
        }
    }
}
