//! Flows: the packets of one conversation.

use bytemuck::{Pod, Zeroable};

use super::Nanos;
use crate::addr::{Addr, Port, Protocol};

/// The addresses and ports of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Tuple {
    /// The tuple of an answer to a packet with this one.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }
}

impl core::fmt::Display for Tuple {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            src,
            src_port,
            dst,
            dst_port,
            protocol,
            reserved: _,
        } = self;
        write!(f, "{protocol} {src}:{src_port} > {dst}:{dst_port}")
    }
}

/// Where a flow stands. See `conntrack` for the transitions.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowState(pub u8);

impl FlowState {
    /// The client has spoken, nobody has answered.
    pub const OPENING: Self = Self(0);
    /// Both have spoken.
    pub const ESTABLISHED: Self = Self(1);
    /// One side has said that it is done (TCP FIN, SCTP SHUTDOWN).
    pub const CLOSING: Self = Self(2);
    /// Both have, or one has reset the connection.
    pub const CLOSED: Self = Self(3);
}

/// At which hook a flow's packets are translated, and in which direction of the flow they go.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FlowRole(pub u8);

impl FlowRole {
    /// From the client to the frontend: destination translated where it enters the node, in
    /// `from_pod` or `from_network`.
    pub const FORWARD: Self = Self(0);
    /// From the backend to the client: source translated back where it leaves the node, in
    /// `to_pod` or `to_network`.
    pub const REPLY: Self = Self(1);
    /// From the client to the backend, which is to see another source: translated where it
    /// leaves the node, in `to_network` (masquerade) or `to_pod` (a pod that reaches itself).
    pub const SNAT_FORWARD: Self = Self(2);
    /// The answer to that: destination translated back where it enters the node, in
    /// `from_network` or `from_pod`.
    pub const SNAT_REPLY: Self = Self(3);

    /// Are this entry's packets translated where they enter the node? The others where they leave
    /// it.
    #[inline(always)]
    #[must_use]
    pub const fn is_entering(self) -> bool {
        matches!(self, Self::FORWARD | Self::SNAT_REPLY)
    }

    /// The role of the other direction's entry.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        // FORWARD with REPLY, SNAT_FORWARD with SNAT_REPLY.
        Self(self.0 ^ 1)
    }

    /// Does this entry belong to the direction in which the flow was opened?
    #[inline(always)]
    #[must_use]
    pub const fn is_original(self) -> bool {
        matches!(self, Self::FORWARD | Self::SNAT_FORWARD)
    }
}

/// What becomes of the packets of one tuple. A flow has one entry for each tuple it shows at a
/// hook: two, or four where its source is translated, too.
///
/// Written by the programs; the agent only reads it. When the table is full the least recently
/// used flow goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Flow {
    /// Source and destination after translation.
    pub to: Tuple,
    /// When a packet of either direction was last seen, to the second: between, nothing is
    /// written.
    pub last_seen: Nanos,
    /// The service port, as in [`Frontend`](super::Frontend).
    pub service: u32,
    /// The revision of the service port under which the backend was last found to serve.
    pub revision: u32,
    /// Where the flow stands. Kept in the entries of both directions, each moved on by the
    /// packets it sees.
    pub state: FlowState,
    /// Direction and hook.
    pub role: FlowRole,
    /// What else is known of it.
    pub flags: FlowFlags,
    /// One half of a [`Vetting`].
    pub vetted_late: u8,
    /// The other half.
    pub vetted: u32,
}

impl Flow {
    /// Was it vetted there?
    #[inline(always)]
    #[must_use]
    pub const fn is_vetted(&self, vetting: Vetting) -> bool {
        self.vetted == vetting.here && self.vetted_late == vetting.late
    }

    /// Notes a vetting, or that none counts any more ([`Vetting::NONE`]).
    #[inline(always)]
    pub const fn set_vetted(&mut self, vetting: Vetting) {
        self.vetted = vetting.here;
        self.vetted_late = vetting.late;
    }
}

/// That everything was asked of a packet of this flow which a pod's interface asks, and that
/// nothing stood against it: at which interface, and in which epoch of
/// [`Policy`](super::Policy). What is of the same kind goes the same way without being asked.
///
/// Invariants:
/// - It counts at the hook that translates packets of the entry's role, and at no other.
/// - It counts until the flow has news, a second at most. So an epoch's sixteen bits say enough:
///   the agent does not change its mind tens of thousands of times in a second.
/// - Only a packet that passed sets it, and what was asked for it was read after the epoch was.
///
/// In the five bytes of an entry that layout 4 left zero: programs of both layouts share the table
/// while one follows the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vetting {
    /// The interface's index, and the lower half of the epoch.
    here: u32,
    /// The epoch's upper half.
    late: u8,
}

impl Vetting {
    /// None: no interface has the index zero.
    pub const NONE: Self = Self { here: 0, late: 0 };

    /// One at an interface in an epoch; [`Self::NONE`] where the interface's index is too large to
    /// be noted.
    #[inline(always)]
    #[must_use]
    pub const fn new(interface: u32, epoch: u16) -> Self {
        if interface >> 24 != 0 {
            return Self::NONE;
        }
        let [early, late] = epoch.to_le_bytes();
        Self {
            here: interface << 8 | early as u32,
            late,
        }
    }

    /// Is it any?
    #[inline(always)]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.here >> 8 != 0
    }
}

/// Bits of [`Flow::flags`]; those without a name are zero.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FlowFlags(pub u8);

impl FlowFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Its source is translated where it leaves the node. The same in all its entries.
    pub const SNAT: Self = Self(1 << 0);
}

bits!(FlowFlags);

/// Which datagram a fragment belongs to, as it arrives at a hook.
///
/// What a receiver puts it together by: RFC 791 section 3.2 and RFC 8200 section 4.5.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// As it lies in the header, in network byte order; of IPv4 its sixteen bits.
    pub identification: u32,
    /// Of IPv4. Zero of IPv6, whose fragments need not all say the same.
    pub protocol: Protocol,
    /// One where it enters the node, zero where it leaves: what goes from one pod of the node to
    /// another is the same at both hooks, and translated at one.
    pub is_entering: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// What becomes of the later fragments of a datagram: what became of the first one.
///
/// Written by the programs with the first fragment, removed with the first one of another
/// datagram that is not translated. When the table is full the least recently used goes, and the
/// rest of its datagram is lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Fragment {
    /// Source address after translation.
    pub src: Addr,
    /// Destination address after translation.
    pub dst: Addr,
    /// When the first fragment was seen.
    pub first_seen: Nanos,
}
