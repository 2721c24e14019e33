//! What one rule says of a connection: its peers and its ports, each by itself.
//!
//! The tables hold only what both together allow. Which half of a rule did not match is asked of
//! the objects, here.

use std::net::IpAddr;

use super::{Scene, Traffic};
use crate::model::{
    NetworkPolicy, Peer, PeerNamespaces, Peers, Pod, PolicyPort, PolicyPorts, PolicyRule, PortMatch,
};

/// Is the address one of the rule's peers?
#[must_use]
pub fn matches_peer(
    scene: &Scene,
    policy: &NetworkPolicy,
    rule: &PolicyRule,
    addr: IpAddr,
) -> bool {
    match &rule.peers {
        Peers::Anyone => true,
        Peers::AnyOf(peers) => peers.iter().any(|peer| is_peer(scene, policy, peer, addr)),
    }
}

/// Is the address this peer? A block has any address, a pod's too; a selector selects the pod that
/// owns it. Of a namespace that is not known nobody can say that a selector selects it.
#[must_use]
pub fn is_peer(scene: &Scene, policy: &NetworkPolicy, peer: &Peer, addr: IpAddr) -> bool {
    match peer {
        Peer::IpBlock(block) => block.contains(addr),
        Peer::Pods { namespaces, pods } => scene.owner(addr).is_some_and(|pod| {
            let is_namespace = match namespaces {
                PeerNamespaces::Own => pod.id.namespace == policy.id.namespace,
                PeerNamespaces::Selected(selector) => scene
                    .cluster()
                    .namespace(&pod.id.namespace)
                    .is_some_and(|namespace| selector.selects(&namespace.labels)),
            };
            is_namespace && pods.selects(&pod.labels)
        }),
    }
}

/// Do the rule's ports have this one? `destination` is the pod that the traffic goes to, if it is
/// a pod's: named ports are its.
#[must_use]
pub fn matches_ports(rule: &PolicyRule, destination: Option<&Pod>, traffic: Traffic) -> bool {
    match &rule.ports {
        PolicyPorts::All => true,
        PolicyPorts::AnyOf(ports) => ports
            .iter()
            .any(|entry| is_port(entry, destination, traffic)),
    }
}

/// Does an entry of a rule's ports have this one? Two containers of a pod may use a name: each of
/// their ports has it.
#[must_use]
pub fn is_port(entry: &PolicyPort, destination: Option<&Pod>, traffic: Traffic) -> bool {
    let Traffic::Ports { protocol, port } = traffic else {
        return false;
    };
    entry.protocol == protocol
        && match &entry.port {
            PortMatch::Any => true,
            PortMatch::Range { first, last } => (first.get()..=last.get()).contains(&port),
            PortMatch::Named(name) => destination.is_some_and(|pod| {
                pod.ports.iter().any(|of_pod| {
                    of_pod.name == *name && of_pod.protocol == protocol && of_pod.port.get() == port
                })
            }),
        }
}
