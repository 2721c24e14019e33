//! What happens at a pod's interface: whose it is, the service step, and what policies say.
//!
//! A packet that the pod sends is judged after its destination is known and before anything is
//! written of a flow that it opens; one that the pod receives before its source is translated
//! back.

use super::{
    Decision, Workspace, entering, flow, follow, leaving, open, refuse_without_port, towards_pod,
};
use crate::{
    event::Direction,
    fragments,
    packet::{Packet, Transport},
    policy::{self, Regime, Sender},
    service::Origin,
    tables::{Tables, Tuple},
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
    let (way, sender) = (Direction::EGRESS, Sender::Other);
    let regime = policy::enter(tables, &mut work.case, interface, way, sender);
    match regime {
        Regime::Unknown => return entering(packet, tables, work, Origin::Pod),
        Regime::Refused => return refuse_unknown(work),
        Regime::Free | Regime::Judged => {}
    }
    if !policy::is_own_source(tables, &work.case, work.headers.tuple.src) {
        return Decision::Drop(DropReason::ForgedSource);
    }
    if regime == Regime::Free {
        return entering(packet, tables, work, Origin::Pod);
    }
    if work.headers.kind().has_ports() {
        send_judged(packet, tables, work)
    } else {
        let decision = follow(packet, tables, work, true, false);
        let decision = match decision {
            Decision::Pass | Decision::PassFragment => refuse_without_port(tables, &work.headers),
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
    let way = Direction::INGRESS;
    match policy::enter(tables, &mut work.case, interface, way, sender) {
        Regime::Refused if sender == Sender::Other => return refuse_unknown(work),
        Regime::Unknown | Regime::Free | Regime::Refused => {
            return leaving(packet, tables, work, None);
        }
        Regime::Judged => {}
    }
    if sender == Sender::Itself {
        return leaving(packet, tables, work, None);
    }
    if work.headers.kind().has_ports() {
        receive_judged(packet, tables, work)
    } else {
        let decision = follow(packet, tables, work, false, false);
        without_port(packet, tables, work, decision)
    }
}

/// A packet of an interface of which nobody knows whose it is. What makes the link work passes, so
/// that the pod is reached as soon as it is known.
#[inline(always)]
fn refuse_unknown(work: &Workspace) -> Decision {
    match work.headers.kind() {
        Transport::Discovery => Decision::Pass,
        _ => Decision::Drop(DropReason::UnknownPod),
    }
}

/// A packet with ports that a pod under policy sends.
#[inline(always)]
fn send_judged<P: Packet, T: Tables>(packet: &P, tables: &T, work: &mut Workspace) -> Decision {
    let role = flow::known(tables, work);
    work.case.set_flow(role);
    let mut decision = match role {
        Some(role) if role.is_entering() => Decision::Translate,
        Some(_) => Decision::Pass,
        None => open::choose(tables, work, Origin::Pod),
    };
    let is_new_flow = role.is_none() && decision == Decision::Translate;
    match decision {
        Decision::Translate if is_new_flow => {
            let to = Tuple {
                dst: work.choice.backend.addr,
                dst_port: work.choice.backend.port,
                ..work.headers.tuple
            };
            work.case.set_conversation(&to);
        }
        Decision::Translate => work.case.set_conversation(&work.flow.to),
        Decision::Pass => work.case.set_conversation(&work.headers.tuple),
        decision => return decision,
    }
    // A pod may always talk to itself.
    if work.case.key.pod != work.case.key.peer {
        let judged = if is_new_flow {
            policy::judge_opening(tables, work)
        } else {
            policy::judge(packet, tables, work)
        };
        if let Err(reason) = judged {
            forget_fragment(tables, work);
            return Decision::Drop(reason);
        }
    }
    if is_new_flow {
        decision = open::begin(tables, work);
        if decision != Decision::Translate {
            return decision;
        }
        // Another one, where the pod's own port is taken.
        work.case.key.pod_port = work.flow.to.src_port;
    }
    policy::write(tables, &mut work.case);
    remember_fragment(tables, work, decision);
    decision
}

/// A packet with ports to a pod under policy.
#[inline(always)]
fn receive_judged<P: Packet, T: Tables>(packet: &P, tables: &T, work: &mut Workspace) -> Decision {
    let role = flow::known(tables, work);
    work.case.set_flow(role);
    work.case.set_conversation(&work.headers.tuple);
    if !is_to_itself(tables, work)
        && let Err(reason) = policy::judge(packet, tables, work)
    {
        forget_fragment(tables, work);
        return Decision::Drop(reason);
    }
    let decision = towards_pod(role, work);
    policy::write(tables, &mut work.case);
    remember_fragment(tables, work, decision);
    decision
}

/// A packet without ports of a pod under policy, of which the service step says this.
#[inline(always)]
fn without_port<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    decision: Decision,
) -> Decision {
    // By name: across a call the reason of a decision that has none would be a register that was
    // never written.
    match decision {
        Decision::Reject(_) | Decision::Drop(_) => return decision,
        Decision::Pass | Decision::PassFragment => {
            work.is_translated = false;
        }
        Decision::Translate | Decision::TranslateError => {
            work.is_translated = true;
        }
    }
    if let Err(reason) = judge_without_port(packet, tables, work) {
        return Decision::Drop(reason);
    }
    match (work.headers.kind(), work.is_translated) {
        (Transport::IcmpError(_), true) => Decision::TranslateError,
        (_, true) => Decision::Translate,
        (Transport::LaterFragment, false) => Decision::PassFragment,
        (_, false) => Decision::Pass,
    }
}

/// Judges a packet without ports.
#[inline(never)]
fn judge_without_port<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Result<(), DropReason> {
    let kind = work.headers.kind();
    work.case.set_conversation(&work.headers.tuple);
    let judged = match kind {
        Transport::Discovery => Ok(()),
        Transport::LaterFragment => judge_later(tables, work),
        Transport::IcmpError(_) => {
            // The answers to the packet that it quotes are the conversation's.
            if work.is_translated && work.case.is_sent() {
                work.case.set_conversation(&work.flow.to);
            } else if work.quote.is_read {
                work.case.set_conversation(&work.quote.tuple.reversed());
            }
            if work.quote.is_read && work.case.key.pod == work.case.key.peer {
                Ok(())
            } else {
                policy::judge_error(tables, work)
            }
        }
        _ if is_to_itself(tables, work) => Ok(()),
        _ => policy::judge(packet, tables, work),
    };
    if judged.is_err() {
        forget_fragment(tables, work);
        return judged;
    }
    policy::write(tables, &mut work.case);
    if kind != Transport::LaterFragment {
        remember_fragment(tables, work, Decision::Pass);
    }
    Ok(())
}

/// A later fragment of a pod under policy: its first one must have been let through.
#[inline(always)]
fn judge_later<T: Tables>(tables: &T, work: &mut Workspace) -> Result<(), DropReason> {
    let case = &work.case;
    let is_known = work.is_translated
        || case.is_from_node()
        || !case.is_isolated(case.way())
        || fragments::follow(&work.headers, tables, case.is_sent(), &mut work.flow.to);
    if is_known {
        Ok(())
    } else {
        Err(DropReason::NoFirstFragment)
    }
}

/// Does a packet come from the very pod that it goes to, by its addresses?
#[inline(always)]
fn is_to_itself<T: Tables>(tables: &T, work: &Workspace) -> bool {
    let tuple = &work.headers.tuple;
    tuple.src == tuple.dst && policy::is_pod_addr(tables, &work.case, tuple.dst)
}

/// Notes of a first fragment what it becomes, for those that follow.
#[inline(always)]
fn remember_fragment<T: Tables>(tables: &T, work: &Workspace, decision: Decision) {
    if work.headers.is_fragment {
        let to = match decision {
            Decision::Translate => &work.flow.to,
            _ => &work.headers.tuple,
        };
        fragments::remember(&work.headers, tables, work.case.is_sent(), Some(to));
    }
}

/// Notes of a first fragment that it was refused.
#[inline(always)]
fn forget_fragment<T: Tables>(tables: &T, work: &Workspace) {
    if work.headers.is_fragment && work.headers.kind() != Transport::LaterFragment {
        fragments::remember(&work.headers, tables, work.case.is_sent(), None);
    }
}
