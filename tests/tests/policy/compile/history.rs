//! Clusters that change, and an agent that keeps up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use weir_agent::compile::{Capacities, Ids, PolicyNames, compile};
use weir_agent::maps::Contents;
use weir_agent::maps::diff::diff;
use weir_agent::model::{Change, Cluster, Event, Object, ObjectRef, SourceId};
use weir_ebpf::addr::{Addr, Port, Protocol};
use weir_ebpf::tables::{ANYONE, PodState, PolicyFlags, RuleKey};
use weir_tests::reference::policy::world::{Direction, Labels, NetworkPolicy, World};
use weir_tests::reference::policy::{Connection, Traffic};

use super::node::{Judge, context, number, objects};
use crate::policies::plan::NODES;
use crate::policies::rules::policy;
use crate::policies::worlds::{labels, world};

/// A change of a cluster.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A policy comes, in place of one with its name.
    Policy(NetworkPolicy),
    /// A policy goes.
    NoPolicy(Index),
    /// A pod gets other labels.
    PodLabels(Index, Labels),
    /// A namespace gets other labels.
    NamespaceLabels(Index, Labels),
    /// A pod goes.
    NoPod(Index),
    /// A namespace is not known any more.
    NoNamespace(Index),
    /// All is different.
    Everything(World),
}

/// A few changes.
pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => policy().prop_map(Edit::Policy),
        2 => any::<Index>().prop_map(Edit::NoPolicy),
        3 => (any::<Index>(), labels()).prop_map(|(which, labels)| Edit::PodLabels(which, labels)),
        2 => (any::<Index>(), labels())
            .prop_map(|(which, labels)| Edit::NamespaceLabels(which, labels)),
        2 => any::<Index>().prop_map(Edit::NoPod),
        1 => any::<Index>().prop_map(Edit::NoNamespace),
        1 => world().prop_map(Edit::Everything),
    ];
    vec(edit, 1..5)
}

impl Edit {
    /// The cluster after this change.
    pub fn apply(self, before: &World) -> World {
        fn at<T>(all: &mut [T], which: Index) -> Option<&mut T> {
            let len = all.len();
            (len > 0).then(|| &mut all[which.index(len)])
        }
        fn remove<T>(all: &mut Vec<T>, which: Index) {
            if !all.is_empty() {
                all.remove(which.index(all.len()));
            }
        }
        let mut world = before.clone();
        match self {
            Self::Policy(policy) => {
                world.policies.retain(|it| it.name != policy.name);
                world.policies.push(policy);
            }
            Self::NoPolicy(which) => remove(&mut world.policies, which),
            Self::PodLabels(which, labels) => {
                if let Some(pod) = at(&mut world.pods, which) {
                    pod.labels = labels;
                }
            }
            Self::NamespaceLabels(which, labels) => {
                if let Some(namespace) = at(&mut world.namespaces, which) {
                    namespace.labels = labels;
                }
            }
            Self::NoPod(which) => remove(&mut world.pods, which),
            Self::NoNamespace(which) => remove(&mut world.namespaces, which),
            Self::Everything(other) => return other,
        }
        world
    }
}

/// The agent of the first node.
#[derive(Default)]
pub struct Agent {
    ids: Ids,
    /// What its tables hold.
    pub actual: Contents,
}

impl Agent {
    /// Another agent takes over its tables.
    pub fn restart(&mut self) {
        self.ids = Ids::from_contents(&self.actual);
    }

    /// What its tables should hold.
    pub fn compile(&mut self, world: &World, has_records: bool) -> Contents {
        let cluster = Cluster::from_objects(objects(world));
        let context = context(world, NODES[0], has_records);
        let capacities = Capacities::default();
        compile(&cluster, &context, &mut self.ids, &capacities).contents
    }
}

/// The agents of all nodes, which are told of one object at a time.
#[derive(Default)]
pub struct Agents {
    cluster: Cluster,
    objects: BTreeMap<ObjectRef, Object>,
    nodes: [(Agent, PolicyNames); NODES.len()],
}

impl Agents {
    /// Tells them of all that is new in a world, in any order, and has them do what each says.
    pub fn follow(&mut self, world: &World, has_records: bool, order: Index) {
        let all = objects(world);
        let all: BTreeMap<_, _> = all.into_iter().map(|it| (it.reference(), it)).collect();
        let new = all
            .iter()
            .filter(|(name, object)| self.objects.get(name) != Some(object));
        let gone = self.objects.keys().filter(|name| !all.contains_key(name));
        let new = new.map(|(_, object)| Change::apply(object.clone()));
        let mut changes: Vec<Change> = new.chain(gone.cloned().map(Change::Delete)).collect();
        // A source's first list is complete when it says so.
        changes.push(Change::Ready);
        self.objects = all;
        while !changes.is_empty() {
            let change = changes.swap_remove(order.index(changes.len()));
            self.cluster.apply(Event {
                source: SourceId::MANIFESTS,
                changes: vec![change],
            });
            for (name, node) in NODES.iter().zip(&mut self.nodes) {
                let context = context(world, name, has_records);
                let (agent, names) = node;
                let capacities = Capacities::default();
                let desired = compile(&self.cluster, &context, &mut agent.ids, &capacities);
                for write in &diff(&desired.contents, &agent.actual).0 {
                    write.apply_to(&mut agent.actual);
                }
                *names = desired.policies;
            }
        }
    }

    /// Asks their tables.
    pub fn judge(&self) -> Judge {
        let nodes = self.nodes.iter();
        Judge::of(
            nodes
                .map(|(agent, names)| (agent.actual.clone(), names.clone()))
                .collect(),
        )
    }
}

/// What the programs ask the tables about one end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    interface: u32,
    direction: Direction,
    peer: IpAddr,
    traffic: Traffic,
    /// Is the interface one whose pod is known before and after?
    pub is_known: bool,
}

impl Question {
    /// Both ends of these connections, at every interface that is one before or after.
    pub fn all(before: &Contents, after: &Contents, asked: &[Connection]) -> Vec<Self> {
        let interfaces: BTreeSet<u32> = before
            .pods
            .keys()
            .chain(after.pods.keys())
            .copied()
            .collect();
        let is_known = |contents: &Contents, interface| {
            let pod = contents.pods.get(interface);
            pod.is_some_and(|pod| pod.state != PodState::UNKNOWN)
        };
        let mut all = Vec::new();
        for interface in &interfaces {
            for connection in asked {
                let ends = [
                    (Direction::Egress, connection.to),
                    (Direction::Ingress, connection.from.addr()),
                ];
                all.extend(ends.map(|(direction, peer)| Self {
                    interface: *interface,
                    direction,
                    peer,
                    traffic: connection.traffic,
                    is_known: is_known(before, interface) && is_known(after, interface),
                }));
            }
        }
        all
    }

    /// Is it allowed?
    pub fn answers(all: &[Self], tables: &Contents) -> Vec<bool> {
        all.iter().map(|question| question.ask(tables)).collect()
    }

    fn ask(&self, tables: &Contents) -> bool {
        let slot = tables.policy.slot();
        let pod = tables.pods.get(&self.interface);
        let Some(pod) = pod.filter(|pod| pod.state != PodState::UNKNOWN) else {
            return !tables.policy.flags.contains(PolicyFlags::DENY_UNKNOWN);
        };
        let subject = match self.direction {
            Direction::Egress => pod.egress,
            Direction::Ingress => pod.ingress,
        };
        let subject = subject.get(slot);
        if subject == 0 {
            return true;
        }
        let class = tables.class(Addr::from(self.peer));
        let class = class.map_or(ANYONE, |class| class.0.get(slot));
        let (protocol, port) = match self.traffic {
            Traffic::Ports { protocol, port } => (number(protocol), port),
            Traffic::Other { protocol } => (Protocol(protocol), 0),
        };
        let question = |class| RuleKey::new(subject, class, protocol, Port::new(port));
        let is_allowed = |class| tables.rule(&question(class)).is_some();
        is_allowed(class) || is_allowed(ANYONE)
    }
}
