//! What rules, peers and ports are called in a sentence.

use std::fmt::Write as _;

use super::reasons::{End, Missed};
use super::rules::{is_peer, is_port};
use super::{Scene, Traffic};
use crate::model::{
    Condition, IpBlock, LabelSelector, NetworkPolicy, Peer, PeerNamespaces, Peers, Pod, PolicyPort,
    PolicyPorts, PolicyRule, PortMatch, Protocol, Requirement,
};

/// The label that every namespace has, with its name as value.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Of a list, so many are named.
const NAMED: usize = 3;

/// What of a rule comes near to a connection, `db pods on 5433`: of the half that matches only
/// the entries that do.
pub(super) fn allowance(
    scene: &Scene,
    policy: &NetworkPolicy,
    rule: &PolicyRule,
    missed: Missed,
    end: &End<'_>,
    destination: Option<&Pod>,
) -> String {
    let peers = match &rule.peers {
        Peers::Anyone => "every peer".to_owned(),
        Peers::AnyOf(peers) => {
            let is_meant = |peer: &&Peer| match missed {
                Missed::Ports => is_peer(scene, policy, peer, end.peer),
                Missed::Peers => true,
            };
            let peers = peers.iter().filter(is_meant);
            list(peers.map(|peer| peer_text(policy, peer)), "or")
        }
    };
    let ports = match &rule.ports {
        PolicyPorts::All => "every port".to_owned(),
        PolicyPorts::AnyOf(ports) => {
            let is_meant = |entry: &&PolicyPort| match missed {
                Missed::Ports => true,
                Missed::Peers => is_port(entry, destination, end.traffic),
            };
            list(ports.iter().filter(is_meant).map(port_text), "and")
        }
    };
    format!("{peers} on {ports}")
}

/// A whole rule: `db pods on 5433`.
#[must_use]
pub fn rule_text(policy: &NetworkPolicy, rule: &PolicyRule) -> String {
    let peers = match &rule.peers {
        Peers::Anyone => "every peer".to_owned(),
        Peers::AnyOf(peers) => list(peers.iter().map(|peer| peer_text(policy, peer)), "or"),
    };
    let ports = match &rule.ports {
        PolicyPorts::All => "every port".to_owned(),
        PolicyPorts::AnyOf(ports) => list(ports.iter().map(port_text), "and"),
    };
    format!("{peers} on {ports}")
}

/// `a`, `a and b`, `a, b and c`, `a, b, c and 4 more`
fn list(items: impl Iterator<Item = String>, conjunction: &str) -> String {
    let mut items: Vec<String> = items.collect();
    if items.len() > NAMED + 1 {
        let more = items.len() - NAMED;
        items.truncate(NAMED);
        items.push(format!("{more} more"));
    }
    match items.split_last() {
        None => "nobody".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} {conjunction} {last}", others.join(", ")),
    }
}

fn peer_text(policy: &NetworkPolicy, peer: &Peer) -> String {
    match peer {
        Peer::IpBlock(IpBlock { cidr, except }) if except.is_empty() => cidr.to_string(),
        Peer::IpBlock(IpBlock { cidr, except }) => {
            let except = list(except.iter().map(ToString::to_string), "and");
            format!("{cidr} except {except}")
        }
        Peer::Pods { namespaces, pods } => {
            let with = if pods.is_everything() {
                String::new()
            } else {
                format!(" with {}", selector_text(pods))
            };
            match namespaces {
                PeerNamespaces::Own => format!("{} pods{with}", policy.id.namespace),
                PeerNamespaces::Selected(selector) if selector.is_everything() => {
                    format!("all pods{with}")
                }
                PeerNamespaces::Selected(selector) => match names_only(selector) {
                    Some(names) => format!("{names} pods{with}"),
                    None => format!("pods{with} in namespaces with {}", selector_text(selector)),
                },
            }
        }
    }
}

/// The namespaces that a selector lists by their names, if it asks nothing else.
fn names_only(selector: &LabelSelector) -> Option<String> {
    let mut requirements = selector.requirements();
    let (first, rest) = (requirements.next()?, requirements.next());
    match (&first.condition, rest) {
        (Condition::In(names), None) if first.key == NAME_LABEL => {
            Some(list(names.iter().cloned(), "or"))
        }
        _ => None,
    }
}

/// A selector as kubectl writes it, `app=pg, tier in (a, b), !old`.
#[must_use]
pub fn selector_text(selector: &LabelSelector) -> String {
    let mut text = String::new();
    for requirement in selector.requirements() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&requirement_text(requirement));
    }
    text
}

fn requirement_text(Requirement { key, condition }: &Requirement) -> String {
    let several = |values: &std::collections::BTreeSet<String>| {
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        values.join(", ")
    };
    match condition {
        Condition::In(values) if values.len() == 1 => format!("{key}={}", several(values)),
        Condition::In(values) => format!("{key} in ({})", several(values)),
        Condition::NotIn(values) if values.len() == 1 => format!("{key}!={}", several(values)),
        Condition::NotIn(values) => format!("{key} notin ({})", several(values)),
        Condition::Exists => key.clone(),
        Condition::DoesNotExist => format!("!{key}"),
    }
}

/// `5433`, `53/UDP`, `8000-8080`, `http`, `every TCP port`
fn port_text(PolicyPort { protocol, port }: &PolicyPort) -> String {
    let mut text = match port {
        PortMatch::Any => return format!("every {protocol} port"),
        PortMatch::Range { first, last } if first == last => first.to_string(),
        PortMatch::Range { first, last } => format!("{first}-{last}"),
        PortMatch::Named(name) => name.clone(),
    };
    if *protocol != Protocol::Tcp {
        let _ = write!(text, "/{protocol}");
    }
    text
}

/// `5432 TCP`, `ICMP`, `protocol 47`
#[must_use]
pub fn traffic_text(traffic: Traffic) -> String {
    match traffic {
        Traffic::Ports { protocol, port } => format!("{port} {protocol}"),
        Traffic::Other { protocol } => weir_ebpf::addr::Protocol(protocol).to_string(),
    }
}
