//! The tables in memory: what the datapath reads and writes, without a kernel.
//!
//! Used by tests and by `trace`. The clock stands still until it is set, and the random numbers
//! follow from the seed, so that a run can be repeated.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use weir_ebpf::addr::Addr;
use weir_ebpf::event::Event;
use weir_ebpf::tables::{
    ANYONE, Affinity, AffinityKey, Backend, BackendKey, CachedFlow, Connection, ConnectionKey,
    ExactMatch, Flow, Fragment, FragmentKey, Frontend, FrontendKey, Interface, Nanos, Node, Place,
    Pod, PodAddr, Policy, Receiver, Route, RuleKey, Service, ServingKey, Shortcut, ShortcutKey,
    Slot, SocketFlow, SocketKey, Tables, Tuple, capacity,
};

use super::flows::Judge;
use super::{Contents, Plan};

/// Every table, those that the agent writes and those that the datapath writes.
///
/// The datapath's tables have no capacity here: nothing goes because it was least recently used.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// The agent's tables.
    pub contents: Contents,
    flows: RefCell<BTreeMap<Tuple, Flow>>,
    flow_changes: RefCell<BTreeMap<u32, u64>>,
    flow_cache: RefCell<BTreeMap<u32, CachedFlow>>,
    sockets: RefCell<BTreeMap<SocketKey, SocketFlow>>,
    affinity: RefCell<BTreeMap<AffinityKey, Affinity>>,
    fragments: RefCell<BTreeMap<FragmentKey, Fragment>>,
    connections: RefCell<BTreeMap<ConnectionKey, Connection>>,
    exact_matches: RefCell<BTreeMap<u32, ExactMatch>>,
    shortcuts: RefCell<BTreeMap<ShortcutKey, Shortcut>>,
    routes: RefCell<BTreeMap<u32, Route>>,
    events: RefCell<Vec<Event>>,
    now: Cell<Nanos>,
    random: Cell<u64>,
}

impl MemoryTables {
    /// Tables with these contents, no flows, and random numbers that follow from this seed.
    #[must_use]
    pub fn new(contents: Contents, seed: u64) -> Self {
        Self {
            contents,
            random: Cell::new(seed),
            ..Self::default()
        }
    }

    /// Makes the writes of a plan, and forgets what that makes stale, as the agent does.
    pub fn apply(&mut self, plan: &Plan) {
        for write in &plan.0 {
            write.apply_to(&mut self.contents);
        }
        let judge = Judge::new(&self.contents);
        for (tuple, flow) in self.flows() {
            for stale in judge.stale_entries(&tuple, &flow) {
                self.remove_flow(&stale);
            }
        }
        for (key, peer) in self.sockets() {
            for stale in judge.stale_peers(&key, &peer) {
                self.sockets.get_mut().remove(&stale);
            }
        }
    }

    /// Sets the clock.
    pub fn set_now(&self, now: Nanos) {
        self.now.set(now);
    }

    /// All flows.
    #[must_use]
    pub fn flows(&self) -> BTreeMap<Tuple, Flow> {
        self.flows.borrow().clone()
    }

    /// All names of sockets' peers.
    #[must_use]
    pub fn sockets(&self) -> BTreeMap<SocketKey, SocketFlow> {
        self.sockets.borrow().clone()
    }
}

impl MemoryTables {
    /// What was judged of pods' conversations.
    #[must_use]
    pub fn connections(&self) -> BTreeMap<ConnectionKey, Connection> {
        self.connections.borrow().clone()
    }

    /// What was told since this was asked last.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        self.events.take()
    }
}

impl Tables for MemoryTables {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.contents.frontends.get(key).copied()
    }

    /// An array holds an entry, be it zero, at every number before its end, which is that of a
    /// table whose size nobody has set.
    fn service(&self, service: u32) -> Option<Service> {
        let services = &self.contents.services;
        (service < capacity::SERVICES).then(|| services.get(&service).copied().unwrap_or_default())
    }

    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        self.contents.backends.get(key).copied()
    }

    fn is_serving(&self, key: &ServingKey) -> bool {
        self.contents.serving.contains(key)
    }

    fn node<R>(&self, read: impl FnOnce(&Node) -> R) -> R {
        read(&self.contents.node)
    }

    fn is_node_port_addr(&self, addr: &Addr) -> bool {
        self.contents.node_port_addrs.contains(addr)
    }

    fn is_source_allowed(&self, service: u32, client: &Addr) -> bool {
        self.contents
            .source_ranges
            .iter()
            .any(|range| range.service == service && range.contains(*client))
    }

    fn is_service_addr(&self, addr: &Addr) -> bool {
        let mut cidrs = self.contents.service_cidrs.iter();
        cidrs.any(|cidr| cidr.contains(*addr))
    }

    fn interface(&self, index: u32) -> Option<Interface> {
        self.contents.interfaces.get(&index).copied()
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
        self.flows.borrow_mut().get_mut(tuple).map(visit)
    }

    fn put_flow_entry(&self, tuple: &Tuple, flow: &Flow) {
        self.flows.borrow_mut().insert(*tuple, *flow);
    }

    fn add_flow_entry(&self, tuple: &Tuple, flow: &Flow) -> bool {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(tuple) {
            return false;
        }
        flows.insert(*tuple, *flow);
        true
    }

    fn remove_flow_entry(&self, tuple: &Tuple) {
        self.flows.borrow_mut().remove(tuple);
    }

    fn flow_changes(&self, place: Place) -> u64 {
        let changes = self.flow_changes.borrow();
        changes.get(&place.changes()).copied().unwrap_or_default()
    }

    fn note_flow_change(&self, place: Place) {
        *self
            .flow_changes
            .borrow_mut()
            .entry(place.changes())
            .or_default() += 1;
    }

    fn flow_cache<R>(&self, place: Place, visit: impl FnOnce(&mut CachedFlow) -> R) -> Option<R> {
        let mut slots = self.flow_cache.borrow_mut();
        let slot = slots.entry(place.slot());
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
        self.contents.policy
    }

    fn pod(&self, interface: u32) -> Option<Pod> {
        self.contents.pods.get(&interface).copied()
    }

    fn receiver(&self, addr: &Addr) -> Option<Receiver> {
        self.contents.receivers.get(addr).copied()
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
        self.contents.pod_addrs.contains(addr)
    }

    fn class(&self, addr: &Addr, slot: Slot) -> u32 {
        let class = self.contents.class(*addr);
        class.map_or(ANYONE, |class| class.0.get(slot))
    }

    fn rule(&self, question: &RuleKey) -> Option<u32> {
        self.contents.rule(question)
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

    /// SplitMix64 (Steele, Lea, Flood 2014): any seed will do, zero too.
    fn random(&self) -> u32 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [high, low] = [(mixed >> 32) as u32, mixed as u32];
        high ^ low ^ (mixed >> 63) as u32
    }

    fn now(&self) -> Nanos {
        self.now.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_repeat_with_their_seed_and_reach_every_slot() {
        let draw = |seed| {
            let tables = MemoryTables::new(Contents::default(), seed);
            (0..1_000).map(|_| tables.random()).collect::<Vec<_>>()
        };
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
        for slot in 0..7 {
            let hits = draw(0).iter().filter(|random| **random % 7 == slot).count();
            assert!((70..220).contains(&hits), "slot {slot}: {hits} of 1000");
        }
    }
}
