//! The shortest way from one pod of this node to another: what was found out of one packet that was
//! [handed over](super::hand_over), the next ones between the two go by.
//!
//! Most of what handing over costs are questions whose answers follow from the two addresses: is
//! the source the sender's, whose interface is the destination, do the node's routes lead there, do
//! policies isolate either pod. `SHORTCUTS` has the answers, for a second at most, and as long as
//! the agent has not changed its mind (`Policy::epoch`).
//!
//! Promises:
//! - What takes a shortcut goes where it would have gone otherwise, with the same changes, and is
//!   counted at both hooks as it would have been there.
//! - What is news to a flow or may begin one, what policies have a say in, and what the node's IP
//!   layer would do more with than lower the hop limit takes none.
//! - A route that changes is heeded within a second.

use super::{
    Decision, Glance, Step, Workspace,
    hand_over::{has_options, is_last_hop, longest, traffic_class},
};
use crate::{
    addr::Addr,
    conntrack, nat,
    packet::{Packet, PacketMut, Transport},
    tables::{FlowFlags, FlowRole, Nanos, Place, Shortcut, Tables},
    verdict::DropReason,
};

/// Is the packet of a kind that takes shortcuts?
#[inline(always)]
pub(super) fn may_take<P: Packet>(packet: &P, work: &Workspace) -> bool {
    work.hands_over()
        && !work.headers.is_fragment
        && matches!(work.headers.kind(), Transport::Tcp(_) | Transport::Udp)
        && !has_options(&work.headers)
        && packet.is_for_ip_layer()
        && !is_last_hop(packet, &work.headers)
}

/// What is decided at the sender's interface about a packet that [may](may_take) take a shortcut,
/// and at whose flow a glance was cast. Its receiver is put into `work`; `None`: it takes none, and
/// nothing has happened.
#[inline(always)]
pub(super) fn find<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Option<Decision> {
    let is_plain = conntrack::is_plain(work.headers.kind());
    work.step = Step::PASS;
    if is_plain && !is_settled(work) {
        return None;
    }
    let is_led = is_led(work);
    let receiver = known(packet, tables, work, is_plain)?;
    // Most are nobody's: then that is asked last.
    if !is_plain && !is_nobodys(tables, work) {
        return None;
    }
    work.receiver = receiver;
    Some(if is_led {
        Decision::TRANSLATE
    } else {
        Decision::PASS
    })
}

/// Is it known from the packet's flow what becomes of its addresses, and is that no news to anybody?
/// Whether they are translated, at either interface, is put into `work`.
#[inline(always)]
fn is_settled(work: &mut Workspace) -> bool {
    if work.glance != Glance::CURRENT {
        return work.glance == Glance::ABSENT;
    }
    work.step = Step::TRANSLATE;
    // What is masqueraded, or goes back into its own pod, has more than these two.
    (work.flow.role == FlowRole::FORWARD || work.flow.role == FlowRole::REPLY)
        && !work.flow.flags.contains(FlowFlags::SNAT)
}

/// Does a segment that opens or ends a connection belong to no flow, neither as it is nor as the
/// answer to one?
#[inline(never)]
fn is_nobodys<T: Tables>(tables: &T, work: &mut Workspace) -> bool {
    if tables.has_flow(&work.headers.tuple) {
        return false;
    }
    if !conntrack::is_opening(work.headers.kind()) {
        return true;
    }
    work.spare.key = work.headers.tuple.reversed();
    !tables.has_flow(&work.spare.key)
}

/// Is the packet led to a service's backend?
#[inline(always)]
fn is_led(work: &Workspace) -> bool {
    work.step == Step::TRANSLATE && work.flow.role == FlowRole::FORWARD
}

/// The receiver of a packet whose way is known. Where its flow was looked for (`has_slot`), the way is
/// kept beside what was found.
#[inline(always)]
fn known<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    has_slot: bool,
) -> Option<u32> {
    let class = traffic_class(packet, &work.headers);
    let longest = longest(packet, &work.headers);
    let mut receiver = UNKNOWN;
    if has_slot {
        let (now, case) = (tables.now(), &work.case);
        tables.flow_cache(work.place, |cached| {
            let way = &cached.way;
            let is_the_way = way.interface == case.interface() && way.traffic_class == class;
            if is_the_way && counts(way, now, case.policy().epoch, longest) {
                receiver = way.receiver;
            }
        });
    }
    if receiver == UNKNOWN {
        receiver = look_up(tables, work, class, longest, has_slot);
    }
    (receiver != NO_RECEIVER).then_some(receiver)
}

/// No way was looked for yet: no interface has this index.
const UNKNOWN: u32 = u32::MAX;
/// None was found.
const NO_RECEIVER: u32 = 0;

/// Does what was found of a way hold for a packet whose longest piece has so many bytes?
#[inline(always)]
fn counts(way: &Shortcut, now: Nanos, epoch: u16, longest: u32) -> bool {
    let age = now.saturating_sub(way.found);
    if way.receiver == NO_RECEIVER {
        age < NO_WAY
    } else {
        age < conntrack::REFRESH && way.epoch == epoch && longest <= way.longest
    }
}

/// Looks for the receiver in `SHORTCUTS`; [`NO_RECEIVER`] where there is none that counts.
#[inline(never)]
fn look_up<T: Tables>(
    tables: &T,
    work: &mut Workspace,
    traffic_class: u8,
    longest: u32,
    has_slot: bool,
) -> u32 {
    let dst = if is_led(work) {
        work.flow.to.dst
    } else {
        work.headers.tuple.dst
    };
    if has_slot && !is_alone(tables, work) {
        return NO_RECEIVER;
    }
    let interface = work.case.interface();
    write_key(work, dst, interface, traffic_class);
    let (now, epoch) = (tables.now(), work.case.policy().epoch);
    let (mut receiver, mut found, mut room) = (NO_RECEIVER, now, 0);
    if let Some(way) = tables.shortcut(&work.shortcut)
        && counts(&way, now, epoch, longest)
    {
        (receiver, found, room) = (way.receiver, way.found, way.longest);
    }
    if has_slot {
        tables.flow_cache(work.place, |cached| {
            cached.way = Shortcut {
                found,
                receiver,
                longest: room,
                interface,
                epoch,
                traffic_class,
                reserved: 0,
            };
        });
    }
    receiver
}

/// Is a datagram without a flow one that needs none? If the tuple of its answers is anybody's, that
/// takes a closer look.
#[inline(always)]
fn is_alone<T: Tables>(tables: &T, work: &mut Workspace) -> bool {
    if work.glance != Glance::ABSENT || !matches!(work.headers.kind(), Transport::Udp) {
        return true;
    }
    work.spare.key = work.headers.tuple.reversed();
    !tables.has_flow(&work.spare.key)
}

/// That no shortcut was found counts for so long: none is found for a pod under policy, time and
/// again, and for others one is, as soon as a packet has been handed over.
const NO_WAY: Nanos = conntrack::SECOND / 100;

/// Writes by what the way of a packet is found that a pod sends by an interface, and that goes there.
/// Where it is kept, since a program's stack is short.
#[inline(always)]
fn write_key(work: &mut Workspace, dst: Addr, interface: u32, traffic_class: u8) {
    let (headers, key) = (&work.headers, &mut work.shortcut);
    key.src = headers.tuple.src;
    key.dst = dst;
    key.interface = interface;
    key.traffic_class = traffic_class;
    key.reserved = [0; 3];
}

/// Where a packet came in that a pod sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// The interface.
    pub interface: u32,
    /// The place of the tuple that it had there.
    pub place: Place,
}

/// Notes the way of a packet that was handed over: from where it came in, while the policies were in
/// this epoch, to this receiver, whose side has judged it. The sender is under no policy; where the
/// receiver is, or that was not asked of this packet, nothing is noted.
#[inline(always)]
pub fn remember<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    from: Entrance,
    receiver: u32,
    epoch: u16,
) {
    if !work.case.is_free() {
        return;
    }
    let class = traffic_class(packet, &work.headers);
    write_key(work, work.headers.tuple.dst, from.interface, class);
    let entry = Shortcut {
        found: tables.now(),
        receiver,
        longest: longest(packet, &work.headers),
        interface: from.interface,
        epoch,
        traffic_class: class,
        reserved: 0,
    };
    tables.put_shortcut(&work.shortcut, &entry);
    // That there was none counts no more.
    tables.flow_cache(from.place, |cached| cached.way.interface = 0);
}

/// Does all that is to be done with a packet that takes a shortcut, at both interfaces and between
/// them. What is not dropped then is to be handed over to `work.receiver`.
#[inline(always)]
pub fn carry_out<P: PacketMut>(packet: &mut P, work: &Workspace, decision: Decision) -> Decision {
    let is_done = if work.step != Step::TRANSLATE {
        nat::take_hop(packet, &work.headers)
    } else if nat::is_plain(&work.headers) {
        nat::translate_plain_and_take_hop(packet, &work.headers, &work.flow.to)
    } else {
        nat::translate_any_and_take_hop(packet, &work.headers, &work.flow.to)
    };
    decision.if_done(is_done, DropReason::NotRewritten)
}

/// What is decided at the receiver's interface about a packet that takes a shortcut, of which this
/// was decided at the sender's.
#[inline(always)]
#[must_use]
pub fn decision_there(work: &Workspace, here: Decision) -> Decision {
    if work.step == Step::TRANSLATE && here == Decision::PASS {
        Decision::TRANSLATE
    } else {
        Decision::PASS
    }
}
