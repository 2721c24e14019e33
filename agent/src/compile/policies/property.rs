//! What rules ask of an address, and which addresses have it.
//!
//! A rule's peers are a set of properties of which an address needs one; a port that has a name is
//! one more that it needs, where the address is a pod's that may listen there. A property is what
//! the rule says and not whose rule it is: two policies that say the same ask for the same one.

use std::num::NonZeroU16;

use crate::model::{IpBlock, LabelSelector, Peer, PeerNamespaces, Protocol};

/// What a rule can ask of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// It belongs to such a pod.
    Pod {
        /// In which namespaces.
        namespaces: Namespaces,
        /// With which labels.
        labels: LabelSelector,
    },
    /// It belongs to such a range.
    Block(IpBlock),
    /// It belongs to a pod with a container port of this name, protocol and number.
    Port {
        /// The name.
        name: String,
        /// The protocol.
        protocol: Protocol,
        /// The number.
        port: NonZeroU16,
    },
}

/// The namespaces of the pods that a property is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespaces {
    /// This one.
    Named(String),
    /// Those with such labels that are known.
    Selected(LabelSelector),
}

impl Property {
    /// What a peer asks for in a policy of this namespace.
    #[must_use]
    pub fn of_peer(peer: &Peer, namespace: &str) -> Self {
        match peer {
            Peer::Pods { namespaces, pods } => Self::Pod {
                namespaces: match namespaces {
                    PeerNamespaces::Own => Namespaces::Named(namespace.to_owned()),
                    PeerNamespaces::Selected(selector) => Namespaces::Selected(selector.clone()),
                },
                labels: pods.clone(),
            },
            Peer::IpBlock(block) => Self::Block(block.clone()),
        }
    }
}
