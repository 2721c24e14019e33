//! From a frontend to one of its backends.

use crate::{
    addr::Addr,
    conntrack::SECOND,
    tables::{
        Affinity, AffinityKey, Backend, BackendFlags, BackendKey, Frontend, FrontendFlags,
        FrontendKey, Nanos, Service, ServiceFlags, ServingKey, Tables, Tuple,
    },
};

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a pod of this node.
    Pod,
    /// In a process of the node itself.
    Node,
    /// Beyond this node.
    Outside,
}

/// What stands behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No service has this address.
    NotAService,
    /// Some service has this cluster IP, and none has this port and protocol of it.
    NoSuchPort,
    /// A service port has it, and nobody serves that anywhere.
    NoBackend,
    /// There are endpoints, and the traffic policy Local forbids each of them.
    NoLocalEndpoint,
    /// The service's source ranges leave out the client.
    NotAllowed,
    /// This backend was chosen.
    Chosen(Choice),
}

/// A backend and the edition of the service port it was chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// As in [`Frontend`].
    pub service: u32,
    /// As in [`crate::tables::Service`].
    pub revision: u32,
    /// Where the packet goes.
    pub backend: Backend,
    /// Does it leave this node with the node's address?
    pub is_masqueraded: bool,
}

/// What is known of an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A service port is reached there.
    Frontend(Frontend),
    /// Some service has this cluster IP, and none has this port and protocol of it.
    NoSuchPort,
    /// Nothing.
    Nothing,
}

/// Looks up an address and port.
///
/// What is addressed to no service port costs one lookup; a second one where the port is one of
/// the node ports or the address lies among cluster IPs.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, key: &FrontendKey) -> Found {
    if let Some(frontend) = tables.frontend(key) {
        return Found::Frontend(frontend);
    }
    let is_v4 = key.addr.is_v4();
    let (may_be_node_port, may_be_cluster_ip) = tables.node(|node| {
        (
            node.node_ports.contains(key.port.number()),
            node.covers(key.addr),
        )
    });
    if may_be_node_port && tables.is_node_port_addr(&key.addr) {
        let node_port = FrontendKey::node_port(is_v4, key.port, key.protocol);
        if let Some(frontend) = tables.frontend(&node_port) {
            return Found::Frontend(frontend);
        }
    }
    if may_be_cluster_ip && is_cluster_ip(tables, key.addr) {
        return Found::NoSuchPort;
    }
    Found::Nothing
}

/// Has some service this cluster IP?
#[inline(always)]
pub fn is_cluster_ip<T: Tables>(tables: &T, addr: Addr) -> bool {
    tables.frontend(&FrontendKey::address_only(addr)).is_some()
}

/// Chooses among the backends of a frontend: the one that the client had, where the service
/// wants that; else each is as likely as the others.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, frontend: &Frontend, client: Addr, origin: Origin) -> Lookup {
    if frontend.flags.contains(FrontendFlags::SOURCE_RANGES)
        && !tables.is_source_allowed(frontend.service, &client)
    {
        return Lookup::NotAllowed;
    }
    let service = match origin {
        Origin::Pod | Origin::Node => frontend.service,
        Origin::Outside => frontend.from_outside,
    };
    let Some(entry) = tables.service(service) else {
        return Lookup::NoBackend;
    };
    if entry.backend_count == 0 {
        return without_backend(&entry);
    }
    let key = AffinityKey {
        client,
        affinity: entry.affinity,
    };
    let is_sticky = entry.affinity_timeout != 0;
    let remembered = if is_sticky {
        recall(tables, &key, service, entry.affinity_timeout)
    } else {
        None
    };
    let backend = match remembered {
        Some(backend) => backend,
        None => match any(tables, service, entry.backend_count) {
            Some(backend) => backend,
            None => return without_backend(&entry),
        },
    };
    if is_sticky && remembered.is_none() {
        let affinity = Affinity {
            backend,
            reserved: 0,
            last_used: tables.now(),
        };
        tables.put_affinity(&key, &affinity);
    }
    let masquerade = match origin {
        Origin::Pod => frontend.flags.contains(FrontendFlags::MASQUERADE_PODS),
        Origin::Outside => frontend.flags.contains(FrontendFlags::MASQUERADE_OUTSIDE),
        // It has the node's address already.
        Origin::Node => false,
    };
    Lookup::Chosen(Choice {
        service,
        revision: entry.revision,
        backend,
        is_masqueraded: masquerade && !backend.flags.contains(BackendFlags::LOCAL),
    })
}

/// One of the backends.
#[inline(always)]
fn any<T: Tables>(tables: &T, service: u32, backend_count: u32) -> Option<Backend> {
    let slot = below(backend_count, tables.random());
    match tables.backend(&BackendKey { service, slot }) {
        Some(backend) => Some(backend),
        // The count was read before the agent lowered it and removed the slot: the first slot is
        // the last to go.
        None => tables.backend(&BackendKey { service, slot: 0 }),
    }
}

/// A number below `count`, each as likely as the others, from one that is uniform over all of
/// `u32`.
#[inline(always)]
pub(crate) const fn below(count: u32, random: u32) -> u32 {
    // The upper half of the product is uniform over 0..count, without a division.
    let product = random as u64 * count as u64;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a product of two u32, shifted by 32"
    )]
    {
        (product >> 32) as u32
    }
}

/// The backend that the client had, if that was not too long ago and it is among those chosen
/// (`spec.sessionAffinityConfig.clientIP.timeoutSeconds`). Each new flow begins the time anew.
#[inline(always)]
fn recall<T: Tables>(
    tables: &T,
    key: &AffinityKey,
    service: u32,
    timeout_seconds: u32,
) -> Option<Backend> {
    let now = tables.now();
    let timeout = Nanos::from(timeout_seconds) * SECOND;
    let backend = tables.update_affinity(key, |affinity| {
        let is_recent = now.saturating_sub(affinity.last_used) <= timeout;
        is_recent.then(|| {
            affinity.last_used = now;
            affinity.backend
        })
    })??;
    let key = ServingKey {
        service,
        backend: backend.identity(),
    };
    tables.is_serving(&key).then_some(backend)
}

/// Why a service port has nobody to send a packet to.
#[inline(always)]
const fn without_backend(entry: &Service) -> Lookup {
    if entry.flags.contains(ServiceFlags::DROPS_WITHOUT_BACKEND) {
        Lookup::NoLocalEndpoint
    } else {
        Lookup::NoBackend
    }
}

/// Looks up an address and port, and chooses among the backends there.
#[inline(always)]
pub fn select<T: Tables>(tables: &T, key: &FrontendKey, client: Addr, origin: Origin) -> Lookup {
    match find(tables, key) {
        Found::Frontend(frontend) => choose(tables, &frontend, client, origin),
        Found::NoSuchPort => Lookup::NoSuchPort,
        Found::Nothing => Lookup::NotAService,
    }
}

/// The frontend a packet with this tuple is addressed to.
#[inline(always)]
#[must_use]
pub const fn frontend_key(tuple: &Tuple) -> FrontendKey {
    FrontendKey::new(tuple.dst, tuple.dst_port, tuple.protocol)
}

/// What has become of a backend since it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The set of backends is the same.
    Unchanged,
    /// It has changed to this revision, and the backend still is in it.
    StillServing(u32),
    /// The backend is not in it any more.
    Gone,
}

/// Asks whether a backend chosen under a revision still serves.
#[inline(always)]
pub fn standing<T: Tables>(tables: &T, service: u32, revision: u32, backend: Backend) -> Standing {
    let Some(entry) = tables.service(service) else {
        return Standing::Gone;
    };
    if entry.revision == revision {
        return Standing::Unchanged;
    }
    let key = ServingKey {
        service,
        backend: backend.identity(),
    };
    if tables.is_serving(&key) {
        Standing::StillServing(entry.revision)
    } else {
        Standing::Gone
    }
}
