//! The pinned maps: reading and writing the real tables.
//!
//! [`KernelTables::apply`] makes the writes of a plan in their order and stops at the first that
//! the kernel refuses; which order is safe is `diff`'s business. Nothing here remembers what a
//! table holds: [`KernelTables::read`] asks the kernel.
#![allow(
    unsafe_code,
    reason = "bpf(2) has no safe wrapper for batches of entries"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::marker::PhantomData;
use std::mem::discriminant;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, PerCpuArray};
use bytemuck::Pod;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{
    Affinity, AffinityKey, Backend, BackendKey, Cidr, Class, Connection, ConnectionKey, Flow,
    Frontend, FrontendKey, Interface, Node, Place, Pod as LocalPod, PodAddr, Policy, Present,
    Receiver, RuleKey, Service, ServiceName, ServingKey, SocketFlow, SocketKey, SourceRange, Tuple,
    name,
};

use crate::maps::flows::Judge;
use crate::maps::pins::Pins;
use crate::maps::{Contents, Plan, Write};

mod compare;
mod error;
mod syscall;

pub use compare::Part;
pub use error::ApplyError;
pub use syscall::Entries;
use syscall::Stopped;

/// Every table of a pin directory, open for reading, and for writing unless asked otherwise.
pub struct KernelTables {
    frontends: Table<FrontendKey, Frontend>,
    services: Table<u32, Service>,
    backends: Table<BackendKey, Backend>,
    serving: Table<ServingKey, Present>,
    service_names: Table<u32, ServiceName>,
    node_port_addrs: Table<Addr, Present>,
    source_ranges: PrefixTable<SourceRange, Present>,
    service_cidrs: PrefixTable<Cidr, Present>,
    interfaces: Table<u32, Interface>,
    node: Table<u32, Node>,
    pods: Table<u32, LocalPod>,
    pod_addrs: Table<PodAddr, Present>,
    receivers: Table<Addr, Receiver>,
    peers: Table<Addr, Class>,
    peer_ranges: PrefixTable<Cidr, Class>,
    rules: PrefixTable<RuleKey, u32>,
    policy: Table<u32, Policy>,
    connections: Table<ConnectionKey, Connection>,
    affinity: Table<AffinityKey, Affinity>,
    flows: Table<Tuple, Flow>,
    flow_changes: Table<u32, u64>,
    sockets: Table<SocketKey, SocketFlow>,
    counters: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for KernelTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelTables").finish_non_exhaustive()
    }
}

/// Takes key and value from a write of this kind.
macro_rules! entry {
    ($kind:ident) => {
        |write| match write {
            Write::$kind(key, value) => Some((*key, *value)),
            _ => None,
        }
    };
}

/// Takes the key from a write of this kind.
macro_rules! key {
    ($kind:ident) => {
        |write| match write {
            Write::$kind(key) => Some(*key),
            _ => None,
        }
    };
}

/// The same for a table in which presence says it all.
macro_rules! present {
    ($kind:ident) => {
        |write| match write {
            Write::$kind(key) => Some((*key, Present::default())),
            _ => None,
        }
    };
}

/// One map and what its bytes mean.
struct Table<K, V> {
    name: &'static str,
    capacity: u32,
    map: MapData,
    layout: PhantomData<(K, V)>,
}

impl KernelTables {
    /// Opens the maps that are pinned there, after comparing their layout with ours.
    ///
    /// # Errors
    ///
    /// A map is missing, has another layout, or cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self> {
        pins.check_layout()?;
        Self::from_maps(|name| open(pins, name))
    }

    /// Opens the pinned maps for reading alone: the kernel refuses to write through what this
    /// gives back.
    ///
    /// # Errors
    ///
    /// Nothing is pinned there, or as for [`KernelTables::open`].
    pub fn open_read_only(pins: &Pins) -> Result<Self> {
        if pins.check_layout()?.is_empty() {
            bail!("{}", pins.nothing_here()?);
        }
        Self::from_maps(|name| {
            let path = pins.map(name);
            syscall::open_read_only(&path)
                .map_err(anyhow::Error::from)
                .and_then(|descriptor| Ok(MapData::from_fd(descriptor)?))
                .with_context(|| format!("open the table {name} at {}", path.display()))
        })
    }

    /// The tables in the maps of these names, which need not be pinned.
    ///
    /// # Errors
    ///
    /// A map is missing or has another layout.
    pub fn from_maps(mut map: impl FnMut(&'static str) -> Result<MapData>) -> Result<Self> {
        let counters = Map::from_map_data(map(name::COUNTERS)?)
            .and_then(PerCpuArray::try_from)
            .with_context(|| format!("open the table {}", name::COUNTERS))?;
        Ok(Self {
            frontends: Table::new(name::FRONTENDS, map(name::FRONTENDS)?)?,
            services: Table::new(name::SERVICES, map(name::SERVICES)?)?,
            backends: Table::new(name::BACKENDS, map(name::BACKENDS)?)?,
            serving: Table::new(name::SERVING, map(name::SERVING)?)?,
            service_names: Table::new(name::SERVICE_NAMES, map(name::SERVICE_NAMES)?)?,
            node_port_addrs: Table::new(name::NODE_PORT_ADDRS, map(name::NODE_PORT_ADDRS)?)?,
            source_ranges: PrefixTable::new(name::SOURCE_RANGES, map(name::SOURCE_RANGES)?)?,
            service_cidrs: PrefixTable::new(name::SERVICE_CIDRS, map(name::SERVICE_CIDRS)?)?,
            interfaces: Table::new(name::INTERFACES, map(name::INTERFACES)?)?,
            node: Table::new(name::NODE, map(name::NODE)?)?,
            pods: Table::new(name::PODS, map(name::PODS)?)?,
            pod_addrs: Table::new(name::POD_ADDRS, map(name::POD_ADDRS)?)?,
            receivers: Table::new(name::RECEIVERS, map(name::RECEIVERS)?)?,
            peers: Table::new(name::PEERS, map(name::PEERS)?)?,
            peer_ranges: PrefixTable::new(name::PEER_RANGES, map(name::PEER_RANGES)?)?,
            rules: PrefixTable::new(name::RULES, map(name::RULES)?)?,
            policy: Table::new(name::POLICY, map(name::POLICY)?)?,
            connections: Table::new(name::CONNECTIONS, map(name::CONNECTIONS)?)?,
            affinity: Table::new(name::AFFINITY, map(name::AFFINITY)?)?,
            flows: Table::new(name::FLOWS, map(name::FLOWS)?)?,
            flow_changes: Table::new(name::FLOW_CHANGES, map(name::FLOW_CHANGES)?)?,
            sockets: Table::new(name::SOCKETS, map(name::SOCKETS)?)?,
            counters,
        })
    }

    /// What the tables that the agent writes hold now.
    ///
    /// # Errors
    ///
    /// The kernel refuses to list a table, which is named.
    pub fn read(&self) -> Result<Contents> {
        Ok(Contents {
            frontends: self.frontends.collect()?,
            services: self
                .services
                .collect::<BTreeMap<_, _>>()?
                .into_iter()
                .filter(|(_, service)| *service != Service::default())
                .collect(),
            backends: self.backends.collect()?,
            serving: self.serving.keys()?,
            service_names: self.service_names.collect()?,
            node_port_addrs: self.node_port_addrs.keys()?,
            source_ranges: self.source_ranges.keys()?,
            service_cidrs: self.service_cidrs.keys()?,
            interfaces: self.interfaces.collect()?,
            node: self.node.get(&0)?.unwrap_or_default(),
            pods: self.pods.collect()?,
            pod_addrs: self.pod_addrs.keys()?,
            receivers: self.receivers.collect()?,
            peers: self.peers.collect()?,
            peer_ranges: self.peer_ranges.collect()?,
            rules: self.rules.collect()?,
            policy: self.policy.get(&0)?.unwrap_or_default(),
        })
    }

    /// The services' addresses and names alone: what it takes to name flows, again and again.
    ///
    /// # Errors
    ///
    /// The kernel refuses to list a table, which is named.
    pub fn read_names(&self) -> Result<Contents> {
        Ok(Contents {
            frontends: self.frontends.collect()?,
            service_names: self.service_names.collect()?,
            ..Contents::default()
        })
    }

    /// Makes the writes, in order. Runs of the same kind of write share calls to the kernel.
    ///
    /// # Errors
    ///
    /// The first write that the kernel refuses; the later ones are not tried.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        let mut applied = 0;
        for run in plan.0.chunk_by(|a, b| discriminant(a) == discriminant(b)) {
            self.apply_run(run)
                .map_err(|(Stopped { done, error }, capacity)| {
                    let write = run[done.min(run.len() - 1)].clone();
                    ApplyError {
                        table: error::table(&write),
                        write: Box::new(write),
                        applied: applied + done,
                        capacity,
                        error,
                    }
                })?;
            applied += run.len();
        }
        Ok(())
    }

    /// Writes of one kind: what the macros take from each leaves out nothing.
    fn apply_run(&self, run: &[Write]) -> Result<(), (Stopped, u32)> {
        match run.first() {
            None => Ok(()),
            Some(Write::PutFrontend(..)) => self.frontends.put(run, entry!(PutFrontend)),
            Some(Write::RemoveFrontend(_)) => self.frontends.remove(run, key!(RemoveFrontend)),
            Some(Write::PutService(..)) => self.services.put(run, entry!(PutService)),
            Some(Write::PutBackend(..)) => self.backends.put(run, entry!(PutBackend)),
            Some(Write::RemoveBackend(_)) => self.backends.remove(run, key!(RemoveBackend)),
            Some(Write::PutServing(_)) => self.serving.put(run, present!(PutServing)),
            Some(Write::RemoveServing(_)) => self.serving.remove(run, key!(RemoveServing)),
            Some(Write::PutServiceName(..)) => self.service_names.put(run, |write| match write {
                Write::PutServiceName(number, name) => Some((*number, **name)),
                _ => None,
            }),
            Some(Write::RemoveServiceName(_)) => {
                self.service_names.remove(run, key!(RemoveServiceName))
            }
            Some(Write::PutNodePortAddr(_)) => {
                self.node_port_addrs.put(run, present!(PutNodePortAddr))
            }
            Some(Write::RemoveNodePortAddr(_)) => {
                self.node_port_addrs.remove(run, key!(RemoveNodePortAddr))
            }
            Some(Write::PutSourceRange(_)) => self.source_ranges.put(run, present!(PutSourceRange)),
            Some(Write::RemoveSourceRange(_)) => {
                self.source_ranges.remove(run, key!(RemoveSourceRange))
            }
            Some(Write::PutServiceCidr(_)) => self.service_cidrs.put(run, present!(PutServiceCidr)),
            Some(Write::RemoveServiceCidr(_)) => {
                self.service_cidrs.remove(run, key!(RemoveServiceCidr))
            }
            Some(Write::PutInterface(..)) => self.interfaces.put(run, entry!(PutInterface)),
            Some(Write::RemoveInterface(_)) => self.interfaces.remove(run, key!(RemoveInterface)),
            Some(Write::PutNode(_)) => self.node.put(run, |write| match write {
                Write::PutNode(value) => Some((0, **value)),
                _ => None,
            }),
            Some(Write::PutPod(..)) => self.pods.put(run, entry!(PutPod)),
            Some(Write::RemovePod(_)) => self.pods.remove(run, key!(RemovePod)),
            Some(Write::PutPodAddr(_)) => self.pod_addrs.put(run, present!(PutPodAddr)),
            Some(Write::RemovePodAddr(_)) => self.pod_addrs.remove(run, key!(RemovePodAddr)),
            Some(Write::PutReceiver(..)) => self.receivers.put(run, entry!(PutReceiver)),
            Some(Write::RemoveReceiver(_)) => self.receivers.remove(run, key!(RemoveReceiver)),
            Some(Write::PutPeer(..)) => self.peers.put(run, entry!(PutPeer)),
            Some(Write::RemovePeer(_)) => self.peers.remove(run, key!(RemovePeer)),
            Some(Write::PutPeerRange(..)) => self.peer_ranges.put(run, entry!(PutPeerRange)),
            Some(Write::RemovePeerRange(_)) => self.peer_ranges.remove(run, key!(RemovePeerRange)),
            Some(Write::PutRule(..)) => self.rules.put(run, entry!(PutRule)),
            Some(Write::RemoveRule(_)) => self.rules.remove(run, key!(RemoveRule)),
            Some(Write::PutPolicy(_)) => self.policy.put(run, |write| match write {
                Write::PutPolicy(value) => Some((0, *value)),
                _ => None,
            }),
        }
    }

    /// The flows that the programs translate at pods' interfaces.
    #[must_use]
    pub fn flows(&self) -> Entries<'_, Tuple, Flow> {
        self.flows.entries()
    }

    /// The peers of sockets that the programs translate.
    #[must_use]
    pub fn sockets(&self) -> Entries<'_, SocketKey, SocketFlow> {
        self.sockets.entries()
    }

    /// Forgets the entries of the programs' own tables that these contents make stale; says how
    /// many. A flow that begins just now may be among them, and begins once more.
    ///
    /// # Errors
    ///
    /// The kernel refuses to list a table or to remove from it.
    pub fn forget_stale(&mut self, contents: &Contents) -> Result<usize> {
        let judge = Judge::new(contents);
        let flows = self
            .flows
            .forget(|tuple, flow| judge.stale_entries(tuple, flow))?;
        self.note_flow_changes(&flows)?;
        let peers = self
            .sockets
            .forget(|key, peer| judge.stale_peers(key, peer))?;
        Ok(flows.len() + peers.len())
    }

    /// Tells the programs that entries of `FLOWS` with these tuples were written: what a processor
    /// has found of them counts no more.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read or write the table.
    pub fn note_flow_changes(&self, tuples: &[Tuple]) -> Result<()> {
        let places: BTreeSet<u32> = tuples
            .iter()
            .map(|tuple| Place::of(tuple).changes())
            .collect();
        let table = &self.flow_changes;
        for place in places {
            let changes = table.get(&place)?.unwrap_or_default();
            // Whatever the programs count meanwhile, it is another number than any before.
            let changes = changes.wrapping_add(1 << 32);
            syscall::update(table.fd(), &[place], &[changes])
                .map_err(|Stopped { error, .. }| error)
                .with_context(|| format!("write to the table {}", table.name))?;
        }
        Ok(())
    }

    /// What the programs judged about pods' conversations.
    #[must_use]
    pub fn connections(&self) -> Entries<'_, ConnectionKey, Connection> {
        self.connections.entries()
    }

    /// Where clients of services with session affinity went last.
    #[must_use]
    pub fn affinity(&self) -> Entries<'_, AffinityKey, Affinity> {
        self.affinity.entries()
    }

    /// One socket's peer.
    ///
    /// # Errors
    ///
    /// The kernel refuses to look.
    pub fn socket(&self, key: &SocketKey) -> Result<Option<SocketFlow>> {
        self.sockets.get(key)
    }

    /// Each counter, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// The kernel refuses to read the table.
    pub fn counters(&self) -> Result<Vec<u64>> {
        (0..self.counters.len())
            .map(|index| {
                let values = self
                    .counters
                    .get(&index, 0)
                    .with_context(|| format!("read counter {index}"))?;
                Ok(values.iter().sum())
            })
            .collect()
    }

    /// How many entries each table that the agent fills holds at most. A table that was pinned
    /// by an earlier agent keeps the size it had.
    #[must_use]
    pub fn capacities(&self) -> BTreeMap<&'static str, u32> {
        BTreeMap::from([
            (self.frontends.name, self.frontends.capacity),
            (self.services.name, self.services.capacity),
            (self.backends.name, self.backends.capacity),
            (self.serving.name, self.serving.capacity),
            (self.service_names.name, self.service_names.capacity),
            (self.node_port_addrs.name, self.node_port_addrs.capacity),
            (self.source_ranges.0.name, self.source_ranges.0.capacity),
            (self.service_cidrs.0.name, self.service_cidrs.0.capacity),
            (self.interfaces.name, self.interfaces.capacity),
            (self.flows.name, self.flows.capacity),
            (self.affinity.name, self.affinity.capacity),
            (self.sockets.name, self.sockets.capacity),
            (self.pods.name, self.pods.capacity),
            (self.pod_addrs.name, self.pod_addrs.capacity),
            (self.receivers.name, self.receivers.capacity),
            (self.peers.name, self.peers.capacity),
            (self.peer_ranges.0.name, self.peer_ranges.0.capacity),
            (self.rules.0.name, self.rules.0.capacity),
            (self.connections.name, self.connections.capacity),
        ])
    }
}

/// The entries of one table of a pin directory, whatever else is there or is not.
///
/// # Errors
///
/// It is missing, has another layout, or cannot be read.
pub(super) fn read_alone<K: Pod + Ord, V: Pod, C: FromIterator<(K, V)>>(
    pins: &Pins,
    name: &'static str,
) -> Result<C> {
    pins.check_layout_of(&[name])?;
    read_older(pins, name)
}

/// The same of a table of prefixes.
///
/// # Errors
///
/// As for [`read_alone`].
pub(super) fn read_prefixes<K: Pod + Ord, V: Pod>(
    pins: &Pins,
    name: &'static str,
) -> Result<BTreeMap<K, V>> {
    pins.check_layout_of(&[name])?;
    PrefixTable::<K, V>::new(name, open(pins, name)?)?.collect()
}

/// The entries of a table that had keys and values of these sizes in an older layout.
///
/// # Errors
///
/// It is missing, its keys or values have other sizes, or it cannot be read.
pub(super) fn read_older<K: Pod + Ord, V: Pod, C: FromIterator<(K, V)>>(
    pins: &Pins,
    name: &'static str,
) -> Result<C> {
    Table::<K, V>::new(name, open(pins, name)?)?.collect()
}

fn open(pins: &Pins, name: &str) -> Result<MapData> {
    let path = pins.map(name);
    MapData::from_pin(&path).with_context(|| format!("open the table {name} at {}", path.display()))
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    fn new(name: &'static str, map: MapData) -> Result<Self> {
        let info = map
            .info()
            .with_context(|| format!("ask about the table {name}"))?;
        // `syscall` relies on it; `Pins::check_layout` gives the message for people.
        anyhow::ensure!(
            (info.key_size() as usize, info.value_size() as usize)
                == (size_of::<K>(), size_of::<V>()),
            "the table {name} has another layout"
        );
        Ok(Self {
            name,
            capacity: info.max_entries(),
            map,
            layout: PhantomData,
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    fn entries(&self) -> Entries<'_, K, V> {
        Entries::new(self.fd())
    }

    fn collect<C: FromIterator<(K, V)>>(&self) -> Result<C> {
        self.entries()
            .collect::<io::Result<C>>()
            .with_context(|| format!("read the table {}", self.name))
    }

    fn keys(&self) -> Result<BTreeSet<K>> {
        Ok(self.collect::<BTreeMap<K, V>>()?.into_keys().collect())
    }

    fn get(&self, key: &K) -> Result<Option<V>> {
        syscall::lookup(self.fd(), key).with_context(|| format!("read the table {}", self.name))
    }

    /// Removes the entries that this says of any of them, and says which.
    fn forget(&self, stale_by: impl Fn(&K, &V) -> Vec<K>) -> Result<Vec<K>> {
        let mut stale = Vec::new();
        for entry in self.entries() {
            let (key, value) = entry.with_context(|| format!("read the table {}", self.name))?;
            stale.extend(stale_by(&key, &value));
        }
        syscall::delete(self.fd(), &stale)
            .map_err(|Stopped { error, .. }| error)
            .with_context(|| format!("remove from the table {}", self.name))?;
        Ok(stale)
    }

    fn put(
        &self,
        run: &[Write],
        entry: impl Fn(&Write) -> Option<(K, V)>,
    ) -> Result<(), (Stopped, u32)> {
        let (keys, values) = entries_of(run, entry);
        syscall::update(self.fd(), &keys, &values).map_err(|stopped| (stopped, self.capacity))
    }

    fn remove(
        &self,
        run: &[Write],
        key: impl Fn(&Write) -> Option<K>,
    ) -> Result<(), (Stopped, u32)> {
        let keys = keys_of(run, key);
        syscall::delete(self.fd(), &keys).map_err(|stopped| (stopped, self.capacity))
    }
}

/// What these writes, which are all of the kind that is asked for, remove.
fn keys_of<K>(run: &[Write], key: impl Fn(&Write) -> Option<K>) -> Vec<K> {
    let mut keys = Vec::with_capacity(run.len());
    keys.extend(run.iter().filter_map(key));
    keys
}

/// What these writes, which are all of the kind that is asked for, set.
fn entries_of<K, V>(run: &[Write], entry: impl Fn(&Write) -> Option<(K, V)>) -> (Vec<K>, Vec<V>) {
    let mut entries = (Vec::with_capacity(run.len()), Vec::with_capacity(run.len()));
    entries.extend(run.iter().filter_map(entry));
    entries
}

/// A table of prefixes: written one by one, and read so where the kernel has no batches of them.
struct PrefixTable<K, V>(Table<K, V>);

impl<K: Pod + Ord, V: Pod> PrefixTable<K, V> {
    fn new(name: &'static str, map: MapData) -> Result<Self> {
        Table::new(name, map).map(Self)
    }

    fn keys(&self) -> Result<BTreeSet<K>> {
        Ok(self.collect()?.into_keys().collect())
    }

    fn collect(&self) -> Result<BTreeMap<K, V>> {
        let entries: io::Result<BTreeMap<K, V>> = self.0.entries().collect();
        let entries = match entries {
            Err(error) if syscall::has_no_batches(&error) => self.collect_each(),
            entries => entries,
        };
        entries.with_context(|| format!("read the table {}", self.0.name))
    }

    fn collect_each(&self) -> io::Result<BTreeMap<K, V>> {
        let mut keys = BTreeSet::new();
        let mut last = None;
        // A key seen twice: the walk has begun again, and everything was seen.
        while let Some(key) = syscall::next_key(self.0.fd(), last.as_ref())?
            && keys.insert(key)
        {
            last = Some(key);
        }
        let mut entries = BTreeMap::new();
        for key in keys {
            if let Some(value) = syscall::lookup(self.0.fd(), &key)? {
                entries.insert(key, value);
            }
        }
        Ok(entries)
    }

    fn put(
        &self,
        run: &[Write],
        entry: impl Fn(&Write) -> Option<(K, V)>,
    ) -> Result<(), (Stopped, u32)> {
        let (keys, values) = entries_of(run, entry);
        syscall::update_each(self.0.fd(), &keys, &values)
            .map_err(|stopped| (stopped, self.0.capacity))
    }

    fn remove(
        &self,
        run: &[Write],
        key: impl Fn(&Write) -> Option<K>,
    ) -> Result<(), (Stopped, u32)> {
        let keys = keys_of(run, key);
        syscall::delete_each(self.0.fd(), &keys).map_err(|stopped| (stopped, self.0.capacity))
    }
}
