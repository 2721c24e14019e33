//! Network policy: who is isolated, whom the rules speak of, what they allow, and what was judged.
//!
//! Numbers of subject sets, classes and rules are this node's own. Each stands for a content and
//! is never given to another, so that an entry of `RULES` never changes its meaning.
//!
//! Invariant: a change is in force all at once. What changes has two slots, of which the lowest bit
//! of [`Policy::revision`] names the one in force. A writer fills the other slots first and then
//! raises the revision: every packet is judged by all of the old state or by all of the new.

use bytemuck::{Pod as Plain, Zeroable};

use super::Nanos;
use super::flow::FlowState;
use crate::addr::{Addr, Port, Protocol};

/// Which state of the policies is in force, and what holds for all pods. Written by the agent,
/// read by the programs at pods' interfaces.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Plain, Zeroable)]
pub struct Policy {
    /// Raised with each change of what is judged. Its lowest bit is the slot in force.
    pub revision: u32,
    /// What holds for all pods.
    pub flags: PolicyFlags,
    /// Raised with each change of anything that is asked at a pod's interface, after it was made:
    /// of the two fields above, of `PODS`, of what is removed from `POD_ADDRS`, and of addresses and
    /// ports that become services' and do not lie among the cluster IPs. What was found in another
    /// epoch must be asked again; see [`Vetting`](super::Vetting) and
    /// [`ExactMatch`](super::ExactMatch).
    ///
    /// Eight bytes in all, which are read in one load as they are written: an old revision with the
    /// new epoch would pass for asked.
    pub epoch: u16,
}

impl Policy {
    /// The same in the next epoch.
    #[must_use]
    pub const fn in_next_epoch(self) -> Self {
        Self {
            epoch: self.epoch.wrapping_add(1),
            ..self
        }
    }

    /// The slot in force.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self) -> Slot {
        Slot::of(self.revision)
    }
}

/// One of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Under even revisions.
    Even,
    /// Under odd ones.
    Odd,
}

impl Slot {
    /// That of a revision.
    #[inline(always)]
    #[must_use]
    pub const fn of(revision: u32) -> Self {
        if revision & 1 == 0 {
            Self::Even
        } else {
            Self::Odd
        }
    }

    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Even => Self::Odd,
            Self::Odd => Self::Even,
        }
    }
}

/// A number for each [`Slot`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Plain, Zeroable)]
pub struct Slots(pub [u32; 2]);

impl Slots {
    /// The same in both.
    #[inline(always)]
    #[must_use]
    pub const fn both(number: u32) -> Self {
        Self([number; 2])
    }

    /// The number in a slot.
    #[inline(always)]
    #[must_use]
    pub const fn get(&self, slot: Slot) -> u32 {
        match slot {
            Slot::Even => self.0[0],
            Slot::Odd => self.0[1],
        }
    }

    /// With another number in a slot.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, slot: Slot, number: u32) -> Self {
        match slot {
            Slot::Even => Self([number, self.0[1]]),
            Slot::Odd => Self([self.0[0], number]),
        }
    }
}

/// Bits of [`Policy::flags`]; those without a name are zero.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Plain, Zeroable)]
pub struct PolicyFlags(pub u16);

impl PolicyFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// An interface of which nobody knows whose it is sends and receives nothing.
    pub const DENY_UNKNOWN: Self = Self(1 << 0);
    /// Pods may send from addresses that are not theirs.
    pub const NO_SOURCE_CHECK: Self = Self(1 << 1);
    /// What was allowed once goes on under other policies.
    pub const KEEP_ESTABLISHED: Self = Self(1 << 2);
    /// What is refused or dropped at a pod's interface is told in `EVENTS`.
    pub const EVENTS_DENIED: Self = Self(1 << 3);
    /// Each new connection of a pod under policy is told in `EVENTS`.
    pub const EVENTS_OPENED: Self = Self(1 << 4);
    /// The kernel's connection tracking has connections to services that another service proxy
    /// translated: what continues one, and has no flow here, is left to it.
    pub const LEAVE_TRACKED: Self = Self(1 << 5);
    /// What goes to a pod of this node, and was judged, is handed over to the pod past the node's
    /// IP layer, where `RECEIVERS` has the pod's address.
    pub const HAND_OVER: Self = Self(1 << 6);
}

bits!(PolicyFlags);

/// The pod at an interface. Written by the agent, read by the programs there. When the table is
/// full, the interfaces that do not fit are unknown ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Plain, Zeroable)]
pub struct Pod {
    /// The subject set for what it sends: which policies isolate it. Zero: none does.
    pub egress: Slots,
    /// The same for what it receives. The two kinds share no number.
    pub ingress: Slots,
    /// The number of its network namespace as the node's links name it (`IFLA_LINK_NETNSID`);
    /// negative where that is not known.
    pub netns: i32,
    /// What is known of it.
    pub state: PodState,
    /// Zero.
    pub reserved: [u8; 3],
    /// One of its IPv4 addresses, so that most of what it sends need not be looked for in
    /// `POD_ADDRS`, where this one is, too; `::` if it has none.
    pub addr_v4: Addr,
    /// One of its IPv6 addresses likewise.
    pub addr_v6: Addr,
}

impl Pod {
    /// Is this one of the addresses noted here? The others are in `POD_ADDRS`.
    #[inline(always)]
    #[must_use]
    pub const fn is_at(&self, addr: Addr) -> bool {
        (self.addr_v4.is(addr) || self.addr_v6.is(addr)) && !addr.is_unspecified()
    }

    /// Takes an address out of those noted here.
    #[cfg(not(target_arch = "bpf"))]
    pub fn forget_addr(&mut self, addr: Addr) {
        for noted in [&mut self.addr_v4, &mut self.addr_v6] {
            if *noted == addr {
                *noted = Addr::UNSPECIFIED;
            }
        }
    }
}

/// The subject set of a pod that is isolated, and of which no more is known: no rule speaks of it.
pub const NOBODY: u32 = 1;

/// The class that stands for every address in rules that name no peers, and that an address has
/// of which no rule speaks.
pub const ANYONE: u32 = 0;

/// What is known of the pod at an interface.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Plain, Zeroable)]
pub struct PodState(pub u8);

impl PodState {
    /// Nobody knows whose interface it is: [`PolicyFlags::DENY_UNKNOWN`] decides.
    pub const UNKNOWN: Self = Self(0);
    /// It is known by name; which policies select it is not.
    pub const ISOLATED: Self = Self(1);
    /// The policies that select it are in force.
    pub const PROGRAMMED: Self = Self(2);
}

/// An address that is a pod's: the key of `POD_ADDRS`. Written by the agent, read where the pod
/// sends.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Plain, Zeroable)]
pub struct PodAddr {
    /// The pod's interface.
    pub interface: u32,
    /// The address.
    pub addr: Addr,
}

/// A pod's interface to which a packet may be handed over, by one of the pod's addresses: the value
/// of `RECEIVERS`. Written by the agent, of interfaces whose other end is in another network
/// namespace, and of addresses that no service has; whether the node routes the address there, the
/// kernel is asked (see [`Route`](super::Route)), unless a packet takes a [`Shortcut`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Plain, Zeroable)]
pub struct Receiver {
    /// The interface on the node's side.
    pub interface: u32,
}

/// Two pods of this node of which one sends to the other: the key of `SHORTCUTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Plain, Zeroable)]
pub struct ShortcutKey {
    /// The sender's address.
    pub src: Addr,
    /// The receiver's own.
    pub dst: Addr,
    /// The sender's interface.
    pub interface: u32,
    /// Of IPv4 the type of service, by which routes may go. Zero of IPv6.
    pub traffic_class: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// What was found out of a packet from one pod to another that was handed over: the source is the
/// sender's, the destination the receiver's, the node routes it there, and neither pod is under
/// policy. Written by the programs, for packets that follow within a second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Plain, Zeroable)]
pub struct Shortcut {
    /// When.
    pub found: Nanos,
    /// The receiver's interface.
    pub receiver: u32,
    /// The bytes of the IP packet: one that is longer may not fit.
    pub longest: u32,
    /// The sender's interface, as in the key.
    pub interface: u32,
    /// The epoch of the [`Policy`] that was in force before any of it was asked.
    pub epoch: u16,
    /// As in the key.
    pub traffic_class: u8,
    /// Zero.
    pub reserved: u8,
}

/// What rules say of an address: the number of its class. Addresses that every rule in force treats
/// alike share one. The value of `PEERS` and of `PEER_RANGES`; [`ANYONE`] where no rule speaks of
/// it. Written by the agent.
///
/// When `PEERS` is full, pods that do not fit are named, and policies that speak of them do not
/// reach them.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Plain, Zeroable)]
pub struct Class(pub Slots);

/// What is allowed: the key of `RULES`, whose value is the number of a rule that allows it.
///
/// Of all entries that match the one with the longest prefix is found. Rules only add
/// permissions, so that any entry will do. Written by the agent, read for each new connection of
/// an isolated pod: for the peer's class, and where that has no entry for [`ANYONE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Plain, Zeroable)]
pub struct RuleKey {
    /// Bits that count: [`Self::EVERYTHING`], [`Self::PROTOCOL`], or that and up to 16 of the
    /// port.
    pub prefix_len: u32,
    /// The subject set, of one direction.
    pub subject: u32,
    /// The peer's class.
    pub class: u32,
    /// The protocol.
    pub protocol: Protocol,
    /// Zero.
    pub reserved: u8,
    /// The port.
    pub port: Port,
}

impl RuleKey {
    /// The prefix of what allows every protocol, those without ports too.
    pub const EVERYTHING: u32 = 64;
    /// The prefix of what allows every port of a protocol.
    pub const PROTOCOL: u32 = 80;
    /// The prefix of what allows one port; and of every question.
    pub const PORT: u32 = 96;

    /// A question, or the entry for one port.
    #[inline(always)]
    #[must_use]
    pub const fn new(subject: u32, class: u32, protocol: Protocol, port: Port) -> Self {
        Self {
            prefix_len: Self::PORT,
            subject,
            class,
            protocol,
            reserved: 0,
            port,
        }
    }

    /// The entry for the ports that share the first `bits` with this one.
    #[inline(always)]
    #[must_use]
    pub const fn ports(
        subject: u32,
        class: u32,
        protocol: Protocol,
        port: Port,
        bits: u32,
    ) -> Self {
        let mask = if bits >= 16 {
            0xffff
        } else {
            !(0xffff >> bits)
        };
        Self {
            prefix_len: Self::PROTOCOL + bits,
            ..Self::new(subject, class, protocol, Port::new(port.number() & mask))
        }
    }

    /// The entry for everything.
    #[inline(always)]
    #[must_use]
    pub const fn everything(subject: u32, class: u32) -> Self {
        Self {
            prefix_len: Self::EVERYTHING,
            ..Self::new(subject, class, Protocol(0), Port(0))
        }
    }

    /// Every entry that answers this question, the longest first.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn shortened(&self) -> [Self; 18] {
        core::array::from_fn(|index| match u32::try_from(index) {
            Ok(short @ 0..=16) => Self::ports(
                self.subject,
                self.class,
                self.protocol,
                self.port,
                16 - short,
            ),
            _ => Self::everything(self.subject, self.class),
        })
    }
}

/// A conversation of a pod, whoever opened it, as the pod sees it: the backend, not the service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Plain, Zeroable)]
pub struct ConnectionKey {
    /// The pod's address.
    pub pod: Addr,
    /// The other side's.
    pub peer: Addr,
    /// The pod's interface: an address may be another pod's before long.
    pub interface: u32,
    /// The pod's port. Of an echo the identifier, where the pod asked. Else zero without ports.
    pub pod_port: Port,
    /// The other side's. Of an echo the identifier, where the other side asked.
    pub peer_port: Port,
    /// The protocol.
    pub protocol: Protocol,
    /// Zero.
    pub reserved: [u8; 3],
}

/// What was judged about a conversation. Written by the programs at the pod's interface, for pods
/// that are isolated in at least one direction. When the table is full the least recently used
/// goes, and is judged anew.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Plain, Zeroable)]
pub struct Connection {
    /// When a packet was last let through, to the second.
    pub last_seen: Nanos,
    /// [`Policy::revision`] under which it was judged.
    pub revision: u32,
    /// The rule that allows it; zero: the pod is not isolated in that direction, or it is the
    /// node's.
    pub rule: u32,
    /// Where it stands; see `conntrack`.
    pub state: FlowState,
    /// What else is known of it.
    pub flags: ConnectionFlags,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Bits of [`Connection::flags`]; those without a name are zero.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Plain, Zeroable)]
pub struct ConnectionFlags(pub u8);

impl ConnectionFlags {
    /// Nothing: the other side opened it, and it is allowed.
    pub const NONE: Self = Self(0);
    /// The pod opened it.
    pub const OPENED_BY_POD: Self = Self(1 << 0);
    /// It was allowed once, and policies have changed: nothing of it passes, and nothing opens it
    /// the other way round.
    pub const DENIED: Self = Self(1 << 1);
    /// The node itself opened it: no policy says no.
    pub const FROM_NODE: Self = Self(1 << 2);
    /// What the pod sends of it is no service's business: a TCP connection that is established and
    /// belongs to no flow, so that its segments need not be looked for among those.
    pub const SENT_AS_IS: Self = Self(1 << 3);
    /// What the pod receives of it likewise.
    pub const RECEIVED_AS_IS: Self = Self(1 << 4);
}

bits!(ConnectionFlags);
