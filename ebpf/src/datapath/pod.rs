//! What happens at a pod's interface: whose it is, the service step, and what policies say.
//!
//! A packet that the pod sends is judged after its destination is known and before anything is
//! written of a flow that it opens; one that the pod receives before its source is translated
//! back.

use super::{
    Decision, Glance, Step, Workspace, covers, flow, follow, open, refuse_without_port, shortcut,
    towards_pod,
};
use crate::{
    conntrack,
    event::Direction,
    fragments,
    packet::{Opener, Packet, Transport},
    policy::{self, Sender},
    service::Origin,
    tables::Tables,
    verdict::DropReason,
};

/// A packet that a pod sends by its interface with this index: is its source the pod's, which
/// backend does it go to, and may it?
///
/// `work` holds the packet's headers; its flow is put there, if it has one.
#[inline(always)]
pub fn from_pod<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    interface: u32,
    work: &mut Workspace,
) -> Decision {
    match from_pod_at_once(packet, tables, interface, work) {
        Some(decision) => decision,
        None => from_pod_at_length(packet, tables, work),
    }
}

/// [`from_pod`] of nearly all packets: those of which all was asked before. `None`: it takes more,
/// and nothing has happened.
#[inline(always)]
pub fn from_pod_at_once<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    interface: u32,
    work: &mut Workspace,
) -> Option<Decision> {
    let (way, sender) = (Direction::EGRESS, Sender::Other);
    policy::begin(tables, &mut work.case, interface, way, sender);
    work.glance = Glance::NONE;
    work.receiver = 0;
    let may_take = shortcut::may_take(packet, work);
    if may_take || is_likely_of_flow(tables, work) {
        flow::glance(tables, work);
    }
    if may_take && let Some(decision) = shortcut::find(packet, tables, work) {
        return Some(decision);
    }
    is_vetted(work).then_some(Decision::TRANSLATE)
}

/// The rest of [`from_pod`].
#[inline(always)]
pub fn from_pod_at_length<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Decision {
    policy::enter(tables, &mut work.case, Sender::Other);
    if work.case.is_refused() {
        return refuse_unknown(work);
    }
    // What is known of the connection tells that the source is the pod's, too.
    if work.case.is_judged() && policy::passes_as_is(tables, work) {
        return Decision::PASS;
    }
    if policy::is_forged(tables, work) {
        return Decision::drop(DropReason::ForgedSource);
    }
    if work.headers.kind().has_ports() {
        send(packet, tables, work)
    } else {
        let decision = match follow(packet, tables, work, true, false) {
            Decision::PASS | Decision::PASS_FRAGMENT => refuse_without_port(tables, &work.headers),
            decision => decision,
        };
        without_port(packet, tables, work, decision)
    }
}

/// A packet that a pod receives by its interface with this index, and who sent it: may it, and
/// what does the pod know as its source?
///
/// The reverse of DNAT for the pod's own flows, and SNAT of a hairpin. `work` as in [`from_pod`].
#[inline(always)]
pub fn to_pod<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    interface: u32,
    sender: Sender,
    work: &mut Workspace,
) -> Decision {
    match to_pod_at_once(tables, interface, sender, work) {
        Some(decision) => decision,
        None => to_pod_at_length(packet, tables, sender, work),
    }
}

/// [`to_pod`], as [`from_pod_at_once`].
#[inline(always)]
pub fn to_pod_at_once<T: Tables>(
    tables: &T,
    interface: u32,
    sender: Sender,
    work: &mut Workspace,
) -> Option<Decision> {
    let way = Direction::INGRESS;
    policy::begin(tables, &mut work.case, interface, way, sender);
    work.glance = Glance::NONE;
    if is_likely_of_flow(tables, work) {
        flow::glance(tables, work);
    }
    // Then that has told all.
    is_vetted(work).then_some(Decision::TRANSLATE)
}

/// The rest of [`to_pod`].
#[inline(always)]
pub fn to_pod_at_length<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    sender: Sender,
    work: &mut Workspace,
) -> Decision {
    policy::enter(tables, &mut work.case, sender);
    if work.case.is_refused() && sender == Sender::Other {
        return refuse_unknown(work);
    }
    if work.case.is_judged() && policy::passes_as_is(tables, work) {
        return Decision::PASS;
    }
    if work.headers.kind().has_ports() {
        receive(packet, tables, work)
    } else {
        let decision = follow(packet, tables, work, false, false);
        without_port(packet, tables, work, decision)
    }
}

/// Is its flow to be looked for first? Most of TCP is translated at the socket and has none, and
/// what is known of its connection tells as much; but not what goes to a service's address.
#[inline(always)]
fn is_likely_of_flow<T: Tables>(tables: &T, work: &Workspace) -> bool {
    match work.headers.kind() {
        Transport::Udp => true,
        Transport::Tcp(_) => work.case.is_sent() && covers(tables, work.headers.tuple.dst),
        _ => false,
    }
}

/// Has the packet's flow, which is in `work`, been vetted here, and is nothing to be noted of it?
#[inline(always)]
fn is_vetted(work: &Workspace) -> bool {
    let (case, flow) = (&work.case, &work.flow);
    work.glance == Glance::CURRENT
        && case.is_somebodys()
        && !work.headers.is_fragment
        && flow.role.is_entering() == case.is_sent()
        && flow.is_vetted(case.vetting())
}

/// Notes of the flow of a packet which is to be translated that it was vetted: until it has news,
/// what follows is asked nothing.
#[inline(never)]
fn vet<T: Tables>(tables: &T, work: &Workspace) {
    let Workspace {
        headers,
        flow,
        case,
        ..
    } = work;
    let vetting = case.vetting();
    let is_like_others = conntrack::is_plain(headers.kind()) && !headers.is_fragment;
    if !is_like_others || !case.is_somebodys() || !vetting.is_some() {
        return;
    }
    if case.is_judged() && !policy::is_allowed_until_news_of(case, flow) {
        return;
    }
    tables.update_flow(&headers.tuple, |entry| {
        // It may be another flow's by now.
        if entry.to == flow.to && entry.role == flow.role {
            entry.set_vetted(vetting);
        }
    });
}

/// A packet of an interface of which nobody knows whose it is. What makes the link work passes, so
/// that the pod is reached as soon as it is known.
#[inline(always)]
fn refuse_unknown(work: &Workspace) -> Decision {
    match work.headers.kind() {
        Transport::Discovery => Decision::PASS,
        _ => Decision::drop(DropReason::UnknownPod),
    }
}

/// A packet with ports that a pod sends.
#[inline(always)]
fn send<P: Packet, T: Tables>(packet: &P, tables: &T, work: &mut Workspace) -> Decision {
    let role = flow::known_on_entering(tables, work, Origin::Pod);
    work.case.set_flow(role);
    work.step = match role {
        Some(role) if role.is_entering() => Step::TRANSLATE,
        Some(_) => Step::PASS,
        None => match open::choose(tables, work, Origin::Pod) {
            Decision::TRANSLATE => Step::BEGIN,
            Decision::PASS => Step::PASS,
            decision => return decision,
        },
    };
    if is_vetted(work) {
        return Decision::TRANSLATE;
    }
    if work.case.is_judged()
        && let Err(reason) = judge_sent(packet, tables, work)
    {
        return Decision::drop(reason);
    }
    if work.step == Step::BEGIN {
        let is_taken = talks_past_services(packet, work);
        match open::begin(tables, work, Origin::Pod, is_taken) {
            Decision::TRANSLATE => {}
            decision => return decision,
        }
    }
    finish(tables, work)
}

/// Has the pod a connection past all services, from the port of a packet that opens one and to the
/// very backend that was chosen for it? The kernel that chose the port saw another address, as
/// where the older connection was translated at the socket, or is to the pod itself. The backend
/// would take one for the other; connection tracking gives the new one another port, too.
#[inline(never)]
fn talks_past_services<P: Packet>(packet: &P, work: &mut Workspace) -> bool {
    let Workspace {
        headers,
        choice,
        case,
        ..
    } = work;
    let kind = headers.kind();
    if !matches!(kind, Transport::Tcp(_)) || !conntrack::is_opening(kind) || case.netns() < 0 {
        return false;
    }
    case.set_conversation(&headers.tuple);
    case.key.peer = choice.backend.addr;
    case.key.peer_port = choice.backend.port;
    packet.opener(case.netns(), &case.key) != Opener::Unknown
}

/// Judges a packet with ports that a pod under policy sends.
#[inline(never)]
fn judge_sent<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Result<(), DropReason> {
    let Workspace {
        headers,
        flow,
        choice,
        case,
        ..
    } = work;
    case.set_conversation(match work.step {
        Step::TRANSLATE => &flow.to,
        _ => &headers.tuple,
    });
    if work.step == Step::BEGIN {
        case.key.peer = choice.backend.addr;
        case.key.peer_port = choice.backend.port;
    }
    // A pod may always talk to itself.
    if case.key.pod == case.key.peer {
        return Ok(());
    }
    let judged = if work.step == Step::BEGIN {
        policy::judge_opening(tables, work)
    } else {
        policy::judge(packet, tables, work)
    };
    if judged.is_err() {
        forget_fragment(tables, work);
    }
    judged
}

/// A packet with ports to a pod.
#[inline(always)]
fn receive<P: Packet, T: Tables>(packet: &P, tables: &T, work: &mut Workspace) -> Decision {
    let role = flow::known(tables, work);
    work.case.set_flow(role);
    work.step = match towards_pod(role, work) {
        Decision::TRANSLATE => Step::TRANSLATE,
        _ => Step::PASS,
    };
    if is_vetted(work) {
        return Decision::TRANSLATE;
    }
    if work.case.is_judged()
        && let Err(reason) = judge_received(packet, tables, work)
    {
        return Decision::drop(reason);
    }
    finish(tables, work)
}

/// Judges a packet with ports to a pod under policy.
#[inline(never)]
fn judge_received<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Result<(), DropReason> {
    work.case.set_conversation(&work.headers.tuple);
    if is_hairpin(tables, work) {
        return Ok(());
    }
    let judged = policy::judge(packet, tables, work);
    if judged.is_err() {
        forget_fragment(tables, work);
    }
    judged
}

/// Writes down what passes.
#[inline(always)]
fn finish<T: Tables>(tables: &T, work: &mut Workspace) -> Decision {
    if work.case.is_judged() || work.headers.is_fragment {
        note(tables, work);
    }
    match work.step {
        Step::PASS => Decision::PASS,
        Step::TRANSLATE => {
            // Else it would be asked no less.
            if work.case.is_judged() || is_likely_of_flow(tables, work) {
                vet(tables, work);
            }
            Decision::TRANSLATE
        }
        _ => Decision::TRANSLATE,
    }
}

/// Writes down what a packet of a pod opens, and what the rest of its datagram becomes: where the
/// pod is under policy, that it passes.
#[inline(never)]
fn note<T: Tables>(tables: &T, work: &mut Workspace) {
    let Workspace {
        headers,
        flow,
        case,
        step,
        ..
    } = work;
    if case.is_judged() {
        if *step == Step::BEGIN {
            // Another one, where the pod's own port is taken.
            case.key.pod_port = flow.to.src_port;
        }
        policy::write(tables, case);
    }
    if headers.is_fragment {
        let to = match *step {
            Step::PASS => case.is_judged().then_some(&headers.tuple),
            _ => Some(&flow.to),
        };
        fragments::remember(headers, tables, case.is_sent(), to);
    }
}

/// A packet without ports, of which the service step says this.
#[inline(always)]
fn without_port<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    decision: Decision,
) -> Decision {
    if !work.case.is_judged() {
        return decision;
    }
    work.step = match decision {
        Decision::PASS | Decision::PASS_FRAGMENT => Step::PASS,
        Decision::TRANSLATE | Decision::TRANSLATE_ERROR => Step::TRANSLATE,
        // The service step has refused it.
        _ => return decision,
    };
    if let Err(reason) = judge_without_port(packet, tables, work) {
        return Decision::drop(reason);
    }
    match (work.headers.kind(), work.step) {
        (Transport::IcmpError(_), Step::TRANSLATE) => Decision::TRANSLATE_ERROR,
        (_, Step::TRANSLATE) => Decision::TRANSLATE,
        (Transport::LaterFragment, _) => Decision::PASS_FRAGMENT,
        _ => Decision::PASS,
    }
}

/// Judges a packet without ports of a pod under policy.
#[inline(never)]
fn judge_without_port<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Result<(), DropReason> {
    let kind = work.headers.kind();
    work.case.set_flow(None);
    work.case.set_conversation(&work.headers.tuple);
    let judged = match kind {
        Transport::Discovery => return Ok(()),
        Transport::LaterFragment => return judge_later(tables, work),
        Transport::IcmpError(_) => {
            // The answers to the packet that it quotes are the conversation's.
            if work.step == Step::TRANSLATE && work.case.is_sent() {
                work.case.set_conversation(&work.flow.to);
            } else if work.quote.is_read {
                work.case.set_conversation(&work.quote.tuple.reversed());
            }
            if work.step == Step::TRANSLATE && work.case.key.pod == work.case.key.peer {
                return Ok(());
            }
            // It opens nothing, and is sent in fragments by nobody.
            return policy::judge_error(tables, work);
        }
        // A pod may always talk to itself; from elsewhere nobody is it by bearing its address.
        _ if work.case.is_sent() && work.case.key.pod == work.case.key.peer => Ok(()),
        _ => policy::judge(packet, tables, work),
    };
    if judged.is_ok() {
        note(tables, work);
    } else {
        forget_fragment(tables, work);
    }
    judged
}

/// A later fragment of a pod under policy: its first one must have been let through.
#[inline(always)]
fn judge_later<T: Tables>(tables: &T, work: &mut Workspace) -> Result<(), DropReason> {
    let case = &work.case;
    let is_known = work.step == Step::TRANSLATE
        || case.is_from_node()
        || !case.is_isolated(case.way())
        || fragments::follow(&work.headers, tables, case.is_sent(), &mut work.flow.to);
    if is_known {
        Ok(())
    } else {
        Err(DropReason::NoFirstFragment)
    }
}

/// Does a pod speak to itself through a service? A packet with its address at both ends that has
/// no such flow is not the pod's: what it sends itself without a service never leaves it.
#[inline(always)]
fn is_hairpin<T: Tables>(tables: &T, work: &Workspace) -> bool {
    let tuple = &work.headers.tuple;
    work.step == Step::TRANSLATE
        && tuple.src == tuple.dst
        && policy::is_pod_addr(tables, &work.case, tuple.dst)
}

/// Notes of a first fragment that it was refused.
#[inline(always)]
fn forget_fragment<T: Tables>(tables: &T, work: &Workspace) {
    if work.headers.is_fragment {
        fragments::remember(&work.headers, tables, work.case.is_sent(), None);
    }
}
