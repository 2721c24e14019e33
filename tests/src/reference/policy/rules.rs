//! What traffic one rule matches: its peers and its ports, each by itself.
//!
//! Only rules of policies that can be read are asked.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Traffic;
use super::selector::selects;
use super::world::{
    Container, IpBlock, NumberOrName, Peer, Pod, PolicyPort, Protocol, Rule, World,
};

/// "Items in this list are combined using a logical OR operation. If this field is empty or missing,
/// this rule matches all."
#[must_use]
pub fn match_peer(world: &World, policy_namespace: &str, rule: &Rule, addr: IpAddr) -> bool {
    let peers = rule.peers.as_deref().unwrap_or_default();
    let mut any = peers.iter();
    peers.is_empty() || any.any(|peer| is_peer(world, policy_namespace, peer, addr))
}

/// A peer is known by its address: a block has any address, a pod's or a node's too; a selector
/// selects the pod that owns it. A host-network pod owns none, so that only blocks match it.
fn is_peer(world: &World, policy_namespace: &str, peer: &Peer, addr: IpAddr) -> bool {
    if let Some(block) = &peer.ip_block {
        return contains(block, addr);
    }
    let Some(pod) = world.owner(addr) else {
        return false;
    };
    // Without a namespace selector, "the pods matching podSelector in the policy's own namespace".
    // Of a namespace that is not known, nobody can say that a selector selects it.
    let is_namespace = match &peer.namespace_selector {
        None => pod.namespace == policy_namespace,
        Some(selector) => world
            .namespace_labels(&pod.namespace)
            .is_some_and(|labels| selects(selector, labels)),
    };
    // Without a pod selector, "all pods in the namespaces selected by namespaceSelector".
    let is_pod = match &peer.pod_selector {
        None => true,
        Some(selector) => selects(selector, &pod.labels),
    };
    is_namespace && is_pod
}

/// "The except entry describes CIDRs that should not be included within this rule": within this
/// block, that is. Another block, peer or rule may still have the address.
fn contains(block: &IpBlock, addr: IpAddr) -> bool {
    let has = |text: &String| cidr(text).is_some_and(|network| network.contains(addr));
    has(&block.cidr) && !block.except.iter().any(has)
}

/// A range of addresses: an address and the length of its prefix. What follows the prefix does not
/// count.
#[must_use]
pub fn cidr(text: &str) -> Option<IpNetwork> {
    let (_, length) = text.split_once('/')?;
    // No sign, and no mask written as an address.
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// "Each item in this list is combined using a logical OR. If this field is empty or missing, this
/// rule matches all ports": any traffic, then, without ports too.
///
/// `destination` is the pod to which the traffic goes: for ingress the subject, for egress the peer,
/// if that is a pod.
#[must_use]
pub fn match_ports(rule: &Rule, destination: Option<&Pod>, traffic: Traffic) -> bool {
    let ports = rule.ports.as_deref().unwrap_or_default();
    if ports.is_empty() {
        return true;
    }
    match traffic {
        Traffic::Ports { protocol, port } => ports
            .iter()
            .any(|item| match_port(item, destination, protocol, port)),
        // "The protocol (TCP, UDP, or SCTP) which traffic must match."
        Traffic::Other { .. } => false,
    }
}

fn match_port(item: &PolicyPort, destination: Option<&Pod>, protocol: Protocol, port: u16) -> bool {
    // "If not specified, this field defaults to TCP."
    let of_item = match &item.protocol {
        None => Some(Protocol::Tcp),
        Some(name) => Protocol::named(name),
    };
    if of_item != Some(protocol) {
        return false;
    }
    match (&item.port, item.end_port) {
        // "If this field is not provided, this matches all port names and numbers."
        (None, _) => true,
        (Some(NumberOrName::Number(number)), None) => *number == i32::from(port),
        // "The range of ports from port to endPort if set, inclusive."
        (Some(NumberOrName::Number(first)), Some(last)) => {
            (*first..=last).contains(&i32::from(port))
        }
        (Some(NumberOrName::Name(name)), _) => {
            destination.is_some_and(|pod| has_port(pod, name, protocol, port))
        }
    }
}

/// "Named port on a pod." Containers of one pod may use a name twice: each of these ports has it. A
/// container that is over when the pod runs listens nowhere.
fn has_port(pod: &Pod, name: &str, protocol: Protocol, port: u16) -> bool {
    pod.ports.iter().any(|of_pod| {
        of_pod.container != Container::Init
            && of_pod.name.as_deref() == Some(name)
            && of_pod.protocol.unwrap_or(Protocol::Tcp) == protocol
            && of_pod.port == port
    })
}
