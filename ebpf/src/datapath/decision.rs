//! What is decided about a packet.

use crate::verdict::{DropReason, RejectReason, Verdict};

/// What to do with a packet, and why: one byte.
///
/// Not an enum: of one the reason is a second register, which nobody writes where there is no
/// reason, and the verifier refuses a program that then moves that register about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Decision(u8);

impl Decision {
    /// Leave it as it is.
    pub const PASS: Self = Self::new(Verdict::Pass, 0);
    /// Give it the addresses and ports that its [`Flow`](crate::tables::Flow) says.
    pub const TRANSLATE: Self = Self::new(Verdict::Translate, 0);
    /// Let it, an ICMP error, speak of the packet that its receiver sent, by the
    /// [`Flow`](crate::tables::Flow) of the answers to that packet.
    pub const TRANSLATE_ERROR: Self = Self::new(Verdict::Translate, Self::OF_ERROR);
    /// Leave it, a later fragment, as it is.
    pub const PASS_FRAGMENT: Self = Self::new(Verdict::PassFragment, 0);

    const NUMBER: u8 = 0x1f;
    const DROP: u8 = 0x20;
    const REJECT: u8 = 0x40;
    const OF_ERROR: u8 = 0x80;

    /// Answer it.
    #[inline(always)]
    #[must_use]
    pub const fn reject(reason: RejectReason) -> Self {
        Self::new(Verdict::Reject(reason), Self::REJECT)
    }

    /// Let it disappear.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: DropReason) -> Self {
        Self::new(Verdict::Drop(reason), Self::DROP)
    }

    #[inline(always)]
    const fn new(verdict: Verdict, what: u8) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "they number a few dozen")]
        {
            Self(verdict.number() as u8 | what)
        }
    }

    /// Is it answered?
    #[inline(always)]
    #[must_use]
    pub const fn is_rejected(self) -> bool {
        self.0 & Self::REJECT != 0
    }

    /// Does it disappear?
    #[inline(always)]
    #[must_use]
    pub const fn is_dropped(self) -> bool {
        self.0 & Self::DROP != 0
    }

    /// What becomes of the packet where this was done, or could not be done for that reason.
    #[inline(always)]
    pub(super) const fn if_done(self, is_done: Option<()>, otherwise: DropReason) -> Self {
        match is_done {
            Some(()) => self,
            None => Self::drop(otherwise),
        }
    }

    /// The number of its verdict: below [`crate::verdict::COUNTERS_PER_HOOK`].
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0 & Self::NUMBER
    }

    /// The verdict, if carrying out the decision succeeds.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn verdict(self) -> Verdict {
        Verdict::ALL[usize::from(self.number())]
    }
}

/// As one step of a program gives it to the next.
impl From<Decision> for u32 {
    #[inline(always)]
    fn from(decision: Decision) -> Self {
        decision.0.into()
    }
}

/// As one step of a program got it from another: of a number that is none, nothing comes but a
/// packet that passes or is dropped.
impl From<u32> for Decision {
    #[inline(always)]
    fn from(number: u32) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "it was one byte")]
        Self(number as u8)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl core::fmt::Debug for Decision {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.verdict().fmt(f)
    }
}
