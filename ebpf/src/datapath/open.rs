//! A packet without a flow: is it addressed to a service? Then a flow begins.

use super::{Decision, Spare, Workspace};
use crate::{
    addr::Port,
    conntrack,
    packet::Transport,
    service::{self, Choice, Found, Lookup, Origin},
    tables::{
        Backend, Flow, FlowFlags, FlowRole, FlowState, Place, PolicyFlags, PortRange, Tables, Tuple,
    },
    verdict::{DropReason, RejectReason},
};

/// Source ports tried when the packet's own is taken.
const PORT_TRIES: u32 = 8;

/// Decides about a packet that has no flow: `Translate` where it is to have one, which
/// [`begin`] writes. What is chosen for it is put into `work`.
#[inline(never)]
pub(super) fn choose<T: Tables>(tables: &T, work: &mut Workspace, origin: Origin) -> Decision {
    let tuple = &work.headers.tuple;
    let lookup = match service::find(tables, &service::frontend_key(tuple)) {
        Found::Frontend(_) if is_anothers(tables, work.headers.kind()) => return Decision::PASS,
        Found::Frontend(frontend) => service::choose(tables, &frontend, tuple.src, origin),
        Found::NoSuchPort => Lookup::NoSuchPort,
        Found::Nothing => Lookup::NotAService,
    };
    work.choice = match lookup {
        Lookup::Chosen(choice) => choice,
        Lookup::NotAService => match beside_translated(tables, work, origin) {
            Some(choice) => choice,
            None => return Decision::PASS,
        },
        Lookup::NoSuchPort => return Decision::reject(RejectReason::NoSuchPort),
        Lookup::NoBackend => return Decision::reject(RejectReason::NoBackend),
        Lookup::NoLocalEndpoint => return Decision::drop(DropReason::NoLocalEndpoint),
        Lookup::NotAllowed => return Decision::drop(DropReason::SourceRange),
    };
    Decision::TRANSLATE
}

/// Does a packet without a flow continue a connection that another service proxy translated, with
/// the kernel's connection tracking? Whichever backend was chosen here, it would not be that one.
#[inline(always)]
fn is_anothers<T: Tables>(tables: &T, kind: Transport) -> bool {
    match kind {
        Transport::Tcp(_) | Transport::Sctp(_) => {
            !conntrack::is_opening(kind)
                && tables.policy().flags.contains(PolicyFlags::LEAVE_TRACKED)
        }
        Transport::Udp
        | Transport::LaterFragment
        | Transport::IcmpError(_)
        | Transport::Echo
        | Transport::EchoReply
        | Transport::Discovery
        | Transport::Other => false,
    }
}

/// The beginning of a conversation past all services. Its client may have talked from the same port
/// to the same pod through a service: the kernel that chose the port saw another address then, as
/// it does whenever some connections are translated at the socket and others here. The answers
/// look alike; so the old flow steps aside where it is over, and else the new one gets another
/// port, as connection tracking gives it one.
///
/// What the new one is led to, if it is to be translated: where it goes by itself.
#[inline(always)]
fn beside_translated<T: Tables>(
    tables: &T,
    work: &mut Workspace,
    origin: Origin,
) -> Option<Choice> {
    let kind = work.headers.kind();
    let may_open = conntrack::is_opening(kind) || matches!(kind, Transport::Udp);
    if !may_open || !is_beside_translated(tables, work, FlowFlags::of(origin)) {
        return None;
    }
    let tuple = &work.headers.tuple;
    // Number 0 is no service's: nothing about it ever changes.
    Some(Choice {
        service: 0,
        revision: 0,
        backend: Backend::new(tuple.dst, tuple.dst_port),
        is_masqueraded: false,
    })
}

/// Would the answers to a packet without a flow, to no service, be taken for those of a flow that
/// goes on, and began where this one would? To one that began elsewhere it may belong: see
/// [`known_on_entering`](super::flow::known_on_entering).
#[inline(never)]
fn is_beside_translated<T: Tables>(tables: &T, work: &mut Workspace, flags: FlowFlags) -> bool {
    let is_datagram = matches!(work.headers.kind(), Transport::Udp);
    if is_datagram && tables.flow_cache(work.place, |cached| cached.is_alone) == Some(1) {
        return false;
    }
    let now = tables.now();
    let Workspace { headers, spare, .. } = work;
    let tuple = &mut headers.tuple;
    let was_beside = tuple.is_beside != 0;
    tuple.is_beside = 0;
    spare.key = tuple.reversed();
    let found = tables.flow_entry(&spare.key, |present| {
        let is_over =
            present.state.0 >= FlowState::CLOSING.0 || conntrack::is_expired(present, now);
        let is_like = present.role == FlowRole::REPLY && present.flags.begin_as(flags);
        (is_like, is_over)
    });
    if found == Some((true, false)) {
        tuple.is_beside = was_beside as u8;
        return true;
    }
    let is_over = found == Some((true, true));
    if is_over {
        tables.remove_flow(&spare.key);
    }
    // What follows would be taken for the old flow's where it leaves.
    if (is_over || was_beside)
        && tables.flow_entry(tuple, |present| present.role) == Some(FlowRole::SNAT_FORWARD)
    {
        tables.remove_flow(tuple);
    }
    if is_datagram && found.is_none() {
        tables.flow_cache(work.place, |cached| cached.is_alone = 1);
    }
    false
}

/// Writes the entries of a new flow to what was chosen. Is its client's port taken, by what has no
/// flow here?
#[inline(never)]
pub(super) fn begin<T: Tables>(
    tables: &T,
    work: &mut Workspace,
    origin: Origin,
    is_taken: bool,
) -> Decision {
    let Workspace {
        headers,
        flow,
        inner,
        spare,
        choice,
        ..
    } = work;
    let tuple = &headers.tuple;
    *flow = Flow {
        to: Tuple {
            dst: choice.backend.addr,
            dst_port: choice.backend.port,
            is_beside: 0,
            ..*tuple
        },
        last_seen: tables.now(),
        service: choice.service,
        revision: choice.revision,
        state: conntrack::advance(FlowState::OPENING, headers.kind(), true),
        role: FlowRole::FORWARD,
        flags: FlowFlags::of(origin),
        vetted_late: 0,
        vetted: 0,
    };
    let is_hairpin = flow.to.src == flow.to.dst;
    if is_hairpin || choice.is_masqueraded {
        flow.flags.0 |= FlowFlags::SNAT.0;
    }
    // A hairpin from the very port it goes to would have one tuple in both directions.
    let is_own_reply = is_hairpin && flow.to.src_port == flow.to.dst_port;
    // Else the port is taken where the client already talks from it to this backend through
    // another address.
    if (is_taken || is_own_reply || !claim_reply(tuple, flow, spare, tables))
        && !claim_with_other_port(tuple, flow, spare, tables)
    {
        return Decision::drop(DropReason::NoSourcePort);
    }
    // Last, since the next packet relies on this entry alone.
    if is_hairpin {
        *inner = *flow;
        inner.role = FlowRole::SNAT_FORWARD;
        if !open_hairpin(
            headers.is_v4,
            &headers.tuple,
            &flow.to,
            inner,
            spare,
            tables,
        ) {
            return Decision::drop(DropReason::NoSourcePort);
        }
    } else if choice.is_masqueraded {
        *inner = *flow;
        inner.role = FlowRole::SNAT_FORWARD;
        // Which address and port will be known where it leaves the node.
        inner.to.src = crate::addr::Addr::UNSPECIFIED;
        tables.put_flow(&flow.to, inner);
    }
    tables.put_flow(&headers.tuple, flow);
    Decision::TRANSLATE
}

/// Takes the tuple of the replies to a flow with this tuple. `false`: another flow that lives
/// has it, or has replies that look like this flow's packets: two pods that talk to each other
/// through services, each from the port that it serves. Or this one is masqueraded, and between its
/// two translations its packets would look like those of a client that talks past the service and
/// was given another port.
#[inline(never)]
pub(super) fn claim_reply<T: Tables>(
    tuple: &Tuple,
    flow: &Flow,
    spare: &mut Spare,
    tables: &T,
) -> bool {
    let is_masqueraded = flow.flags.contains(FlowFlags::SNAT) && flow.role == FlowRole::FORWARD;
    let is_anothers = tables.flow_entry(&flow.to, |present| {
        let is_in_the_way =
            !present.role.is_original() | (is_masqueraded & (present.role == FlowRole::FORWARD));
        is_in_the_way && !conntrack::is_expired(present, flow.last_seen)
    });
    if is_anothers == Some(true) {
        return false;
    }
    spare.oppose(tuple, flow);
    let is_claimed = claim_entry(spare, tables);
    // What comes by itself to where this flow is led is not alone any more.
    tables.note_flow_change(Place::of(&flow.to));
    is_claimed
}

/// Writes an entry of replies where there is none, or one that is free. `false`: there is another.
#[inline(always)]
fn claim_entry<T: Tables>(spare: &Spare, tables: &T) -> bool {
    if tables.add_flow(&spare.key, &spare.entry) {
        return true;
    }
    let entry = &spare.entry;
    tables
        .update_flow(&spare.key, |present| {
            let is_ours = present.to == entry.to && present.role == entry.role;
            let is_free = is_ours
                || conntrack::is_expired(present, entry.last_seen)
                || present.state == FlowState::CLOSED;
            if is_free {
                *present = *entry;
            }
            is_free
        })
        .unwrap_or(false)
}

/// Takes the tuple of the replies to a flow whose source port is to be another one.
#[inline(always)]
fn claim_with_other_port<T: Tables>(
    tuple: &Tuple,
    flow: &mut Flow,
    spare: &mut Spare,
    tables: &T,
) -> bool {
    for _ in 0..PORT_TRIES {
        flow.to.src_port = random_port(tables);
        // The node is not described yet: zero is no port to answer to.
        if flow.to.src_port == Port(0) {
            return false;
        }
        if claim_reply(tuple, flow, spare, tables) {
            return true;
        }
    }
    false
}

/// The second pair of entries of a flow that goes back into the pod it came from: on its way in
/// its source becomes the node, since a pod drops what seems to come from itself.
///
/// Where the node has no address of the family, the address that the client asked for takes its
/// place: it is no pod's, and leads back to the node just as well. The node's own connections to
/// the pod use the kernel's range of ports; a port outside it is never theirs.
#[inline(always)]
fn open_hairpin<T: Tables>(
    is_v4: bool,
    asked: &Tuple,
    tuple: &Tuple,
    inner: &mut Flow,
    spare: &mut Spare,
    tables: &T,
) -> bool {
    let node_addr = tables.node(|node| node.addr(is_v4));
    inner.to.src = if node_addr.is_unspecified() {
        asked.dst
    } else {
        node_addr
    };
    let is_claimed = claim_with_other_port(tuple, inner, spare, tables);
    if is_claimed {
        tables.put_flow(tuple, inner);
    }
    is_claimed
}

/// A port for a translated source, each of the node's ranges as likely as the others.
#[inline(always)]
pub(super) fn random_port<T: Tables>(tables: &T) -> Port {
    let random = tables.random();
    tables.node(|node| nth_port(node.snat_ports, random))
}

/// The port at a place between the first (0) and the last (2³²) of two ranges.
#[inline(always)]
fn nth_port([first, second]: [PortRange; 2], place: u32) -> Port {
    let offset = service::below(first.count() + second.count(), place);
    let port = if offset < first.count() {
        u32::from(first.min) + offset
    } else {
        u32::from(second.min) + (offset - first.count())
    };
    #[allow(clippy::cast_possible_truncation, reason = "a port of a range")]
    Port::new(port as u16)
}
