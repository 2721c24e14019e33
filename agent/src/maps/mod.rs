//! What the agent's tables hold, and the writes that change it.
//!
//! [`diff()`](diff::diff) says in which order, [`flows`] what that makes stale; [`memory`] holds the same tables on the host,
//! [`kernel`] in the kernel, where [`pins`] gives them names. What becomes of the tables of another
//! version of Weir says [`succession`].

pub mod cover;
pub mod diff;
pub mod flows;
pub mod kernel;
pub mod layout;
pub mod memory;
pub mod pins;
pub mod prefixes;
pub mod succession;
pub mod text;

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{
    Backend, BackendKey, Cidr, Class, Frontend, FrontendKey, Interface, Node, Pod, PodAddr, Policy,
    Receiver, RuleKey, Service, ServiceName, ServingKey, SourceRange, name,
};

/// Set in the `revision` of a [`Service`] while its set of backends is being changed.
///
/// A settled revision never has it. An agent that finds it knows that a change was begun and not
/// finished, and raises the revision once more, so that no flow keeps a backend that it chose in
/// between.
pub const UNSETTLED: u32 = 1 << 31;

/// The content of every table that the agent writes: what it should hold (*desired*) or what it
/// was last seen to hold (*actual*).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// `FRONTENDS`
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// `SERVICES`: an array in the kernel; entries that are all zero are left out here.
    pub services: BTreeMap<u32, Service>,
    /// `BACKENDS`
    pub backends: BTreeMap<BackendKey, Backend>,
    /// `SERVING`
    pub serving: BTreeSet<ServingKey>,
    /// `SERVICE_NAMES`
    pub service_names: BTreeMap<u32, ServiceName>,
    /// `NODE_PORT_ADDRS`
    pub node_port_addrs: BTreeSet<Addr>,
    /// `SOURCE_RANGES`
    pub source_ranges: BTreeSet<SourceRange>,
    /// `SERVICE_CIDRS`
    pub service_cidrs: BTreeSet<Cidr>,
    /// `INTERFACES`
    pub interfaces: BTreeMap<u32, Interface>,
    /// `NODE`
    pub node: Node,
    /// `PODS`
    pub pods: BTreeMap<u32, Pod>,
    /// `POD_ADDRS`
    pub pod_addrs: BTreeSet<PodAddr>,
    /// `RECEIVERS`
    pub receivers: BTreeMap<Addr, Receiver>,
    /// `PEERS`
    pub peers: BTreeMap<Addr, Class>,
    /// `PEER_RANGES`
    pub peer_ranges: BTreeMap<Cidr, Class>,
    /// `RULES`
    pub rules: BTreeMap<RuleKey, u32>,
    /// `POLICY`
    pub policy: Policy,
}

impl Contents {
    /// Entries of a table, by its name. `None`: not one of these.
    #[must_use]
    pub fn entries(&self, table: &str) -> Option<usize> {
        match table {
            name::FRONTENDS => Some(self.frontends.len()),
            name::SERVICES => Some(self.services.len()),
            name::BACKENDS => Some(self.backends.len()),
            name::SERVING => Some(self.serving.len()),
            name::SERVICE_NAMES => Some(self.service_names.len()),
            name::NODE_PORT_ADDRS => Some(self.node_port_addrs.len()),
            name::SOURCE_RANGES => Some(self.source_ranges.len()),
            name::SERVICE_CIDRS => Some(self.service_cidrs.len()),
            name::INTERFACES => Some(self.interfaces.len()),
            name::NODE | name::POLICY => Some(1),
            name::PODS => Some(self.pods.len()),
            name::POD_ADDRS => Some(self.pod_addrs.len()),
            name::RECEIVERS => Some(self.receivers.len()),
            name::PEERS => Some(self.peers.len()),
            name::PEER_RANGES => Some(self.peer_ranges.len()),
            name::RULES => Some(self.rules.len()),
            _ => None,
        }
    }
}

/// One write to one table.
///
/// Plans are long, and most of what they write is small: what is not, and is written seldom, is
/// elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets an entry of `FRONTENDS`.
    PutFrontend(FrontendKey, Frontend),
    /// Removes one; absent is no error.
    RemoveFrontend(FrontendKey),
    /// Sets an entry of `SERVICES`. Removing one is setting it to zero.
    PutService(u32, Service),
    /// Sets an entry of `BACKENDS`.
    PutBackend(BackendKey, Backend),
    /// Removes one; absent is no error.
    RemoveBackend(BackendKey),
    /// Adds to `SERVING`.
    PutServing(ServingKey),
    /// Removes from it; absent is no error.
    RemoveServing(ServingKey),
    /// Sets an entry of `SERVICE_NAMES`.
    PutServiceName(u32, Box<ServiceName>),
    /// Removes one; absent is no error.
    RemoveServiceName(u32),
    /// Adds to `NODE_PORT_ADDRS`.
    PutNodePortAddr(Addr),
    /// Removes from it; absent is no error.
    RemoveNodePortAddr(Addr),
    /// Adds to `SOURCE_RANGES`.
    PutSourceRange(SourceRange),
    /// Removes from it; absent is no error.
    RemoveSourceRange(SourceRange),
    /// Adds to `SERVICE_CIDRS`.
    PutServiceCidr(Cidr),
    /// Removes from it; absent is no error.
    RemoveServiceCidr(Cidr),
    /// Sets an entry of `INTERFACES`.
    PutInterface(u32, Interface),
    /// Removes one; absent is no error.
    RemoveInterface(u32),
    /// Sets `NODE`.
    PutNode(Box<Node>),
    /// Sets an entry of `PODS`.
    PutPod(u32, Pod),
    /// Removes one; absent is no error.
    RemovePod(u32),
    /// Adds to `POD_ADDRS`.
    PutPodAddr(PodAddr),
    /// Removes from it; absent is no error.
    RemovePodAddr(PodAddr),
    /// Sets an entry of `RECEIVERS`.
    PutReceiver(Addr, Receiver),
    /// Removes one; absent is no error.
    RemoveReceiver(Addr),
    /// Sets an entry of `PEERS`.
    PutPeer(Addr, Class),
    /// Removes one; absent is no error.
    RemovePeer(Addr),
    /// Sets an entry of `PEER_RANGES`.
    PutPeerRange(Cidr, Class),
    /// Removes one; absent is no error.
    RemovePeerRange(Cidr),
    /// Sets an entry of `RULES`.
    PutRule(RuleKey, u32),
    /// Removes one; absent is no error.
    RemoveRule(RuleKey),
    /// Sets `POLICY`.
    PutPolicy(Policy),
}

/// The writes that lead from one [`Contents`] to another, in an order whose every prefix a
/// packet may safely meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Write>);

impl Plan {
    /// What it leaves in `POLICY`, if it writes there.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        self.0.iter().rev().find_map(|write| match write {
            Write::PutPolicy(policy) => Some(*policy),
            _ => None,
        })
    }
}

/// Of how many service ports these are the sets of endpoints, each family for itself.
pub fn service_ports<'a>(names: impl IntoIterator<Item = &'a ServiceName>) -> usize {
    let ports: BTreeSet<_> = names
        .into_iter()
        .map(|name| {
            (
                (&name.namespace, &name.name, &name.port_name),
                (name.port, name.protocol, name.family),
            )
        })
        .collect();
    ports.len()
}

impl Contents {
    /// The entry of `PEERS` or `PEER_RANGES` that speaks of an address.
    #[must_use]
    pub fn class(&self, addr: Addr) -> Option<Class> {
        let exact = self.peers.get(&addr);
        let of_range = || {
            let ranges = self.peer_ranges.iter();
            let covering = ranges.filter(|(range, _)| range.contains(addr));
            covering.max_by_key(|(range, _)| range.prefix_len)
        };
        exact
            .or_else(|| of_range().map(|(_, class)| class))
            .copied()
    }

    /// The rule of the longest entry of `RULES` that answers a question.
    #[must_use]
    pub fn rule(&self, question: &RuleKey) -> Option<u32> {
        let keys = question.shortened();
        keys.into_iter()
            .find_map(|key| self.rules.get(&key).copied())
    }

    /// Takes away what a number has in `SERVICES`, `BACKENDS` and `SERVING`.
    pub fn remove_number(&mut self, number: u32) {
        self.services.remove(&number);
        let slots: Vec<BackendKey> = self.slots_of(number).map(|(key, _)| *key).collect();
        for key in slots {
            self.backends.remove(&key);
        }
        let serving: Vec<ServingKey> = self.serving_of(number).copied().collect();
        for key in serving {
            self.serving.remove(&key);
        }
    }

    /// What these numbers have in `SERVICES`, `SERVICE_NAMES`, `BACKENDS` and `SERVING`, and
    /// nothing else but what stands there once.
    #[must_use]
    pub fn of_numbers(&self, numbers: &BTreeSet<u32>) -> Self {
        let mut of_numbers = Self {
            node: self.node,
            policy: self.policy,
            ..Self::default()
        };
        for &number in numbers {
            let services = self.services.get(&number);
            of_numbers.services.extend(services.map(|it| (number, *it)));
            let names = self.service_names.get(&number);
            of_numbers
                .service_names
                .extend(names.map(|it| (number, *it)));
            of_numbers.backends.extend(self.slots_of(number));
            of_numbers.serving.extend(self.serving_of(number));
        }
        of_numbers
    }

    /// What these numbers have in any table, and what of these frontends is there; beside them the
    /// node's addresses, and what stands there once.
    #[must_use]
    pub fn of_parts(&self, numbers: &BTreeSet<u32>, frontends: &BTreeSet<FrontendKey>) -> Self {
        let frontends = frontends.iter();
        let frontends = frontends.filter_map(|key| Some((*key, *self.frontends.get(key)?)));
        let ranges = self.source_ranges.iter();
        let ranges = ranges.filter(|range| numbers.contains(&range.service));
        Self {
            frontends: frontends.collect(),
            source_ranges: ranges.copied().collect(),
            node_port_addrs: self.node_port_addrs.clone(),
            ..self.of_numbers(numbers)
        }
    }

    /// Takes away what the tables of policies hold, and nothing else.
    #[must_use]
    pub fn take_policies(&mut self) -> Self {
        Self {
            pods: std::mem::take(&mut self.pods),
            pod_addrs: std::mem::take(&mut self.pod_addrs),
            receivers: std::mem::take(&mut self.receivers),
            peers: std::mem::take(&mut self.peers),
            peer_ranges: std::mem::take(&mut self.peer_ranges),
            rules: std::mem::take(&mut self.rules),
            policy: std::mem::take(&mut self.policy),
            ..Self::default()
        }
    }

    /// With the tables of policies that another has.
    #[must_use]
    pub fn with_policies(self, other: Self) -> Self {
        Self {
            frontends: self.frontends,
            services: self.services,
            backends: self.backends,
            serving: self.serving,
            service_names: self.service_names,
            node_port_addrs: self.node_port_addrs,
            source_ranges: self.source_ranges,
            service_cidrs: self.service_cidrs,
            interfaces: self.interfaces,
            node: self.node,
            ..other
        }
    }

    /// The backends of a service port, by slot, whatever its count says.
    pub fn backends_of(&self, service: u32) -> impl Iterator<Item = (u32, Backend)> {
        self.slots_of(service)
            .map(|(key, backend)| (key.slot, *backend))
    }

    /// The same with their keys.
    pub fn slots_of(&self, service: u32) -> impl Iterator<Item = (&BackendKey, &Backend)> {
        let key = |slot| BackendKey { service, slot };
        self.backends.range(key(0)..=key(u32::MAX))
    }

    /// What `SERVING` lists of a service port.
    pub fn serving_of(&self, service: u32) -> impl Iterator<Item = &ServingKey> {
        let first = ServingKey {
            service,
            backend: bytemuck::Zeroable::zeroed(),
        };
        self.serving
            .range(first..)
            .take_while(move |key| key.service == service)
    }
}

impl Write {
    /// Makes this write to tables in memory.
    pub fn apply_to(&self, contents: &mut Contents) {
        match *self {
            Self::PutFrontend(key, frontend) => {
                contents.frontends.insert(key, frontend);
            }
            Self::RemoveFrontend(key) => {
                contents.frontends.remove(&key);
            }
            Self::PutService(number, service) if service == Service::default() => {
                contents.services.remove(&number);
            }
            Self::PutService(number, service) => {
                contents.services.insert(number, service);
            }
            Self::PutBackend(key, backend) => {
                contents.backends.insert(key, backend);
            }
            Self::RemoveBackend(key) => {
                contents.backends.remove(&key);
            }
            Self::PutServing(key) => {
                contents.serving.insert(key);
            }
            Self::RemoveServing(key) => {
                contents.serving.remove(&key);
            }
            Self::PutServiceName(number, ref name) => {
                contents.service_names.insert(number, **name);
            }
            Self::RemoveServiceName(number) => {
                contents.service_names.remove(&number);
            }
            Self::PutNodePortAddr(addr) => {
                contents.node_port_addrs.insert(addr);
            }
            Self::RemoveNodePortAddr(addr) => {
                contents.node_port_addrs.remove(&addr);
            }
            Self::PutSourceRange(range) => {
                contents.source_ranges.insert(range);
            }
            Self::RemoveSourceRange(range) => {
                contents.source_ranges.remove(&range);
            }
            Self::PutServiceCidr(cidr) => {
                contents.service_cidrs.insert(cidr);
            }
            Self::RemoveServiceCidr(cidr) => {
                contents.service_cidrs.remove(&cidr);
            }
            Self::PutInterface(index, interface) => {
                contents.interfaces.insert(index, interface);
            }
            Self::RemoveInterface(index) => {
                contents.interfaces.remove(&index);
            }
            Self::PutNode(ref node) => contents.node = **node,
            Self::PutPod(interface, pod) => {
                contents.pods.insert(interface, pod);
            }
            Self::RemovePod(interface) => {
                contents.pods.remove(&interface);
            }
            Self::PutPodAddr(addr) => {
                contents.pod_addrs.insert(addr);
            }
            Self::RemovePodAddr(addr) => {
                contents.pod_addrs.remove(&addr);
            }
            Self::PutReceiver(addr, receiver) => {
                contents.receivers.insert(addr, receiver);
            }
            Self::RemoveReceiver(addr) => {
                contents.receivers.remove(&addr);
            }
            Self::PutPeer(addr, class) => {
                contents.peers.insert(addr, class);
            }
            Self::RemovePeer(addr) => {
                contents.peers.remove(&addr);
            }
            Self::PutPeerRange(cidr, class) => {
                contents.peer_ranges.insert(cidr, class);
            }
            Self::RemovePeerRange(cidr) => {
                contents.peer_ranges.remove(&cidr);
            }
            Self::PutRule(key, rule) => {
                contents.rules.insert(key, rule);
            }
            Self::RemoveRule(key) => {
                contents.rules.remove(&key);
            }
            Self::PutPolicy(policy) => contents.policy = policy,
        }
    }
}
