//! The way past the node's IP layer: from the hook at which a packet enters the node straight to
//! the pod of this node that is to receive it.
//!
//! Of what a pod sends to somebody beyond the node the rest of that way is left out, too: it is handed
//! to the interface by which it leaves, where [`to_network`](super::to_network) sees it as ever.
//!
//! Promises:
//! - Only what the hook has judged and let through is handed over, and nothing that the node's IP
//!   layer would do more with than lower its hop limit: no options, no fragments, nothing whose
//!   hop limit ends here, nothing that was not addressed to the node's own link address.
//! - What a pod sends is handed over where its source is that pod's, by `RECEIVERS` too: then the
//!   node's IP layer would know the way back as well as the way there. What comes from beyond the
//!   node is for the program to ask about ([`Entry::FromNetwork`]).
//! - The receiver's side is judged, translated, counted and told of as in [`to_pod`], which is what
//!   the next program runs: the hook of that name is passed by.
//!
//! Which addresses may be handed over, and whether any may, the agent decides; where the node's
//! [routes](super::routes) lead, and whether the packet is too long for that link, the program asks
//! the kernel.

use super::{Decision, Workspace, to_pod};
use crate::{
    addr::{Addr, Protocol},
    nat::{self, V4_HOP_LIMIT, V6_HOP_LIMIT},
    packet::{Headers, Ipv4Header, Ipv6Header, Packet, PacketMut, TcpHeader, UdpHeader},
    policy::Sender,
    tables::{PolicyFlags, Tables},
    verdict::{DropReason, Hook},
};

/// Where a packet entered the node that is handed over. A number that one program gives to the
/// next: see [`Told`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// From a pod of this node, whose own the source is.
    FromPod,
    /// From beyond the node: anybody may have written its source.
    FromNetwork,
}

impl Entry {
    /// By the hook; `None`: nothing is handed over there.
    #[inline(always)]
    #[must_use]
    pub const fn of(hook: Hook) -> Option<Self> {
        match hook {
            Hook::FromPod => Some(Self::FromPod),
            Hook::FromNetwork => Some(Self::FromNetwork),
            Hook::ToPod | Hook::ToNetwork | Hook::Socket => None,
        }
    }

    #[inline(always)]
    const fn number(self) -> u32 {
        match self {
            Self::FromPod => 1,
            Self::FromNetwork => 2,
        }
    }
}

/// What one program tells the next of a packet: where it entered the node, and of what a pod sent
/// that no policy has a say in, in which epoch of the policies that was so. The next one may be
/// another version's, or the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told(u32);

impl Told {
    const IS_FREE: u32 = 1 << 8;

    /// What is told of a packet whose headers and case are in `work`.
    #[inline(always)]
    #[must_use]
    pub fn of(work: &Workspace, entry: Entry) -> Self {
        let is_free = entry == Entry::FromPod && work.case.is_free();
        let free = if is_free { Self::IS_FREE } else { 0 };
        let epoch = u32::from(work.case.policy().epoch);
        Self(epoch << 16 | free | entry.number())
    }

    /// By its number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// The same as a number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Where it entered; from beyond the node, where the number says nothing else.
    #[inline(always)]
    #[must_use]
    pub const fn entry(self) -> Entry {
        if self.0 & 0xff == Entry::FromPod.number() {
            Entry::FromPod
        } else {
            Entry::FromNetwork
        }
    }

    /// The epoch in which no policy has a say in what the pod sends; `None`: one may have.
    #[inline(always)]
    #[must_use]
    pub const fn free_epoch(self) -> Option<u16> {
        if self.0 & Self::IS_FREE != 0 {
            Some((self.0 >> 16) as u16)
        } else {
            None
        }
    }
}

/// Where a packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// Through the node's IP layer.
    ByItself,
    /// To the pod with this interface.
    ToPod(u32),
    /// Beyond the node, where its routes lead there.
    ToNetwork,
}

/// Where a packet is to be handed over to, of which this was decided and carried out at this
/// interface.
#[inline(always)]
pub fn onward<T: Tables>(
    tables: &T,
    work: &Workspace,
    decision: Decision,
    entry: Entry,
    interface: u32,
) -> Onward {
    if !tables.policy().flags.contains(PolicyFlags::HAND_OVER) {
        return Onward::ByItself;
    }
    let headers = &work.headers;
    if headers.is_fragment || !headers.kind().has_ports() || has_options(headers) {
        return Onward::ByItself;
    }
    let dst: &Addr = if decision == Decision::TRANSLATE {
        &work.flow.to.dst
    } else if decision == Decision::PASS {
        &headers.tuple.dst
    } else {
        return Onward::ByItself;
    };
    let receiver = tables.receiver(dst);
    let may = match entry {
        // A source is translated on the way out of the node, never where a pod sends.
        Entry::FromPod => tables
            .receiver(&headers.tuple.src)
            .is_some_and(|sender| sender.interface == interface),
        Entry::FromNetwork => !headers.tuple.src.is_link_local(),
    };
    match receiver {
        _ if !may => Onward::ByItself,
        // What comes back to its own pod takes the long way round.
        Some(receiver) if receiver.interface == interface => Onward::ByItself,
        Some(receiver) => Onward::ToPod(receiver.interface),
        None if entry == Entry::FromPod && !dst.is_link_local() => Onward::ToNetwork,
        None => Onward::ByItself,
    }
}

/// Does anything stand between the network header and the transport header?
#[inline(always)]
pub(super) const fn has_options(headers: &Headers) -> bool {
    let length = if headers.is_v4 {
        Ipv4Header::LENGTH
    } else {
        Ipv6Header::LENGTH
    };
    headers.transport - headers.network != length
}

/// The bytes of the IP packet, or of the longest one that it is cut into when it leaves a device.
#[inline(always)]
pub fn longest<P: Packet>(packet: &P, headers: &Headers) -> u32 {
    let payload = packet.segment_payload();
    if payload == 0 {
        return packet.len() - headers.network;
    }
    let transport = if headers.tuple.protocol == Protocol::TCP {
        let header: Option<TcpHeader> = packet.load_near(headers.transport);
        header.map_or(60, |header| TcpHeader::length(header.data_offset))
    } else {
        UdpHeader::LENGTH
    };
    headers.transport - headers.network + transport + payload
}

/// What routes may go by besides addresses: of IPv4 the type of service (RFC 791).
#[inline(always)]
pub fn traffic_class<P: Packet>(packet: &P, headers: &Headers) -> u8 {
    if !headers.is_v4 {
        return 0;
    }
    let class: Option<[u8; 2]> = packet.load_near(headers.network);
    class.map_or(0, |bytes| bytes[1])
}

/// Does the node's IP layer give the packet the usual priority? It takes that from the type of service
/// of IPv4 (`net.ipv4.ip_forward_update_priority`).
#[inline(always)]
pub fn has_usual_priority<P: Packet>(packet: &P, headers: &Headers) -> bool {
    traffic_class(packet, headers) == 0
}

/// What `to_pod` decides at the receiver's interface.
///
/// `work` holds the headers of the packet, which [has a hop left](is_last_hop).
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    receiver: u32,
    work: &mut Workspace,
) -> Decision {
    to_pod(packet, tables, receiver, Sender::Other, work)
}

/// Takes a hop of a packet of which this was decided and [carried out](super::carry_out). What is
/// not dropped then is to be handed over.
#[inline(always)]
pub fn take_hop_of<P: PacketMut>(packet: &mut P, work: &Workspace, decision: Decision) -> Decision {
    if !decision.is_dropped() && nat::take_hop(packet, &work.headers).is_none() {
        return Decision::drop(DropReason::NotRewritten);
    }
    decision
}

/// All of that, for those that are no programs.
#[cfg(not(target_arch = "bpf"))]
pub fn deliver<P: PacketMut, T: Tables>(
    packet: &mut P,
    tables: &T,
    receiver: u32,
    work: &mut Workspace,
) -> Decision {
    let decision = judge(packet, tables, receiver, work);
    let decision = super::carry_out(packet, work, decision);
    take_hop_of(packet, work, decision)
}

/// Does forwarding end a packet here? Its sender is to be told, which the node's IP layer does.
#[inline(always)]
pub fn is_last_hop<P: Packet>(packet: &P, headers: &Headers) -> bool {
    let offset = if headers.is_v4 {
        V4_HOP_LIMIT
    } else {
        V6_HOP_LIMIT - 1
    };
    let bytes: Option<[u8; 2]> = packet.load_near(headers.network + offset);
    match bytes {
        Some(bytes) => bytes[usize::from(!headers.is_v4)] <= 1,
        None => true,
    }
}
