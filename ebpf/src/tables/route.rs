//! Where the node's routes lead.

use bytemuck::{Pod, Zeroable};

use super::{Nanos, Tuple};
use crate::addr::Addr;

/// What the kernel's routes said, when a processor asked last, of packets with one tuple that enter
/// the node by one interface: the value of `ROUTES`. Written by the programs.
///
/// Ports are of it, since paths of the same cost may be chosen by them
/// (`net.ipv4.fib_multipath_hash_policy`).
///
/// Invariants:
/// - It counts for [`Route::LIFETIME`]; that none led anywhere for [`Route::NO_WAY`].
/// - Its slot is the processor's own, and its programs at interfaces do not interrupt each other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Route {
    /// The packets' addresses and ports, as they go on.
    pub tuple: Tuple,
    /// When it was asked.
    pub found: Nanos,
    /// The neighbour that they are sent to: the destination itself, or a gateway of either family.
    pub next_hop: Addr,
    /// The interface by which they enter.
    pub from: u32,
    /// The one by which they leave; zero: they are not plainly led anywhere.
    pub to: u32,
    /// The bytes of the IP packet that was asked about: one that is longer may not fit.
    pub longest: u32,
    /// Of IPv4 the type of service, by which routes may go. Zero of IPv6.
    pub traffic_class: u8,
    /// One where the way back was asked about, too.
    pub is_asked_back: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl Route {
    /// So long an answer counts. A link that fails is heeded after that.
    pub const LIFETIME: Nanos = 100_000_000;
    /// The same where there was none: a neighbour may just be looked for.
    pub const NO_WAY: Nanos = 10_000_000;

    /// Was it asked about such packets as `other` is to be asked about?
    #[inline(always)]
    #[must_use]
    pub const fn is_of(&self, other: &Self) -> bool {
        let rest = (self.from ^ other.from)
            | (self.traffic_class ^ other.traffic_class) as u32
            | (self.is_asked_back ^ other.is_asked_back) as u32;
        rest == 0 && self.tuple.is(&other.tuple)
    }

    /// Does the answer still count, for a packet whose longest piece has so many bytes?
    #[inline(always)]
    #[must_use]
    pub const fn counts(&self, now: Nanos, longest: u32) -> bool {
        let age = now.saturating_sub(self.found);
        if self.to == 0 {
            age < Self::NO_WAY
        } else {
            age < Self::LIFETIME && longest <= self.longest
        }
    }
}
