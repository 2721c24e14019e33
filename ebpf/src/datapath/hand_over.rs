//! The way past the node's IP layer: from the hook at which a packet enters the node straight to
//! the pod of this node that is to receive it.
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
//! Which addresses may be handed over, and whether any may, the agent decides; whether the node's
//! routes lead to the receiver, and whether the packet is too long for that link, the program asks
//! the kernel for each packet.

use super::{Decision, Workspace, carry_out, to_pod};
use crate::{
    addr::Addr,
    packet::{Headers, Packet, PacketMut},
    policy::Sender,
    tables::{PolicyFlags, Tables},
    verdict::{DropReason, Hook},
};

/// Offset of the hop limit in an IPv4 header (RFC 791), with which a word begins that ends with
/// the checksum; and in an IPv6 header (RFC 8200).
const V4_HOP_LIMIT: u32 = 8;
const V6_HOP_LIMIT: u32 = 7;

/// Bytes of the headers without options.
const V4_LENGTH: u32 = 20;
const V6_LENGTH: u32 = 40;

/// Where a packet entered the node that is handed over. A number that one program gives to the
/// next, which may be another version's: [`Entry::number`].
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

    /// The same as a number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::FromPod => 1,
            Self::FromNetwork => 2,
        }
    }
}

/// The interface of the pod that a packet is to be handed over to, of which this was decided and
/// carried out at this interface. `None`: it goes on by itself.
#[inline(always)]
pub fn receiver<T: Tables>(
    tables: &T,
    work: &Workspace,
    decision: Decision,
    entry: Entry,
    interface: u32,
) -> Option<u32> {
    if !tables.policy().flags.contains(PolicyFlags::HAND_OVER) {
        return None;
    }
    let headers = &work.headers;
    if headers.is_fragment || !headers.kind().has_ports() || has_options(headers) {
        return None;
    }
    let dst: &Addr = if decision == Decision::TRANSLATE {
        &work.flow.to.dst
    } else if decision == Decision::PASS {
        &headers.tuple.dst
    } else {
        return None;
    };
    let receiver = tables.receiver(dst)?.interface;
    // What comes back to its own pod takes the long way round.
    if receiver == interface {
        return None;
    }
    let may = match entry {
        // A source is translated on the way out of the node, never where a pod sends.
        Entry::FromPod => tables
            .receiver(&headers.tuple.src)
            .is_some_and(|sender| sender.interface == interface),
        Entry::FromNetwork => !headers.tuple.src.is_link_local(),
    };
    may.then_some(receiver)
}

#[inline(always)]
const fn has_options(headers: &Headers) -> bool {
    let length = if headers.is_v4 { V4_LENGTH } else { V6_LENGTH };
    headers.transport - headers.network != length
}

/// All that `to_pod` does at the receiver's interface, and a hop taken. What is not dropped is to
/// be handed over.
///
/// `work` holds the headers of the packet, which [has a hop left](is_last_hop).
#[inline(always)]
pub fn deliver<P: PacketMut, T: Tables>(
    packet: &mut P,
    tables: &T,
    receiver: u32,
    work: &mut Workspace,
) -> Decision {
    let decision = to_pod(packet, tables, receiver, Sender::Other, work);
    let decision = carry_out(packet, work, decision);
    if !decision.is_dropped() && take_hop(packet, &work.headers).is_none() {
        return Decision::drop(DropReason::NotRewritten);
    }
    decision
}

/// Takes one hop from a packet, as forwarding does (RFC 1812 section 5.3.1, RFC 8200 section 3).
/// `None`: it has none left, or cannot be changed.
#[inline(always)]
pub fn take_hop<P: PacketMut>(packet: &mut P, headers: &Headers) -> Option<()> {
    if headers.is_v4 {
        let offset = headers.network + V4_HOP_LIMIT;
        let [hops_and_protocol, checksum]: [u16; 2] = packet.load_near(offset)?;
        let [hops, protocol] = hops_and_protocol.to_ne_bytes();
        let fewer = u16::from_ne_bytes([hops.checked_sub(1)?, protocol]);
        let change = u32::from(!hops_and_protocol) + u32::from(fewer);
        let checksum = crate::checksum::replace(checksum, change);
        packet.store(offset, &[fewer, checksum])
    } else {
        let offset = headers.network + V6_HOP_LIMIT - 1;
        let [next, hops]: [u8; 2] = packet.load_near(offset)?;
        packet.store_v6(offset, &[next, hops.checked_sub(1)?])
    }
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
