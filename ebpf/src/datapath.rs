//! What happens to a packet, one function for each hook: the order of the steps.
//!
//! Invariants:
//! - Destination translation happens where a packet enters the node from its client, the reverse
//!   where the reply leaves the node towards that client. Everything between sees pod addresses
//!   in both directions.
//! - The reply of a translated flow is translated back, whatever has since happened to the
//!   service.
//! - A flow remembers its backend's address, never its slot.
//! - A packet leaves with exactly one verdict, counted once; every drop has a reason.
//! - Traffic that is none of our business passes untouched.
//!
//! A decision is a value; [`carry_out`] performs it on the packet.

use crate::{
    addr::{Port, Protocol},
    conntrack, nat,
    packet::{Headers, NotParsed, PacketMut, Transport},
    reject,
    service::{self, Choice, Lookup, Standing},
    tables::{Backend, Flow, FlowFlags, FlowRole, FlowState, Tables, Tuple},
    verdict::{DropReason, RejectReason, Verdict},
};

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it as it is.
    Pass,
    /// Give it the addresses and ports that its [`Flow`] says.
    Translate,
    /// Answer it.
    Reject(RejectReason),
    /// Let it disappear.
    Drop(DropReason),
}

impl Decision {
    /// The verdict, if carrying out the decision succeeds.
    #[inline(always)]
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Pass => Verdict::Pass,
            Self::Translate => Verdict::Translate,
            Self::Reject(reason) => Verdict::Reject(reason),
            Self::Drop(reason) => Verdict::Drop(reason),
        }
    }
}

/// The decision about a packet whose headers could not be read.
#[inline(always)]
#[must_use]
pub const fn not_parsed(why: NotParsed) -> Decision {
    match why {
        NotParsed::NotIp => Decision::Pass,
        NotParsed::Malformed => Decision::Drop(DropReason::Malformed),
    }
}

/// A packet that a pod sends: DNAT to a backend, and the reverse of a hairpin's SNAT.
///
/// `flow` is where the packet's flow is put, if it has one. It is the caller's, as the packet's
/// headers are, since every copy is stack that a program does not have.
#[inline(always)]
pub fn from_pod<T: Tables>(headers: &Headers, tables: &T, flow: &mut Flow) -> Decision {
    if !headers.kind().has_ports() {
        return Decision::Pass;
    }
    match known_flow(headers, tables, flow) {
        Some(FlowRole::FORWARD | FlowRole::SNAT_REPLY) => Decision::Translate,
        Some(_) => Decision::Pass,
        None => new_flow(headers, tables, flow),
    }
}

/// A packet that a pod receives: the reverse of DNAT for the pod's own flows, and SNAT of a
/// hairpin. `flow` as in [`from_pod`].
#[inline(always)]
pub fn to_pod<T: Tables>(headers: &Headers, tables: &T, flow: &mut Flow) -> Decision {
    if !headers.kind().has_ports() {
        return Decision::Pass;
    }
    match known_flow(headers, tables, flow) {
        Some(FlowRole::REPLY | FlowRole::SNAT_FORWARD) => Decision::Translate,
        Some(_) | None => Decision::Pass,
    }
}

/// Performs a decision. The verdict differs from the decision's own where the packet could not
/// be changed or answered.
#[inline(always)]
pub fn carry_out<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    decision: Decision,
    flow: &Flow,
) -> Verdict {
    match decision {
        Decision::Pass => Verdict::Pass,
        Decision::Translate => match nat::translate(packet, headers, &flow.to) {
            Some(()) => Verdict::Translate,
            None => Verdict::Drop(DropReason::NotRewritten),
        },
        Decision::Reject(reason) => match reject::answer(packet, headers) {
            Some(()) => Verdict::Reject(reason),
            None => Verdict::Drop(DropReason::Unanswerable),
        },
        Decision::Drop(reason) => Verdict::Drop(reason),
    }
}

/// Finds the flow of a packet and notes that it was seen. `None`: there is none, or none that
/// still counts.
#[inline(never)]
fn known_flow<T: Tables>(headers: &Headers, tables: &T, flow: &mut Flow) -> Option<FlowRole> {
    let now = tables.now();
    let kind = headers.kind();
    let is_news = tables.update_flow(&headers.tuple, |entry| {
        if conntrack::is_expired(entry, now) || conntrack::begins_anew(entry.state, kind) {
            return None;
        }
        let state = conntrack::advance(entry.state, kind, entry.role.is_original());
        let is_news =
            state != entry.state || now.saturating_sub(entry.last_seen) >= conntrack::REFRESH;
        // Between news the entry is left alone: the time noted in it is the time told to the
        // other direction, so that the two age together however one-sided the traffic.
        if is_news {
            entry.state = state;
            entry.last_seen = now;
        }
        *flow = *entry;
        Some(is_news)
    })??;
    if flow.role == FlowRole::FORWARD && !still_serves(headers, flow, tables) {
        return None;
    }
    if is_news {
        let is_ours = tell_other_direction(&headers.tuple, flow, tables);
        // A flow whose replies another flow would get opens anew, and so does one that could not
        // enter its pod.
        if flow.role == FlowRole::FORWARD && (!is_ours || is_hairpin_without_inner(flow, tables)) {
            return None;
        }
    }
    Some(flow.role)
}

/// Is this a pod's flow to itself whose second pair of entries has been forgotten?
#[inline(always)]
fn is_hairpin_without_inner<T: Tables>(flow: &Flow, tables: &T) -> bool {
    flow.to.src == flow.to.dst && tables.update_flow(&flow.to, |_| ()).is_none()
}

/// May this flow go on with its backend? A flow that may not is forgotten.
#[inline(always)]
fn still_serves<T: Tables>(headers: &Headers, flow: &Flow, tables: &T) -> bool {
    if !conntrack::may_choose_again(flow.state, headers.kind()) {
        return true;
    }
    let backend = Backend::new(flow.to.dst, flow.to.dst_port);
    match service::standing(tables, flow.service, flow.revision, backend) {
        Standing::Unchanged => true,
        Standing::StillServing(revision) => {
            tables.update_flow(&headers.tuple, |flow| flow.revision = revision);
            true
        }
        Standing::Gone => {
            forget(&headers.tuple, flow, tables);
            false
        }
    }
}

/// Removes a flow whose backend has gone.
///
/// The entry of its replies stays for UDP and ages: the old backend may still answer what it was
/// asked. It goes for a handshake, which the old backend must not complete with the client while
/// another begins it.
#[inline(never)]
fn forget<T: Tables>(tuple: &Tuple, flow: &Flow, tables: &T) {
    tables.remove_flow(tuple);
    if flow.to.protocol == Protocol::UDP {
        return;
    }
    let other = flow.to.reversed();
    let back = tuple.reversed();
    // It may be another flow's by now.
    if tables.update_flow(&other, |present| present.to == back) == Some(true) {
        tables.remove_flow(&other);
    }
}

/// Tells the entry of the other direction that the flow lives and how it stands, and writes it
/// again if it has been forgotten. `false`: another flow has taken the tuple over.
#[inline(never)]
fn tell_other_direction<T: Tables>(tuple: &Tuple, flow: &Flow, tables: &T) -> bool {
    let other = flow.to.reversed();
    let entry = opposite(tuple, flow);
    let told = tables.update_flow(&other, |present| {
        // Another flow is not to be spoken for.
        let is_ours = present.to == entry.to;
        if is_ours {
            present.last_seen = entry.last_seen;
            // Another processor may have moved it further in the meantime.
            if entry.state.0 > present.state.0 {
                present.state = entry.state;
            }
        }
        is_ours
    });
    match told {
        Some(is_ours) => is_ours,
        // Where another processor was quicker, the next news will tell.
        None => {
            tables.add_flow(&other, &entry);
            true
        }
    }
}

/// The entry of the other direction.
#[inline(always)]
const fn opposite(tuple: &Tuple, flow: &Flow) -> Flow {
    let role = match flow.role {
        FlowRole::FORWARD => FlowRole::REPLY,
        FlowRole::REPLY => FlowRole::FORWARD,
        FlowRole::SNAT_FORWARD => FlowRole::SNAT_REPLY,
        _ => FlowRole::SNAT_FORWARD,
    };
    Flow {
        to: tuple.reversed(),
        role,
        ..*flow
    }
}

/// A packet without a flow: is it addressed to a service?
#[inline(never)]
fn new_flow<T: Tables>(headers: &Headers, tables: &T, flow: &mut Flow) -> Decision {
    match service::select(tables, &service::frontend_key(&headers.tuple)) {
        Lookup::NotAService => Decision::Pass,
        Lookup::NoSuchPort => Decision::Reject(RejectReason::NoSuchPort),
        Lookup::NoBackend => Decision::Reject(RejectReason::NoBackend),
        Lookup::NoLocalEndpoint => Decision::Drop(DropReason::NoLocalEndpoint),
        Lookup::Chosen(choice) => open_flow(headers, choice, tables, flow),
    }
}

/// Source ports tried when the packet's own is taken.
const PORT_TRIES: u32 = 8;

/// Writes the entries of a new flow.
#[inline(always)]
fn open_flow<T: Tables>(
    headers: &Headers,
    choice: Choice,
    tables: &T,
    flow: &mut Flow,
) -> Decision {
    let tuple = &headers.tuple;
    if tuple.dst_port != choice.backend.port && !may_change_port(headers.kind()) {
        return Decision::Drop(DropReason::SctpPort);
    }
    *flow = Flow {
        to: Tuple {
            dst: choice.backend.addr,
            dst_port: choice.backend.port,
            ..*tuple
        },
        last_seen: tables.now(),
        service: choice.service,
        revision: choice.revision,
        state: conntrack::advance(FlowState::OPENING, headers.kind(), true),
        role: FlowRole::FORWARD,
        flags: FlowFlags::NONE,
        reserved: [0; 5],
    };
    let is_hairpin = flow.to.src == flow.to.dst;
    // A hairpin from the very port it goes to would have one tuple in both directions.
    let is_own_reply = is_hairpin && flow.to.src_port == flow.to.dst_port;
    // Else the port is taken where the pod already talks from it to this backend through another
    // address.
    if (is_own_reply || !claim_reply(tuple, flow, tables))
        && !claim_with_other_port(headers, tuple, flow, tables)
    {
        return Decision::Drop(DropReason::NoSourcePort);
    }
    // Last, since the next packet relies on this entry alone.
    if is_hairpin && !open_hairpin(headers, flow, tables) {
        return Decision::Drop(DropReason::NoSourcePort);
    }
    tables.put_flow(tuple, flow);
    Decision::Translate
}

/// SCTP's checksum covers the ports and costs too much to change.
#[inline(always)]
const fn may_change_port(kind: Transport) -> bool {
    !matches!(kind, Transport::Sctp(_))
}

/// Takes the tuple of the replies to a flow with this tuple. `false`: another flow that lives
/// has it, or has replies that look like this flow's packets: two pods that talk to each other
/// through services, each from the port that it serves.
#[inline(never)]
fn claim_reply<T: Tables>(tuple: &Tuple, flow: &Flow, tables: &T) -> bool {
    let looks_like_a_reply = tables.update_flow(&flow.to, |present| {
        !present.role.is_original() && !conntrack::is_expired(present, flow.last_seen)
    });
    if looks_like_a_reply == Some(true) {
        return false;
    }
    let key = flow.to.reversed();
    let entry = opposite(tuple, flow);
    if tables.add_flow(&key, &entry) {
        return true;
    }
    tables
        .update_flow(&key, |present| {
            let is_ours = present.to == entry.to && present.role == entry.role;
            let is_free = is_ours
                || conntrack::is_expired(present, entry.last_seen)
                || present.state == FlowState::CLOSED;
            if is_free {
                *present = entry;
            }
            is_free
        })
        .unwrap_or(false)
}

/// Takes the tuple of the replies to a flow whose source port is to be another one.
#[inline(always)]
fn claim_with_other_port<T: Tables>(
    headers: &Headers,
    tuple: &Tuple,
    flow: &mut Flow,
    tables: &T,
) -> bool {
    if !may_change_port(headers.kind()) {
        return false;
    }
    for _ in 0..PORT_TRIES {
        flow.to.src_port = random_port(tables);
        // The node is not described yet: zero is no port to answer to.
        if flow.to.src_port == Port(0) {
            return false;
        }
        if claim_reply(tuple, flow, tables) {
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
fn open_hairpin<T: Tables>(headers: &Headers, flow: &Flow, tables: &T) -> bool {
    let node = tables.node().unwrap_or_default();
    let node_addr = if headers.is_v4 {
        node.addr_v4
    } else {
        node.addr_v6
    };
    let tuple = &flow.to;
    let mut inner = Flow {
        role: FlowRole::SNAT_FORWARD,
        ..*flow
    };
    inner.to.src = if node_addr.is_unspecified() {
        headers.tuple.dst
    } else {
        node_addr
    };
    let is_claimed = if may_change_port(headers.kind()) {
        claim_with_other_port(headers, tuple, &mut inner, tables)
    } else {
        claim_reply(tuple, &inner, tables)
    };
    if is_claimed {
        tables.put_flow(tuple, &inner);
    }
    is_claimed
}

/// A port for a translated source, each of the node's range as likely as the others.
#[inline(always)]
fn random_port<T: Tables>(tables: &T) -> Port {
    let [first, second] = tables.node().unwrap_or_default().snat_ports;
    let count = first.count() + second.count();
    let product = u64::from(tables.random()) * u64::from(count);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "less than count, which is less than 2^17"
    )]
    let offset = (product >> 32) as u32;
    let port = if offset < first.count() {
        u32::from(first.min) + offset
    } else {
        u32::from(second.min) + offset - first.count()
    };
    #[allow(
        clippy::cast_possible_truncation,
        reason = "in one of two ranges of ports"
    )]
    Port::new(port as u16)
}
