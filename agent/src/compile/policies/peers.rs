//! Which properties each pod's address has.
//!
//! Pods that no selector tells apart are asked about once: of labels only those count whose keys a
//! selector names, of ports only those whose names a rule names. A selector that needs a label to
//! have one of some values is asked only about pods of which it has one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use weir_ebpf::addr::Addr;
use weir_ebpf::tables::Cidr;

use crate::compile::ids::policies::{ClassKey, PolicyIds};
use crate::lookup::Lookup;
use crate::model::{Cluster, Condition, LabelSelector, Pod, Protocol};

use super::property::{Namespaces, Property};
use super::ranges::Ranges;

/// A port that a rule names, with the properties of which the pod that has it must have one;
/// `None`: any pod will do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NamedUse {
    /// Of the rule's peers.
    pub peers: Option<BTreeSet<u64>>,
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
}

/// What is asked of pods.
pub(super) struct Asked<'a> {
    /// The properties that pods may have by their labels, by their numbers.
    pub properties: &'a BTreeMap<u64, Property>,
    /// The ports that rules name, for egress.
    pub named: &'a BTreeSet<NamedUse>,
    /// The ranges that rules name.
    pub ranges: &'a Ranges,
}

/// What tells pods apart, as far as anybody asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Likeness<'a> {
    namespace: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    ports: BTreeSet<(&'a str, Protocol, NonZeroU16)>,
    range: Option<Cidr>,
}

/// What pods come to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The addresses that have other properties than the range that they lie in: places among
    /// `classes`.
    pub peers: BTreeMap<Addr, usize>,
    /// These properties, perhaps some of them twice.
    pub classes: Vec<ClassKey>,
    /// The properties that came up only here.
    pub ports: BTreeMap<u64, Property>,
}

/// Which properties the pods' addresses have.
pub(super) fn classes(
    cluster: &Cluster,
    owners: &BTreeMap<IpAddr, &Pod>,
    asked: &Asked<'_>,
    ids: &mut PolicyIds,
) -> Found {
    let selectors = Selectors::new(asked.properties);
    let mut found = Found::default();
    if selectors.all.is_empty() && asked.named.is_empty() {
        return found;
    }
    let names: BTreeSet<(&str, Protocol)> = asked
        .named
        .iter()
        .map(|named| (named.name.as_str(), named.protocol))
        .collect();
    let mut known: Lookup<Likeness<'_>, Option<usize>> = Lookup::default();
    let mut selected: BTreeMap<Vec<(&str, &str)>, BTreeSet<usize>> = BTreeMap::new();
    let mut in_namespace: BTreeMap<&str, Vec<(u64, usize)>> = BTreeMap::new();
    for (addr, pod) in owners {
        let likeness = Likeness {
            namespace: &pod.id.namespace,
            labels: selectors.relevant(pod),
            ports: pod
                .ports
                .iter()
                .map(|port| (port.name.as_str(), port.protocol, port.port))
                .filter(|(name, protocol, _)| names.contains(&(name, *protocol)))
                .collect(),
            range: asked.ranges.range_of(*addr),
        };
        let place = *known.entry(likeness).or_insert_with_key(|likeness| {
            let of_range = likeness
                .range
                .and_then(|range| asked.ranges.classes.get(&range));
            let of_range = of_range.cloned().unwrap_or_default();
            let candidates = in_namespace
                .entry(likeness.namespace)
                .or_insert_with(|| selectors.in_namespace(cluster, likeness.namespace));
            let selected = selected
                .entry(likeness.labels.clone())
                .or_insert_with(|| selectors.selecting(pod));
            let mut class = of_range.clone();
            let having = candidates
                .iter()
                .filter(|(_, selector)| selected.contains(selector));
            class.extend(having.map(|(property, _)| *property));
            let by_labels = class.clone();
            for named in asked.named {
                let is_peer = named
                    .peers
                    .as_ref()
                    .is_none_or(|peers| !peers.is_disjoint(&by_labels));
                if is_peer {
                    for property in ports_named(likeness, named) {
                        let number = ids.property(&property);
                        class.insert(number);
                        found.ports.insert(number, property);
                    }
                }
            }
            (class != of_range).then(|| {
                found.classes.push(class);
                found.classes.len() - 1
            })
        });
        found
            .peers
            .extend(place.map(|place| (Addr::from(*addr), place)));
    }
    found
}

/// The ports that a pod has of this name, as properties.
fn ports_named(likeness: &Likeness<'_>, named: &NamedUse) -> impl Iterator<Item = Property> {
    let ports = likeness.ports.iter();
    ports
        .filter(|(name, protocol, _)| *name == named.name && *protocol == named.protocol)
        .map(|(name, protocol, port)| Property::Port {
            name: (*name).to_owned(),
            protocol: *protocol,
            port: *port,
        })
}

/// The selectors of pods that are asked about, each once.
struct Selectors<'a> {
    all: Vec<&'a LabelSelector>,
    /// The properties, each with its namespaces and the place of its selector.
    properties: Vec<(u64, &'a Namespaces, usize)>,
    /// The keys that any of them names.
    keys: BTreeSet<&'a str>,
    /// Those that need a label to have one of some values, by these.
    by_label: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    /// The others.
    others: Vec<usize>,
}

impl<'a> Selectors<'a> {
    fn new(properties: &'a BTreeMap<u64, Property>) -> Self {
        let mut places: BTreeMap<&LabelSelector, usize> = BTreeMap::new();
        let mut this = Self {
            all: Vec::new(),
            properties: Vec::new(),
            keys: BTreeSet::new(),
            by_label: BTreeMap::new(),
            others: Vec::new(),
        };
        for (number, property) in properties {
            let Property::Pod { namespaces, labels } = property else {
                continue;
            };
            let place = *places.entry(labels).or_insert_with(|| {
                this.all.push(labels);
                this.all.len() - 1
            });
            this.properties.push((*number, namespaces, place));
        }
        for (place, selector) in this.all.iter().enumerate() {
            let mut needed = None;
            for requirement in selector.requirements() {
                this.keys.insert(&requirement.key);
                if let Condition::In(values) = &requirement.condition {
                    needed = needed.or(Some((requirement.key.as_str(), values)));
                }
            }
            match needed {
                Some((key, values)) => {
                    for value in values {
                        this.by_label.entry((key, value)).or_default().push(place);
                    }
                }
                None => this.others.push(place),
            }
        }
        this
    }

    /// The labels of a pod that count.
    fn relevant<'p>(&self, pod: &'p Pod) -> Vec<(&'p str, &'p str)> {
        let labels = pod.labels.iter();
        labels.filter(|(key, _)| self.keys.contains(key)).collect()
    }

    /// The properties that pods of a namespace may have, with the places of their selectors.
    ///
    /// A namespace that is not known is selected by no selector.
    fn in_namespace(&self, cluster: &Cluster, name: &str) -> Vec<(u64, usize)> {
        let namespace = cluster.namespace(name);
        let mut known: BTreeMap<&LabelSelector, bool> = BTreeMap::new();
        let mut is_selected = |selector: &'a LabelSelector| {
            *known.entry(selector).or_insert_with(|| {
                namespace.is_some_and(|namespace| selector.selects(&namespace.labels))
            })
        };
        let all = self.properties.iter();
        all.filter(|(_, namespaces, _)| match namespaces {
            Namespaces::Named(named) => named == name,
            Namespaces::Selected(selector) => is_selected(selector),
        })
        .map(|(number, _, place)| (*number, *place))
        .collect()
    }

    /// The places of the selectors that select a pod by its labels.
    fn selecting(&self, pod: &Pod) -> BTreeSet<usize> {
        let labels = pod.labels.iter();
        let by_label = labels
            .filter_map(|(key, value)| self.by_label.get(&(key, value)))
            .flatten();
        let candidates = by_label.chain(&self.others).copied();
        candidates
            .filter(|place| self.all[*place].selects(&pod.labels))
            .collect()
    }
}
