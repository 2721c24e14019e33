//! A node in memory: tables, a clock, a source of chance, and packets that go through the hooks.
//!
//! The agent's writes happen in the order it promises (what is referred to first, the revision
//! last), and whatever changes about pods raises the epoch. What two processors do to each other is played by [`World::interrupt`].

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    buffer::Buffer,
    conntrack::SECOND,
    datapath::{self, At},
    event::Event,
    packet::Opener,
    tables::{
        ANYONE, Affinity, AffinityKey, Backend, BackendKey, CachedFlow, Cidr, Class, Connection,
        ConnectionKey, Cover, ExactMatch, Flow, FlowRole, FlowState, Fragment, FragmentKey,
        Frontend, FrontendFlags, FrontendKey, Interface, Nanos, Node, Place, Pod, PodAddr, Policy,
        PortRange, Receiver, Route, RuleKey, Service, ServingKey, Shortcut, ShortcutKey, Slot,
        SocketFlow, SocketKey, SourceRange, Tables, Tuple, capacity,
    },
    verdict::Verdict,
};

pub use weir_ebpf::verdict::Hook;

/// A step of another processor.
type Interruption = Box<dyn FnOnce(&World)>;

/// What a hook made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What became of it.
    pub verdict: Verdict,
    /// The bytes after that.
    pub frame: Vec<u8>,
}

/// The index of the interface by which packets leave the node.
pub const UPLINK: u32 = 2;

/// The tables of a node, and the node's time and chance.
pub struct World {
    /// The node's own entry.
    pub node: Cell<Node>,
    /// `FLOWS`
    pub flows: RefCell<BTreeMap<Tuple, Flow>>,
    /// `FLOW_CHANGES`
    pub flow_changes: RefCell<BTreeMap<u32, u64>>,
    /// `FLOW_CACHE`, of each processor. None has one by default: what a test writes to `FLOWS`
    /// itself nobody counts.
    pub flow_caches: RefCell<Vec<BTreeMap<u32, CachedFlow>>>,
    /// On which packets are.
    pub processor: Cell<usize>,
    /// `SOCKETS`
    pub sockets: RefCell<BTreeMap<SocketKey, SocketFlow>>,
    /// `AFFINITY`
    pub affinity: RefCell<BTreeMap<AffinityKey, Affinity>>,
    /// `NODE_PORT_ADDRS`
    pub node_port_addrs: RefCell<BTreeSet<Addr>>,
    /// `SOURCE_RANGES`
    pub source_ranges: RefCell<BTreeSet<SourceRange>>,
    /// `SERVICE_CIDRS`
    pub service_cidrs: RefCell<BTreeSet<Cidr>>,
    /// `INTERFACES`
    pub interfaces: RefCell<BTreeMap<u32, Interface>>,
    /// `PODS`
    pub pods: RefCell<BTreeMap<u32, Pod>>,
    /// `POD_ADDRS`
    pub pod_addrs: RefCell<BTreeSet<PodAddr>>,
    /// `RECEIVERS`
    pub receivers: RefCell<BTreeMap<Addr, Receiver>>,
    /// `SHORTCUTS`
    pub exact_matches: RefCell<BTreeMap<u32, ExactMatch>>,
    pub shortcuts: RefCell<BTreeMap<ShortcutKey, Shortcut>>,
    /// `ROUTES`, of the processor on which packets are handed over.
    pub routes: RefCell<BTreeMap<u32, Route>>,
    /// `PEERS`
    pub peers: RefCell<BTreeMap<Addr, Class>>,
    /// `RULES`
    pub rules: RefCell<BTreeMap<RuleKey, u32>>,
    /// `POLICY`
    pub policy: Cell<Policy>,
    /// `CONNECTIONS`
    pub connections: RefCell<BTreeMap<ConnectionKey, Connection>>,
    /// What the pod's sockets say of every connection.
    pub opener: Cell<Opener>,
    /// `EVENTS`
    pub events: RefCell<Vec<Event>>,
    /// `FRAGMENTS`
    pub fragments: RefCell<BTreeMap<FragmentKey, Fragment>>,
    frontends: RefCell<BTreeMap<FrontendKey, Frontend>>,
    services: RefCell<BTreeMap<u32, Service>>,
    backends: RefCell<BTreeMap<BackendKey, Backend>>,
    serving: RefCell<BTreeSet<ServingKey>>,
    clock: Cell<Nanos>,
    chance: Cell<u64>,
    interruption: RefCell<Option<(u32, Interruption)>>,
    asked: RefCell<Asked>,
}

/// What a packet at a pod's interface is asked about: as of the epoch in force.
#[derive(Default, PartialEq)]
struct Asked {
    policy: Policy,
    pods: BTreeMap<u32, Pod>,
    pod_addrs: BTreeSet<PodAddr>,
    receivers: BTreeMap<Addr, Receiver>,
    /// What is services' beside the cluster IPs.
    frontends: BTreeSet<FrontendKey>,
    node_port_addrs: BTreeSet<Addr>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            node: Cell::new(Node {
                addr_v4: Addr::from(std::net::Ipv4Addr::new(10, 240, 0, 1)),
                addr_v6: Addr::UNSPECIFIED,
                cover_v4: Cover::default(),
                cover_v6: Cover::default(),
                snat_ports: [PortRange::new(16_384, 32_767), PortRange::NONE],
                node_ports: PortRange::new(30_000, 32_767),
            }),
            flows: RefCell::default(),
            flow_changes: RefCell::default(),
            flow_caches: RefCell::default(),
            processor: Cell::default(),
            sockets: RefCell::default(),
            affinity: RefCell::default(),
            node_port_addrs: RefCell::default(),
            source_ranges: RefCell::default(),
            service_cidrs: RefCell::default(),
            interfaces: RefCell::default(),
            pods: RefCell::default(),
            pod_addrs: RefCell::default(),
            receivers: RefCell::default(),
            exact_matches: RefCell::default(),
            shortcuts: RefCell::default(),
            routes: RefCell::default(),
            peers: RefCell::default(),
            rules: RefCell::default(),
            policy: Cell::default(),
            connections: RefCell::default(),
            opener: Cell::new(Opener::Unknown),
            events: RefCell::default(),
            fragments: RefCell::default(),
            frontends: RefCell::default(),
            services: RefCell::default(),
            backends: RefCell::default(),
            serving: RefCell::default(),
            clock: Cell::new(1_000 * SECOND),
            chance: Cell::new(0x9e37_79b9_7f4a_7c15),
            interruption: RefCell::new(None),
            asked: RefCell::default(),
        }
    }
}

impl World {
    /// Where packets are handed over to two pods, 10.200.0.2 and 10.200.0.5, which have IPv6, too.
    pub fn with_receivers([first, second]: [u32; 2]) -> Self {
        let world = Self::default();
        for (pod, interface) in [
            ("10.200.0.2", first),
            ("fd00:10:200::2", first),
            ("10.200.0.5", second),
            ("fd00:10:200::5", second),
        ] {
            let entry = Receiver { interface };
            world.receivers.borrow_mut().insert(super::addr(pod), entry);
        }
        world
    }

    /// Lets time pass.
    pub fn wait(&self, time: Nanos) {
        self.clock.set(self.clock.get() + time);
    }

    /// Makes chance another one.
    pub fn seed(&self, seed: u64) {
        self.chance.set(seed | 1);
    }

    /// Makes a service port reachable at an address.
    pub fn add_frontend(&self, addr: Addr, port: u16, protocol: Protocol, service: u32) {
        let key = FrontendKey::new(addr, Port::new(port), protocol);
        self.put_frontend(key, Frontend::to(service, FrontendFlags::NONE));
    }

    /// Writes an entry of `FRONTENDS`.
    pub fn put_frontend(&self, key: FrontendKey, frontend: Frontend) {
        self.frontends.borrow_mut().insert(key, frontend);
    }

    /// Takes an address away.
    pub fn remove_frontend(&self, addr: Addr, port: u16, protocol: Protocol) {
        let key = FrontendKey::new(addr, Port::new(port), protocol);
        self.frontends.borrow_mut().remove(&key);
    }

    /// Gives a service port these backends and no others, in the order of the agent's writes.
    pub fn set_backends(&self, service: u32, backends: &[Backend]) {
        let old = self.service(service).unwrap_or_default();
        for (slot, &backend) in (0..).zip(backends) {
            self.backends
                .borrow_mut()
                .insert(BackendKey { service, slot }, backend);
        }
        let mut serving = self.serving.borrow_mut();
        serving.retain(|key| key.service != service || backends.contains(&key.backend));
        serving.extend(
            backends
                .iter()
                .map(|&backend| ServingKey { service, backend }),
        );
        let backend_count = u32::try_from(backends.len()).expect("few backends");
        self.services.borrow_mut().insert(
            service,
            Service {
                backend_count,
                revision: old.revision + 1,
                ..old
            },
        );
        self.backends
            .borrow_mut()
            .retain(|key, _| key.service != service || key.slot < backend_count);
    }

    /// Forgets an entry of `FLOWS`, as the kernel does when the table is full.
    pub fn evict(&self, tuple: &Tuple) -> Option<Flow> {
        self.flows.borrow_mut().remove(tuple)
    }

    /// The entry of `FLOWS` for a tuple.
    pub fn flow(&self, tuple: &Tuple) -> Option<Flow> {
        self.flows.borrow().get(tuple).copied()
    }

    /// The state in the entry for a tuple.
    pub fn state(&self, tuple: &Tuple) -> Option<FlowState> {
        self.flow(tuple).map(|flow| flow.state)
    }

    /// The tuples whose entries have a role.
    pub fn tuples(&self, role: FlowRole) -> Vec<Tuple> {
        let flows = self.flows.borrow();
        let with_role = flows.iter().filter(|(_, flow)| flow.role == role);
        with_role.map(|(tuple, _)| *tuple).collect()
    }

    /// Lets another processor act once, after `reads` more reads of `FLOWS`.
    pub fn interrupt(&self, reads: u32, action: impl FnOnce(&Self) + 'static) {
        *self.interruption.borrow_mut() = Some((reads, Box::new(action)));
    }

    /// Sends a frame through a hook; it leaves by interface [`UPLINK`], if it leaves.
    pub fn pass(&self, hook: Hook, frame: &[u8]) -> Outcome {
        self.pass_at(At::new(hook, UPLINK), frame)
    }

    /// Sends a frame through the hook of an interface.
    pub fn pass_at(&self, at: At, frame: &[u8]) -> Outcome {
        let buffer = Buffer::<4096>::new(frame).expect("a frame of at most 4096 bytes");
        let mut buffer = buffer.with_opener(self.opener.get());
        let (verdict, _) = datapath::run(&mut buffer, self, at);
        Outcome {
            verdict,
            frame: buffer.bytes().to_vec(),
        }
    }

    /// Gives another processor its turn when it is due.
    fn note_read(&self) {
        let mut slot = self.interruption.borrow_mut();
        let Some((reads, action)) = slot.take() else {
            return;
        };
        if reads == 0 {
            drop(slot);
            action(self);
        } else {
            *slot = Some((reads - 1, action));
        }
    }
}

impl Tables for World {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.borrow().get(key).copied()
    }

    fn service(&self, service: u32) -> Option<Service> {
        // The kernel's table is an array: every number within it has an entry.
        let services = self.services.borrow();
        (service < capacity::SERVICES).then(|| services.get(&service).copied().unwrap_or_default())
    }

    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        self.backends.borrow().get(key).copied()
    }

    fn is_serving(&self, key: &ServingKey) -> bool {
        self.serving.borrow().contains(key)
    }

    fn node<R>(&self, read: impl FnOnce(&Node) -> R) -> R {
        read(&self.node.get())
    }

    fn is_node_port_addr(&self, addr: &Addr) -> bool {
        self.node_port_addrs.borrow().contains(addr)
    }

    fn is_source_allowed(&self, service: u32, client: &Addr) -> bool {
        let ranges = self.source_ranges.borrow();
        let mut own = ranges.iter().filter(|range| range.service == service);
        own.any(|range| range.contains(*client))
    }

    fn is_service_addr(&self, addr: &Addr) -> bool {
        let cidrs = self.service_cidrs.borrow();
        cidrs.iter().any(|cidr| cidr.contains(*addr))
    }

    fn interface(&self, index: u32) -> Option<Interface> {
        self.interfaces.borrow().get(&index).copied()
    }

    fn update_affinity<R>(
        &self,
        key: &AffinityKey,
        change: impl FnOnce(&mut Affinity) -> R,
    ) -> Option<R> {
        self.affinity.borrow_mut().get_mut(key).map(change)
    }

    fn put_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *affinity);
    }

    fn flow_entry<R>(&self, tuple: &Tuple, visit: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        self.note_read();
        self.flows.borrow_mut().get_mut(tuple).map(visit)
    }

    fn put_flow_entry(&self, tuple: &Tuple, flow: &Flow) {
        self.flows.borrow_mut().insert(*tuple, *flow);
    }

    fn add_flow_entry(&self, tuple: &Tuple, flow: &Flow) -> bool {
        let mut flows = self.flows.borrow_mut();
        let is_free = !flows.contains_key(tuple);
        if is_free {
            flows.insert(*tuple, *flow);
        }
        is_free
    }

    fn remove_flow_entry(&self, tuple: &Tuple) {
        self.flows.borrow_mut().remove(tuple);
    }

    fn flow_changes(&self, place: Place) -> u64 {
        let changes = self.flow_changes.borrow();
        changes.get(&place.changes()).copied().unwrap_or_default()
    }

    fn note_flow_change(&self, place: Place) {
        let mut changes = self.flow_changes.borrow_mut();
        *changes.entry(place.changes()).or_default() += 1;
    }

    fn flow_cache<R>(&self, place: Place, visit: impl FnOnce(&mut CachedFlow) -> R) -> Option<R> {
        let mut caches = self.flow_caches.borrow_mut();
        let cache = caches.get_mut(self.processor.get())?;
        let slot = cache.entry(place.slot());
        Some(visit(slot.or_insert_with(bytemuck::Zeroable::zeroed)))
    }

    fn exact_match<R>(&self, place: Place, visit: impl FnOnce(&mut ExactMatch) -> R) -> Option<R> {
        let mut slots = self.exact_matches.borrow_mut();
        let slot = slots.entry(place.slot());
        Some(visit(slot.or_insert_with(bytemuck::Zeroable::zeroed)))
    }

    fn update_socket<R>(
        &self,
        key: &SocketKey,
        change: impl FnOnce(&mut SocketFlow) -> R,
    ) -> Option<R> {
        self.sockets.borrow_mut().get_mut(key).map(change)
    }

    fn put_socket(&self, key: &SocketKey, flow: &SocketFlow) {
        self.sockets.borrow_mut().insert(*key, *flow);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn remove_fragment(&self, key: &FragmentKey) {
        self.fragments.borrow_mut().remove(key);
    }

    fn policy(&self) -> Policy {
        let mut asked = self.asked.borrow_mut();
        let node = self.node.get();
        let frontends = self.frontends.borrow();
        let now = Asked {
            policy: self.policy.get(),
            pods: self.pods.borrow().clone(),
            pod_addrs: self.pod_addrs.borrow().clone(),
            receivers: self.receivers.borrow().clone(),
            frontends: frontends
                .keys()
                .filter(|key| !node.covers(key.addr))
                .copied()
                .collect(),
            node_port_addrs: self.node_port_addrs.borrow().clone(),
        };
        if now != *asked {
            self.policy.set(now.policy.in_next_epoch());
            *asked = Asked {
                policy: self.policy.get(),
                ..now
            };
        }
        self.policy.get()
    }

    fn pod(&self, interface: u32) -> Option<Pod> {
        self.pods.borrow().get(&interface).copied()
    }

    fn receiver(&self, addr: &Addr) -> Option<Receiver> {
        self.receivers.borrow().get(addr).copied()
    }

    fn shortcut(&self, key: &ShortcutKey) -> Option<Shortcut> {
        self.shortcuts.borrow().get(key).copied()
    }

    fn put_shortcut(&self, key: &ShortcutKey, shortcut: &Shortcut) {
        self.shortcuts.borrow_mut().insert(*key, *shortcut);
    }

    fn route_cache<R>(&self, place: Place, visit: impl FnOnce(&mut Route) -> R) -> Option<R> {
        let mut slots = self.routes.borrow_mut();
        let slot = slots.entry(place.slot());
        Some(visit(slot.or_insert_with(bytemuck::Zeroable::zeroed)))
    }

    fn is_pod_addr(&self, addr: &PodAddr) -> bool {
        self.pod_addrs.borrow().contains(addr)
    }

    fn class(&self, addr: &Addr, slot: Slot) -> u32 {
        let peers = self.peers.borrow();
        peers.get(addr).map_or(ANYONE, |class| class.0.get(slot))
    }

    fn rule(&self, question: &RuleKey) -> Option<u32> {
        let rules = self.rules.borrow();
        let mut keys = question.shortened().into_iter();
        keys.find_map(|key| rules.get(&key).copied())
    }

    fn update_connection<R>(
        &self,
        key: &ConnectionKey,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        self.connections.borrow_mut().get_mut(key).map(change)
    }

    fn put_connection(&self, key: &ConnectionKey, connection: &Connection) {
        self.connections.borrow_mut().insert(*key, *connection);
    }

    fn tell(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }

    fn random(&self) -> u32 {
        // xorshift64*: full period, and good enough in its upper half.
        let mut chance = self.chance.get();
        chance ^= chance >> 12;
        chance ^= chance << 25;
        chance ^= chance >> 27;
        self.chance.set(chance);
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the upper half, shifted down"
        )]
        {
            (chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
        }
    }

    fn now(&self) -> Nanos {
        self.clock.get()
    }
}
