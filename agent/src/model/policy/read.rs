//! From the API's form of a policy to ours.
//!
//! Refuses what the API server refuses, since a manifest has met no API server
//! (`pkg/apis/networking/validation`, `pkg/apis/networking/v1/defaults.go`).

use std::num::NonZeroU16;

use ipnetwork::IpNetwork;
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::super::metadata::{DEFAULT_NAMESPACE, Metadata, validate_label};
use super::super::{Invalid, Kind, LabelSelector, Object, ObjectRef, PolicyRef, Protocol};
use super::super::{address, port};
use super::{
    Directions, IpBlock, NetworkPolicy, Peer, PeerNamespaces, Peers, PolicyPort, PolicyPorts,
    PolicyRule, PortMatch, Rules,
};

impl TryFrom<api::NetworkPolicy> for Object {
    type Error = Invalid;

    /// Fails only where the policy has no proper name; see [`NetworkPolicy::unreadable`].
    fn try_from(policy: api::NetworkPolicy) -> Result<Self, Invalid> {
        let ObjectRef {
            kind: _,
            namespace,
            name,
        } = Metadata::read(Kind::NetworkPolicy, policy.metadata)?.reference;
        let spec = policy.spec.unwrap_or_default();
        Ok(Self::NetworkPolicy(read(
            PolicyRef { namespace, name },
            &spec,
        )))
    }
}

impl NetworkPolicy {
    /// What is left of a policy that has not even the form of one: it isolates the pods that it
    /// selects, as far as that can be told.
    ///
    /// # Errors
    /// The same problem, where the policy has no name to be kept by, or its namespace is none, so
    /// that no pod is in it.
    pub fn unreadable(policy: &Value, problem: Invalid) -> Result<Object, Invalid> {
        let Some(id) = loose_id(&policy["metadata"]) else {
            return Err(problem);
        };
        let spec = &policy["spec"];
        let mut pod_selector = None;
        let mut directions = None;
        if spec.is_object() || spec.is_null() {
            pod_selector = loose_selector(&spec["podSelector"]);
            directions = loose_directions(spec);
        }
        Ok(Object::NetworkPolicy(isolating(
            id,
            pod_selector,
            directions,
            vec![problem],
        )))
    }
}

/// The name may be any text: it is kept by it and named by it in reports.
fn loose_id(metadata: &Value) -> Option<PolicyRef> {
    let name = metadata["name"].as_str().filter(|name| !name.is_empty())?;
    let namespace = match &metadata["namespace"] {
        Value::Null => DEFAULT_NAMESPACE,
        namespace => match namespace.as_str()? {
            "" => DEFAULT_NAMESPACE,
            namespace => namespace,
        },
    };
    validate_label(namespace).ok()?;
    Some(PolicyRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

fn loose_selector(selector: &Value) -> Option<LabelSelector> {
    if selector.is_null() {
        return Some(LabelSelector::everything());
    }
    let selector: meta::LabelSelector = serde_json::from_value(selector.clone()).ok()?;
    LabelSelector::read(&selector).ok()
}

fn loose_directions(spec: &Value) -> Option<Directions> {
    let types: Option<Vec<String>> = serde_json::from_value(spec["policyTypes"].clone()).ok()?;
    let has_egress = match &spec["egress"] {
        Value::Null => false,
        Value::Array(rules) => !rules.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => true,
    };
    read_directions(types.as_deref().unwrap_or_default(), has_egress).ok()
}

fn read(id: PolicyRef, spec: &api::NetworkPolicySpec) -> NetworkPolicy {
    let egress = spec.egress.as_deref().unwrap_or_default();
    let ingress = spec.ingress.as_deref().unwrap_or_default();
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let mut problems = Vec::new();
    // An absent selector is an empty one here: the API documents that as its default.
    let pod_selector = noted(
        spec.pod_selector
            .as_ref()
            .map_or(Ok(LabelSelector::everything()), LabelSelector::read)
            .map_err(|invalid| invalid.within("spec.podSelector")),
        &mut problems,
    );
    let directions = noted(
        read_directions(types, !egress.is_empty()).map_err(|invalid| invalid.within("spec")),
        &mut problems,
    );
    let ingress = noted(
        items("spec.ingress", ingress, |rule| {
            read_rule("from", rule.from.as_deref(), rule.ports.as_deref())
        }),
        &mut problems,
    );
    let egress = noted(
        items("spec.egress", egress, |rule| {
            read_rule("to", rule.to.as_deref(), rule.ports.as_deref())
        }),
        &mut problems,
    );
    match (pod_selector, directions, ingress, egress) {
        (Some(pod_selector), Some(directions), Some(ingress), Some(egress)) => NetworkPolicy {
            id,
            pod_selector,
            directions,
            rules: match directions {
                Directions::Both => Rules::Readable { ingress, egress },
                Directions::Ingress => Rules::Readable {
                    ingress,
                    egress: Vec::new(),
                },
                Directions::Egress => Rules::Readable {
                    ingress: Vec::new(),
                    egress,
                },
            },
        },
        (pod_selector, directions, _, _) => isolating(id, pod_selector, directions, problems),
    }
}

/// A policy of which only so much can be read.
fn isolating(
    id: PolicyRef,
    pod_selector: Option<LabelSelector>,
    directions: Option<Directions>,
    mut problems: Vec<Invalid>,
) -> NetworkPolicy {
    let whom = match pod_selector {
        Some(_) => "the pods that it selects",
        None => "all pods of its namespace",
    };
    let which = match directions {
        Some(_) => "",
        None => " in both directions",
    };
    for problem in &mut problems {
        problem.message = format!(
            "{}; until this is mended the policy isolates {whom}{which} and allows nothing",
            problem.message
        );
    }
    NetworkPolicy {
        id,
        pod_selector: pod_selector.unwrap_or_default(),
        directions: directions.unwrap_or(Directions::Both),
        rules: Rules::Unreadable(problems),
    }
}

/// The value, or a note of why there is none.
fn noted<T>(result: Result<T, Invalid>, problems: &mut Vec<Invalid>) -> Option<T> {
    result.map_err(|invalid| problems.push(invalid)).ok()
}

/// Each item of a list.
fn items<T, U>(
    field: &str,
    items: &[T],
    read: impl Fn(&T) -> Result<U, Invalid>,
) -> Result<Vec<U>, Invalid> {
    let read_at =
        |(index, item)| read(item).map_err(|invalid: Invalid| invalid.at(index).within(field));
    items.iter().enumerate().map(read_at).collect()
}

/// Where there are no types, the API server adds Ingress, and Egress if there is an egress rule:
/// an empty list of them is as good as none.
fn read_directions(types: &[String], has_egress: bool) -> Result<Directions, Invalid> {
    if types.is_empty() {
        return Ok(if has_egress {
            Directions::Both
        } else {
            Directions::Ingress
        });
    }
    let mut has = (false, false);
    for (index, text) in types.iter().enumerate() {
        match text.as_str() {
            "Ingress" => has.0 = true,
            "Egress" => has.1 = true,
            other => {
                let message = format!("{other:?} is neither Ingress nor Egress");
                return Err(Invalid::new("", message).at(index).within("policyTypes"));
            }
        }
    }
    Ok(match has {
        (true, false) => Directions::Ingress,
        (false, true) => Directions::Egress,
        (true, true) | (false, false) => Directions::Both,
    })
}

fn read_rule(
    field: &str,
    peers: Option<&[api::NetworkPolicyPeer]>,
    ports: Option<&[api::NetworkPolicyPort]>,
) -> Result<PolicyRule, Invalid> {
    Ok(PolicyRule {
        peers: match peers.unwrap_or_default() {
            [] => Peers::Anyone,
            peers => Peers::AnyOf(items(field, peers, read_peer)?),
        },
        ports: match ports.unwrap_or_default() {
            [] => PolicyPorts::All,
            ports => PolicyPorts::AnyOf(items("ports", ports, read_port)?),
        },
    })
}

fn read_peer(peer: &api::NetworkPolicyPeer) -> Result<Peer, Invalid> {
    let pods = || {
        peer.pod_selector
            .as_ref()
            .map_or(Ok(LabelSelector::everything()), LabelSelector::read)
            .map_err(|invalid| invalid.within("podSelector"))
    };
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => read_block(block)
            .map(Peer::IpBlock)
            .map_err(|invalid| invalid.within("ipBlock")),
        (Some(_), _, _) => Err(Invalid::new(
            "ipBlock",
            "stands beside a selector; make them two peers",
        )),
        (None, Some(namespaces), _) => Ok(Peer::Pods {
            namespaces: LabelSelector::read(namespaces)
                .map(PeerNamespaces::Selected)
                .map_err(|invalid| invalid.within("namespaceSelector"))?,
            pods: pods()?,
        }),
        (None, None, Some(_)) => Ok(Peer::Pods {
            namespaces: PeerNamespaces::Own,
            pods: pods()?,
        }),
        (None, None, None) => Err(Invalid::new(
            "",
            "names nobody; it needs podSelector, namespaceSelector or ipBlock",
        )),
    }
}

fn read_block(block: &api::IPBlock) -> Result<IpBlock, Invalid> {
    let cidr =
        address::parse_network(&block.cidr).map_err(|message| Invalid::new("cidr", message))?;
    let except = block.except.as_deref().unwrap_or_default();
    let except = items("except", except, |text| {
        let except = address::parse_network(text).map_err(|message| Invalid::new("", message))?;
        if is_strictly_inside(except, cidr) {
            Ok(except)
        } else {
            let message = format!("{text} is not a smaller block inside {cidr}");
            Err(Invalid::new("", message))
        }
    })?;
    Ok(IpBlock { cidr, except })
}

fn is_strictly_inside(inner: IpNetwork, outer: IpNetwork) -> bool {
    outer.contains(inner.network()) && inner.prefix() > outer.prefix()
}

fn read_port(entry: &api::NetworkPolicyPort) -> Result<PolicyPort, Invalid> {
    // Absent means TCP, but an empty text is no protocol: it is not to be read as one.
    let protocol = match entry.protocol.as_deref() {
        Some("") => Err("\"\" is not TCP, UDP or SCTP".to_owned()),
        protocol => Protocol::parse(protocol),
    }
    .map_err(|message| Invalid::new("protocol", message))?;
    let number =
        |field, number| port::parse_number(number).map_err(|message| Invalid::new(field, message));
    let port = match (&entry.port, entry.end_port) {
        (None, None) => PortMatch::Any,
        (Some(IntOrString::Int(first)), last) => {
            let first = number("port", *first)?;
            let last = last.map_or(Ok(first), |last| number("endPort", last))?;
            range(first, last)?
        }
        (Some(IntOrString::String(name)), None) => {
            validate_port_name(name).map_err(|message| Invalid::new("port", message))?;
            PortMatch::Named(name.clone())
        }
        (None | Some(IntOrString::String(_)), Some(_)) => {
            return Err(Invalid::new("endPort", "needs a port that is a number"));
        }
    };
    Ok(PolicyPort { protocol, port })
}

fn range(first: NonZeroU16, last: NonZeroU16) -> Result<PortMatch, Invalid> {
    if last < first {
        let message = format!("{last} is below the port, {first}");
        return Err(Invalid::new("endPort", message));
    }
    Ok(PortMatch::Range { first, last })
}

/// Is this a name that a port can have (RFC 6335 section 5.1, lower case): 1 to 15 of `a-z`,
/// `0-9` and `-`, with a letter, no `-` at either end and no two together?
fn validate_port_name(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    let is_valid = bytes.len() <= 15
        && validate_label(text).is_ok()
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !text.contains("--");
    if is_valid {
        Ok(())
    } else {
        Err(format!("{text:?} is neither a port nor the name of one"))
    }
}
