//! Service ports: where they are reached, and by whom they are served.

use bytemuck::{Pod, Zeroable};

use super::Nanos;
use crate::addr::{Addr, Port, Protocol};

/// What a packet is addressed to: an address, port and protocol at which a service port is
/// reached; an address alone ([`FrontendKey::address_only`]); or a node port
/// ([`FrontendKey::node_port`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FrontendKey {
    /// A cluster IP, external IP or load balancer IP; unspecified for a node port.
    pub addr: Addr,
    /// The port; zero with an address alone.
    pub port: Port,
    /// TCP, UDP or SCTP; zero with an address alone.
    pub protocol: Protocol,
    /// Zero.
    pub reserved: u8,
}

impl FrontendKey {
    /// "Some service has this cluster IP": where the exact key is missing and this one is
    /// present, nobody answers at that port, and the packet is refused.
    #[inline(always)]
    #[must_use]
    pub const fn address_only(addr: Addr) -> Self {
        Self::new(addr, Port(0), Protocol(0))
    }

    /// Is this an address alone?
    #[inline(always)]
    #[must_use]
    pub const fn is_address_only(&self) -> bool {
        self.port.0 == 0 && self.protocol.0 == 0
    }

    /// A node port: it stands for every address in `NODE_PORT_ADDRS`, so that an address that
    /// comes or goes is one write, however many node ports there are.
    #[inline(always)]
    #[must_use]
    pub const fn node_port(is_v4: bool, port: Port, protocol: Protocol) -> Self {
        let addr = if is_v4 {
            Addr::UNSPECIFIED_V4
        } else {
            Addr::UNSPECIFIED
        };
        Self::new(addr, port, protocol)
    }

    /// Is this a node port?
    #[inline(always)]
    #[must_use]
    pub fn is_node_port(&self) -> bool {
        self.addr == Addr::UNSPECIFIED || self.addr == Addr::UNSPECIFIED_V4
    }

    /// A key with its reserved byte zero.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: Addr, port: Port, protocol: Protocol) -> Self {
        Self {
            addr,
            port,
            protocol,
            reserved: 0,
        }
    }
}

/// Which endpoints answer at a frontend. Written by the agent, read by every program.
///
/// When the table is full the agent leaves out the frontends that do not fit and names them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Frontend {
    /// The number of the endpoints for this node's pods and processes: index into `SERVICES`,
    /// first part of a [`BackendKey`]. Zero with an address alone, and only there.
    pub service: u32,
    /// The same for clients beyond this node. Another number only where the external traffic
    /// policy is Local.
    pub from_outside: u32,
    /// Whose source is translated, and who may come.
    pub flags: FrontendFlags,
}

impl Frontend {
    /// What stands at a [`FrontendKey::address_only`].
    pub const ADDRESS_ONLY: Self = Self::to(0, FrontendFlags::NONE);

    /// The same endpoints for everyone.
    #[inline(always)]
    #[must_use]
    pub const fn to(service: u32, flags: FrontendFlags) -> Self {
        Self {
            service,
            from_outside: service,
            flags,
        }
    }
}

/// Bits of [`Frontend::flags`]; those without a name are zero.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct FrontendFlags(pub u32);

impl FrontendFlags {
    /// Nothing unusual.
    pub const NONE: Self = Self(0);
    /// Where a client beyond this node is led to a backend on another node, its packets leave
    /// with this node's address, so that the replies come back through here: at cluster IPs,
    /// and elsewhere unless the external traffic policy is Local.
    pub const MASQUERADE_OUTSIDE: Self = Self(1 << 0);
    /// The same for the node's own pods, as kube-proxy does: at all but cluster IPs, unless the
    /// external traffic policy is Local.
    pub const MASQUERADE_PODS: Self = Self(1 << 1);
    /// `SOURCE_RANGES` says which clients may come; it is asked for [`Frontend::service`].
    pub const SOURCE_RANGES: Self = Self(1 << 2);
}

bits!(FrontendFlags);

/// Endpoints of a service port of one address family, chosen under one traffic policy: how many,
/// which edition of them, and what becomes of packets when there is none.
///
/// A service port whose external traffic policy is Local, or whose internal one is, may have two
/// such sets.
///
/// Written by the agent, read by every program. Numbers are given again only with a higher
/// revision, so a flow cannot mistake another service's backends for its own.
///
/// The first two fields are read in one load, as they are written: an old count with the new
/// revision would choose a backend that has gone and call it current for ever. They stay the
/// first eight bytes. The others may be a write older or newer than these.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Service {
    /// Backends in slots `0..backend_count`. Zero: connections are refused, or dropped where
    /// `flags` say so.
    pub backend_count: u32,
    /// Raised *after* each change of the set of backends. A connectionless flow that carries
    /// another one asks `SERVING` whether its backend still is one. While backends are leaving
    /// `SERVING` the top bit is set: a change that the agent has begun and not finished.
    pub revision: u32,
    /// How the service port differs from the usual.
    pub flags: ServiceFlags,
    /// Seconds for which a silent client keeps its backend; zero without session affinity.
    pub affinity_timeout: u32,
    /// The number under which `AFFINITY` remembers: one for both sets of a service port.
    pub affinity: u32,
    /// Zero.
    pub reserved: u32,
}

/// Bits of [`Service::flags`]; those without a name are zero.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct ServiceFlags(pub u32);

impl ServiceFlags {
    /// Nothing unusual.
    pub const NONE: Self = Self(0);
    /// There are endpoints, on other nodes, and the traffic policy Local forbids them: what finds
    /// no backend is dropped in silence, since a load balancer in front of the node must not
    /// take an answer for the service's.
    pub const DROPS_WITHOUT_BACKEND: Self = Self(1 << 0);
}

bits!(ServiceFlags);

/// Which backend of which service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct BackendKey {
    /// As in [`Frontend`].
    pub service: u32,
    /// `0..backend_count`.
    pub slot: u32,
}

/// An endpoint chosen for a service port on this node. Written by the agent, read by every
/// program. When the table is full the agent leaves out the backends that do not fit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Backend {
    /// The endpoint's address, of the same family as the frontend's.
    pub addr: Addr,
    /// The endpoint's port.
    pub port: Port,
    /// What else is known of it; none in the key of `SERVING`.
    pub flags: BackendFlags,
}

impl Backend {
    /// A backend with nothing known of it.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self {
            addr,
            port,
            flags: BackendFlags::NONE,
        }
    }

    /// A backend on this node.
    #[inline(always)]
    #[must_use]
    pub const fn local(addr: Addr, port: Port) -> Self {
        Self {
            addr,
            port,
            flags: BackendFlags::LOCAL,
        }
    }

    /// Which backend this is, whatever else is known of it.
    #[inline(always)]
    #[must_use]
    pub const fn identity(self) -> Self {
        Self::new(self.addr, self.port)
    }
}

/// Bits of [`Backend::flags`]; those without a name are zero.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct BackendFlags(pub u16);

impl BackendFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The endpoint is on this node.
    pub const LOCAL: Self = Self(1 << 0);
}

bits!(BackendFlags);

/// "This address and port is now a backend of that service port": `BACKENDS` the other way round.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct ServingKey {
    /// As in [`Frontend`].
    pub service: u32,
    /// The backend, without flags.
    pub backend: Backend,
}

/// The value where presence says it all: reserved and zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Present {
    /// Zero.
    pub reserved: u32,
}

/// Clients that may use a service's load balancer IPs
/// (`spec.loadBalancerSourceRanges`). Written by the agent, read where a frontend has
/// [`FrontendFlags::SOURCE_RANGES`]. What does not fit is left out: those clients are refused, and
/// the service is named.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct SourceRange {
    /// Bits that count: the 32 of `service`, and the prefix of the mapped address
    /// (`32 + 96 + 8` for `10.0.0.0/8`).
    pub prefix_len: u32,
    /// [`Frontend::service`].
    pub service: u32,
    /// The range's first address.
    pub addr: Addr,
}

/// The API's name of a service port, so that pinned tables explain themselves without an agent
/// and a new agent gives the same numbers again. Never read by a program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct ServiceName {
    /// `metadata.namespace`: a DNS label, at most 63 bytes (RFC 1123), padded with zeros.
    pub namespace: [u8; 64],
    /// `metadata.name`: likewise.
    pub name: [u8; 64],
    /// `spec.ports[].name`: a DNS label, empty where a service has one port.
    pub port_name: [u8; 64],
    /// `spec.ports[].port`.
    pub port: Port,
    /// `spec.ports[].protocol`.
    pub protocol: Protocol,
    /// `4` or `6`.
    pub family: u8,
    /// Under which traffic policy the endpoints are chosen: see [`EndpointSet`].
    pub set: EndpointSet,
    /// Zero.
    pub reserved: u8,
}

/// Under which traffic policy the endpoints of a [`Service`] are chosen.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct EndpointSet(pub u8);

impl EndpointSet {
    /// Cluster: from all nodes.
    pub const CLUSTER: Self = Self(0);
    /// Local: from this node.
    pub const LOCAL: Self = Self(1);
}

impl SourceRange {
    /// Is this address in it?
    #[must_use]
    pub fn contains(&self, addr: Addr) -> bool {
        addr.has_prefix(self.addr, self.prefix_len.saturating_sub(u32::BITS))
    }
}

impl core::fmt::Display for SourceRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let length = self.prefix_len.saturating_sub(u32::BITS);
        self.addr.fmt_prefix(length, f)
    }
}

/// Who comes back: a client of a service port with session affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct AffinityKey {
    /// The client's address: a pod's, the node's for its processes, or one beyond the node.
    pub client: Addr,
    /// [`Service::affinity`].
    pub affinity: u32,
}

/// Where it went last. Written by the programs; when the table is full the least recently used
/// entry goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Affinity {
    /// The backend. It counts only while it is among those chosen.
    pub backend: Backend,
    /// Zero.
    pub reserved: u32,
    /// When the client last opened a flow.
    pub last_used: Nanos,
}
