//! Every map's key and value, name, capacity and purpose; and what the datapath asks of them.
//!
//! A *map* is the kernel's object, a *table* its logical content. The layouts here are shared by
//! the programs, the agent and the commands that read pinned tables.
//!
//! Invariants:
//! - Addresses and ports are in network byte order ([`Addr`], [`Port`]); all other integers are
//!   in host byte order, since they never meet a packet.
//! - No layout has padding (`bytemuck::Pod` refuses it); reserved bytes are zero, because a hash
//!   map compares them.
//! - Changing a layout changes [`LAYOUT_VERSION`], and maps of two versions never share a pin
//!   directory.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr, Port, Protocol};

/// Names the directory of pins. Any change of a key, value, map type or meaning raises it.
pub const LAYOUT_VERSION: u32 = 2;

/// Nanoseconds of the monotonic clock (`CLOCK_MONOTONIC`), as `bpf_ktime_get_ns` counts them.
pub type Nanos = u64;

/// The names of the maps, in the object and in the pin directory.
pub mod name {
    /// [`FrontendKey`](super::FrontendKey) → [`Frontend`](super::Frontend); hash.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Service id → [`Service`](super::Service); array.
    pub const SERVICES: &str = "SERVICES";
    /// [`BackendKey`](super::BackendKey) → [`Backend`](super::Backend); hash.
    pub const BACKENDS: &str = "BACKENDS";
    /// [`ServingKey`](super::ServingKey) → [`Serving`](super::Serving); hash.
    pub const SERVING: &str = "SERVING";
    /// Service id → [`ServiceName`](super::ServiceName); hash.
    pub const SERVICE_NAMES: &str = "SERVICE_NAMES";
    /// `0` → [`Node`](super::Node); array of one.
    pub const NODE: &str = "NODE";
    /// [`Tuple`](super::Tuple) → [`Flow`](super::Flow); least recently used goes.
    pub const FLOWS: &str = "FLOWS";
    /// [`SocketKey`](super::SocketKey) → [`SocketFlow`](super::SocketFlow); least recently used goes.
    pub const SOCKETS: &str = "SOCKETS";
    /// Counter index → packets; per CPU array.
    pub const COUNTERS: &str = "COUNTERS";
}

/// Entries a map holds at most. The agent may ask for other sizes when it creates the maps.
pub mod capacity {
    /// Addresses × ports of all services.
    pub const FRONTENDS: u32 = 65_536;
    /// Service ports, one number for each family. Also the size of the `SERVICES` array.
    pub const SERVICES: u32 = 65_536;
    /// Backends of all service ports together.
    pub const BACKENDS: u32 = 262_144;
    /// Two for each translated flow.
    pub const FLOWS: u32 = 65_536;
    /// Two for each unconnected UDP socket and service address, one for each TCP connection.
    pub const SOCKETS: u32 = 32_768;
}

/// What a packet is addressed to: an address, port and protocol at which a service port is
/// reached; or an address alone ([`FrontendKey::address_only`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FrontendKey {
    /// The cluster IP.
    pub addr: Addr,
    /// The service port's number; zero with an address alone.
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

/// Which service port answers at a frontend. Written by the agent, read by every program.
///
/// When the table is full the agent leaves out the frontends that do not fit and names them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Frontend {
    /// Index into `SERVICES`, first part of a [`BackendKey`]. Zero with an address alone, and
    /// only there.
    pub service: u32,
}

impl Frontend {
    /// What stands at a [`FrontendKey::address_only`].
    pub const ADDRESS_ONLY: Self = Self { service: 0 };
}

/// A service port of one address family: how many backends, which edition of them, and what
/// becomes of packets when there is none.
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

    /// Are all bits of `other` set here?
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

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
    /// Zero.
    pub reserved: u16,
}

impl Backend {
    /// A backend with its reserved bytes zero.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self {
            addr,
            port,
            reserved: 0,
        }
    }
}

/// "This address and port is now a backend of that service port": `BACKENDS` the other way round.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct ServingKey {
    /// As in [`Frontend`].
    pub service: u32,
    /// The backend.
    pub backend: Backend,
}

/// Presence says it all; the value is reserved and zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Serving {
    /// Zero.
    pub reserved: u32,
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
}

/// What programs know of the node they run on. Written by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Node {
    /// The node's IPv4 address, source of what it masquerades; `::` if it has none.
    pub addr_v4: Addr,
    /// The node's IPv6 address, likewise.
    pub addr_v6: Addr,
    /// Source ports for masqueraded flows, first and last, both in host byte order. They lie
    /// outside the kernel's own range (`net.ipv4.ip_local_port_range`), so that a masqueraded
    /// flow never meets a connection of the node.
    pub snat_port_min: u16,
    /// See `snat_port_min`. Not less than it.
    pub snat_port_max: u16,
}

/// The addresses and ports of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Tuple {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Tuple {
    /// The tuple of an answer to a packet with this one.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
            reserved: [0; 3],
        }
    }
}

impl core::fmt::Display for Tuple {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            src,
            src_port,
            dst,
            dst_port,
            protocol,
            reserved: _,
        } = self;
        write!(f, "{protocol} {src}:{src_port} > {dst}:{dst_port}")
    }
}

/// Where a flow stands. See `conntrack` for the transitions.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowState(pub u8);

impl FlowState {
    /// The client has spoken, nobody has answered.
    pub const OPENING: Self = Self(0);
    /// Both have spoken.
    pub const ESTABLISHED: Self = Self(1);
    /// One side has said that it is done (TCP FIN, SCTP SHUTDOWN).
    pub const CLOSING: Self = Self(2);
    /// Both have, or one has reset the connection.
    pub const CLOSED: Self = Self(3);
}

/// At which hook a flow's packets are translated, and in which direction of the flow they go.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FlowRole(pub u8);

impl FlowRole {
    /// From the client to the frontend: destination translated in `from_pod`.
    pub const FORWARD: Self = Self(0);
    /// From the backend to the client: source translated back in `to_pod`.
    pub const REPLY: Self = Self(1);
    /// A pod's flow to itself, on its way back into it: source translated in `to_pod`.
    pub const HAIRPIN_FORWARD: Self = Self(2);
    /// The answer to that: destination translated back in `from_pod`.
    pub const HAIRPIN_REPLY: Self = Self(3);

    /// Does this entry belong to the direction in which the flow was opened?
    #[inline(always)]
    #[must_use]
    pub const fn is_original(self) -> bool {
        matches!(self, Self::FORWARD | Self::HAIRPIN_FORWARD)
    }
}

/// What becomes of the packets of one tuple. A flow has one entry for each tuple it shows at a
/// hook: two, or four when a pod reaches itself.
///
/// Written by the programs; the agent only reads it. When the table is full the least recently
/// used flow goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct Flow {
    /// Source and destination after translation.
    pub to: Tuple,
    /// When a packet of either direction was last seen, to the second: between, nothing is
    /// written.
    pub last_seen: Nanos,
    /// The service port, as in [`Frontend`].
    pub service: u32,
    /// The revision of the service port under which the backend was last found to serve.
    pub revision: u32,
    /// Where the flow stands. Kept in the entries of both directions, each moved on by the
    /// packets it sees.
    pub state: FlowState,
    /// Direction and hook.
    pub role: FlowRole,
    /// Zero.
    pub reserved: [u8; 6],
}

/// What a socket calls its peer, or what its peer is called in packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct SocketKey {
    /// `SO_COOKIE`, unique on this kernel until it restarts.
    pub cookie: u64,
    /// The peer: of a request the frontend, of a reply the backend.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// [`FlowRole::FORWARD`] or [`FlowRole::REPLY`].
    pub role: FlowRole,
    /// Zero.
    pub reserved: u32,
}

/// The other name of the peer in a [`SocketKey`]. Written by the programs. When the table is
/// full the least recently used goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct SocketFlow {
    /// The peer's other address: of a request the backend's, of a reply the frontend's.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// Zero.
    pub reserved: u16,
    /// As in [`Flow`].
    pub service: u32,
    /// As in [`Flow`].
    pub revision: u32,
    /// Zero.
    pub reserved_tail: u32,
    /// When a datagram was last seen, to the second.
    pub last_seen: Nanos,
}

/// The reads and writes the datapath makes.
///
/// Two implementations: the kernel's maps in the programs, ordered maps in memory on the host.
/// No reference into a map outlives a step.
pub trait Tables {
    /// Who answers at an address.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// A service port by its number; `None` beyond the table's end.
    fn service(&self, service: u32) -> Option<Service>;
    /// A backend by its slot.
    fn backend(&self, key: &BackendKey) -> Option<Backend>;
    /// Is this a backend of that service port?
    fn is_serving(&self, key: &ServingKey) -> bool;
    /// The node's own entry.
    fn node(&self) -> Option<Node>;
    /// Finds what becomes of packets with this tuple, lets `change` read and alter it in place,
    /// and gives back what `change` returns; `None` without calling it where there is no entry.
    /// One lookup. `change` must not touch the tables itself.
    fn update_flow<R>(&self, tuple: &Tuple, change: impl FnOnce(&mut Flow) -> R) -> Option<R>;
    /// Writes an entry, whatever was there.
    fn put_flow(&self, tuple: &Tuple, flow: &Flow);
    /// Writes an entry where there is none. `false`: there is one already.
    fn add_flow(&self, tuple: &Tuple, flow: &Flow) -> bool;
    /// Removes an entry, if there is one.
    fn remove_flow(&self, tuple: &Tuple);
    /// The other name of a socket's peer, read and altered as in [`Tables::update_flow`].
    fn update_socket<R>(
        &self,
        key: &SocketKey,
        change: impl FnOnce(&mut SocketFlow) -> R,
    ) -> Option<R>;
    /// Writes an entry, whatever was there.
    fn put_socket(&self, key: &SocketKey, flow: &SocketFlow);
    /// A random number, uniform over all of `u32`.
    fn random(&self) -> u32;
    /// The monotonic clock.
    fn now(&self) -> Nanos;
}
