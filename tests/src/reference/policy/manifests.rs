//! A [`World`] in the API's words.

use serde_json::{Map, Value, json};

use super::world::{
    Container, ContainerPort, Direction, Namespace, NetworkPolicy, Node, NumberOrName, Peer, Phase,
    Pod, PolicyPort, Rule, Selector, World,
};

/// The world's objects.
#[must_use]
pub fn objects(world: &World) -> Vec<Value> {
    let pods = world.pods.iter().enumerate();
    let namespaces = world.namespaces.iter().map(namespace);
    namespaces
        .chain(world.nodes.iter().map(node))
        .chain(pods.map(|(age, it)| pod(world, age, it)))
        .chain(world.policies.iter().map(policy))
        .collect()
}

/// A namespace.
#[must_use]
pub fn namespace(namespace: &Namespace) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace.name, "labels": namespace.labels},
    })
}

/// A node.
#[must_use]
pub fn node(node: &Node) -> Value {
    let addresses = node.addresses.iter();
    let addresses = addresses.map(|addr| json!({"type": "InternalIP", "address": addr}));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name},
        "status": {"addresses": addresses.collect::<Vec<_>>()},
    })
}

/// A pod. Its age is its place in [`World::pods`].
#[must_use]
pub fn pod(world: &World, age: usize, pod: &Pod) -> Value {
    let ports_of = |container: Container| -> Vec<Value> {
        let ports = pod.ports.iter();
        ports
            .filter(|port| port.container == container)
            .map(container_port)
            .collect()
    };
    let ordinary = json!({"name": "main", "ports": ports_of(Container::Ordinary)});
    let before = json!({"name": "before", "ports": ports_of(Container::Init)});
    let beside = json!({
        "name": "beside",
        "restartPolicy": "Always",
        "ports": ports_of(Container::Sidecar),
    });
    let mut spec = json!({"containers": [ordinary], "initContainers": [before, beside]});
    if pod.host_network {
        spec["hostNetwork"] = json!(true);
    }
    let mut status = json!({"phase": phase(pod.phase)});
    if let Some(first) = pod.addresses.first() {
        let all = pod.addresses.iter().map(|addr| json!({"ip": addr}));
        status["podIP"] = json!(first);
        status["podIPs"] = json!(all.collect::<Vec<_>>());
    }
    if let Some(name) = &pod.node {
        spec["nodeName"] = json!(name);
        let mut nodes = world.nodes.iter();
        let node = nodes.find(|node| node.name == *name);
        if let Some(addr) = node.and_then(|node| node.addresses.first()) {
            status["hostIP"] = json!(addr);
        }
    }
    let (minute, second) = (age / 60, age % 60);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "namespace": pod.namespace,
            "labels": pod.labels,
            "creationTimestamp": format!("2026-01-01T00:{minute:02}:{second:02}Z"),
        },
        "spec": spec,
        "status": status,
    })
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}

fn container_port(port: &ContainerPort) -> Value {
    let mut value = json!({"containerPort": port.port});
    if let Some(name) = &port.name {
        value["name"] = json!(name);
    }
    if let Some(protocol) = port.protocol {
        value["protocol"] = json!(protocol.name());
    }
    value
}

/// A policy. What is absent stays absent, and an empty list is written as one.
#[must_use]
pub fn policy(policy: &NetworkPolicy) -> Value {
    let mut spec = Map::new();
    if let Some(of_pods) = &policy.pod_selector {
        spec.insert("podSelector".to_owned(), selector(of_pods));
    }
    if let Some(types) = &policy.policy_types {
        spec.insert("policyTypes".to_owned(), json!(types));
    }
    for (direction, rules) in [
        (Direction::Ingress, &policy.ingress),
        (Direction::Egress, &policy.egress),
    ] {
        if let Some(rules) = rules {
            let rules: Vec<_> = rules.iter().map(|it| rule(it, direction)).collect();
            spec.insert(direction.rules_field().to_owned(), json!(rules));
        }
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": policy.name.name, "namespace": policy.name.namespace},
        "spec": spec,
    })
}

fn rule(rule: &Rule, direction: Direction) -> Value {
    let mut value = json!({});
    if let Some(peers) = &rule.peers {
        value[direction.peers_field()] = peers.iter().map(peer).collect();
    }
    if let Some(ports) = &rule.ports {
        value["ports"] = ports.iter().map(policy_port).collect();
    }
    value
}

fn peer(peer: &Peer) -> Value {
    let mut value = json!({});
    if let Some(of_pods) = &peer.pod_selector {
        value["podSelector"] = selector(of_pods);
    }
    if let Some(of_namespaces) = &peer.namespace_selector {
        value["namespaceSelector"] = selector(of_namespaces);
    }
    if let Some(block) = &peer.ip_block {
        value["ipBlock"] = json!({"cidr": block.cidr});
        if !block.except.is_empty() {
            value["ipBlock"]["except"] = json!(block.except);
        }
    }
    value
}

fn policy_port(port: &PolicyPort) -> Value {
    let mut value = json!({});
    if let Some(protocol) = &port.protocol {
        value["protocol"] = json!(protocol);
    }
    match &port.port {
        None => {}
        Some(NumberOrName::Number(number)) => value["port"] = json!(number),
        Some(NumberOrName::Name(name)) => value["port"] = json!(name),
    }
    if let Some(last) = port.end_port {
        value["endPort"] = json!(last);
    }
    value
}

fn selector(selector: &Selector) -> Value {
    let mut value = json!({});
    if !selector.match_labels.is_empty() {
        value["matchLabels"] = json!(selector.match_labels);
    }
    if !selector.match_expressions.is_empty() {
        let requirements = selector.match_expressions.iter().map(|requirement| {
            let mut value = json!({"key": requirement.key, "operator": requirement.operator});
            if !requirement.values.is_empty() {
                value["values"] = json!(requirement.values);
            }
            value
        });
        value["matchExpressions"] = requirements.collect();
    }
    value
}
