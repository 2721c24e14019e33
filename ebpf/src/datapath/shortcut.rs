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
    Decision, Glance, Step, Workspace, covers, flow,
    hand_over::{has_options, is_last_hop, longest, traffic_class},
};
use crate::{
    addr::Addr,
    conntrack, nat,
    packet::{Packet, PacketMut, Transport},
    tables::{FlowFlags, FlowRole, Shortcut, Tables},
    verdict::DropReason,
};

/// What is decided at the sender's interface about a packet that takes a shortcut, whose receiver
/// is put into `work`; `None`: it takes none.
///
/// Where there is none, nothing has happened but that its flow may have been looked at.
#[inline(always)]
pub(super) fn find<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Option<Decision> {
    if !work.hands_over()
        || work.headers.is_fragment
        || !matches!(work.headers.kind(), Transport::Tcp(_) | Transport::Udp)
        || has_options(&work.headers)
        || !packet.is_for_ip_layer()
        || is_last_hop(packet, &work.headers)
    {
        return None;
    }
    // What goes to a pod's own address is mostly no flow's: then that is asked last.
    let is_covered = covers(tables, work.headers.tuple.dst);
    work.step = Step::PASS;
    if is_covered && !look(tables, work) {
        return None;
    }
    let is_led = is_covered && is_led(work);
    let receiver = known(packet, tables, work, is_led)?;
    if !is_covered && (!look(tables, work) || self::is_led(work)) {
        return None;
    }
    work.receiver = receiver;
    Some(if is_led {
        Decision::TRANSLATE
    } else {
        Decision::PASS
    })
}

/// Is it known what becomes of the packet's addresses, and is that no news to anybody? Whether they
/// are translated, at either interface, is put into `work`.
#[inline(always)]
fn look<T: Tables>(tables: &T, work: &mut Workspace) -> bool {
    if !conntrack::is_plain(work.headers.kind()) {
        return is_nobodys(tables, work);
    }
    flow::glance(tables, work);
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
    if tables.update_flow(&work.headers.tuple, |_| ()).is_some() {
        return false;
    }
    if !conntrack::is_opening(work.headers.kind()) {
        return true;
    }
    work.spare.key = work.headers.tuple.reversed();
    tables.update_flow(&work.spare.key, |_| ()).is_none()
}

/// Is the packet led to a service's backend?
#[inline(always)]
fn is_led(work: &Workspace) -> bool {
    work.step == Step::TRANSLATE && work.flow.role == FlowRole::FORWARD
}

/// The receiver of a packet whose way is known.
#[inline(always)]
fn known<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    is_led: bool,
) -> Option<u32> {
    let dst = if is_led {
        work.flow.to.dst
    } else {
        work.headers.tuple.dst
    };
    write_key(packet, work, dst, work.case.interface());
    let known = tables.shortcut(&work.shortcut)?;
    let is_fresh = tables.now().saturating_sub(known.found) < conntrack::REFRESH;
    (is_fresh
        && known.epoch == work.case.policy().epoch
        && longest(packet, &work.headers) <= known.longest)
        .then_some(known.receiver)
}

/// Writes by what the way of a packet is found that a pod sends by an interface, and that goes there.
/// Where it is kept, since a program's stack is short.
#[inline(always)]
fn write_key<P: Packet>(packet: &P, work: &mut Workspace, dst: Addr, interface: u32) {
    let (headers, key) = (&work.headers, &mut work.shortcut);
    key.src = headers.tuple.src;
    key.dst = dst;
    key.interface = interface;
    key.traffic_class = traffic_class(packet, headers);
    key.reserved = [0; 3];
}

/// Notes the way of a packet that was handed over: from the interface at which it came in, while
/// the policies were in this epoch, to this receiver, whose side has judged it. The sender is under
/// no policy; where the receiver is, or that was not asked of this packet, nothing is noted.
#[inline(always)]
pub fn remember<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    from: u32,
    receiver: u32,
    epoch: u16,
) {
    if !work.case.is_free() {
        return;
    }
    write_key(packet, work, work.headers.tuple.dst, from);
    let entry = Shortcut {
        found: tables.now(),
        receiver,
        longest: longest(packet, &work.headers),
        epoch,
        reserved: [0; 6],
    };
    tables.put_shortcut(&work.shortcut, &entry);
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
        translate_and_take_hop(packet, work)
    };
    decision.if_done(is_done, DropReason::NotRewritten)
}

#[inline(never)]
fn translate_and_take_hop<P: PacketMut>(packet: &mut P, work: &Workspace) -> Option<()> {
    nat::translate_any(packet, &work.headers, &work.flow.to)?;
    nat::take_hop(packet, &work.headers)
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
