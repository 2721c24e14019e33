//! What the programs tell the agent about packets, one by one.
//!
//! Telling never slows a packet or holds it up: where there is no room an event is lost, and
//! counted.

use bytemuck::{Pod, Zeroable};

use crate::{
    addr::{Addr, Port},
    tables::{Nanos, Tuple},
};

/// A packet that was refused, or that opened a connection.
///
/// All numbers are of the state of the policies under which the packet was judged.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Event {
    /// When, by the monotonic clock.
    pub time: Nanos,
    /// The packet's addresses and ports as policies see them: with the backend, not the service.
    pub tuple: Tuple,
    /// What the packet was addressed to, where that was a service; else unspecified.
    pub service_addr: Addr,
    /// The port likewise; else zero.
    pub service_port: Port,
    /// A [`Verdict`](crate::verdict::Verdict)'s number.
    pub verdict: u8,
    /// A [`Hook`](crate::verdict::Hook)'s number.
    pub hook: u8,
    /// The interface's index.
    pub interface: u32,
    /// In which direction it was judged, seen from the pod.
    pub direction: Direction,
    /// Zero.
    pub reserved: [u8; 3],
    /// The subject set by which it was judged; zero: none.
    pub subject: u32,
    /// The class of the other side; [`ANYONE`](crate::tables::ANYONE) too where that was not asked
    /// for.
    pub class: u32,
    /// The rule that allows it; zero: none does, or none is needed.
    pub rule: u32,
    /// [`Policy::revision`](crate::tables::Policy::revision) under which it was judged.
    pub revision: u32,
    /// Zero.
    pub reserved_tail: u32,
}

/// A way that packets go, seen from the pod.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Direction(pub u8);

impl Direction {
    /// Not judged.
    pub const NONE: Self = Self(0);
    /// From the pod.
    pub const EGRESS: Self = Self(1);
    /// To the pod.
    pub const INGRESS: Self = Self(2);
}

impl Event {
    /// The bytes of an event, if these are one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }
}
