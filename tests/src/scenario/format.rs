//! What a scenario says, once it is known to be possible. The YAML itself is `text`'s business.
//!
//! `tests/scenarios` is full of examples.

mod expect;
pub mod ground;
pub mod talk;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use weir_agent::compile::{PolicyOptions, UnknownPods};
use weir_agent::model::PodRef;
use weir_ebpf::addr::Protocol;
use weir_ebpf::verdict::{Hook, Verdict};

pub use self::ground::Ground;
use self::talk::{Expected, Talk, Way};
use super::interfaces::Plug;
use super::notation::Notation;
use super::packet::ErrorKind;
use crate::bed::plan::{MAX_NODES, NodePlan};

/// One behaviour.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The behaviour as a sentence: the test's name.
    pub name: String,
    /// Why the kernel's `BPF_PROG_TEST_RUN` cannot show it, where that is so.
    #[serde(default)]
    pub memory_only: Option<String>,
    /// Why only a network of real nodes can show it, where that is so.
    #[serde(default)]
    pub network_only: Option<String>,
    /// The kinds of network that show it.
    #[serde(default = "ground::usual")]
    pub grounds: Vec<Ground>,
    /// Whom the router between nodes and the outside world sends what is for these addresses or
    /// ranges: node by destination.
    #[serde(default)]
    pub routes: Routes,
    /// Further flags of the agents in a network.
    #[serde(default)]
    pub flags: Vec<String>,
    /// What the cluster says at the beginning.
    #[serde(default)]
    pub given: Vec<Given>,
    /// The node it happens on.
    #[serde(default)]
    pub node: Node,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

impl Scenario {
    /// Can `BPF_PROG_TEST_RUN` show it? It runs no program at a socket call.
    #[must_use]
    pub fn is_for_program(&self) -> bool {
        let has_calls = self.steps.iter().any(|step| match step {
            Step::Call { .. } => true,
            Step::Talk { talk, .. } => talk.way == Way::Socket,
            Step::Send { .. }
            | Step::Apply(_)
            | Step::Delete(_)
            | Step::Plug(_)
            | Step::Unplug(_)
            | Step::Advance(_) => false,
        });
        self.memory_only.is_none() && self.network_only.is_none() && !has_calls
    }

    /// Can the pure pipeline show it?
    #[must_use]
    pub const fn is_for_memory(&self) -> bool {
        self.network_only.is_none()
    }

    /// Can a network of real nodes show it? There packets are made by sockets, time passes by
    /// itself, and the node is as the bed has it.
    #[must_use]
    pub fn is_for_network(&self) -> bool {
        let is_possible = self.steps.iter().all(|step| match step {
            Step::Talk { .. } | Step::Apply(_) | Step::Delete(_) => true,
            Step::Send { .. }
            | Step::Call { .. }
            | Step::Plug(_)
            | Step::Unplug(_)
            | Step::Advance(_) => false,
        });
        let has_talks = self
            .steps
            .iter()
            .any(|step| matches!(step, Step::Talk { .. }));
        self.memory_only.is_none() && is_possible && has_talks && self.node == Node::default()
    }
}

/// Ways of the router: the node by the destination.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Routes(pub Vec<(IpNetwork, usize)>);

impl TryFrom<BTreeMap<String, String>> for Routes {
    type Error = String;

    fn try_from(text: BTreeMap<String, String>) -> Result<Self, String> {
        let read = |(range, node): (String, String)| {
            let range = range
                .parse()
                .map_err(|_| format!("{range:?} is neither an address nor a range"))?;
            let index = (0..MAX_NODES).find(|index| NodePlan::new(*index).name == node);
            let index = index.ok_or_else(|| format!("the address plan has no node {node:?}"))?;
            Ok((range, index))
        };
        text.into_iter()
            .map(read)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Routes {
    /// To which node a packet from the outside world goes.
    #[must_use]
    pub fn node_of(&self, addr: IpAddr) -> Option<usize> {
        self.0
            .iter()
            .find(|(range, _)| range.contains(addr))
            .map(|(_, node)| *node)
    }
}

/// Objects: those of a manifest file, or one written here.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Given {
    /// The path of a manifest file, relative to the scenario's.
    File(String),
    /// A Kubernetes object.
    Inline(serde_json::Map<String, serde_json::Value>),
}

/// The node that the packets meet: the bed's first, unless the scenario says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses, where no Node object says them.
    pub addresses: Vec<IpAddr>,
    /// Source ports for translated sources, first and last: what `*` stands for.
    pub snat_ports: (u16, u16),
    /// More of them.
    pub second_snat_ports: Option<(u16, u16)>,
    /// Addresses at which node ports are served; all of the node's if it is not said.
    pub node_port_addresses: Option<Vec<IpAddr>>,
    /// What is masqueraded leaves with these addresses, by the index of the interface. Packets
    /// leave by that of index 1.
    pub interfaces: BTreeMap<u32, Vec<IpAddr>>,
    /// Ranges of cluster IPs, beside those that objects name.
    pub service_cidrs: Vec<IpNetwork>,
    /// Do records of the network plugin say whose its pods' interfaces are?
    pub claims: bool,
    /// What an interface may do whose pod is not known: `auto`, `deny`, `allow`.
    #[serde(with = "text::UnknownPodsText")]
    pub unknown_pods: UnknownPods,
    /// Are packets of a pod dropped whose source is not that pod's?
    pub source_check: bool,
    /// Do connections go on that were opened before a policy forbade them?
    pub keep_established: bool,
}

impl Node {
    /// What its operator decided about policies.
    #[must_use]
    pub const fn policy(&self) -> PolicyOptions {
        PolicyOptions {
            unknown_pods: self.unknown_pods,
            source_check: self.source_check,
            keep_established: self.keep_established,
            fast_path: true,
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        let plan = NodePlan::new(0);
        Self {
            name: plan.name,
            addresses: vec![plan.v4.into(), plan.v6.into()],
            snat_ports: (20_000, 29_999),
            second_snat_ports: None,
            node_port_addresses: None,
            interfaces: BTreeMap::new(),
            service_cidrs: Vec::new(),
            claims: true,
            unknown_pods: UnknownPods::Auto,
            source_check: true,
            keep_established: false,
        }
    }
}

/// Something that happens.
#[derive(Debug, Deserialize)]
#[serde(try_from = "text::StepText")]
pub enum Step {
    /// A packet reaches a hook, or goes its way through the node.
    Send {
        /// Where.
        way: Path,
        /// What.
        packet: SentText,
        /// How often, each time from the next source port.
        repeat: u16,
        /// What becomes of it.
        expect: Expect,
        /// The name by which later steps speak of it.
        binding: Option<String>,
    },
    /// A process makes a socket call.
    Call {
        /// Which, by whom.
        call: Call,
        /// How often, each time with the next socket.
        repeat: u16,
        /// What becomes of it.
        expect: Expect,
        /// The name by which later steps speak of it.
        binding: Option<String>,
    },
    /// A client talks to a server.
    Talk {
        /// Who to whom.
        talk: Talk,
        /// What comes of it.
        expected: Expected,
    },
    /// Objects appear or change.
    Apply(Vec<Given>),
    /// Objects disappear: `Service default/web`, `Node worker-0`.
    Delete(Vec<String>),
    /// A pod's interface appears.
    Plug(Plug),
    /// A pod's interface disappears.
    Unplug(PodRef),
    /// Time passes.
    Advance(Duration),
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// To one hook, `is_from_node` as in [`At`](weir_ebpf::datapath::At).
    Hook {
        /// Which.
        hook: Hook,
        /// At this pod's interface; else at none that is a pod's.
        pod: Option<PodRef>,
        /// Does the node itself send it?
        is_from_node: bool,
    },
    /// Through the node: from here, to where its destination is.
    From(Origin),
}

/// Where a packet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By a pod's interface.
    Pod(PodRef),
    /// From a process of the node, or a pod on its network.
    Node,
    /// From beyond the node.
    Outside,
}

/// Behind a packet.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hook {
                hook,
                pod: None,
                is_from_node: _,
            } => write!(f, "at {}", hook.name()),
            Self::Hook {
                hook,
                pod: Some(pod),
                is_from_node: _,
            } => write!(f, "at {} of {pod}", hook.name()),
            Self::From(Origin::Pod(pod)) => write!(f, "from {pod}"),
            Self::From(Origin::Node) => f.write_str("from the node"),
            Self::From(Origin::Outside) => f.write_str("from outside"),
        }
    }
}

/// A packet that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentText {
    /// As written.
    Packet(Notation),
    /// No IP: `arp`, `ethertype 0x88cc`.
    NotIp(u16),
    /// One made from an earlier one: `reply of NAME`, `output of NAME`, `again NAME`.
    From {
        /// How.
        relation: Relation,
        /// The earlier one.
        name: String,
        /// What is different: kind and settings.
        changes: String,
    },
    /// An ICMP error about what an earlier packet became, to its sender:
    /// `error too-big 1400 from ADDRESS about NAME`.
    Error {
        /// What it says.
        kind: ErrorKind,
        /// Who sends it.
        from: IpAddr,
        /// The packet that it quotes.
        about: String,
        /// What is different: `len` is how much it quotes behind the network header.
        changes: String,
    },
}

/// How a packet follows from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// What its receiver answers: its output with source and destination exchanged.
    Reply,
    /// What it became: the next hook's input.
    Output,
    /// The same as was sent then.
    Again,
}

/// A socket call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub kind: CallKind,
    /// Is the caller a process of the node itself?
    pub is_node: bool,
    /// The socket's number (`SO_COOKIE`).
    pub socket: u64,
    /// The socket's protocol.
    pub protocol: Protocol,
    /// The peer that the call names, or that the kernel knows.
    pub peer: PeerText,
}

/// The socket calls that are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `connect(2)`
    Connect,
    /// `sendmsg(2)` and `sendto(2)` with an address
    Sendmsg,
    /// `recvmsg(2)`: the sender's address
    Recvmsg,
    /// `getpeername(2)`
    Getpeername,
}

/// A peer's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerText {
    /// As written.
    Addr(SocketAddr),
    /// What an earlier call became: `backend of NAME`.
    BackendOf(String),
}

/// What becomes of a packet or a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The verdict with its reason.
    pub verdict: Verdict,
    /// What comes out.
    pub result: Outcome,
    /// What is told of it, where that is said.
    pub told: ToldText,
}

/// What is told of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToldText {
    /// The rules by which it opens a conversation, at both ends: `shop/cart egress[0]`.
    pub rules: Option<BTreeSet<String>>,
    /// The policies that isolate the end which refuses it.
    pub isolated_by: Option<BTreeSet<String>>,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is said.
    Unsaid,
    /// One of these packets.
    Packets(Vec<Notation>),
    /// What the client of an earlier packet is to see: its input with source and destination
    /// exchanged (`answer to NAME`).
    AnswerTo(String),
    /// The source and destination of an earlier packet's output (`like NAME`).
    Like(String),
    /// Of an error: it now comes from this address and quotes an earlier packet as its sender
    /// sent it (`error from ADDRESS about NAME`).
    Error(IpAddr, String),
    /// One of these peers.
    Peers(Vec<PeerText>),
    /// Of all repetitions together: exactly these destinations.
    Reaches(Vec<SocketAddr>),
}

/// As in the file.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |texts: Vec<String>| texts.join(" or ");
        match self {
            Self::Unsaid => f.write_str("nothing in particular"),
            Self::Packets(packets) => {
                let texts = packets.iter().map(|packet| packet.text.clone());
                f.write_str(&list(texts.collect()))
            }
            Self::AnswerTo(name) => write!(f, "the answer to {name}"),
            Self::Like(name) => write!(f, "the same as {name}"),
            Self::Error(from, name) => write!(f, "an error from {from} about {name}"),
            Self::Peers(peers) => {
                let texts = peers.iter().map(|peer| match peer {
                    PeerText::Addr(addr) => addr.to_string(),
                    PeerText::BackendOf(name) => format!("the backend of {name}"),
                });
                f.write_str(&list(texts.collect()))
            }
            Self::Reaches(all) => write!(f, "{all:?}"),
        }
    }
}
