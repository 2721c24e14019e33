//! Network policies: who is isolated, whom rules speak of, and what they allow.
//!
//! A pod at an interface of this node is isolated in a direction by a set of policies, and these, as
//! they are now, are its *subject set*. The rules of all subject sets of this node ask for
//! properties of addresses ([`Property`]); the set of all that an address has is its *class*.
//! What is allowed follows from the contents of the two alone: an entry of `RULES` says it for their
//! numbers, which never get another content. Rules that name no peers are written for the class
//! [`ANYONE`].
//!
//! Promises: a pod is never less isolated than its policies say. A policy that cannot be read, or
//! whose rules have no room, isolates and allows nothing; a pod of which only the name is known is
//! isolated where its namespace has any policy; an address without room in a table has no
//! property of its own.

mod draft;
mod peers;
mod pods;
pub(super) mod property;
mod ranges;
pub(super) mod report;
mod room;
pub(super) mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{
    ANYONE, Class, FrontendKey, NOBODY, Pod as PodEntry, PodAddr, PodState, PolicyFlags, Receiver,
    Slots,
};

use crate::maps::Contents;
use crate::model::{Cluster, Kind, NetworkPolicy, ObjectRef, PolicyRef};

use super::ids::policies::{PolicyIds, Used};
use super::pod_interface::UnknownPods;
use super::{Capacities, Desired, Ids, NodeContext, Reason, Skipped, Table};

use draft::{Draft, RulePlace};
use pods::Whose;
use report::{PodReport, PolicyNames, RuleName, SubjectSet};

/// Fills every table that policies are in.
pub(super) fn compile_policies(
    cluster: &Cluster,
    node: &NodeContext,
    ids: &mut PolicyIds,
    capacities: &Capacities,
    desired: &mut Desired,
) {
    let places = pods::places(cluster, node);
    let owners = pods::owners(cluster, node, &places);
    let policies = by_namespace(cluster);
    let mut without_rules: BTreeMap<PolicyRef, Table> = BTreeMap::new();
    let draft = loop {
        let has_rules = |policy: &PolicyRef| !without_rules.contains_key(policy);
        let draft = Draft::new(cluster, &places, &owners, &policies, &has_rules, ids);
        let left_out = room::policies_without_room(&draft, capacities);
        if left_out.is_empty() {
            break draft;
        }
        without_rules.extend(left_out);
    };
    for (policy, table) in without_rules {
        let reference = ObjectRef::new(Kind::NetworkPolicy, &policy.namespace, &policy.name);
        desired.skipped.push(Skipped {
            object: reference,
            part: None,
            reason: Reason::NoRoomForRules {
                table,
                capacity: capacities.of(table),
            },
        });
    }
    let numbers = Numbers::give(&draft, ids);
    numbers.write(&draft, &mut desired.contents, &mut desired.policies);
    desired.contents.policy.flags = flags(node, &policies);
    write_pods(&draft, &numbers, &policies, desired);
    if node.policy.fast_path {
        write_receivers(&draft, desired);
    }
    room::leave_out_addresses(&owners, capacities, desired);
}

/// Fills the tables that policies are in again, where nothing but pods, namespaces and policies has
/// changed. Gives what was in them before.
pub(super) fn recompile_policies(
    desired: &mut Desired,
    cluster: &Cluster,
    node: &NodeContext,
    ids: &mut Ids,
    capacities: &Capacities,
) -> Contents {
    let before = desired.contents.take_policies();
    let is_of_services = |skipped: &Skipped| match skipped.object.kind {
        Kind::Pod | Kind::NetworkPolicy => false,
        Kind::Service
        | Kind::EndpointSlice
        | Kind::Endpoints
        | Kind::Node
        | Kind::ServiceCidr
        | Kind::Namespace => true,
    };
    desired.skipped.retain(is_of_services);
    desired.policies = PolicyNames::default();
    desired.pods.clear();
    compile_policies(cluster, node, ids.policies(), capacities, desired);
    before
}

/// The policies of each namespace that has any, by name.
type ByNamespace<'a> = BTreeMap<&'a str, Vec<&'a NetworkPolicy>>;

fn by_namespace(cluster: &Cluster) -> ByNamespace<'_> {
    let mut by_namespace = ByNamespace::new();
    for policy in cluster.network_policies() {
        let policies = by_namespace.entry(&policy.id.namespace).or_default();
        policies.push(policy);
    }
    by_namespace
}

fn flags(node: &NodeContext, policies: &ByNamespace<'_>) -> PolicyFlags {
    let options = &node.policy;
    // Whatever is refused is told.
    let mut flags = PolicyFlags::EVENTS_DENIED;
    let denies_unknown = match options.unknown_pods {
        // Of a pod that is not known nobody can say that no policy selects it.
        UnknownPods::Auto => !policies.is_empty(),
        UnknownPods::Deny => true,
        UnknownPods::Allow => false,
    };
    for (is_set, flag) in [
        (denies_unknown, PolicyFlags::DENY_UNKNOWN),
        (!options.source_check, PolicyFlags::NO_SOURCE_CHECK),
        (options.keep_established, PolicyFlags::KEEP_ESTABLISHED),
    ] {
        if is_set {
            flags = flags.with(flag);
        }
    }
    flags
}

fn write_pods(
    draft: &Draft<'_>,
    numbers: &Numbers,
    policies: &ByNamespace<'_>,
    desired: &mut Desired,
) {
    for (place, isolation) in &draft.places {
        let number = |subject: Option<usize>| subject.map_or(0, |it| numbers.subjects[it]);
        let isolating =
            |subject: Option<usize>| subject.map_or_else(BTreeSet::new, |it| draft.isolating(it));
        let (state, sets, pod) = match place.pod {
            Whose::Unknown => (PodState::UNKNOWN, [0; 2], None),
            Whose::Named(name) if policies.contains_key(name.namespace.as_str()) => {
                (PodState::ISOLATED, [NOBODY; 2], Some(name))
            }
            Whose::Named(name) => (PodState::ISOLATED, [0; 2], Some(name)),
            Whose::Known(pod) => (
                PodState::PROGRAMMED,
                [isolation.egress, isolation.ingress].map(number),
                Some(&pod.id),
            ),
        };
        let [egress, ingress] = sets.map(Slots::both);
        // One that counts on its link alone is nobody's in particular.
        let first = |is_of_family: fn(&Addr) -> bool| {
            let mut addrs = place.interface.addrs.iter().map(|addr| Addr::from(*addr));
            addrs.find(|addr| is_of_family(addr) && !addr.is_link_local())
        };
        let entry = PodEntry {
            egress,
            ingress,
            netns: place.interface.netns,
            state,
            reserved: [0; 3],
            addr_v4: first(|addr| addr.is_v4()).unwrap_or_default(),
            addr_v6: first(|addr| !addr.is_v4()).unwrap_or_default(),
        };
        let report = PodReport {
            pod: pod.cloned(),
            state,
            egress: isolating(isolation.egress),
            ingress: isolating(isolation.ingress),
        };
        desired.contents.pods.insert(place.index, entry);
        desired.pods.insert(place.index, report);
        let addrs = place.interface.addrs.iter().map(|addr| PodAddr {
            interface: place.index,
            addr: Addr::from(*addr),
        });
        desired.contents.pod_addrs.extend(addrs);
    }
}

/// The addresses of pods to which packets may be handed over: those that one interface alone has,
/// whose pod is known, and that no service has, at whatever port.
fn write_receivers(draft: &Draft<'_>, desired: &mut Desired) {
    let mut interfaces: BTreeMap<IpAddr, Vec<(u32, bool)>> = BTreeMap::new();
    for (place, _) in &draft.places {
        let is_ready = place.interface.is_direct && matches!(place.pod, Whose::Known(_));
        for addr in &place.interface.addrs {
            let of_addr = interfaces.entry(*addr).or_default();
            of_addr.push((place.index, is_ready));
        }
    }
    for (addr, of_addr) in interfaces {
        let addr = Addr::from(addr);
        if let [(interface, true)] = of_addr[..]
            && !addr.is_link_local()
            && !is_services(addr, &desired.contents)
        {
            desired
                .contents
                .receivers
                .insert(addr, Receiver { interface });
        }
    }
}

/// Does a service have this address, at some port?
fn is_services(addr: Addr, contents: &Contents) -> bool {
    let mut at_addr = contents
        .frontends
        .range(FrontendKey::address_only(addr)..)
        .take_while(|(key, _)| key.addr == addr);
    at_addr.next().is_some() || contents.node_port_addrs.contains(&addr)
}

/// The numbers of a draft's contents.
struct Numbers {
    subjects: Vec<u32>,
    classes: Vec<u32>,
    rules: BTreeMap<RulePlace, (u32, RuleName)>,
}

impl Numbers {
    /// Gives numbers to what has none yet, and takes those of all that has gone.
    fn give(draft: &Draft<'_>, ids: &mut PolicyIds) -> Self {
        let rules = draft.versions.iter().flat_map(|(number, version)| {
            (0..version.rules.len()).map(|index| {
                let name = RuleName {
                    policy: version.policy.clone(),
                    direction: version.direction,
                    index,
                };
                let place = RulePlace {
                    version: *number,
                    index,
                };
                (place, name)
            })
        });
        let rules = rules.map(|(place, name)| (place, (ids.rule(&name), name)));
        let this = Self {
            rules: rules.collect(),
            subjects: draft.subjects.iter().map(|key| ids.subject(key)).collect(),
            classes: draft.classes.iter().map(|key| ids.class(key)).collect(),
        };
        ids.release_all_but(&Used {
            properties: draft.properties.keys().copied().collect(),
            versions: draft.versions.keys().copied().collect(),
            subjects: this.subjects.iter().copied().collect(),
            classes: this.classes.iter().copied().collect(),
            rules: this.rules.values().map(|(number, _)| *number).collect(),
        });
        this
    }

    /// Fills the tables of peers and rules, and says what the numbers stand for.
    fn write(&self, draft: &Draft<'_>, contents: &mut Contents, names: &mut PolicyNames) {
        let class = |place: usize| Class(Slots::both(self.classes[place]));
        let peers = draft.peers.iter();
        contents.peers = peers.map(|(addr, place)| (*addr, class(*place))).collect();
        let ranges = draft.ranges.classes.iter();
        contents.peer_ranges = ranges
            .map(|(range, key)| {
                // One that has no property is anyone's.
                let place = draft.classes.binary_search(key).ok();
                (*range, place.map_or(Class(Slots::both(ANYONE)), class))
            })
            .collect();
        let entries = draft.entries.iter();
        contents.rules = entries
            .map(|entry| {
                let class = entry.class.map_or(ANYONE, |it| self.classes[it]);
                let key = entry.allowed.key(self.subjects[entry.subject], class);
                (
                    key,
                    self.rules.get(&entry.rule).map_or(0, |(number, _)| *number),
                )
            })
            .collect();

        let subjects = draft.subjects.iter().enumerate();
        names.subjects = subjects
            .map(|(place, key)| {
                let set = SubjectSet {
                    direction: key.direction,
                    policies: draft.isolating(place),
                    named_ports: key.named_ports.clone(),
                };
                (self.subjects[place], set)
            })
            .collect();
        names.rules = self.rules.values().cloned().collect();
        let classes = draft.classes.iter().zip(&self.classes);
        names.classes = classes
            .map(|(key, number)| {
                let properties = key.iter().filter_map(|it| draft.properties.get(it));
                (*number, properties.cloned().collect())
            })
            .collect();
    }
}
