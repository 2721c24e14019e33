//! Flows: the packets of one conversation.

use bytemuck::{Pod, Zeroable};

use super::{Nanos, Shortcut};
use crate::addr::{Addr, Port, Protocol};
use crate::service::Origin;

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
    /// One where a packet came by itself to where another flow is led, whose source is translated
    /// later: between the two translations those of the other look the same, and have the entry.
    /// Programs of the same layout that do not know it leave it zero, and find no such entry.
    pub is_beside: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl Tuple {
    /// `==` of what packets show, with one comparison: each branch is a path that the verifier walks.
    #[inline(always)]
    #[must_use]
    pub const fn is(&self, other: &Self) -> bool {
        let rest = (self.src_port.0 ^ other.src_port.0)
            | (self.dst_port.0 ^ other.dst_port.0)
            | (self.protocol.0 ^ other.protocol.0) as u16;
        self.src.difference(other.src) | self.dst.difference(other.dst) | rest as u32 == 0
    }

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
            is_beside: self.is_beside,
            reserved: [0; 2],
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
            is_beside: _,
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
    /// It began where packets come in from beyond the node. The same in all its entries; those of
    /// programs of this layout that do not know it have none.
    pub const OUTSIDE: Self = Self(1 << 1);

    /// Those of a flow that begins where a client of this origin is met.
    #[inline(always)]
    #[must_use]
    pub const fn of(origin: Origin) -> Self {
        match origin {
            Origin::Outside => Self::OUTSIDE,
            Origin::Pod | Origin::Node => Self::NONE,
        }
    }

    /// Does a flow with these begin where one with the others begins?
    #[inline(always)]
    #[must_use]
    pub const fn begin_as(self, others: Self) -> bool {
        (self.0 ^ others.0) & Self::OUTSIDE.0 == 0
    }
}

bits!(FlowFlags);

/// Where what was found of a tuple is kept: a number that follows from the tuple, the same on every
/// processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    const BITS: u32 = 10;
    const SLOT_BITS: u32 = 9;
    /// The entries of `FLOW_CHANGES`.
    pub const CHANGES: u32 = 1 << Self::BITS;
    /// The entries of `FLOW_CACHE`: those that a processor has.
    pub const SLOTS: u32 = 1 << Self::SLOT_BITS;

    /// That of no tuple in particular.
    pub const NONE: Self = Self(0);

    /// That of a tuple. Whoever can choose tuples can choose places, too, and make others be looked
    /// up in `FLOWS`, no more.
    #[inline(always)]
    #[must_use]
    pub const fn of(tuple: &Tuple) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (tuple.src.0, tuple.dst.0);
        let addrs = ((a ^ b ^ c ^ d) as u64) << 32 | (e ^ f ^ g ^ h) as u64;
        let ports = (tuple.src_port.0 as u64) << 16 | tuple.dst_port.0 as u64;
        // By odd numbers of golden ratios, as multiplicative hashing has them: the upper bits of
        // the product depend on all of what is multiplied.
        let mixed = addrs.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (ports | (tuple.protocol.0 as u64) << 32).wrapping_mul(0xd1b5_4a32_d192_ed03);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((mixed >> (u64::BITS - Self::BITS)) as u32)
    }

    /// By [`Self::changes`], as one program tells the next.
    #[inline(always)]
    #[must_use]
    pub const fn from_changes(changes: u32) -> Self {
        Self(changes & (Self::CHANGES - 1))
    }

    /// Another one, with another slot, for what is to be kept beside.
    #[inline(always)]
    #[must_use]
    pub const fn beside(self) -> Self {
        Self(self.0 ^ 1 << (Self::BITS - Self::SLOT_BITS))
    }

    /// The index in `FLOW_CHANGES`.
    #[inline(always)]
    #[must_use]
    pub const fn changes(self) -> u32 {
        self.0
    }

    /// The index in `FLOW_CACHE`.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 >> (Self::BITS - Self::SLOT_BITS)
    }
}

/// What a processor found of a tuple when it looked last: the value of `FLOW_CACHE`. To look here
/// takes no hash map's helper, and no memory that processors share but one number.
///
/// Invariants:
/// - It counts for [`CachedFlow::LIFETIME`], and as long as nobody has written to an entry of
///   `FLOWS` with this tuple's [`Place`]: whoever does counts that in `FLOW_CHANGES` afterwards, and
///   that number is read before `FLOWS` is.
/// - Its slot is the processor's own, and its programs at interfaces do not interrupt each other.
///
/// Programs of an agent that knew no `FLOW_CHANGES`, of the same layout, count nothing: while one's
/// programs follow the other's, what those write may be known as it was before, for that lifetime.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CachedFlow {
    /// The tuple; one without a protocol: nothing was found yet.
    pub tuple: Tuple,
    /// One where it has an entry, else zero.
    pub is_present: u32,
    /// One where nobody is known to answer in the name of another to a packet with this tuple, which
    /// is a datagram's; else zero.
    pub is_alone: u32,
    /// When it was looked up.
    pub found: Nanos,
    /// What `FLOW_CHANGES` said before.
    pub changes: u64,
    /// The entry.
    pub flow: Flow,
    /// The way by which packets with this tuple were handed over, as it was found last in
    /// `SHORTCUTS`. To no receiver: there was none; from no interface: nobody has looked.
    pub way: Shortcut,
}

impl CachedFlow {
    /// So often each processor looks up a flow all the same: the least recently used one goes when
    /// `FLOWS` is full, and a packet that is found here uses it no more.
    pub const LIFETIME: Nanos = 100_000_000;

    /// Does it say what is known of this tuple?
    #[inline(always)]
    #[must_use]
    pub const fn counts(&self, tuple: &Tuple, changes: u64, now: Nanos) -> bool {
        self.changes == changes
            && now.saturating_sub(self.found) < Self::LIFETIME
            && self.tuple.is(tuple)
    }
}

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
