//! Whether a connection is allowed, written a second time.
//!
//! Straight from the text of `networking.k8s.io/v1` NetworkPolicy (the comments of its fields,
//! which are quoted, and the documentation's page on network policies), for clarity and not for
//! speed, and without a look at the agent's compiler or the datapath: tests compare them, reasons
//! included. It knows manifests only through [`manifests`], which says a [`World`] in the API's
//! words.
//!
//! One new connection, or one packet of a protocol without connections, is one question.
//! Replies, and errors about a flow, are never asked about: they pass with their flow. Addresses
//! and ports are those that the pods see: a service's address has been translated already.
//!
//! [`world`] is what may be said, [`mod@readable`] whom a policy selects in which direction,
//! and what is wrong with it, [`selector`] and [`rules`] what a selector and a rule match; this one
//! puts them together.
//!
//! # Where the text leaves a choice
//!
//! - The documentation's page has traffic between a pod and its node allowed both ways, the API's
//!   text only from the node to the pod. It is the API's that counts: what a pod sends to its node
//!   is judged.
//! - A host-network pod is its node: subject of no policy, and as a peer only an address, which
//!   blocks match and selectors do not.
//! - Of pods that have the same address the one created last has it: [`World::owner`].
//! - A namespace that is not known yet is selected by no selector, not even the empty one.

pub mod manifests;
pub mod readable;
pub mod rules;
pub mod selector;
#[cfg(test)]
mod tests;
pub mod world;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use readable::{faults, relates_to, selects_subject};
use world::{Direction, NetworkPolicy, Pod, PolicyName, Protocol, World};

/// A new connection, or a packet by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Who opens it.
    pub from: Sender,
    /// The address that it reaches: a pod's, if one owns it.
    pub to: IpAddr,
    /// What is sent.
    pub traffic: Traffic,
}

/// Who sends. As a peer each is its address, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sender {
    /// The pod that owns this address.
    Pod(IpAddr),
    /// Really that node: one of its processes or host-network pods, by one of its addresses.
    Node {
        /// The node's name.
        name: String,
        /// The source address.
        addr: IpAddr,
    },
    /// Whoever sends from beyond, with this address, whosesoever it is.
    Outside(IpAddr),
}

impl Sender {
    /// The source address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        match self {
            Self::Pod(addr) | Self::Node { addr, .. } | Self::Outside(addr) => *addr,
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// To a port.
    Ports {
        /// The protocol.
        protocol: Protocol,
        /// The destination's port.
        port: u16,
    },
    /// Of a protocol without ports, by its number.
    Other {
        /// The number that IANA gave it.
        protocol: u8,
    },
}

/// What becomes of a connection at its two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// As the sender's.
    pub egress: Judgement,
    /// As the receiver's.
    pub ingress: Judgement,
}

impl Verdict {
    /// "Both the egress policy on the source pod and the ingress policy on the destination pod need
    /// to allow the connection."
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.egress.is_allowed() && self.ingress.is_allowed()
    }

    /// What is said of one end.
    #[must_use]
    pub fn of(&self, direction: Direction) -> &Judgement {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// What is said of one end, and why. The first of these that holds is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Allowed: no policy is about this end, because it is no pod with a network of its own.
    NoSubject,
    /// Allowed: the sender and the receiver are one pod.
    Itself,
    /// Allowed, into the pod: "the traffic source is the pod's local node".
    OwnNode,
    /// Allowed: no policy that relates to the direction selects the pod.
    NotIsolated,
    /// Allowed by these rules: all that match, of all policies.
    ByRules(BTreeSet<RuleName>),
    /// Refused: isolated, and no rule matches.
    Refused {
        /// All policies that select the pod and relate to the direction, unreadable ones too.
        isolated_by: BTreeSet<PolicyName>,
        /// The rule that almost matched.
        nearest: Option<NearMiss>,
    },
}

impl Judgement {
    /// Whether this end lets the connection pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::NoSubject
            | Self::Itself
            | Self::OwnNode
            | Self::NotIsolated
            | Self::ByRules(_) => true,
            Self::Refused { .. } => false,
        }
    }
}

/// One rule of a policy: `shop/cart egress[1]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// Of which policy.
    pub policy: PolicyName,
    /// Of which of its lists.
    pub direction: Direction,
    /// At which place in it.
    pub index: usize,
}

impl fmt::Display for RuleName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.direction.rules_field();
        write!(formatter, "{} {field}[{}]", self.policy, self.index)
    }
}

/// A rule of an isolating policy of which one half matched.
///
/// The nearest is one whose peers matched, so that another port would have been allowed, or else
/// one whose ports did; of several the first in the order of namespace, name and index. A rule
/// of which nothing matched is not near. Rules without peers match every peer, and rules without
/// ports every port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NearMiss {
    /// Which half did not match.
    pub missed: Missed,
    /// The rule.
    pub rule: RuleName,
}

/// The half of a rule that did not match; what is nearer comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missed {
    /// The peer is right, the protocol or port is not.
    Ports,
    /// The port is right, the peer is not.
    Peers,
}

/// What becomes of a connection.
#[must_use]
pub fn evaluate(world: &World, connection: &Connection) -> Verdict {
    let sender = match connection.from {
        Sender::Pod(addr) => world.owner(addr),
        Sender::Node { .. } | Sender::Outside(_) => None,
    };
    let receiver = world.owner(connection.to);
    let is_itself = match (sender, receiver) {
        // Two objects are two pods: names are unique in a namespace.
        (Some(one), Some(other)) => (&one.namespace, &one.name) == (&other.namespace, &other.name),
        (None, _) | (_, None) => false,
    };
    let judge = |subject: Option<&Pod>, direction| match subject {
        None => Judgement::NoSubject,
        Some(_) if is_itself => Judgement::Itself,
        Some(pod) if is_from_own_node(pod, connection, direction) => Judgement::OwnNode,
        Some(pod) => by_policies(world, pod, connection, direction),
    };
    Verdict {
        egress: judge(sender, Direction::Egress),
        ingress: judge(receiver, Direction::Ingress),
    }
}

fn is_from_own_node(pod: &Pod, connection: &Connection, direction: Direction) -> bool {
    match (direction, &connection.from) {
        (Direction::Ingress, Sender::Node { name, .. }) => pod.node.as_ref() == Some(name),
        (Direction::Ingress, Sender::Pod(_) | Sender::Outside(_)) | (Direction::Egress, _) => false,
    }
}

/// "Traffic is allowed if there are no `NetworkPolicies` selecting the pod, OR if the traffic
/// matches at least one rule across all of the `NetworkPolicy` objects whose podSelector matches the
/// pod."
fn by_policies(
    world: &World,
    subject: &Pod,
    connection: &Connection,
    direction: Direction,
) -> Judgement {
    let policies: Vec<_> = world
        .policies
        .iter()
        .filter(|policy| relates_to(policy, direction) && selects_subject(policy, subject))
        .collect();
    if policies.is_empty() {
        return Judgement::NotIsolated;
    }
    let mut matching = BTreeSet::new();
    let mut near = BTreeSet::new();
    for policy in &policies {
        for (rule, halves) in halves_of_rules(world, policy, connection, direction) {
            match halves {
                (true, true) => {
                    matching.insert(rule);
                }
                (true, false) => {
                    near.insert(NearMiss {
                        missed: Missed::Ports,
                        rule,
                    });
                }
                (false, true) => {
                    near.insert(NearMiss {
                        missed: Missed::Peers,
                        rule,
                    });
                }
                (false, false) => {}
            }
        }
    }
    if matching.is_empty() {
        Judgement::Refused {
            isolated_by: policies.iter().map(|policy| policy.name.clone()).collect(),
            nearest: near.pop_first(),
        }
    } else {
        Judgement::ByRules(matching)
    }
}

/// Each rule of a direction, with whether its peers match and whether its ports do. "The traffic
/// must match both ports and from." A policy that cannot be read has none.
fn halves_of_rules(
    world: &World,
    policy: &NetworkPolicy,
    connection: &Connection,
    direction: Direction,
) -> Vec<(RuleName, (bool, bool))> {
    if !faults(policy).is_empty() {
        return Vec::new();
    }
    let peer = match direction {
        Direction::Ingress => connection.from.addr(),
        Direction::Egress => connection.to,
    };
    let destination = world.owner(connection.to);
    let rules = policy.rules(direction).iter().enumerate();
    rules
        .map(|(index, rule)| {
            let name = RuleName {
                policy: policy.name.clone(),
                direction,
                index,
            };
            let is_peer = rules::match_peer(world, &policy.name.namespace, rule, peer);
            let is_port = rules::match_ports(rule, destination, connection.traffic);
            (name, (is_peer, is_port))
        })
        .collect()
}
