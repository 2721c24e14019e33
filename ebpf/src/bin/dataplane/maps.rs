//! The maps, and the library's [`Tables`] on top of them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, lpm_trie::Key,
    },
};
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    datapath::{Decision, Workspace},
    event::Event,
    tables::{
        ANYONE, Affinity, AffinityKey, Backend, BackendKey, CachedFlow, Class, Connection,
        ConnectionKey, ExactMatch, Flow, Fragment, FragmentKey, Frontend, FrontendKey, Interface,
        Nanos, Node, Place, Pod, PodAddr, Policy, Present, Receiver, Route, RuleKey, Service,
        ServiceName, ServingKey, Shortcut, ShortcutKey, Slot, SocketFlow, SocketKey, Tables, Tuple,
        capacity,
    },
    verdict::{self, Hook, Verdict},
};

use crate::globals;

// Tables that the agent writes take memory for what they hold, not for what they could hold.
#[map]
static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(capacity::FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
static SERVICES: Array<Service> = Array::with_max_entries(capacity::SERVICES, 0);
#[map]
static BACKENDS: HashMap<BackendKey, Backend> =
    HashMap::with_max_entries(capacity::BACKENDS, BPF_F_NO_PREALLOC);
#[map]
static SERVING: HashMap<ServingKey, Present> =
    HashMap::with_max_entries(capacity::BACKENDS, BPF_F_NO_PREALLOC);
#[map]
static SERVICE_NAMES: HashMap<u32, ServiceName> =
    HashMap::with_max_entries(capacity::SERVICES, BPF_F_NO_PREALLOC);
#[map]
static NODE_PORT_ADDRS: HashMap<Addr, Present> =
    HashMap::with_max_entries(capacity::NODE_PORT_ADDRS, BPF_F_NO_PREALLOC);
#[map]
static SOURCE_RANGES: LpmTrie<ServiceAddr, Present> =
    LpmTrie::with_max_entries(capacity::SOURCE_RANGES, BPF_F_NO_PREALLOC);
#[map]
static SERVICE_CIDRS: LpmTrie<Addr, Present> =
    LpmTrie::with_max_entries(capacity::SERVICE_CIDRS, BPF_F_NO_PREALLOC);
#[map]
static INTERFACES: HashMap<u32, Interface> =
    HashMap::with_max_entries(capacity::INTERFACES, BPF_F_NO_PREALLOC);
#[map]
static NODE: Array<Node> = Array::with_max_entries(1, 0);
#[map]
static FLOWS: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(capacity::FLOWS, 0);
#[map]
static FLOW_CHANGES: Array<u64> = Array::with_max_entries(Place::CHANGES, 0);
#[map]
static FLOW_CACHE: PerCpuArray<CachedFlow> = PerCpuArray::with_max_entries(Place::SLOTS, 0);
#[map]
static EXACT_MATCHES: PerCpuArray<ExactMatch> = PerCpuArray::with_max_entries(Place::SLOTS, 0);
#[map]
static SOCKETS: LruHashMap<SocketKey, SocketFlow> =
    LruHashMap::with_max_entries(capacity::SOCKETS, 0);
#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> =
    LruHashMap::with_max_entries(capacity::AFFINITY, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment> =
    LruHashMap::with_max_entries(capacity::FRAGMENTS, 0);
#[map]
static PODS: HashMap<u32, Pod> = HashMap::with_max_entries(capacity::PODS, BPF_F_NO_PREALLOC);
#[map]
static POD_ADDRS: HashMap<PodAddr, Present> =
    HashMap::with_max_entries(capacity::POD_ADDRS, BPF_F_NO_PREALLOC);
#[map]
static PEERS: HashMap<Addr, Class> = HashMap::with_max_entries(capacity::PEERS, BPF_F_NO_PREALLOC);
#[map]
static PEER_RANGES: LpmTrie<Addr, Class> =
    LpmTrie::with_max_entries(capacity::PEER_RANGES, BPF_F_NO_PREALLOC);
#[map]
static RULES: LpmTrie<Question, u32> =
    LpmTrie::with_max_entries(capacity::RULES, BPF_F_NO_PREALLOC);
#[map]
static POLICY: Array<Policy> = Array::with_max_entries(1, 0);
#[map]
static CONNECTIONS: LruHashMap<ConnectionKey, Connection> =
    LruHashMap::with_max_entries(capacity::CONNECTIONS, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);
#[map]
static RECEIVERS: HashMap<Addr, Receiver> =
    HashMap::with_max_entries(capacity::POD_ADDRS, BPF_F_NO_PREALLOC);
#[map]
static SHORTCUTS: LruHashMap<ShortcutKey, Shortcut> =
    LruHashMap::with_max_entries(capacity::SHORTCUTS, 0);
#[map]
static ROUTES: PerCpuArray<Route> = PerCpuArray::with_max_entries(Place::SLOTS, 0);
#[map]
pub static NEXT_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static WORKSPACE: PerCpuArray<Workspace> = PerCpuArray::with_max_entries(1, 0);
#[map]
static CLOCK: PerCpuArray<Clock> = PerCpuArray::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(verdict::COUNTERS, 0);

/// What a [`SourceRange`](weir_ebpf::tables::SourceRange) has behind its length.
#[repr(C)]
struct ServiceAddr {
    service: u32,
    addr: Addr,
}

/// What a [`RuleKey`] has behind its length.
#[repr(C)]
struct Question {
    subject: u32,
    class: u32,
    protocol: Protocol,
    reserved: u8,
    port: Port,
}

/// The kernel's maps as the datapath's tables.
pub struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        // SAFETY: without preallocation an element's memory is not used again before a grace
        // period has passed, which is after this program.
        unsafe { FRONTENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn service(&self, service: u32) -> Option<Service> {
        let entry = SERVICES.get_ptr(service)?;
        // The first two fields at once, see `Service`.
        // SAFETY: the pointer is to an element of sixteen bytes, which an array map aligns to
        // eight; it stays memory of the map.
        let first: u64 = unsafe { entry.cast::<u64>().read_volatile() };
        let [backend_count, revision]: [u32; 2] = bytemuck::cast(first);
        // SAFETY: as above; the fields are aligned to four, and any bytes are valid.
        let rest = unsafe { *entry };
        Some(Service {
            backend_count,
            revision,
            ..rest
        })
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        // SAFETY: as in `frontend`.
        unsafe { BACKENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn is_serving(&self, key: &ServingKey) -> bool {
        SERVING.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn node<R>(&self, read: impl FnOnce(&Node) -> R) -> R {
        match NODE.get(0) {
            Some(node) => read(node),
            // The table has an entry, which the verifier does not know.
            None => read(&Node::NONE),
        }
    }

    #[inline(always)]
    fn is_node_port_addr(&self, addr: &Addr) -> bool {
        NODE_PORT_ADDRS.get_ptr(addr).is_some()
    }

    #[inline(always)]
    fn is_source_allowed(&self, service: u32, client: &Addr) -> bool {
        let data = ServiceAddr {
            service,
            addr: *client,
        };
        let length = 8 * size_of::<ServiceAddr>() as u32;
        SOURCE_RANGES.get(Key::new(length, data)).is_some()
    }

    #[inline(always)]
    fn is_service_addr(&self, addr: &Addr) -> bool {
        let length = 8 * size_of::<Addr>() as u32;
        SERVICE_CIDRS.get(Key::new(length, *addr)).is_some()
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<Interface> {
        // SAFETY: as in `frontend`.
        unsafe { INTERFACES.get(index) }.copied()
    }

    #[inline(always)]
    fn update_affinity<R>(
        &self,
        key: &AffinityKey,
        change: impl FnOnce(&mut Affinity) -> R,
    ) -> Option<R> {
        let affinity = AFFINITY.get_ptr_mut(key)?;
        // SAFETY: as in `flow_entry`.
        Some(change(unsafe { &mut *affinity }))
    }

    #[inline(always)]
    fn put_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        let _ = AFFINITY.insert(key, affinity, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn flow_entry<R>(&self, tuple: &Tuple, visit: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        let flow = FLOWS.get_ptr_mut(tuple)?;
        // SAFETY: the pointer is into a map's element, which stays memory of that map. Another
        // processor may write at the same time, or the element may be given to another flow when
        // the table is full; every field is an integer that is valid with any bits, and a mixed
        // entry lasts until the next packet.
        Some(visit(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn put_flow_entry(&self, tuple: &Tuple, flow: &Flow) {
        // A least-recently-used map always finds room.
        let _ = FLOWS.insert(tuple, flow, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn add_flow_entry(&self, tuple: &Tuple, flow: &Flow) -> bool {
        FLOWS.insert(tuple, flow, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn remove_flow_entry(&self, tuple: &Tuple) {
        // Absent is as good as removed.
        let _ = FLOWS.remove(tuple);
    }

    #[inline(always)]
    fn flow_changes(&self, place: Place) -> u64 {
        let Some(changes) = FLOW_CHANGES.get_ptr(place.changes()) else {
            return 0;
        };
        // SAFETY: the pointer is to an element of an array map, aligned to eight. Volatile: it is
        // read before what it speaks of.
        unsafe { changes.read_volatile() }
    }

    #[inline(always)]
    fn note_flow_change(&self, place: Place) {
        if let Some(changes) = FLOW_CHANGES.get_ptr_mut(place.changes()) {
            // SAFETY: as above. All processors count here, so that none may miss another's.
            unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(changes, 1) };
        }
    }

    #[inline(always)]
    fn flow_cache<R>(&self, place: Place, visit: impl FnOnce(&mut CachedFlow) -> R) -> Option<R> {
        let cached = FLOW_CACHE.get_ptr_mut(place.slot())?;
        // SAFETY: the element is this processor's own, as that of `workspace` is, and any bytes are
        // valid.
        Some(visit(unsafe { &mut *cached }))
    }

    #[inline(always)]
    fn exact_match<R>(&self, place: Place, visit: impl FnOnce(&mut ExactMatch) -> R) -> Option<R> {
        let known = EXACT_MATCHES.get_ptr_mut(place.slot())?;
        // SAFETY: as above.
        Some(visit(unsafe { &mut *known }))
    }

    #[inline(always)]
    fn update_socket<R>(
        &self,
        key: &SocketKey,
        change: impl FnOnce(&mut SocketFlow) -> R,
    ) -> Option<R> {
        let flow = SOCKETS.get_ptr_mut(key)?;
        // SAFETY: as in `flow_entry`.
        Some(change(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn put_socket(&self, key: &SocketKey, flow: &SocketFlow) {
        let _ = SOCKETS.insert(key, flow, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: as in `flow_entry`: what is read is an entry, or for one packet a mixture of
        // two.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        let _ = FRAGMENTS.insert(key, fragment, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn remove_fragment(&self, key: &FragmentKey) {
        let _ = FRAGMENTS.remove(key);
    }

    #[inline(always)]
    fn policy(&self) -> Policy {
        // The table has an entry, which the verifier does not know.
        let Some(entry) = POLICY.get_ptr(0) else {
            return Policy::default();
        };
        // All of it at once, see `Policy`.
        // SAFETY: the pointer is to an element of eight bytes, which an array map aligns to eight.
        let all: u64 = unsafe { entry.cast::<u64>().read_volatile() };
        bytemuck::cast(all)
    }

    #[inline(always)]
    fn pod(&self, interface: u32) -> Option<Pod> {
        // SAFETY: as in `frontend`.
        unsafe { PODS.get(interface) }.copied()
    }

    #[inline(always)]
    fn receiver(&self, addr: &Addr) -> Option<Receiver> {
        // SAFETY: as in `frontend`.
        unsafe { RECEIVERS.get(addr) }.copied()
    }

    #[inline(always)]
    fn shortcut(&self, key: &ShortcutKey) -> Option<Shortcut> {
        // SAFETY: as in `flow_entry`: what is read is an entry, or for one packet a mixture of two
        // of one key, which are of one time.
        unsafe { SHORTCUTS.get(key) }.copied()
    }

    #[inline(always)]
    fn put_shortcut(&self, key: &ShortcutKey, shortcut: &Shortcut) {
        let _ = SHORTCUTS.insert(key, shortcut, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn route_cache<R>(&self, place: Place, visit: impl FnOnce(&mut Route) -> R) -> Option<R> {
        let route = ROUTES.get_ptr_mut(place.slot())?;
        // SAFETY: as in `flow_cache`.
        Some(visit(unsafe { &mut *route }))
    }

    #[inline(always)]
    fn is_pod_addr(&self, addr: &PodAddr) -> bool {
        POD_ADDRS.get_ptr(addr).is_some()
    }

    #[inline(always)]
    fn class(&self, addr: &Addr, slot: Slot) -> u32 {
        // SAFETY: as in `frontend`.
        if let Some(class) = unsafe { PEERS.get(addr) } {
            return class.0.get(slot);
        }
        let length = 8 * size_of::<Addr>() as u32;
        match PEER_RANGES.get(Key::new(length, *addr)) {
            Some(class) => class.0.get(slot),
            None => ANYONE,
        }
    }

    #[inline(always)]
    fn rule(&self, question: &RuleKey) -> Option<u32> {
        let data = Question {
            subject: question.subject,
            class: question.class,
            protocol: question.protocol,
            reserved: 0,
            port: question.port,
        };
        RULES.get(Key::new(question.prefix_len, data)).copied()
    }

    #[inline(always)]
    fn update_connection<R>(
        &self,
        key: &ConnectionKey,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        let connection = CONNECTIONS.get_ptr_mut(key)?;
        // SAFETY: as in `flow_entry`.
        Some(change(unsafe { &mut *connection }))
    }

    #[inline(always)]
    fn put_connection(&self, key: &ConnectionKey, connection: &Connection) {
        let _ = CONNECTIONS.insert(key, connection, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn tell(&self, event: &Event) {
        if EVENTS.output::<Event>(event, 0).is_err() {
            add_one(verdict::LOST_EVENTS);
        }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and may be called anywhere.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn now(&self) -> Nanos {
        // SAFETY: as in `random`. The verifier puts the variable's address in the call's place.
        let jiffies = unsafe { bpf_jiffies64() };
        let Some(clock) = CLOCK.get_ptr_mut(0) else {
            return read_clock();
        };
        // SAFETY: the element is this processor's own memory of the map, and any bytes are valid.
        // A socket call may be interrupted by packets between two of these accesses: volatile, and
        // the time before its tick, so that what is found under a tick is the time of that tick,
        // or for a moment that at which the call was interrupted.
        unsafe {
            if (&raw const (*clock).jiffies).read_volatile() == jiffies {
                return (&raw const (*clock).now).read_volatile();
            }
            let now = read_clock();
            (&raw mut (*clock).now).write_volatile(now);
            (&raw mut (*clock).jiffies).write_volatile(jiffies);
            now
        }
    }
}

/// The monotonic clock as it was read once in this tick: reading it costs as much as a lookup.
/// Lifetimes are seconds, and a tick is ten milliseconds at most.
#[repr(C)]
struct Clock {
    /// The kernel's count of ticks.
    jiffies: u64,
    now: Nanos,
}

fn read_clock() -> Nanos {
    if globals::has_coarse_clock() {
        // SAFETY: the helper takes nothing and may be called anywhere. A third of the other's
        // cost.
        unsafe { bpf_ktime_get_coarse_ns() }
    } else {
        // SAFETY: as above.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// What a packet's program works with. `None` does not happen: the table has an entry.
#[inline(always)]
pub fn workspace<'a>() -> Option<&'a mut Workspace> {
    let work = WORKSPACE.get_ptr_mut(0)?;
    // SAFETY: the element is this processor's own, and no other program that uses it runs on this
    // processor before this one has ended: at both hooks of an interface softirqs are off. Zero
    // bytes, as the table begins, and whatever such a program leaves there are valid.
    Some(unsafe { &mut *work })
}

/// Counts a verdict at a hook.
#[inline(always)]
pub fn count(hook: Hook, verdict: Verdict) {
    add_one(verdict::counter(hook, verdict));
}

/// Counts what was done with a packet at a hook.
#[inline(always)]
pub fn count_packet(hook: Hook, decision: Decision) {
    let first = verdict::counter(hook, Verdict::Pass);
    add_one(first + u32::from(decision.number()));
}

#[inline(always)]
fn add_one(counter: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the element is this processor's own, and a program of this kind is not
        // interrupted by another on the same processor in the middle of this addition.
        unsafe { *counter += 1 }
    }
}
