//! What happens to a socket call: service addresses become backend addresses before a packet
//! exists, and are shown again to whoever asks for the peer.
//!
//! A TCP connection of a pod or of the node is translated when it is opened, and costs nothing
//! after that. UDP is translated here only for processes of the node: a pod's UDP meets
//! `from_pod`, where every datagram may choose again. Whatever is left alone here is complete
//! without it: the packet path serves every protocol.
//!
//! What is to be dropped in silence is left alone, too: a socket hook can only fail a call, and
//! the caller is to wait in vain. The packet path drops it for pods. No hook sees the node's own
//! packets yet: they leave with the service address, which nobody answers.

use crate::{
    addr::{Addr, Port, Protocol},
    conntrack,
    service::{self, Choice, Found, Lookup, Origin, Standing},
    tables::{
        Backend, FlowRole, FlowState, Frontend, FrontendFlags, FrontendKey, Nanos, SocketFlow,
        SocketKey, Tables,
    },
    verdict::RejectReason,
};

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// `SO_COOKIE` of the socket.
    pub cookie: u64,
    /// Is it a process in the node's own network namespace?
    pub is_node: bool,
}

/// The address and port that a call names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// None of our business.
    Pass,
    /// Goes on with this peer.
    Translate(Peer),
    /// Nobody answers: `ECONNREFUSED`.
    Refuse(RejectReason),
}

/// `connect(2)`, TCP and UDP.
#[inline(always)]
pub fn connect<T: Tables>(tables: &T, caller: Caller, protocol: Protocol, peer: Peer) -> Decision {
    if !translates(caller.is_node, protocol) {
        return Decision::Pass;
    }
    match choose(tables, caller, protocol, peer) {
        Err(decision) => decision,
        Ok(choice) => {
            let backend = Peer {
                addr: choice.backend.addr,
                port: choice.backend.port,
            };
            let reply = SocketFlow {
                addr: peer.addr,
                port: peer.port,
                reserved: 0,
                service: choice.service,
                revision: choice.revision,
                reserved_tail: 0,
                last_seen: tables.now(),
            };
            tables.put_socket(&key(caller, FlowRole::REPLY, protocol, backend), &reply);
            Decision::Translate(backend)
        }
    }
}

/// `sendmsg(2)` and `sendto(2)` with an address, UDP: one datagram of a socket that may talk to
/// many. It keeps its backend while that serves and the conversation lasts.
#[inline(always)]
pub fn sendmsg<T: Tables>(tables: &T, caller: Caller, peer: Peer) -> Decision {
    if !translates(caller.is_node, Protocol::UDP) {
        return Decision::Pass;
    }
    let now = tables.now();
    let forward = key(caller, FlowRole::FORWARD, Protocol::UDP, peer);
    if let Some(backend) = known_backend(tables, &forward, now) {
        return Decision::Translate(backend);
    }
    match choose(tables, caller, Protocol::UDP, peer) {
        Err(decision) => decision,
        Ok(choice) => {
            let backend = Peer {
                addr: choice.backend.addr,
                port: choice.backend.port,
            };
            let entry = |other: Peer| SocketFlow {
                addr: other.addr,
                port: other.port,
                reserved: 0,
                service: choice.service,
                revision: choice.revision,
                reserved_tail: 0,
                last_seen: now,
            };
            let reply = key(caller, FlowRole::REPLY, Protocol::UDP, backend);
            tables.put_socket(&reply, &entry(peer));
            tables.put_socket(&forward, &entry(backend));
            Decision::Translate(backend)
        }
    }
}

/// The address a datagram came from (`recvmsg(2)`), or that of a connection's other end
/// (`getpeername(2)`): the service's, where the socket spoke to a service. `None`: as it is.
#[inline(always)]
pub fn peer_name<T: Tables>(
    tables: &T,
    caller: Caller,
    protocol: Protocol,
    peer: Peer,
) -> Option<Peer> {
    let now = tables.now();
    tables.update_socket(&key(caller, FlowRole::REPLY, protocol, peer), |flow| {
        flow.last_seen = now;
        Peer {
            addr: flow.addr,
            port: flow.port,
        }
    })
}

/// Who is to answer? Or what else becomes of the call.
#[inline(always)]
fn choose<T: Tables>(
    tables: &T,
    caller: Caller,
    protocol: Protocol,
    peer: Peer,
) -> Result<Choice, Decision> {
    let frontend = match service::find(tables, &FrontendKey::new(peer.addr, peer.port, protocol)) {
        Found::Frontend(frontend) => frontend,
        Found::NoSuchPort => return Err(Decision::Refuse(RejectReason::NoSuchPort)),
        Found::Nothing => return Err(Decision::Pass),
    };
    if !caller.is_node && is_for_packets(tables, &frontend) {
        return Err(Decision::Pass);
    }
    // A pod's own address is not known before its packet leaves it: what asks for the client is
    // left to the packets.
    let client = tables.node(|node| node.addr(peer.addr.is_v4()));
    let origin = if caller.is_node {
        Origin::Node
    } else {
        Origin::Pod
    };
    match service::choose(tables, &frontend, client, origin) {
        Lookup::Chosen(choice) => Ok(choice),
        Lookup::NoBackend => Err(Decision::Refuse(RejectReason::NoBackend)),
        Lookup::NoSuchPort => Err(Decision::Refuse(RejectReason::NoSuchPort)),
        Lookup::NotAllowed => Err(Decision::Refuse(RejectReason::SourceRange)),
        Lookup::NotAService | Lookup::NoLocalEndpoint => Err(Decision::Pass),
    }
}

/// Must a pod's packets be seen? Where its source is translated or asked for: by source ranges,
/// or by session affinity.
#[inline(always)]
fn is_for_packets<T: Tables>(tables: &T, frontend: &Frontend) -> bool {
    let asking = FrontendFlags::MASQUERADE_PODS.with(FrontendFlags::SOURCE_RANGES);
    frontend.flags.intersects(asking)
        || tables
            .service(frontend.service)
            .is_some_and(|entry| entry.affinity_timeout != 0)
}

/// Is a call with this protocol translated at the socket?
#[inline(always)]
#[must_use]
pub const fn translates(is_node: bool, protocol: Protocol) -> bool {
    match protocol {
        Protocol::TCP => true,
        Protocol::UDP => is_node,
        _ => false,
    }
}

/// The backend that the conversation already has, if it may be kept.
#[inline(always)]
fn known_backend<T: Tables>(tables: &T, forward: &SocketKey, now: Nanos) -> Option<Peer> {
    let lifetime = conntrack::lifetime(Protocol::UDP, FlowState::ESTABLISHED);
    let (flow, is_news) = tables.update_socket(forward, |flow| {
        let silent = now.saturating_sub(flow.last_seen);
        if silent > lifetime {
            return None;
        }
        // As in `datapath`: the two entries age together.
        let is_news = silent >= conntrack::REFRESH;
        if is_news {
            flow.last_seen = now;
        }
        Some((*flow, is_news))
    })??;
    let backend = Backend::new(flow.addr, flow.port);
    let is_changed = match service::standing(tables, flow.service, flow.revision, backend) {
        Standing::Unchanged => false,
        Standing::StillServing(revision) => {
            tables.update_socket(forward, |flow| flow.revision = revision);
            true
        }
        Standing::Gone => return None,
    };
    if is_news || is_changed {
        // The reply's entry may have been forgotten: the least recently used goes.
        let reply = SocketKey {
            addr: flow.addr,
            port: flow.port,
            role: FlowRole::REPLY,
            ..*forward
        };
        let entry = SocketFlow {
            addr: forward.addr,
            port: forward.port,
            ..flow
        };
        tables.put_socket(&reply, &entry);
    }
    Some(Peer {
        addr: flow.addr,
        port: flow.port,
    })
}

#[inline(always)]
const fn key(caller: Caller, role: FlowRole, protocol: Protocol, peer: Peer) -> SocketKey {
    SocketKey {
        cookie: caller.cookie,
        addr: peer.addr,
        port: peer.port,
        protocol,
        role,
        reserved: 0,
    }
}
