//! Network policies.
//!
//! Promises: a policy that cannot be read is never one that allows. It stays a policy, isolates
//! the pods that it selects and has no rules ([`Rules::Unreadable`]); where its selector cannot be
//! read it selects every pod of its namespace, and where its directions cannot be, it isolates in
//! both. It takes the place of a former version that could be read.
//!
//! Rules keep their place in the object, so that a verdict can name `ingress[1]`.
//! Whom labels select and what a rule comes to is the compiler's business.

mod read;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnetwork::IpNetwork;

use super::{Invalid, LabelSelector, PolicyRef, Protocol};

/// A `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace, a DNS label, and its name: a DNS subdomain unless it is what is wrong in it.
    pub id: PolicyRef,
    /// The pods of its namespace that it isolates.
    pub pod_selector: LabelSelector,
    /// In which directions it isolates them.
    pub directions: Directions,
    /// Whom they may talk to all the same.
    pub rules: Rules,
}

/// A way that packets go, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// The directions in which a policy isolates: there is always one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Directions {
    /// To the pods only.
    Ingress,
    /// From the pods only.
    Egress,
    /// To and from the pods.
    Both,
}

/// What a policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// What it says; nothing for a direction in which it does not isolate.
    Readable {
        /// Who may talk to the pods.
        ingress: Vec<PolicyRule>,
        /// To whom the pods may talk.
        egress: Vec<PolicyRule>,
    },
    /// Nothing, because these fields, at least one, cannot be read.
    Unreadable(Vec<Invalid>),
}

/// A rule: it allows what comes from, or goes to, one of its peers at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// `from` or `to`
    pub peers: Peers,
    /// `ports`
    pub ports: PolicyPorts,
}

/// Whom a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Everyone, be it a pod or not: `from` or `to` is missing or empty.
    Anyone,
    /// These, at least one.
    AnyOf(Vec<Peer>),
}

/// A peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Pods that are selected, in namespaces that are selected.
    Pods {
        /// Their namespaces.
        namespaces: PeerNamespaces,
        /// The pods in them; everything where there is only a `namespaceSelector`.
        pods: LabelSelector,
    },
    /// Addresses, a pod's or a node's too.
    IpBlock(IpBlock),
}

/// The namespaces of a peer's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerNamespaces {
    /// The policy's own: there is no `namespaceSelector`.
    Own,
    /// Those with such labels; an empty selector means all.
    Selected(LabelSelector),
}

/// The addresses of a prefix, less those of others in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpBlock {
    /// The prefix.
    pub cidr: IpNetwork,
    /// Longer prefixes in it that do not belong to it.
    pub except: Vec<IpNetwork>,
}

/// The ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPorts {
    /// Every port of every protocol, those without ports too: `ports` is missing or empty.
    All,
    /// These, at least one.
    AnyOf(Vec<PolicyPort>),
}

/// An entry of a rule's ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Which of the protocol's ports.
    pub port: PortMatch,
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortMatch {
    /// All.
    Any,
    /// All from the first to the last, which is not below the first; one number is both.
    Range {
        /// `port`
        first: NonZeroU16,
        /// `endPort`, or `port` again
        last: NonZeroU16,
    },
    /// Whatever the destination pod calls so.
    Named(String),
}

impl NetworkPolicy {
    /// Does it isolate the pods that it selects in this direction?
    #[must_use]
    pub const fn isolates(&self, direction: Direction) -> bool {
        self.directions.include(direction)
    }

    /// What it allows in this direction: nothing where it cannot be read.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[PolicyRule] {
        match (&self.rules, direction) {
            (Rules::Readable { ingress, egress: _ }, Direction::Ingress) => ingress,
            (Rules::Readable { ingress: _, egress }, Direction::Egress) => egress,
            (Rules::Unreadable(_), Direction::Ingress | Direction::Egress) => &[],
        }
    }

    /// Why it cannot be read; nothing where it can.
    #[must_use]
    pub fn problems(&self) -> &[Invalid] {
        match &self.rules {
            Rules::Readable { .. } => &[],
            Rules::Unreadable(problems) => problems,
        }
    }
}

impl Directions {
    /// Is this one of them?
    #[must_use]
    pub const fn include(self, direction: Direction) -> bool {
        match (self, direction) {
            (Self::Both, Direction::Ingress | Direction::Egress)
            | (Self::Ingress, Direction::Ingress)
            | (Self::Egress, Direction::Egress) => true,
            (Self::Ingress, Direction::Egress) | (Self::Egress, Direction::Ingress) => false,
        }
    }
}

impl IpBlock {
    /// Does this address belong to it?
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.cidr.contains(addr) && !self.except.iter().any(|except| except.contains(addr))
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

#[cfg(test)]
mod tests;
