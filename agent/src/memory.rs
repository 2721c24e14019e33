//! Memory that nobody uses is given back.
//!
//! The first lists and every compilation of everything, or of all policies, need much more memory
//! than what comes of them, and the allocator keeps what was freed for later, which on a node is
//! somebody else's. It is given back when there is time for it: some milliseconds of work.
#![allow(
    unsafe_code,
    reason = "no crate wraps the allocator's only call that gives back what is in the middle of the heap"
)]

use std::time::{Duration, Instant};

/// From the last great use of memory until it is given back: the next may follow at once.
const REST: Duration = Duration::from_secs(1);

/// When to give back memory. Nothing here reads a clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spare {
    due: Option<Instant>,
}

impl Spare {
    /// Much memory has been used, and is free now.
    pub fn used(&mut self, now: Instant) {
        self.due = Some(now + REST);
    }

    /// When it is time; `None`: there is nothing to give.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Gives it back.
    pub fn give_back(&mut self) {
        self.due = None;
        trim();
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes no pointer and may be called at any time, from any thread.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators have no such call, or no need of it.
#[cfg(not(target_env = "gnu"))]
const fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_again_and_again_is_given_back_once_after_the_last_time() {
        let start = Instant::now();
        let mut spare = Spare::default();
        assert_eq!(spare.due(), None);
        for milliseconds in [0, 300, 900] {
            spare.used(start + Duration::from_millis(milliseconds));
        }
        assert_eq!(spare.due(), Some(start + Duration::from_millis(900) + REST));
        spare.give_back();
        assert_eq!(spare.due(), None);
    }

    /// Resident bytes of this process.
    #[cfg(target_env = "gnu")]
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
        let pages: usize = text
            .split(' ')
            .nth(1)
            .expect("a field")
            .parse()
            .expect("a number");
        pages * 4096
    }

    /// Leaves holes in a heap of 64 MiB and has them given back; how much smaller that made us.
    #[cfg(target_env = "gnu")]
    fn given_back() -> usize {
        const PIECE: usize = 1 << 10;
        let pieces: Vec<Vec<u8>> = (0..64 << 10).map(|_| vec![1; PIECE]).collect();
        // One of many stays, so that the heap cannot simply become shorter.
        let kept: Vec<Vec<u8>> = pieces.into_iter().step_by(64).collect();
        let before = resident();
        let mut spare = Spare::default();
        spare.used(Instant::now());
        spare.give_back();
        let after = resident();
        assert_eq!(kept.len(), 1 << 10);
        before.saturating_sub(after)
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_is_free_in_the_middle_of_the_heap_is_given_back() {
        // Other tests of this process may take as much just then.
        let is_given_back = (0..100).any(|_| given_back() > 16 << 20);
        assert!(is_given_back);
    }
}
