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
    service::{self, Lookup, Standing},
    tables::{Backend, FlowRole, FlowState, FrontendKey, Nanos, SocketFlow, SocketKey, Tables},
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
    if !translates(caller, protocol) {
        return Decision::Pass;
    }
    match service::select(tables, &FrontendKey::new(peer.addr, peer.port, protocol)) {
        Lookup::NotAService | Lookup::NoLocalEndpoint => Decision::Pass,
        Lookup::NoSuchPort => Decision::Refuse(RejectReason::NoSuchPort),
        Lookup::NoBackend => Decision::Refuse(RejectReason::NoBackend),
        Lookup::Chosen(choice) => {
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
    if !translates(caller, Protocol::UDP) {
        return Decision::Pass;
    }
    let now = tables.now();
    let forward = key(caller, FlowRole::FORWARD, Protocol::UDP, peer);
    if let Some(backend) = known_backend(tables, &forward, now) {
        return Decision::Translate(backend);
    }
    match service::select(
        tables,
        &FrontendKey::new(peer.addr, peer.port, Protocol::UDP),
    ) {
        Lookup::NotAService | Lookup::NoLocalEndpoint => Decision::Pass,
        Lookup::NoSuchPort => Decision::Refuse(RejectReason::NoSuchPort),
        Lookup::NoBackend => Decision::Refuse(RejectReason::NoBackend),
        Lookup::Chosen(choice) => {
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

/// Is a call with this protocol translated at the socket?
#[inline(always)]
const fn translates(caller: Caller, protocol: Protocol) -> bool {
    match protocol {
        Protocol::TCP => true,
        Protocol::UDP => caller.is_node,
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
