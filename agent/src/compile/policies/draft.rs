//! What the tables are to say, by contents instead of numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_ebpf::addr::Addr;

use crate::compile::ids::policies::{ClassKey, NamedPorts, PolicyIds, SubjectKey};
use crate::model::{Cluster, Direction, NetworkPolicy, Peers, Pod, PolicyPorts, PolicyRef};

use super::ByNamespace;
use super::peers::{self, Asked, NamedUse};
use super::pods::{Place, Whose};
use super::property::Property;
use super::ranges::Ranges;
use super::rule::{Allowed, Rule, Version};

/// What the tables are to say.
pub(super) struct Draft<'a> {
    /// The interfaces, each with the subject sets of its pod.
    pub places: Vec<(Place<'a>, Isolation)>,
    /// The policies that isolate somebody here, as they are now.
    pub versions: BTreeMap<u64, Version>,
    /// What their rules ask for.
    pub properties: BTreeMap<u64, Property>,
    /// The subject sets.
    pub subjects: Vec<SubjectKey>,
    /// The ranges that rules name.
    pub ranges: Ranges,
    /// The addresses with other properties than the range that they lie in: places among
    /// `classes`.
    pub peers: BTreeMap<Addr, usize>,
    /// The classes that occur, but for that of no property.
    pub classes: Vec<ClassKey>,
    /// What is allowed.
    pub entries: Vec<Entry>,
}

/// By which subject sets a pod is isolated: places in [`Draft::subjects`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Isolation {
    /// As a sender.
    pub egress: Option<usize>,
    /// As a receiver.
    pub ingress: Option<usize>,
}

/// A rule's version and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RulePlace {
    /// The number of the version.
    pub version: u64,
    /// The rule's index.
    pub index: usize,
}

/// Something that is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// To whom: a place in [`Draft::subjects`].
    pub subject: usize,
    /// With whom: a place in [`Draft::classes`]; `None`: with everyone.
    pub class: Option<usize>,
    /// What.
    pub allowed: Allowed,
    /// By which rule.
    pub rule: RulePlace,
}

impl<'a> Draft<'a> {
    /// Some policies isolate without their rules.
    pub(super) fn new(
        cluster: &'a Cluster,
        places: &[Place<'a>],
        owners: &BTreeMap<IpAddr, &'a Pod>,
        policies: &ByNamespace<'a>,
        has_rules: &dyn Fn(&PolicyRef) -> bool,
        ids: &mut PolicyIds,
    ) -> Self {
        let mut versions = Versions::default();
        let mut subjects: BTreeMap<SubjectKey, usize> = BTreeMap::new();
        let mut subject = |place: &Place<'a>, direction| {
            let Whose::Known(pod) = place.pod else {
                return None;
            };
            let of_namespace = policies.get(pod.id.namespace.as_str())?;
            let selecting = of_namespace.iter().filter(|policy| {
                policy.isolates(direction)
                    && !pod.is_host_network
                    && policy.pod_selector.selects(&pod.labels)
            });
            let numbers: BTreeSet<u64> = selecting
                .map(|policy| versions.number(policy, direction, has_rules(&policy.id), ids))
                .collect();
            if numbers.is_empty() {
                return None;
            }
            let named_ports = match direction {
                Direction::Ingress => versions.named_ports(&numbers, pod),
                // Those names are the receiver's.
                Direction::Egress => NamedPorts::new(),
            };
            let key = SubjectKey {
                direction,
                versions: numbers,
                named_ports,
            };
            let next = subjects.len();
            Some(*subjects.entry(key).or_insert(next))
        };
        let places = places
            .iter()
            .map(|place| {
                let isolation = Isolation {
                    egress: subject(place, Direction::Egress),
                    ingress: subject(place, Direction::Ingress),
                };
                (*place, isolation)
            })
            .collect();
        let mut in_order: Vec<(usize, SubjectKey)> = subjects
            .into_iter()
            .map(|(key, place)| (place, key))
            .collect();
        in_order.sort_unstable_by_key(|(place, _)| *place);
        let subjects: Vec<SubjectKey> = in_order.into_iter().map(|(_, key)| key).collect();

        let Versions {
            versions,
            mut properties,
            ..
        } = versions;
        let blocks = properties
            .iter()
            .filter_map(|(number, property)| match property {
                Property::Block(block) => Some((*number, block)),
                Property::Pod { .. } | Property::Port { .. } => None,
            });
        let ranges = Ranges::new(blocks);
        let asked = Asked {
            properties: &properties,
            named: &named_uses(&versions),
            ranges: &ranges,
        };
        let found = peers::classes(cluster, owners, &asked, ids);
        properties.extend(found.ports);
        let classes: BTreeSet<&ClassKey> = ranges.classes.values().chain(&found.classes).collect();
        let classes = classes.into_iter().filter(|it| !it.is_empty());
        let classes: Vec<ClassKey> = classes.cloned().collect();
        // What is more than its range has is not nothing, and so is among them.
        let place = |key| classes.binary_search(key).ok();
        let places_of_found: Vec<Option<usize>> = found.classes.iter().map(place).collect();
        let peers = found.peers.into_iter();
        let peers = peers.filter_map(|(addr, found)| Some((addr, places_of_found[found]?)));
        let peers = peers.collect();
        let entries = entries(&subjects, &versions, &classes, &properties);
        Self {
            places,
            versions,
            properties,
            subjects,
            ranges,
            peers,
            classes,
            entries,
        }
    }

    /// The policies of a subject set.
    pub(super) fn isolating(&self, subject: usize) -> BTreeSet<PolicyRef> {
        let versions = self.subjects[subject].versions.iter();
        let versions = versions.filter_map(|number| self.versions.get(number));
        versions.map(|version| version.policy.clone()).collect()
    }
}

/// The versions that are needed, each made once.
#[derive(Default)]
struct Versions<'a> {
    numbers: BTreeMap<(&'a PolicyRef, Direction), u64>,
    versions: BTreeMap<u64, Version>,
    properties: BTreeMap<u64, Property>,
}

impl<'a> Versions<'a> {
    fn number(
        &mut self,
        policy: &'a NetworkPolicy,
        direction: Direction,
        has_rules: bool,
        ids: &mut PolicyIds,
    ) -> u64 {
        let Self {
            numbers,
            versions,
            properties,
        } = self;
        *numbers.entry((&policy.id, direction)).or_insert_with(|| {
            let mut number = |property: Property| {
                let number = ids.property(&property);
                properties.insert(number, property);
                number
            };
            let rules = if has_rules {
                policy.rules(direction)
            } else {
                &[]
            };
            let rules = rules.iter().map(|rule| Rule {
                peers: match &rule.peers {
                    Peers::Anyone => None,
                    Peers::AnyOf(peers) => {
                        let peers = peers.iter();
                        let peers = peers.map(|it| Property::of_peer(it, &policy.id.namespace));
                        Some(peers.map(&mut number).collect())
                    }
                },
                ports: match &rule.ports {
                    PolicyPorts::All => None,
                    PolicyPorts::AnyOf(ports) => Some(ports.iter().cloned().collect()),
                },
            });
            let version = Version {
                policy: policy.id.clone(),
                direction,
                rules: rules.collect(),
            };
            let number = ids.version(&version);
            versions.insert(number, version);
            number
        })
    }

    /// What the names of ports in these versions mean at a pod.
    fn named_ports(&self, numbers: &BTreeSet<u64>, pod: &Pod) -> NamedPorts {
        let versions = numbers
            .iter()
            .filter_map(|number| self.versions.get(number));
        let names: BTreeSet<_> = versions
            .flat_map(|version| &version.rules)
            .flat_map(Rule::names)
            .collect();
        let mut named_ports = NamedPorts::new();
        for port in &pod.ports {
            if names.contains(&(&port.name, port.protocol)) {
                let name = (port.name.clone(), port.protocol);
                named_ports.entry(name).or_default().insert(port.port);
            }
        }
        named_ports
    }
}

/// The ports of receivers that rules name.
fn named_uses(versions: &BTreeMap<u64, Version>) -> BTreeSet<NamedUse> {
    versions
        .values()
        .filter(|version| version.direction == Direction::Egress)
        .flat_map(|version| &version.rules)
        .flat_map(|rule| {
            rule.names().map(|(name, protocol)| NamedUse {
                peers: rule.peers.clone(),
                name: name.clone(),
                protocol,
            })
        })
        .collect()
}

/// What the rules of each subject set allow, with everyone and with each class.
fn entries(
    subjects: &[SubjectKey],
    versions: &BTreeMap<u64, Version>,
    classes: &[ClassKey],
    properties: &BTreeMap<u64, Property>,
) -> Vec<Entry> {
    let mut having: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (place, class) in classes.iter().enumerate() {
        for property in class {
            having.entry(*property).or_default().push(place);
        }
    }
    let named: Vec<NamedPorts> = classes
        .iter()
        .map(|class| named_ports(class, properties))
        .collect();
    let mut entries = Vec::new();
    for (place, subject) in subjects.iter().enumerate() {
        let rules = rules_in_order(subject, versions);
        let mut with_everyone: BTreeMap<Allowed, RulePlace> = BTreeMap::new();
        let mut with_class: BTreeMap<usize, BTreeMap<Allowed, RulePlace>> = BTreeMap::new();
        for (rule_place, rule) in rules {
            let by_number = rule.allowed(&subject.named_ports);
            let asks_for_name =
                subject.direction == Direction::Egress && rule.names().next().is_some();
            let peers: BTreeSet<usize> = match &rule.peers {
                None => {
                    for allowed in by_number.iter().copied() {
                        with_everyone.entry(allowed).or_insert(rule_place);
                    }
                    if !asks_for_name {
                        continue;
                    }
                    (0..classes.len())
                        .filter(|class| !named[*class].is_empty())
                        .collect()
                }
                Some(peers) => {
                    let classes = peers.iter().filter_map(|property| having.get(property));
                    classes.flatten().copied().collect()
                }
            };
            for class in peers {
                let by_name = asks_for_name.then(|| rule.allowed(&named[class]));
                let allowed = by_name.as_ref().unwrap_or(&by_number);
                if allowed.is_empty() {
                    continue;
                }
                let of_class = with_class.entry(class).or_default();
                for allowed in allowed.iter().copied() {
                    of_class.entry(allowed).or_insert(rule_place);
                }
            }
        }
        let needed = |class: Option<usize>, all: &BTreeMap<Allowed, RulePlace>| {
            let is_needed = |allowed: &Allowed| {
                let is_for_everyone =
                    || with_everyone.contains_key(allowed) || allowed.is_covered(&with_everyone);
                let is_covered = allowed.is_covered(all) || class.is_some() && is_for_everyone();
                !is_covered
            };
            let needed = all.iter().filter(|(allowed, _)| is_needed(allowed));
            needed
                .map(|(allowed, rule)| Entry {
                    subject: place,
                    class,
                    allowed: *allowed,
                    rule: *rule,
                })
                .collect::<Vec<_>>()
        };
        entries.extend(needed(None, &with_everyone));
        for (class, all) in &with_class {
            entries.extend(needed(Some(*class), all));
        }
    }
    entries
}

/// The rules of a subject set, by the namespaces and names of their policies.
fn rules_in_order<'a>(
    subject: &SubjectKey,
    versions: &'a BTreeMap<u64, Version>,
) -> Vec<(RulePlace, &'a Rule)> {
    let numbers = subject.versions.iter();
    let mut versions: Vec<(u64, &Version)> = numbers
        .filter_map(|number| Some((*number, versions.get(number)?)))
        .collect();
    versions.sort_unstable_by_key(|(_, version)| &version.policy);
    let rules = versions.into_iter().flat_map(|(version, of)| {
        let rules = of.rules.iter().enumerate();
        rules.map(move |(index, rule)| (RulePlace { version, index }, rule))
    });
    rules.collect()
}

/// What names of ports mean at the pods of a class.
fn named_ports(class: &ClassKey, properties: &BTreeMap<u64, Property>) -> NamedPorts {
    let mut named_ports = NamedPorts::new();
    for property in class.iter().filter_map(|number| properties.get(number)) {
        match property {
            Property::Port {
                name,
                protocol,
                port,
            } => {
                let ports = named_ports.entry((name.clone(), *protocol)).or_default();
                ports.insert(*port);
            }
            Property::Pod { .. } | Property::Block(_) => {}
        }
    }
    named_ports
}
