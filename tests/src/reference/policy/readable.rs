//! What of a policy cannot be read, and what a policy that cannot be read still does.
//!
//! The API server refuses such a policy, but a file may hold it, or an older server may have let
//! it in. It is one thing: a policy with any fault allows nothing at all, and isolates whom it
//! selects. Where the very field is faulty that says whom or in what direction, it isolates every
//! pod of its namespace, in both directions.

use std::collections::BTreeSet;

use super::rules::cidr;
use super::selector::selects;
use super::world::{
    Direction, IpBlock, NetworkPolicy, NumberOrName, Peer, Pod, PolicyPort, Protocol, Rule,
    Selector,
};

/// The fields that are wrong, as paths: `spec.ingress[0].from[1].ipBlock.cidr`.
#[must_use]
pub fn faults(policy: &NetworkPolicy) -> BTreeSet<String> {
    let mut faults = selector_faults(policy);
    faults.extend(policy_type_faults(policy));
    for direction in Direction::ALL {
        for (index, rule) in policy.rules(direction).iter().enumerate() {
            let path = format!("spec.{}[{index}]", direction.rules_field());
            of_rule(rule, direction, &path, &mut faults);
        }
    }
    faults
}

/// "podSelector selects the pods to which this `NetworkPolicy` object applies": of its namespace,
/// and with a network of their own. "If it is not specified, it defaults to an empty selector."
#[must_use]
pub fn selects_subject(policy: &NetworkPolicy, pod: &Pod) -> bool {
    let is_selected = match &policy.pod_selector {
        Some(selector) if selector_faults(policy).is_empty() => selects(selector, &pod.labels),
        Some(_) | None => true,
    };
    pod.namespace == policy.name.namespace && !pod.host_network && is_selected
}

/// "policyTypes is a list of rule types that the `NetworkPolicy` relates to. If this field is not
/// specified, it will default based on the existence of ingress or egress rules; policies that
/// contain an egress section are assumed to affect egress, and all policies (whether or not they
/// contain an ingress section) are assumed to affect ingress."
///
/// The server's defaults take an empty list for one that is not there, here and of `egress`.
#[must_use]
pub fn relates_to(policy: &NetworkPolicy, direction: Direction) -> bool {
    let types = policy.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return match direction {
            Direction::Ingress => true,
            Direction::Egress => !policy.rules(Direction::Egress).is_empty(),
        };
    }
    let mut any = types.iter();
    any.any(|name| name == direction.policy_type()) || !policy_type_faults(policy).is_empty()
}

fn selector_faults(policy: &NetworkPolicy) -> BTreeSet<String> {
    let mut faults = BTreeSet::new();
    if let Some(selector) = &policy.pod_selector {
        of_selector(selector, "spec.podSelector", &mut faults);
    }
    faults
}

/// No more types than there are, and none that there is not.
fn policy_type_faults(policy: &NetworkPolicy) -> BTreeSet<String> {
    let types = policy.policy_types.as_deref().unwrap_or_default();
    let is_known = |name: &str| Direction::ALL.iter().any(|it| it.policy_type() == name);
    let mut faults: BTreeSet<_> = types
        .iter()
        .enumerate()
        .filter(|(_, name)| !is_known(name))
        .map(|(index, _)| format!("spec.policyTypes[{index}]"))
        .collect();
    if types.len() > Direction::ALL.len() {
        faults.insert("spec.policyTypes".to_owned());
    }
    faults
}

/// "If the operator is In or `NotIn`, the values array must be non-empty. If the operator is Exists
/// or `DoesNotExist`, the values array must be empty."
fn of_selector(selector: &Selector, path: &str, faults: &mut BTreeSet<String>) {
    if selector.match_labels.contains_key("") {
        faults.insert(format!("{path}.matchLabels"));
    }
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        if requirement.key.is_empty() {
            faults.insert(format!("{path}.key"));
        }
        let may_be_empty = match requirement.operator.as_str() {
            "In" | "NotIn" => false,
            "Exists" | "DoesNotExist" => true,
            _ => {
                faults.insert(format!("{path}.operator"));
                continue;
            }
        };
        if requirement.values.is_empty() != may_be_empty {
            faults.insert(format!("{path}.values"));
        }
    }
}

fn of_rule(rule: &Rule, direction: Direction, path: &str, faults: &mut BTreeSet<String>) {
    let peers = rule.peers.iter().flatten().enumerate();
    for (index, peer) in peers {
        let path = format!("{path}.{}[{index}]", direction.peers_field());
        of_peer(peer, &path, faults);
    }
    for (index, port) in rule.ports.iter().flatten().enumerate() {
        of_port(port, &format!("{path}.ports[{index}]"), faults);
    }
}

/// "Only certain combinations of fields are allowed": one at least, and a block by itself.
fn of_peer(peer: &Peer, path: &str, faults: &mut BTreeSet<String>) {
    let selectors = [
        ("podSelector", &peer.pod_selector),
        ("namespaceSelector", &peer.namespace_selector),
    ];
    let has_selector = selectors.iter().any(|(_, selector)| selector.is_some());
    if has_selector == peer.ip_block.is_some() {
        faults.insert(path.to_owned());
    }
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            of_selector(selector, &format!("{path}.{field}"), faults);
        }
    }
    if let Some(block) = &peer.ip_block {
        of_block(block, &format!("{path}.ipBlock"), faults);
    }
}

/// "Except values will be rejected if they are outside the cidr range", and if they are all of it.
fn of_block(block: &IpBlock, path: &str, faults: &mut BTreeSet<String>) {
    let whole = cidr(&block.cidr);
    if whole.is_none() {
        faults.insert(format!("{path}.cidr"));
    }
    for (index, text) in block.except.iter().enumerate() {
        let is_within = match (whole, cidr(text)) {
            (Some(whole), Some(except)) => {
                whole.contains(except.ip()) && except.prefix() > whole.prefix()
            }
            // Nothing can be said of it.
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if !is_within {
            faults.insert(format!("{path}.except[{index}]"));
        }
    }
}

/// "endPort cannot be defined if the port field is not defined or if the port field is defined as a
/// named (string) port. The endPort must be equal or greater than port."
fn of_port(item: &PolicyPort, path: &str, faults: &mut BTreeSet<String>) {
    let is_known = |name: &String| Protocol::named(name).is_some();
    if !item.protocol.as_ref().is_none_or(is_known) {
        faults.insert(format!("{path}.protocol"));
    }
    let is_number = |number: i32| (1..=65_535).contains(&number);
    let least = match &item.port {
        None => None,
        Some(NumberOrName::Number(number)) => {
            if !is_number(*number) {
                faults.insert(format!("{path}.port"));
            }
            Some(*number)
        }
        Some(NumberOrName::Name(name)) => {
            if !is_port_name(name) {
                faults.insert(format!("{path}.port"));
            }
            None
        }
    };
    if let Some(last) = item.end_port
        && !least.is_some_and(|first| first <= last && is_number(last))
    {
        faults.insert(format!("{path}.endPort"));
    }
}

/// An `IANA_SVC_NAME` (RFC 6335, section 5.1): up to fifteen letters, digits and hyphens with a
/// letter among them, no hyphen at an end or beside another. In Kubernetes in lower case.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
