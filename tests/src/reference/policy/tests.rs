//! The evaluator's own examples: the documentation's policies and sentences, one by one, in a
//! cluster of three namespaces.

mod documented;
mod ends;
mod rules;
mod unreadable;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::world::{
    Container, ContainerPort, Labels, Namespace, NetworkPolicy, Node, Phase, Pod, PolicyName,
    Protocol, Rule, Selector, World,
};
use super::{Connection, Sender, Traffic, Verdict, evaluate};

const DB: &str = "10.200.0.2";
const FRONTEND: &str = "10.200.0.3";
const OTHER: &str = "10.200.0.4";
/// In a namespace with `project: myproject`.
const MINE: &str = "10.200.1.5";
/// Of the namespace with `user: alice`, one with `role: client` and one without.
const ALICE_CLIENT: &str = "10.200.1.6";
const ALICE_OTHER: &str = "10.200.1.7";
/// Where the pods of `default` run, and the host-network pod with `role: frontend`.
const NODE: &str = "10.240.0.11";
const OTHER_NODE: &str = "10.240.0.12";
const OUTSIDE: &str = "172.17.0.9";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of this file")
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn pod(namespace: &str, name: &str, of_pod: &[(&str, &str)], addr: &str) -> Pod {
    let node = if namespace == "default" {
        "here"
    } else {
        "there"
    };
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels(of_pod),
        node: Some(node.to_owned()),
        host_network: false,
        addresses: vec![ip(addr)],
        phase: Phase::Running,
        ports: Vec::new(),
    }
}

fn container_port(container: Container, name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        container,
        name: Some(name.to_owned()),
        protocol: None,
        port,
    }
}

/// Three namespaces, and these policies of `default`.
fn world(policies: &[&str]) -> World {
    let namespace = |name: &str, of_namespace: &[(&str, &str)]| Namespace {
        name: name.to_owned(),
        labels: labels(of_namespace),
    };
    let node = |name: &str, addr| Node {
        name: name.to_owned(),
        addresses: vec![ip(addr)],
    };
    let host = Pod {
        host_network: true,
        ..pod("default", "host", &[("role", "frontend")], NODE)
    };
    World {
        namespaces: vec![
            namespace("default", &[]),
            namespace("mine", &[("project", "myproject")]),
            namespace("alice", &[("user", "alice")]),
        ],
        nodes: vec![node("here", NODE), node("there", OTHER_NODE)],
        pods: vec![
            pod("default", "db", &[("role", "db")], DB),
            pod("default", "frontend", &[("role", "frontend")], FRONTEND),
            pod("default", "other", &[], OTHER),
            host,
            pod("mine", "any", &[], MINE),
            pod("alice", "client", &[("role", "client")], ALICE_CLIENT),
            pod("alice", "other", &[], ALICE_OTHER),
        ],
        policies: policies.iter().map(|text| policy(text)).collect(),
    }
}

#[derive(Deserialize)]
struct Manifest {
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    pod_selector: Option<Selector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

fn policy(yaml: &str) -> NetworkPolicy {
    let Manifest { metadata, spec } = serde_saphyr::from_str(yaml).expect("a policy of this file");
    NetworkPolicy {
        name: PolicyName {
            namespace: "default".to_owned(),
            name: metadata["name"].clone(),
        },
        pod_selector: spec.pod_selector,
        policy_types: spec.policy_types,
        ingress: spec.ingress,
        egress: spec.egress,
    }
}

fn tcp(port: u16) -> Traffic {
    Traffic::Ports {
        protocol: Protocol::Tcp,
        port,
    }
}

fn udp(port: u16) -> Traffic {
    Traffic::Ports {
        protocol: Protocol::Udp,
        port,
    }
}

const ICMP: Traffic = Traffic::Other { protocol: 1 };

/// From the pod, the node or the outside host with this address.
fn ask(world: &World, from: &str, to: &str, traffic: Traffic) -> Verdict {
    let from = match from {
        NODE => Sender::Node {
            name: "here".to_owned(),
            addr: ip(from),
        },
        OTHER_NODE => Sender::Node {
            name: "there".to_owned(),
            addr: ip(from),
        },
        _ if world.owner(ip(from)).is_some() => Sender::Pod(ip(from)),
        _ => Sender::Outside(ip(from)),
    };
    let to = ip(to);
    evaluate(world, &Connection { from, to, traffic })
}

const ANYONE: [&str; 8] = [
    FRONTEND,
    OTHER,
    MINE,
    ALICE_CLIENT,
    ALICE_OTHER,
    NODE,
    OTHER_NODE,
    OUTSIDE,
];

/// Who reaches it.
fn reach(world: &World, to: &str, traffic: Traffic) -> Vec<&'static str> {
    let all = ANYONE.iter().copied();
    all.filter(|from| ask(world, from, to, traffic).is_allowed())
        .collect()
}

/// Whom it reaches.
fn reached(world: &World, from: &str, traffic: Traffic) -> Vec<&'static str> {
    let all = ANYONE.iter().copied();
    all.filter(|to| ask(world, from, to, traffic).is_allowed())
        .collect()
}

/// What a policy of `default` lets the pod `db` be reached by, next to its own node.
fn let_in(rule: &str, traffic: Traffic) -> Vec<&'static str> {
    let text = format!(
        "{{metadata: {{name: p}}, spec: {{podSelector: {{matchLabels: {{role: db}}}}, ingress: [{rule}]}}}}"
    );
    let mut all = reach(&world(&[&text]), DB, traffic);
    all.retain(|from| *from != NODE);
    all
}

/// And what it lets it reach.
fn let_out(rule: &str, traffic: Traffic) -> Vec<&'static str> {
    let text = format!(
        "{{metadata: {{name: p}}, spec: {{podSelector: {{matchLabels: {{role: db}}}}, egress: [{rule}]}}}}"
    );
    reached(&world(&[&text]), DB, traffic)
}

const DOCUMENTED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: test-network-policy}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
        - namespaceSelector: {matchLabels: {project: myproject}}
        - podSelector: {matchLabels: {role: frontend}}
      ports:
        - {protocol: TCP, port: 6379}
  egress:
    - to:
        - ipBlock: {cidr: 10.0.0.0/24}
      ports:
        - {protocol: TCP, port: 5978}
";
