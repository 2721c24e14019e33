//! Every map's key and value, name, capacity and purpose; and what the datapath asks of them.
//!
//! A *map* is the kernel's object, a *table* its logical content. The layouts here are shared by
//! the programs, the agent and the commands that read pinned tables.
//!
//! Invariants:
//! - Addresses and ports are in network byte order ([`Addr`], [`Port`](crate::addr::Port)); all other integers are
//!   in host byte order, since they never meet a packet.
//! - No layout has padding (`bytemuck::Pod` refuses it); reserved bytes are zero, because a hash
//!   map compares them.
//! - Changing a layout changes [`LAYOUT_VERSION`], and maps of two versions never share a pin
//!   directory.

/// What can be asked of a type that holds bits.
macro_rules! bits {
    ($type:ident) => {
        impl $type {
            /// Are all bits of `other` set here?
            #[inline(always)]
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Is any bit of `other` set here?
            #[inline(always)]
            #[must_use]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The bits that `other` has not.
            #[inline(always)]
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The bits of both.
            #[inline(always)]
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}

mod exact_match;
mod flow;
mod node;
mod policy;
mod route;
mod service;
mod socket;

use crate::addr::Addr;
use crate::event::Event;

pub use exact_match::ExactMatch;
pub use flow::{
    CachedFlow, Flow, FlowFlags, FlowRole, FlowState, Fragment, FragmentKey, Place, Tuple, Vetting,
};
pub use node::{Cidr, Cover, Interface, Node, PortRange};
pub use policy::{
    ANYONE, Class, Connection, ConnectionFlags, ConnectionKey, NOBODY, Pod, PodAddr, PodState,
    Policy, PolicyFlags, Receiver, RuleKey, Shortcut, ShortcutKey, Slot, Slots,
};
pub use route::Route;
pub use service::{
    Affinity, AffinityKey, Backend, BackendFlags, BackendKey, EndpointSet, Frontend, FrontendFlags,
    FrontendKey, Present, Service, ServiceFlags, ServiceName, ServingKey, SourceRange,
};
pub use socket::{SocketFlow, SocketKey};

/// Names the directory of pins. Any change of a key, value, map type or meaning raises it.
pub const LAYOUT_VERSION: u32 = 5;

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
    /// [`ServingKey`](super::ServingKey) → [`Present`](super::Present); hash.
    pub const SERVING: &str = "SERVING";
    /// Service id → [`ServiceName`](super::ServiceName); hash.
    pub const SERVICE_NAMES: &str = "SERVICE_NAMES";
    /// [`Addr`](crate::addr::Addr) → [`Present`](super::Present); hash.
    pub const NODE_PORT_ADDRS: &str = "NODE_PORT_ADDRS";
    /// [`SourceRange`](super::SourceRange) → [`Present`](super::Present); longest prefix.
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// [`Cidr`](super::Cidr) → [`Present`](super::Present); longest prefix.
    pub const SERVICE_CIDRS: &str = "SERVICE_CIDRS";
    /// Interface index → [`Interface`](super::Interface); hash.
    pub const INTERFACES: &str = "INTERFACES";
    /// `0` → [`Node`](super::Node); array of one.
    pub const NODE: &str = "NODE";
    /// [`AffinityKey`](super::AffinityKey) → [`Affinity`](super::Affinity); least recently used
    /// goes.
    pub const AFFINITY: &str = "AFFINITY";
    /// [`Tuple`](super::Tuple) → [`Flow`](super::Flow); least recently used goes.
    pub const FLOWS: &str = "FLOWS";
    /// [`Place::changes`](super::Place::changes) of a tuple → how often entries of `FLOWS` with such
    /// tuples were written; array.
    pub const FLOW_CHANGES: &str = "FLOW_CHANGES";
    /// [`Place::slot`](super::Place::slot) of a tuple → [`CachedFlow`](super::CachedFlow); per CPU
    /// array, not pinned: nothing in it lasts.
    pub const FLOW_CACHE: &str = "FLOW_CACHE";
    /// [`Place::slot`](super::Place::slot) of a tuple → [`ExactMatch`](super::ExactMatch); per CPU
    /// array, not pinned likewise.
    pub const EXACT_MATCHES: &str = "EXACT_MATCHES";
    /// [`SocketKey`](super::SocketKey) → [`SocketFlow`](super::SocketFlow); least recently used goes.
    pub const SOCKETS: &str = "SOCKETS";
    /// [`FragmentKey`](super::FragmentKey) → [`Fragment`](super::Fragment); least recently used
    /// goes.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Interface index → [`Pod`](super::Pod); hash.
    pub const PODS: &str = "PODS";
    /// [`PodAddr`](super::PodAddr) → [`Present`](super::Present); hash.
    pub const POD_ADDRS: &str = "POD_ADDRS";
    /// [`Addr`](crate::addr::Addr) → [`Receiver`](super::Receiver); hash.
    pub const RECEIVERS: &str = "RECEIVERS";
    /// [`ShortcutKey`](super::ShortcutKey) → [`Shortcut`](super::Shortcut); least recently used goes,
    /// not pinned: nothing in it lasts longer than a second.
    pub const SHORTCUTS: &str = "SHORTCUTS";
    /// [`Place::slot`](super::Place::slot) of a tuple → [`Route`](super::Route); per CPU array, not
    /// pinned likewise.
    pub const ROUTES: &str = "ROUTES";
    /// `0` → the program that delivers what is handed over; program array.
    pub const NEXT_PROGRAMS: &str = "NEXT_PROGRAMS";
    /// [`Addr`](crate::addr::Addr) → [`Class`](super::Class); hash.
    pub const PEERS: &str = "PEERS";
    /// [`Cidr`](super::Cidr) → [`Class`](super::Class); longest prefix.
    pub const PEER_RANGES: &str = "PEER_RANGES";
    /// [`RuleKey`](super::RuleKey) → rule; longest prefix.
    pub const RULES: &str = "RULES";
    /// `0` → [`Policy`](super::Policy); array of one.
    pub const POLICY: &str = "POLICY";
    /// [`ConnectionKey`](super::ConnectionKey) → [`Connection`](super::Connection); least recently
    /// used goes.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// [`Event`](crate::event::Event); ring buffer.
    pub const EVENTS: &str = "EVENTS";
    /// `0` → [`Workspace`](crate::datapath::Workspace); per CPU array of one, not pinned: nothing
    /// in it outlives a packet.
    pub const WORKSPACE: &str = "WORKSPACE";
    /// `0` → the time of this tick; per CPU array of one, not pinned likewise.
    pub const CLOCK: &str = "CLOCK";
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
    pub const BACKENDS: u32 = 131_072;
    /// Addresses of the node at which node ports are served.
    pub const NODE_PORT_ADDRS: u32 = 2_048;
    /// Source ranges of all services.
    pub const SOURCE_RANGES: u32 = 65_536;
    /// Ranges of service addresses.
    pub const SERVICE_CIDRS: u32 = 1_024;
    /// Interfaces by which masqueraded flows leave.
    pub const INTERFACES: u32 = 1_024;
    /// Two for each translated flow, four for one whose source is translated, too.
    pub const FLOWS: u32 = 131_072;
    /// Datagrams of which fragments are on their way.
    pub const FRAGMENTS: u32 = 4_096;
    /// Clients of service ports with session affinity.
    pub const AFFINITY: u32 = 65_536;
    /// Pods' interfaces.
    pub const PODS: u32 = 4_096;
    /// Addresses of this node's pods.
    pub const POD_ADDRS: u32 = 16_384;
    /// Pairs of this node's pods that talk to each other.
    pub const SHORTCUTS: u32 = 8_192;
    /// Addresses of the cluster's pods that a rule speaks of.
    pub const PEERS: u32 = 262_144;
    /// Ranges that a rule speaks of, those left out of others too.
    pub const PEER_RANGES: u32 = 65_536;
    /// Subject sets × classes × ports that are allowed.
    pub const RULES: u32 = 524_288;
    /// Conversations of pods under policy.
    pub const CONNECTIONS: u32 = 65_536;
    /// Bytes of events that wait for the agent: a power of two, and whole pages.
    pub const EVENTS: u32 = 512 * 1_024;
    /// Two for each unconnected UDP socket and service address, one for each TCP connection.
    pub const SOCKETS: u32 = 32_768;
}

/// Looks for a tuple's entry in `FLOWS`, and keeps what was found; when, the caller notes.
#[inline(never)]
fn look_up<T: Tables + ?Sized>(tables: &T, tuple: &Tuple, cached: &mut CachedFlow) {
    let entry = tables.flow_entry(tuple, |entry| cached.flow = *entry);
    cached.is_present = entry.is_some() as u32;
    cached.is_alone = 0;
    cached.tuple = *tuple;
    cached.way.interface = 0;
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
    /// Reads the node's own entry in place: it is too large to be copied.
    fn node<R>(&self, read: impl FnOnce(&Node) -> R) -> R;
    /// Are node ports served at this address?
    fn is_node_port_addr(&self, addr: &Addr) -> bool;
    /// May this client use the load balancer IPs of a service?
    fn is_source_allowed(&self, service: u32, client: &Addr) -> bool;
    /// Is this address for services?
    fn is_service_addr(&self, addr: &Addr) -> bool;
    /// What is known of an interface by which masqueraded flows leave.
    fn interface(&self, index: u32) -> Option<Interface>;
    /// Where a client went last, read and altered as in [`Tables::update_flow`].
    fn update_affinity<R>(
        &self,
        key: &AffinityKey,
        change: impl FnOnce(&mut Affinity) -> R,
    ) -> Option<R>;
    /// Writes an entry, whatever was there.
    fn put_affinity(&self, key: &AffinityKey, affinity: &Affinity);
    /// Finds what becomes of packets with this tuple, in `FLOWS` itself, lets `visit` see it in
    /// place, and gives back what `visit` returns; `None` without calling it where there is no
    /// entry. One lookup. `visit` must not touch the tables itself; what alters the entry goes by
    /// [`Tables::update_flow`].
    fn flow_entry<R>(&self, tuple: &Tuple, visit: impl FnOnce(&mut Flow) -> R) -> Option<R>;
    /// Writes an entry, whatever was there. For [`Tables::put_flow`], as the next two for theirs.
    fn put_flow_entry(&self, tuple: &Tuple, flow: &Flow);
    /// Writes an entry where there is none. `false`: there is one already.
    fn add_flow_entry(&self, tuple: &Tuple, flow: &Flow) -> bool;
    /// Removes an entry, if there is one.
    fn remove_flow_entry(&self, tuple: &Tuple);
    /// How often entries of `FLOWS` with tuples of this place were written.
    fn flow_changes(&self, place: Place) -> u64;
    /// Counts one more.
    fn note_flow_change(&self, place: Place);
    /// The slot of this processor for a place, in place; `None`: it has none. `visit` may look in
    /// `FLOWS`, and touches no other table.
    fn flow_cache<R>(&self, place: Place, visit: impl FnOnce(&mut CachedFlow) -> R) -> Option<R>;
    /// The slot of this processor for what is done with packets that are alike, likewise. `visit` may
    /// look in `SERVICES`, and touches no other table.
    fn exact_match<R>(&self, place: Place, visit: impl FnOnce(&mut ExactMatch) -> R) -> Option<R>;

    /// Copies what becomes of packets with this tuple, whose place this is, as it was found last or
    /// as it is found now. `false`: there is no entry, and `found` may hold anything. Where this
    /// processor has a slot for the place, it is the tuple's afterwards.
    #[inline(always)]
    fn find_flow(&self, tuple: &Tuple, place: Place, now: Nanos, found: &mut Flow) -> bool {
        let changes = self.flow_changes(place);
        // Read again: else all of it is kept on the stack from where its place was calculated.
        let tuple = core::hint::black_box(tuple);
        let looked = self.flow_cache(place, |cached| {
            if !cached.counts(tuple, changes, now) {
                look_up(self, tuple, cached);
                cached.found = now;
                cached.changes = changes;
            }
            *found = cached.flow;
            cached.is_present != 0
        });
        match looked {
            Some(is_present) => is_present,
            None => self.flow_entry(tuple, |entry| *found = *entry).is_some(),
        }
    }
    /// Is there an entry with this tuple?
    #[inline(always)]
    fn has_flow(&self, tuple: &Tuple) -> bool {
        self.flow_entry(tuple, |_| ()).is_some()
    }
    /// Finds what becomes of packets with this tuple, lets `change` read and alter it in place,
    /// and gives back what `change` returns; `None` without calling it where there is no entry.
    /// `change` must not touch the tables itself.
    #[inline(always)]
    fn update_flow<R>(&self, tuple: &Tuple, change: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        let changed = self.flow_entry(tuple, change);
        if changed.is_some() {
            self.note_flow_change(Place::of(tuple));
        }
        changed
    }
    /// Writes an entry, whatever was there.
    #[inline(always)]
    fn put_flow(&self, tuple: &Tuple, flow: &Flow) {
        self.put_flow_entry(tuple, flow);
        self.note_flow_change(Place::of(tuple));
    }
    /// Writes an entry where there is none. `false`: there is one already.
    #[inline(always)]
    fn add_flow(&self, tuple: &Tuple, flow: &Flow) -> bool {
        let is_free = self.add_flow_entry(tuple, flow);
        if is_free {
            self.note_flow_change(Place::of(tuple));
        }
        is_free
    }
    /// Removes an entry, if there is one.
    #[inline(always)]
    fn remove_flow(&self, tuple: &Tuple) {
        self.remove_flow_entry(tuple);
        self.note_flow_change(Place::of(tuple));
    }
    /// The other name of a socket's peer, read and altered as in [`Tables::update_flow`].
    fn update_socket<R>(
        &self,
        key: &SocketKey,
        change: impl FnOnce(&mut SocketFlow) -> R,
    ) -> Option<R>;
    /// Writes an entry, whatever was there.
    fn put_socket(&self, key: &SocketKey, flow: &SocketFlow);
    /// What became of a datagram's first fragment.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Writes an entry, whatever was there.
    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment);
    /// Removes an entry, if there is one.
    fn remove_fragment(&self, key: &FragmentKey);
    /// Which state of the policies is in force.
    fn policy(&self) -> Policy;
    /// The pod at an interface; `None`: unknown.
    fn pod(&self, interface: u32) -> Option<Pod>;
    /// The pod of this node to which packets with this destination may be handed over.
    fn receiver(&self, addr: &Addr) -> Option<Receiver>;
    /// The way between two pods of this node, as it was found last.
    fn shortcut(&self, key: &ShortcutKey) -> Option<Shortcut>;
    /// Writes an entry, whatever was there.
    fn put_shortcut(&self, key: &ShortcutKey, shortcut: &Shortcut);
    /// The slot of this processor for what routes said, as [`Tables::flow_cache`]. `visit` may look in
    /// `INTERFACES`, and touches no other table.
    fn route_cache<R>(&self, place: Place, visit: impl FnOnce(&mut Route) -> R) -> Option<R>;
    /// May a pod send from this address?
    fn is_pod_addr(&self, addr: &PodAddr) -> bool;
    /// The class of an address by a slot; [`ANYONE`] where no rule speaks of it.
    fn class(&self, addr: &Addr, slot: Slot) -> u32;
    /// The rule of the longest entry that answers a question.
    fn rule(&self, question: &RuleKey) -> Option<u32>;
    /// A conversation, read and altered as in [`Tables::update_flow`].
    fn update_connection<R>(
        &self,
        key: &ConnectionKey,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R>;
    /// Writes an entry, whatever was there.
    fn put_connection(&self, key: &ConnectionKey, connection: &Connection);
    /// Tells the agent; what there is no room for is counted, and lost.
    fn tell(&self, event: &Event);
    /// A random number, uniform over all of `u32`.
    fn random(&self) -> u32;
    /// The monotonic clock.
    fn now(&self) -> Nanos;
}
