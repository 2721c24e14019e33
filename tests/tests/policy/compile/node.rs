//! The nodes of a random cluster, each with the tables that were compiled for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use serde_json::Value;
use weir_agent::compile::{
    Capacities, Claimed, Ids, NodeContext, PodInterface, PolicyNames, compile,
};
use weir_agent::maps::Contents;
use weir_agent::model::{Cluster, Object, PodRef, PolicyRef};
use weir_ebpf::addr::{Addr, Port, Protocol as Number};
use weir_ebpf::tables::{ANYONE, RuleKey};
use weir_tests::reference::policy::world::{Direction, Pod, PolicyName, Protocol, World};
use weir_tests::reference::policy::{Connection, Judgement, RuleName, Sender, Traffic, manifests};

use crate::policies::plan::{NODES, POD_ADDRESSES};

/// What the tables say of one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is no interface of a pod there.
    NoInterface,
    /// The pod is not isolated in this direction.
    NotIsolated,
    /// A rule allows it.
    Allowed(RuleName),
    /// No rule does, and these policies isolate.
    Refused(BTreeSet<PolicyName>),
}

impl Answer {
    /// Does the evaluator say so, too? Whether somebody speaks with himself, or is the pod's node,
    /// is for the programs to see.
    pub fn agrees(&self, expected: &Judgement) -> bool {
        match (expected, self) {
            (Judgement::Itself | Judgement::OwnNode, _)
            | (Judgement::NoSubject, Self::NoInterface)
            | (Judgement::NotIsolated, Self::NotIsolated) => true,
            (Judgement::ByRules(rules), Self::Allowed(rule)) => rules.contains(rule),
            (Judgement::Refused { isolated_by, .. }, Self::Refused(policies)) => {
                isolated_by == policies
            }
            (
                Judgement::NoSubject
                | Judgement::NotIsolated
                | Judgement::ByRules(_)
                | Judgement::Refused { .. },
                _,
            ) => false,
        }
    }
}

/// What the tables say of both ends.
pub struct Answers {
    /// The sender's.
    pub egress: Answer,
    /// The receiver's.
    pub ingress: Answer,
}

/// The nodes of a world: their tables, and what the numbers in them stand for.
pub struct Judge {
    nodes: Vec<(Contents, PolicyNames)>,
}

impl Judge {
    /// Compiles a world.
    pub fn new(world: &World, has_records: bool) -> Self {
        let cluster = Cluster::from_objects(objects(world));
        let nodes = NODES.iter().map(|name| {
            let context = context(world, name, has_records);
            let capacities = Capacities::default();
            let desired = compile(&cluster, &context, &mut Ids::default(), &capacities);
            (desired.contents, desired.policies)
        });
        Self::of(nodes.collect())
    }

    /// Asks the tables of these nodes.
    pub const fn of(nodes: Vec<(Contents, PolicyNames)>) -> Self {
        Self { nodes }
    }

    /// What its nodes say of a connection.
    pub fn ask(&self, world: &World, connection: &Connection) -> Answers {
        let sender = match connection.from {
            Sender::Pod(addr) => world.owner(addr),
            Sender::Node { .. } | Sender::Outside(_) => None,
        };
        let receiver = world.owner(connection.to);
        let Connection { from, to, traffic } = connection;
        Answers {
            egress: self.answer(sender, Direction::Egress, *to, *traffic),
            ingress: self.answer(receiver, Direction::Ingress, from.addr(), *traffic),
        }
    }

    /// What the tables of a pod's node say of its end of a connection.
    fn answer(
        &self,
        subject: Option<&Pod>,
        direction: Direction,
        peer: IpAddr,
        traffic: Traffic,
    ) -> Answer {
        let Some(pod) = subject else {
            return Answer::NoInterface;
        };
        let (tables, names) = &self.nodes[node_of(pod)];
        let Some(pod) = tables.pods.get(&interface(pod)) else {
            return Answer::NoInterface;
        };
        let set = match direction {
            Direction::Egress => pod.egress,
            Direction::Ingress => pod.ingress,
        };
        let set = set.get(tables.policy.slot());
        if set == 0 {
            return Answer::NotIsolated;
        }
        let name = |policy: &PolicyRef| PolicyName {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
        };
        match rule(tables, set, peer, traffic) {
            Some(rule) => {
                let rule = &names.rules[&rule];
                Answer::Allowed(RuleName {
                    policy: name(&rule.policy),
                    direction,
                    index: rule.index,
                })
            }
            None => Answer::Refused(names.subjects[&set].policies.iter().map(name).collect()),
        }
    }
}

fn rule(tables: &Contents, subject: u32, peer: IpAddr, traffic: Traffic) -> Option<u32> {
    let class = tables.class(Addr::from(peer));
    let class = class.map_or(ANYONE, |class| class.0.get(tables.policy.slot()));
    let (protocol, port) = match traffic {
        Traffic::Ports { protocol, port } => (number(protocol), port),
        Traffic::Other { protocol } => (Number(protocol), 0),
    };
    let of = |class| {
        let question = RuleKey::new(subject, class, protocol, Port::new(port));
        tables.rule(&question)
    };
    of(class).or_else(|| of(ANYONE))
}

/// A protocol as packets have it.
pub const fn number(protocol: Protocol) -> Number {
    match protocol {
        Protocol::Tcp => Number::TCP,
        Protocol::Udp => Number::UDP,
        Protocol::Sctp => Number::SCTP,
    }
}

/// The node of a pod. One that is not bound is where its address is.
fn node_of(pod: &Pod) -> usize {
    let by_name = |name: &String| NODES.iter().position(|node| node == name);
    let by_addr = || {
        let addrs = POD_ADDRESSES.iter();
        let place = addrs.clone().position(|both| {
            both.iter()
                .any(|text| pod.addresses.contains(&text.parse().expect("an address")))
        });
        place.map(|place| place * NODES.len() / addrs.len())
    };
    pod.node
        .as_ref()
        .and_then(by_name)
        .or_else(by_addr)
        .unwrap_or(0)
}

/// The interface of a pod: a pod of the same name later has the same.
fn interface(pod: &Pod) -> u32 {
    let number = pod.name.rsplit('-').next();
    10 + number.and_then(|it| it.parse().ok()).unwrap_or(0_u32)
}

/// A node that has an interface for each pod that has an address of its own there.
pub fn context(world: &World, name: &str, has_records: bool) -> NodeContext {
    let mut pod_interfaces: BTreeMap<u32, PodInterface> = BTreeMap::new();
    for addr in POD_ADDRESSES.iter().flatten() {
        let addr: IpAddr = addr.parse().expect("an address");
        let Some(pod) = world.owner(addr) else {
            continue;
        };
        if NODES[node_of(pod)] != name {
            continue;
        }
        let interface = pod_interfaces.entry(interface(pod)).or_default();
        interface.addrs.insert(addr);
        interface.pod = has_records.then(|| Claimed {
            pod: PodRef {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
            },
            uid: String::new(),
        });
    }
    NodeContext {
        name: name.to_owned(),
        pod_interfaces,
        ..NodeContext::default()
    }
}

/// A world's objects as the agent reads them.
pub fn objects(world: &World) -> Vec<Object> {
    manifests::objects(world).into_iter().map(object).collect()
}

fn object(value: Value) -> Object {
    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object of its kind")
    }
    let object = match value["kind"].as_str() {
        Some("Namespace") => read::<core::Namespace>(value).try_into(),
        Some("Node") => read::<core::Node>(value).try_into(),
        Some("Pod") => read::<core::Pod>(value).try_into(),
        Some("NetworkPolicy") => read::<networking::NetworkPolicy>(value).try_into(),
        other => panic!("{other:?} is none of a world's kinds"),
    };
    object.expect("an object that can be named")
}
