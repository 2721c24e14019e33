//! What a cluster says about who may talk to whom, in plain values.
//!
//! Whatever a manifest can say wrongly is text or a wide number here, as in the API: what is
//! wrong is [`super::readable`]'s business. An absent list and an empty one are two values, because
//! the API's text speaks of both. The parts of a policy are read from the API's words as they are.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// What the cluster says. Namespaces, nodes, pods and policies have names of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The namespaces that are known.
    pub namespaces: Vec<Namespace>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The pods, the oldest first: [`World::owner`].
    pub pods: Vec<Pod>,
    /// The policies, in no particular order.
    pub policies: Vec<NetworkPolicy>,
}

impl World {
    /// The pod whose traffic has this address: of the pods that count, and that have it, the one
    /// created last.
    ///
    /// A completed pod has given its address back, and so has an older one, even if nobody has
    /// said so yet: an address is given to a pod when no other uses it. A host-network pod has no
    /// address of its own.
    #[must_use]
    pub fn owner(&self, addr: IpAddr) -> Option<&Pod> {
        let mut youngest_first = self.pods.iter().rev();
        youngest_first.find(|pod| {
            !pod.host_network && !pod.phase.is_completed() && pod.addresses.contains(&addr)
        })
    }

    /// The labels of a namespace, if it is known.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        let mut all = self.namespaces.iter();
        all.find(|namespace| namespace.name == name)
            .map(|namespace| &namespace.labels)
    }
}

/// A `Namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`, with `kubernetes.io/metadata.name` where the API server added it.
    pub labels: Labels,
}

/// A `Node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`
    pub name: String,
    /// `status.addresses[]` of type `InternalIP`.
    pub addresses: Vec<IpAddr>,
}

/// A `Pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`
    pub labels: Labels,
    /// `spec.nodeName`
    pub node: Option<String>,
    /// `spec.hostNetwork`
    pub host_network: bool,
    /// `status.podIPs`; of a host-network pod its node's.
    pub addresses: Vec<IpAddr>,
    /// `status.phase`
    pub phase: Phase,
    /// `ports` of its containers.
    pub ports: Vec<ContainerPort>,
}

/// `status.phase`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its containers are being started; it may have its address already.
    Pending,
    /// It runs.
    Running,
    /// It has run, for good.
    Succeeded,
    /// It has failed, for good.
    Failed,
}

impl Phase {
    /// Whether no container of the pod runs any more, nor ever will again.
    #[must_use]
    pub fn is_completed(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Running => false,
        }
    }
}

/// `ports[]` of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// What container has it.
    pub container: Container,
    /// `name`
    pub name: Option<String>,
    /// `protocol`; TCP where nothing is said.
    pub protocol: Option<Protocol>,
    /// `containerPort`
    pub port: u16,
}

/// What container of a pod is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Of `spec.containers`.
    Ordinary,
    /// Of `spec.initContainers` with `restartPolicy: Always`: runs as long as the others.
    Sidecar,
    /// Of `spec.initContainers`: is over when the others start.
    Init,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As the API says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The protocol that the API calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name() == name)
    }
}

/// One of the two ways that policies judge, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As `policyTypes` says it.
    #[must_use]
    pub fn policy_type(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    /// The field of `spec` that has its rules.
    #[must_use]
    pub fn rules_field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The field of a rule that has its peers.
    #[must_use]
    pub fn peers_field(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

/// A policy's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A `NetworkPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// `metadata`
    pub name: PolicyName,
    /// `spec.podSelector`
    pub pod_selector: Option<Selector>,
    /// `spec.policyTypes`
    pub policy_types: Option<Vec<String>>,
    /// `spec.ingress`
    pub ingress: Option<Vec<Rule>>,
    /// `spec.egress`
    pub egress: Option<Vec<Rule>>,
}

impl NetworkPolicy {
    /// The rules of a direction, whether the policy relates to it or not.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        let rules = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        rules.as_deref().unwrap_or_default()
    }
}

/// `ingress[]` or `egress[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Rule {
    /// `from` or `to`
    #[serde(alias = "from", alias = "to")]
    pub peers: Option<Vec<Peer>>,
    /// `ports`
    pub ports: Option<Vec<PolicyPort>>,
}

/// `from[]` or `to[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Peer {
    /// `podSelector`
    pub pod_selector: Option<Selector>,
    /// `namespaceSelector`
    pub namespace_selector: Option<Selector>,
    /// `ipBlock`
    pub ip_block: Option<IpBlock>,
}

/// `ipBlock`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpBlock {
    /// `cidr`
    pub cidr: String,
    /// `except`
    #[serde(default)]
    pub except: Vec<String>,
}

/// `ports[]` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PolicyPort {
    /// `protocol`
    pub protocol: Option<String>,
    /// `port`
    pub port: Option<NumberOrName>,
    /// `endPort`
    pub end_port: Option<i32>,
}

/// `port` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum NumberOrName {
    /// A port's number.
    Number(i32),
    /// The name of a container's port.
    Name(String),
}

/// A `LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Selector {
    /// `matchLabels`
    pub match_labels: Labels,
    /// `matchExpressions`
    pub match_expressions: Vec<Requirement>,
}

/// `matchExpressions[]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// `key`
    pub key: String,
    /// `operator`
    pub operator: String,
    /// `values`
    #[serde(default)]
    pub values: Vec<String>,
}
